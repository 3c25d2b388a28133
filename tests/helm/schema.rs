//! What the chart's schema refuses: values of the wrong type or out of range, and values that need another one.

use super::refusals::refusal;

/// A value for `--set`, and where the schema finds the fault.
const WRONG_VALUES: &[(&str, &str)] = &[
    ("surprise=1", "surprise"),
    ("image.repo=x", "repo"),
    ("image.digest=sha256:abc", "/image/digest"),
    ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
    ("store.type=postgres", "/store/type"),
    ("store.file.size=much", "/store/file/size"),
    (
        "store.file.accessMode=ReadWriteMany",
        "/store/file/accessMode",
    ),
    ("redis.url=http://r:1", "/redis/url"),
    ("redis.password=x", "password"),
    ("redis.existingSecret=Not A Name", "/redis/existingSecret"),
    ("replicas=two", "/replicas"),
    ("replicas=-1", "/replicas"),
    ("policy.orgs.o.tier=6", "/policy/orgs/o/tier"),
    ("policy.orgs.o.teir=1", "teir"),
    (
        "policy.orgs.o.data_sharing=some",
        "/policy/orgs/o/data_sharing",
    ),
    ("policy.program.overflow=never", "/policy/program/overflow"),
    ("policy.program.ends_on=soon", "/policy/program/ends_on"),
    (
        "policy.program.ends_on=2027-04-31",
        "/policy/program/ends_on",
    ),
    (
        "policy.tiers.6.large=1",
        "'/policy/tiers': additional properties '6' not allowed",
    ),
    ("policy.tiers.1.large=-1", "/policy/tiers/1/large"),
    (
        "policy.tiers.1.large=9007199254740992",
        "/policy/tiers/1/large",
    ),
    ("policy.pools.large.model={m}", "model"),
    (
        "policy.pools.large.models={m,m}",
        "/policy/pools/large/models",
    ),
    (
        "policy.pools.large.retired={m,m}",
        "/policy/pools/large/retired",
    ),
    ("policy.program.without={m,m}", "/policy/program/without"),
    ("policy.program.extends=", "/policy/program/extends"),
    (
        "policy.program.covered_workloads={dreams}",
        "/policy/program/covered_workloads",
    ),
    ("policy.aliases.a=", "/policy/aliases/a"),
    ("settings.listen=0.0.0.0:1", "listen"),
    ("settings.drain_delay=soon", "/settings/drain_delay"),
    (
        "settings.reconcile.every=often",
        "/settings/reconcile/every",
    ),
    ("settings.reconcile.admin_key=x", "admin_key"),
    (
        "settings.reconcile.orgs.acme.projects.p=x",
        "'/settings/reconcile/orgs/acme': missing property 'admin_key_file'",
    ),
    (
        "settings.metrics.organizations=some",
        "/settings/metrics/organizations",
    ),
    (
        "settings.metrics.organizations={a,a}",
        "/settings/metrics/organizations",
    ),
    ("settings.notify.url=https://hooks.example/", "notify"),
    ("notify.url=https://hooks.example/", "url"),
    ("settings.drain_delay=5", "/settings/drain_delay"),
    ("settings.drain_delay=null", "drain_delay"),
    ("settings.usage_retention=36h", "/settings/usage_retention"),
    ("settings.usage_rows=1", "/settings/usage_rows"),
    ("settings.trace_ratio=1.5", "/settings/trace_ratio"),
    (
        "settings.otlp_endpoint=collector",
        "/settings/otlp_endpoint",
    ),
    ("settings.log_format=xml", "/settings/log_format"),
    (
        "settings.redis.wait_replicas=many",
        "/settings/redis/wait_replicas",
    ),
    ("settings.redis.ca_file=/x", "ca_file"),
    ("settings.bounds.conections=1", "conections"),
    (
        "settings.bounds.connections=15",
        "/settings/bounds/connections",
    ),
    (
        "settings.bounds.cancelled_per_second=many",
        "/settings/bounds/cancelled_per_second",
    ),
    (
        "settings.otlp_endpoint=https://collector:4317",
        "/settings/otlp_endpoint",
    ),
    ("probes=null", "missing property 'probes'"),
    (
        "probes.liveness=null",
        "'/probes': missing property 'liveness'",
    ),
    ("settings=null", "missing property 'settings'"),
    (
        "serviceMonitor.interval=null",
        "'/serviceMonitor': missing property 'interval'",
    ),
    ("redis.tls=null", "'/redis': missing property 'tls'"),
    ("store.file=null", "'/store': missing property 'file'"),
    ("tls.clientCertificates=some", "/tls/clientCertificates"),
    ("settings.reflection=true", "/settings/reflection"),
    ("tls.key=secret", "key"),
    ("listenAddress=127.0.0.1", "/listenAddress"),
    ("service.type=ExternalName", "/service/type"),
    ("service.grpcPort=70000", "/service/grpcPort"),
    (
        "probes.liveness.periodSeconds=0",
        "/probes/liveness/periodSeconds",
    ),
    (
        "podDisruptionBudget.maxUnavailable=some",
        "/podDisruptionBudget/maxUnavailable",
    ),
    (
        "podDisruptionBudget.maxUnavailable=101%",
        "/podDisruptionBudget/maxUnavailable",
    ),
    (
        "podDisruptionBudget.unhealthyPodEvictionPolicy=Never",
        "/podDisruptionBudget/unhealthyPodEvictionPolicy",
    ),
    (
        "service.loadBalancerSourceRanges={10.0.0.0}",
        "/service/loadBalancerSourceRanges",
    ),
    (
        "service.externalTrafficPolicy=Nearby",
        "/service/externalTrafficPolicy",
    ),
    (
        "prometheusRule.runbookBaseUrl=git.example",
        "/prometheusRule/runbookBaseUrl",
    ),
    (
        "autoscaling.targetCPUUtilizationPercentage=0",
        "/autoscaling/targetCPUUtilizationPercentage",
    ),
    (
        "podSecurityContext.runAsUser=0",
        "/podSecurityContext/runAsUser",
    ),
    ("podSecurityContext.runAsNonRoot=false", "runAsNonRoot"),
    (
        "extraVolumes[0].name=x,extraVolumes[0].hostPath.path=/",
        "hostPath",
    ),
    ("resources.requests.cpu=lots", "/resources/requests/cpu"),
    ("resources.claims.x=1", "claims"),
    ("podAnnotations.number=1", "/podAnnotations/number"),
    ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
    ("serviceMonitor.interval=30s1m", "/serviceMonitor/interval"),
    ("test.org=x,test.tokens=5", "tokens"),
    ("fullnameOverride=1st", "/fullnameOverride"),
    ("fullnameOverride=quota.internal", "/fullnameOverride"),
    ("nameOverride=a.b", "/nameOverride"),
    ("redis.tls.certKey=a", "/redis/tls/certKey"),
    (
        "redis.tls.certKey=a,redis.tls.keyKey=b",
        "/redis/tls/keyKey",
    ),
    (
        "policy.program.name=it",
        "'/policy': missing property 'orgs'",
    ),
    ("tls.clientCertificates=optional", "/tls/existingSecret"),
    (
        "httpTls.clientCertificates=required",
        "/httpTls/existingSecret",
    ),
    ("callers.existingSecret=it", "/tls/existingSecret"),
    (
        "autoscaling.enabled=true,resources.requests.cpu=null",
        "'/resources/requests': missing property 'cpu'",
    ),
    (
        "podDisruptionBudget.maxUnavailable=0",
        "/podDisruptionBudget/maxUnavailable",
    ),
    (
        "podDisruptionBudget.maxUnavailable=0%",
        "/podDisruptionBudget/maxUnavailable",
    ),
    (
        "podDisruptionBudget.minAvailable=100%",
        "/podDisruptionBudget/minAvailable",
    ),
    ("serviceMonitor.interval=0s", "/serviceMonitor/interval"),
    (
        r"podAnnotations.container\.apparmor\.security\.beta\.kubernetes\.io/tollgate=unconfined",
        "'unconfined' does not match pattern '^(runtime/default|localhost/.+)$'",
    ),
];

#[test]
fn the_schema_refuses_wrong_values() {
    for (word, at) in WRONG_VALUES {
        let refused = refusal(&["--set", word]);
        assert!(
            refused.contains("don't meet the specifications of the schema"),
            "{word}: {refused}"
        );
        assert!(refused.contains(at), "{word}: {refused}");
    }
}
