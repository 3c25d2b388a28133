//! What the chart renders, used by the real program: settings, policy, variables, probes, the test pod and the
//! first call of the notes. Only addresses and the places of files are others.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tollgate::grpc::proto::{GetQuotaRequest, ReserveRequest, ReserveResponse, Verdict};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{Manifests, ROOT, complete_chart, render, render_with, template, values};
use crate::{
    server::http_get,
    support::{
        certificates::Authority,
        clock::Clock,
        redis::RedisServer,
        tollgate::{Tollgate, program},
        tools::{Ran, run, tool},
        world::NOON,
    },
};

/// A policy that somebody else keeps in a ConfigMap.
const FOREIGN_POLICY: &str = "\
[pools.large]
models = ['gpt-4o']
[tiers.1]
large = 250_000
[orgs.org-x]
tier = 1
data_sharing = 'all'
";

/// The program, started as a pod of the chart starts it.
struct Pod {
    manifests: Manifests,
    service: Tollgate,
    root: TempDir,
    _redis: Option<RedisServer>,
    _clock: Clock,
}

impl Pod {
    fn start(set: &str) -> Self {
        Self::of(render(set))
    }

    fn of(manifests: Manifests) -> Self {
        let root = tempfile::tempdir().unwrap();
        mount(&manifests, root.path());
        let container = manifests.container();
        assert_eq!(container["args"], serde_json::json!(["serve"]));
        let redis = (manifests.workload()["kind"] == "Deployment").then(RedisServer::start);
        let clock = Clock::at(NOON);
        let service = Tollgate::start_with(&[], |command| {
            clock.preload(command);
            for variable in container["env"].as_array().unwrap() {
                let name = variable["name"].as_str().unwrap();
                match variable["value"].as_str() {
                    Some(value) => command.env(name, moved(value, root.path())),
                    // The Secrets that these pods have.
                    None if name == "TOLLGATE_STORE" => {
                        command.env(name, redis.as_ref().unwrap().url())
                    }
                    None => panic!("{variable}"),
                };
            }
        });
        Self {
            manifests,
            service,
            root,
            _redis: redis,
            _clock: clock,
        }
    }

    async fn reserve(&self, org: &str, project: &str, model: &str, tokens: u64) -> ReserveResponse {
        let request = ReserveRequest {
            org: org.to_owned(),
            project: project.to_owned(),
            model: model.to_owned(),
            tokens,
            ..ReserveRequest::default()
        };
        let answer = self.service.client().reserve(request).await;
        answer.unwrap().into_inner()
    }

    /// Asks what the three probes of the pod ask.
    async fn probe(&self) {
        self.service
            .wait_for_readiness(ServingStatus::Serving)
            .await;
        for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let probe = &self.manifests.container()[kind];
            if let Some(name) = probe["grpc"]["service"].as_str() {
                assert_eq!(
                    self.service.health(name).await,
                    Some(ServingStatus::Serving),
                    "{kind}"
                );
            } else {
                let path = probe["httpGet"]["path"].as_str().unwrap();
                let (head, _) = http_get(&self.service.http_addr, path);
                assert!(head.starts_with("HTTP/1.1 200 "), "{kind}: {head}");
            }
        }
    }

    /// Runs a container of the test pod, whose uid is this one.
    fn run_client(&self, container: &Value, uid: &str) -> Ran {
        let address = container["args"].as_array().unwrap().iter();
        let mut next_is_address = false;
        let args: Vec<String> = address
            .map(|arg| {
                let arg = arg.as_str().unwrap();
                if std::mem::replace(&mut next_is_address, arg == "--addr") {
                    assert_eq!(arg, "rel-tollgate.ns.svc:50051");
                    return self.service.addr.clone();
                }
                arg.replace("$(POD_UID)", uid)
            })
            .collect();
        let uid_of_pod = &container["env"][0];
        assert_eq!(uid_of_pod["name"], "POD_UID");
        assert_eq!(
            uid_of_pod["valueFrom"]["fieldRef"]["fieldPath"],
            "metadata.uid"
        );
        run(program().args(args))
    }
}

/// Puts the files of the ConfigMaps where the pod would mount them, below another root.
fn mount(manifests: &Manifests, root: &Path) {
    let volumes = manifests.pod()["volumes"].as_array().unwrap();
    for mount in manifests.container()["volumeMounts"].as_array().unwrap() {
        let folder = root.join(mount["mountPath"].as_str().unwrap().trim_start_matches('/'));
        fs::create_dir_all(&folder).unwrap();
        let volume = volumes.iter().find(|it| it["name"] == mount["name"]);
        if volume.is_some_and(|it| it["secret"].is_object()) {
            write_secret(&folder);
            continue;
        }
        let Some(name) = volume.and_then(|it| it["configMap"]["name"].as_str()) else {
            continue;
        };
        let foreign = serde_json::json!({"the-policy.toml": FOREIGN_POLICY});
        let made = manifests.named("ConfigMap", name).map(|it| &it["data"]);
        for (key, text) in made.unwrap_or(&foreign).as_object().unwrap() {
            fs::write(folder.join(key), moved(text.as_str().unwrap(), root)).unwrap();
        }
    }
}

/// What the Secrets of these pods hold: a certificate with its key and authority, and callers.
fn write_secret(folder: &Path) {
    let authority = Authority::new();
    let files = authority.signs("server", &["localhost"]);
    for (key, file) in [
        ("tls.crt", &files.cert),
        ("tls.key", &files.key),
        ("ca.crt", &authority.file()),
    ] {
        fs::copy(file, folder.join(key)).unwrap();
    }
    let callers = "[callers.gateway]\ncertificates = [\"gateway.internal\"]\n\
                   roles = [\"reserve\"]\norganizations = [\"*\"]\n";
    for key in ["who.toml", "callers.toml"] {
        fs::write(folder.join(key), callers).unwrap();
    }
}

/// A text with the places of files below another root.
fn moved(text: &str, root: &Path) -> String {
    let root = root.to_str().unwrap();
    text.replace("/etc/tollgate/", &format!("{root}/etc/tollgate/"))
        .replace("/var/lib/tollgate/", &format!("{root}/var/lib/tollgate/"))
}

fn is_free(answer: &ReserveResponse) -> bool {
    answer.verdict() == Verdict::Free
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_values_serves_the_demo_organization_from_a_file() {
    let pod = Pod::start("default");
    pod.probe().await;
    let answer = pod.reserve("org-demo", "p", "gpt-4o", 1_000_000).await;
    assert!(is_free(&answer), "{answer:?}");
    assert!(
        pod.root
            .path()
            .join("var/lib/tollgate/tollgate.db")
            .exists()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_the_values_decides_by_its_very_names_and_numbers() {
    let pod = Pod::start("file");
    let file = pod.root.path().join("etc/tollgate/policy/policy.toml");
    let checked = run(program().arg("check-policy").arg(file)).good();
    assert!(checked.contains("is valid"), "{checked}");
    pod.probe().await;
    let most = pod
        .reserve("org.with.dots", "proj.search", "gpt-4.1", 250_000)
        .await;
    assert!(is_free(&most), "{most:?}");
    let more = pod
        .reserve("org.with.dots", "proj.search", "gpt-4.1", 1)
        .await;
    assert!(!is_free(&more), "{more:?}");
    let small = pod
        .reserve("org.with.dots", "proj \"quoted\"", "gpt-4o.mini", 7)
        .await;
    assert_eq!(
        (is_free(&small), small.allowance),
        (true, 9_007_199_254_740_991)
    );
    let request = GetQuotaRequest {
        org: "ünïcode & <more>".to_owned(),
    };
    let quota = pod
        .service
        .client()
        .get_quota(request)
        .await
        .unwrap()
        .into_inner();
    assert!(!quota.enrolled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_redis_serves_the_programme_to_the_organizations_of_the_values() {
    // This Redis has no replica to wait for.
    let pod = Pod::of(render_with(
        "redis",
        &["--set", "settings.redis.wait_replicas=0"],
    ));
    pod.probe().await;
    let answer = pod
        .reserve("org-acme", "proj-search", "gpt-4o", 1_000_000)
        .await;
    assert!(is_free(&answer), "{answer:?}");
    let other = pod.reserve("org-acme", "another", "gpt-4o", 1).await;
    assert!(!is_free(&other), "{other:?}");
    let keys = pod._redis.as_ref().unwrap().strings(&["KEYS", "*"]);
    assert!(
        !keys.is_empty() && keys.iter().all(|it| it.starts_with("quota:")),
        "{keys:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_an_existing_policy_and_a_claim_serves() {
    let pod = Pod::start("existing-policy");
    pod.probe().await;
    assert!(is_free(&pod.reserve("org-x", "p", "gpt-4o", 250_000).await));
    assert!(!is_free(&pod.reserve("org-demo", "p", "gpt-4o", 1).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_in_memory_and_scaled_ones_serve() {
    for set in ["memory", "scaled"] {
        let pod = Pod::start(set);
        pod.probe().await;
        assert!(
            is_free(&pod.reserve("org-demo", "p", "gpt-4o", 1).await),
            "{set}"
        );
    }
}

/// With TLS on the gRPC port the probes ask the HTTP port for these paths, which answer as gRPC health does.
#[tokio::test(flavor = "multi_thread")]
async fn the_paths_of_probes_over_http_are_those_of_the_service() {
    let plain = Pod::start("default");
    let over_http = render("mtls");
    plain
        .service
        .wait_for_readiness(ServingStatus::Serving)
        .await;
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = over_http.container()[kind]["httpGet"]["path"]
            .as_str()
            .unwrap();
        let (head, body) = http_get(&plain.service.http_addr, path);
        assert!(
            head.starts_with("HTTP/1.1 200 ") && body.starts_with("ok"),
            "{kind}: {head}"
        );
    }
}

/// Also a second time: the id is the pod's own.
#[tokio::test(flavor = "multi_thread")]
async fn the_test_pod_reserves_and_gives_back_each_time_that_it_runs() {
    for set in ["default", "file"] {
        let pod = Pod::of(render_with(set, &["--set", "test.project=proj.search"]));
        let test = &pod.manifests.tests()[0];
        assert_eq!(test["metadata"]["annotations"]["helm.sh/hook"], "test");
        assert_eq!(test["spec"]["restartPolicy"], "Never");
        let (first, second) = (&test["spec"]["initContainers"], &test["spec"]["containers"]);
        assert_eq!(
            (
                first.as_array().unwrap().len(),
                second.as_array().unwrap().len()
            ),
            (1, 1)
        );
        for uid in ["11111111-aaaa", "22222222-bbbb"] {
            let reserved = pod.run_client(&first[0], uid).good();
            let reserved: Value = serde_json::from_str(&reserved).unwrap();
            assert_eq!(reserved["replayed"], false, "{set}: {reserved}");
            let released = pod.run_client(&second[0], uid).good();
            let released: Value = serde_json::from_str(&released).unwrap();
            assert_eq!(released["released_tokens"], 1, "{set}: {released}");
        }
        let org = first[0]["args"][1].as_str().unwrap().to_owned();
        let quota = pod
            .service
            .client()
            .get_quota(GetQuotaRequest { org })
            .await;
        assert!(
            quota
                .unwrap()
                .into_inner()
                .pools
                .iter()
                .all(|it| it.used == 0),
            "{set}"
        );
    }
}

/// The notes that helm prints after an installation. Helm renders them only where it has a cluster, so they are
/// made a manifest here.
fn notes(set: &str, words: &[&str]) -> String {
    let chart = complete_chart();
    let notes = fs::read_to_string(chart.path().join("templates/NOTES.txt")).unwrap();
    let shown = format!(
        "{{{{ define \"notes\" }}}}{notes}{{{{ end }}}}notes: {{{{ include \"notes\" . | toJson }}}}\n"
    );
    fs::write(chart.path().join("templates/notes.yaml"), shown).unwrap();
    let values = values(set);
    let words = [
        &["-f", &values, "--show-only", "templates/notes.yaml"],
        words,
    ]
    .concat();
    let text = template(chart.path(), &words).good();
    let made: Value = serde_saphyr::from_str(&text).unwrap();
    made["notes"].as_str().unwrap().to_owned()
}

/// The call in the notes, as a shell reads it.
fn first_call(notes: &str) -> String {
    let from = notes
        .find("  grpcurl ")
        .unwrap_or_else(|| panic!("{notes}"));
    let call = &notes[from..];
    call[..call.find("\n\n").unwrap()].trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_of_the_notes_can_be_typed_as_it_stands() {
    for (set, words) in [
        ("default", [].as_slice()),
        ("file", &["--set", "settings.reflection=off"]),
    ] {
        let pod = Pod::start(set);
        let notes = notes(set, words);
        assert!(notes.contains("kubectl -n ns port-forward svc/rel-tollgate 50051:50051 &"));
        let call = first_call(&notes);
        assert!(call.contains(" 127.0.0.1:50051 "), "{call}");
        let call = call.replace("127.0.0.1:50051", &pod.service.addr);
        let grpcurl = tool("bin/grpcurl");
        let mut shell = Command::new("sh");
        shell.args(["-euc", &call]).current_dir(ROOT);
        shell.env(
            "PATH",
            format!("{}:/usr/bin:/bin", grpcurl.parent().unwrap().display()),
        );
        let answer: Value = serde_json::from_str(&run(&mut shell).good()).unwrap();
        assert!(answer["verdict"].is_string(), "{answer}");
        if set == "default" {
            assert_eq!(answer["verdict"], "VERDICT_FREE");
        }
    }
}

#[test]
fn the_notes_of_a_port_with_tls_show_certificates_and_the_token() {
    let with_certificate = first_call(&notes("mtls", &[]));
    assert!(
        with_certificate.starts_with("grpcurl -cacert ca.crt -cert client.crt -key client.key"),
        "{with_certificate}"
    );
    assert!(
        with_certificate.contains("-authority rel-tollgate.ns.svc"),
        "{with_certificate}"
    );
    let with_token = first_call(&notes("everything", &[]));
    assert!(
        with_token.contains("-H \"authorization: Bearer $TOKEN\""),
        "{with_token}"
    );
    assert!(!with_token.contains("-plaintext"), "{with_token}");
}

#[test]
fn the_notes_warn_of_what_is_risky_and_of_nothing_else() {
    let open = "whoever reaches the gRPC port may reserve";
    let demo = "this is the built-in policy";
    let one = "one replica has the file";
    for (set, words, told) in [
        ("default", [].as_slice(), [demo, one, open].as_slice()),
        (
            "memory",
            &[],
            &[
                demo,
                "the counters are in memory: each restart forgets",
                open,
                "opens the gRPC port",
            ],
        ),
        (
            "sentinel",
            &[],
            &[demo, open, "a Redis that evicts may grant more"],
        ),
        ("file", &[], &[one, open]),
        ("redis", &[], &[open]),
        ("scaled", &[], &[demo]),
        ("mtls", &[], &[demo]),
        ("everything", &["--set", "service.type=ClusterIP"], &[]),
    ] {
        let notes = notes(set, words);
        for said in [open, demo, one, "forgets", "opens the gRPC port", "evicts"] {
            let wanted = told.iter().any(|it| it.contains(said));
            assert_eq!(notes.contains(said), wanted, "{set}: {said}: {notes}");
        }
        for said in told {
            assert!(notes.contains(said), "{set}: {said}: {notes}");
        }
        let no_test = "`helm test` has nothing to run";
        assert_eq!(
            notes.contains(no_test),
            render(set).tests().is_empty(),
            "{set}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_with_tls_and_callers_start_with_what_their_secrets_hold() {
    for set in ["mtls", "http-tls", "otlp"] {
        let pod = Pod::start(set);
        let lines = pod.service.log();
        let logged = |message: &str| lines.iter().any(|line| line["message"] == message);
        assert_eq!(logged("only known callers are answered"), set == "mtls");
        // Over TLS, which the other tests of it ask for.
        let mut client = pod.service.client();
        let plain = client.reserve(ReserveRequest::default());
        let code = plain.await.unwrap_err().code();
        assert_eq!(
            code == Code::InvalidArgument,
            set == "otlp",
            "{set}: {code:?}"
        );
        if set != "http-tls" {
            let patience = Instant::now() + Duration::from_secs(10);
            let probe = &pod.manifests.container()["readinessProbe"];
            let path = probe["httpGet"]["path"].as_str().unwrap_or("/readyz");
            while !http_get(&pod.service.http_addr, path)
                .0
                .starts_with("HTTP/1.1 200 ")
            {
                assert!(Instant::now() < patience, "{set} is not ready");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[test]
fn the_alerts_and_the_dashboard_of_the_chart_are_rendered_as_they_are() {
    let set = values("alerts");
    let chart = Path::new(ROOT).join("helm/tollgate");
    let rendered = template(&chart, &["-f", &set]).good();
    for name in [
        "TollgateStoreLostWrites",
        "TollgateReplicasDisagreeOnPolicy",
    ] {
        assert!(rendered.contains(name), "{name}");
    }
    assert!(rendered.contains("{{ $labels"), "{rendered}");
    assert!(rendered.contains("tollgate_requests_total"));
}
