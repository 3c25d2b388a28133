//! docs/OPERATIONS.md, "How callers retry": the service config in examples/ carries calls through restarts and outages.
//! Python's grpcio reads it, like other gRPC implementations.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate::grpc::proto::DESCRIPTORS;
use tonic_health::pb::health_check_response::ServingStatus;

use super::Replica;
use crate::{
    python_client::generated_modules,
    support::{
        calls::{TextFile, large, policy_file},
        clock::Clock,
        free_port,
        redis::RedisServer,
        tools::tool,
        world::NOON,
    },
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The duration of an outage of the store.
const OUTAGE: Duration = Duration::from_secs(1);

/// A gateway in Python, which calls until its input ends.
struct Gateway {
    process: Child,
    _modules: TempDir,
}

impl Gateway {
    fn start(addr: &str) -> Self {
        let modules = generated_modules();
        let process = Command::new(tool("venv/bin/python"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rollout/retries.py"))
            .arg(addr)
            .arg(service_config())
            .env("PYTHONPATH", modules.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            process,
            _modules: modules,
        }
    }

    /// Ends it. Gives what it called, and what must be counted.
    fn end(mut self) -> Value {
        // Ends its input.
        drop(self.process.stdin.take());
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the gateway does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let received = self.process.stdout.take().unwrap();
        serde_json::from_reader(received).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn service_config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/service-config.json")
}

/// Waits until the replica serves and counts more.
async fn until_calls_go_on(replica: &Replica<'_>) {
    let tollgate = &replica.running;
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let client = tollgate.client();
    let before = large(&client).await.free_requests;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while large(&client).await.free_requests < before + 20 {
        assert!(Instant::now() < deadline, "the calls do not go on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_service_config_calls_come_through_restarts_and_outages_and_each_id_counts_once() {
    let clock = Clock::at(NOON);
    // A Redis that loses nothing that it acknowledged.
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = RedisServer::start_on(free_port(), Some(&clock), &durable);
    let (policy, settings) = (
        policy_file(1_000_000_000),
        TextFile::new("drain_delay = \"100ms\"\n"),
    );
    let url = redis.url();
    let args = ["--store", &url, "--policy", policy.path()];
    let args = [&args[..], &["--config", settings.path()]].concat();
    // The only replica, so each restart is an outage.
    let mut replica = Replica::start(9, &clock, &args);
    let gateway = Gateway::start(replica.addr());
    until_calls_go_on(&replica).await;

    replica.stop();
    replica.start_again();
    until_calls_go_on(&replica).await;

    // During calls, as after a crash.
    replica.start_again();
    until_calls_go_on(&replica).await;

    redis.kill();
    std::thread::sleep(OUTAGE);
    redis.restart();
    until_calls_go_on(&replica).await;

    redis.signal(Signal::SIGSTOP);
    std::thread::sleep(OUTAGE);
    redis.signal(Signal::SIGCONT);
    until_calls_go_on(&replica).await;

    let received = gateway.end();
    println!("{received}");
    assert_eq!(received["failures"], json!([]), "{received}");
    // The outages affected callers without retries.
    assert!(
        received["unprotected_failures"].as_u64().unwrap() > 0,
        "{received}"
    );
    let pool = large(&replica.running.client()).await;
    let counted = (json!(pool.free_requests), json!(pool.used));
    assert_eq!(
        counted,
        (received["requests"].clone(), received["used"].clone())
    );
}

/// All RPCs that are safe to retry: with an id, or read-only. Callers reopen streams themselves.
#[test]
fn the_service_config_names_each_rpc_but_streams() {
    let text = std::fs::read_to_string(service_config()).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let [methods] = &config["methodConfig"].as_array().unwrap()[..] else {
        panic!("one policy for all: {config}");
    };
    let mut named: Vec<(&str, &str)> = (methods["name"].as_array().unwrap().iter())
        .map(|it| {
            (
                it["service"].as_str().unwrap(),
                it["method"].as_str().unwrap(),
            )
        })
        .collect();
    named.sort_unstable();
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let service = pool
        .get_service_by_name("tollgate.v1.QuotaService")
        .unwrap();
    let rpcs: Vec<_> = service.methods().collect();
    let mut unary: Vec<(&str, &str)> = (rpcs.iter())
        .filter(|it| !it.is_client_streaming() && !it.is_server_streaming())
        .map(|it| (service.full_name(), it.name()))
        .collect();
    unary.sort_unstable();
    assert_eq!(named, unary);
}
