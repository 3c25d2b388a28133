//! A real Envoy in front of the replicas, as in a service mesh.

use serde_json::{Value, json};
use tollgate::grpc::proto::quota_service_client::QuotaServiceClient;
use tonic::transport::Endpoint;

use crate::support::{
    calls::Client,
    envoy::{EnvoyProcess, socket_address},
};

/// An Envoy that balances over ready replicas. It never retries: each failure of a replica reaches the caller.
pub struct Envoy {
    process: EnvoyProcess,
    /// The address for gRPC.
    addr: String,
}

impl Envoy {
    pub fn start(replicas: &[&str]) -> Self {
        let process = EnvoyProcess::start(config_of(replicas), &[]);
        let addr = process.listener("calls");
        Self { process, addr }
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addr)).unwrap();
        QuotaServiceClient::new(endpoint.connect_lazy())
    }

    /// Whether it sends calls to a replica.
    pub fn is_healthy(&self, replica: &str) -> bool {
        self.about(replica, "health_flags") == "healthy"
    }

    /// The number of calls sent to a replica.
    pub fn sent_to(&self, replica: &str) -> u64 {
        self.about(replica, "rq_total").parse().unwrap()
    }

    /// Waits until a replica is healthy.
    pub fn wait_until_healthy(&self, replica: &str) {
        self.process
            .wait_for(replica, || self.is_healthy(replica).then_some(()));
    }

    /// Waits until it has sent so many more calls to a replica.
    pub fn wait_for_calls(&self, replica: &str, more: u64) {
        let wanted = self.sent_to(replica) + more;
        self.process
            .wait_for(replica, || (self.sent_to(replica) >= wanted).then_some(()));
    }

    fn about(&self, replica: &str, what: &str) -> String {
        let page = self.process.page("/clusters");
        let name = format!("tollgate::{replica}::{what}::");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{name} is not in {page}"))
            .to_owned()
    }
}

/// It checks each replica's readiness every 250 ms; one result changes the state.
fn config_of(replicas: &[&str]) -> Value {
    let http2 = json!({ "explicit_http_config": { "http2_protocol_options": {} } });
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let endpoints: Vec<Value> = replicas
        .iter()
        .map(|it| json!({ "endpoint": { "address": socket_address(it) } }))
        .collect();
    json!({
        "static_resources": {
            "listeners": [listener()],
            "clusters": [{
                "name": "tollgate",
                "type": "STATIC",
                "connect_timeout": "5s",
                "typed_extension_protocol_options": { (options): typed(options, http2) },
                "load_assignment": {
                    "cluster_name": "tollgate",
                    "endpoints": [{ "lb_endpoints": endpoints }],
                },
                // Otherwise it would use replicas that are not ready if most are not.
                "common_lb_config": { "healthy_panic_threshold": { "value": 0 } },
                "health_checks": [{
                    "interval": "0.25s",
                    "no_traffic_interval": "0.25s",
                    "timeout": "5s",
                    "healthy_threshold": 1,
                    "unhealthy_threshold": 1,
                    "grpc_health_check": { "service_name": "readiness" },
                }],
            }],
        },
    })
}

fn listener() -> Value {
    let manager =
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "envoy.extensions.filters.http.router.v3.Router";
    let routes = json!([{
        "match": { "prefix": "/" },
        // Streams have no timeout.
        "route": { "cluster": "tollgate", "timeout": "0s" },
    }]);
    let configured = json!({
        "stat_prefix": "calls",
        "codec_type": "HTTP2",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
        "http_filters": [{ "name": "router", "typed_config": typed(router, json!({})) }],
    });
    json!({
        "name": "calls",
        "address": socket_address("127.0.0.1:0"),
        "filter_chains": [{
            "filters": [{ "name": "manager", "typed_config": typed(manager, configured) }],
        }],
    })
}

fn typed(name: &str, mut message: Value) -> Value {
    message["@type"] = json!(format!("type.googleapis.com/{name}"));
    message
}
