//! A real Envoy in front of the replicas, as in a service mesh.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate::grpc::proto::quota_service_client::QuotaServiceClient;
use tonic::transport::Endpoint;

use crate::{
    server::http_get,
    support::{calls::Client, tools::tool},
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// An Envoy that balances over ready replicas. It never retries: each failure of a replica reaches the caller.
pub struct Envoy {
    process: Child,
    /// The address of its admin pages.
    admin: String,
    /// The address for gRPC.
    addr: String,
    dir: TempDir,
}

impl Envoy {
    pub fn start(replicas: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("envoy.json");
        fs::write(&config, config_of(replicas).to_string()).unwrap();
        let admin = dir.path().join("admin");
        let process = Command::new(tool("bin/envoy"))
            .arg("--config-path")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--disable-hot-restart", "--concurrency", "1"])
            .args(["--log-level", "warning"])
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut envoy = Self {
            process,
            admin: String::new(),
            addr: String::new(),
            dir,
        };
        envoy.admin = envoy.wait_for("its own pages", || {
            // Envoy writes the file after creating it.
            fs::read_to_string(&admin)
                .ok()
                .filter(|it| it.parse::<SocketAddr>().is_ok())
        });
        envoy.addr = envoy.wait_for("a listener", || {
            let listeners = envoy.page("/listeners");
            let line = listeners.lines().find_map(|it| it.strip_prefix("calls::"));
            line.map(ToOwned::to_owned)
        });
        envoy
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
        self.wait_for(replica, || self.is_healthy(replica).then_some(()));
    }

    /// Waits until it has sent so many more calls to a replica.
    pub fn wait_for_calls(&self, replica: &str, more: u64) {
        let wanted = self.sent_to(replica) + more;
        self.wait_for(replica, || (self.sent_to(replica) >= wanted).then_some(()));
    }

    fn about(&self, replica: &str, what: &str) -> String {
        let page = self.page("/clusters");
        let name = format!("tollgate::{replica}::{what}::");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{name} is not in {page}"))
            .to_owned()
    }

    fn page(&self, path: &str) -> String {
        http_get(&self.admin, path).1
    }

    fn wait_for<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "Envoy has no {what}: {}",
                log_in(self.dir.path())
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn log_in(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

/// It checks each replica's readiness every 250 ms; one result changes the state.
fn config_of(replicas: &[&str]) -> Value {
    let http2 = json!({ "explicit_http_config": { "http2_protocol_options": {} } });
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let endpoints: Vec<Value> = replicas
        .iter()
        .map(|it| json!({ "endpoint": { "address": address(it) } }))
        .collect();
    json!({
        "admin": { "address": address("127.0.0.1:0") },
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
        "address": address("127.0.0.1:0"),
        "filter_chains": [{
            "filters": [{ "name": "manager", "typed_config": typed(manager, configured) }],
        }],
    })
}

fn typed(name: &str, mut message: Value) -> Value {
    message["@type"] = json!(format!("type.googleapis.com/{name}"));
    message
}

fn address(of: &str) -> Value {
    let of: SocketAddr = of.parse().unwrap();
    let (host, port) = (of.ip().to_string(), of.port());
    json!({ "socket_address": { "address": host, "port_value": port } })
}
