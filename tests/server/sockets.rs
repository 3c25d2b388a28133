//! Listeners on unix sockets.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::MetadataExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tollgate::grpc::proto::quota_service_client::QuotaServiceClient;
use tonic::transport::Endpoint;

use crate::support::{
    calls::{Client, TextFile, policy_file, reserve, verdict_text},
    tollgate::{Tollgate, program},
    tools::{run, tool},
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

struct Sockets {
    dir: TempDir,
}

impl Sockets {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A service with both listeners at sockets.
    fn start(&self, args: &[&str]) -> Tollgate {
        let policy = policy_file(1_000);
        let (grpc, http) = (self.path("grpc.sock"), self.path("http.sock"));
        let (grpc, http) = (format!("unix:{grpc}"), format!("unix:{http}"));
        let own = [
            "--policy",
            policy.path(),
            "--listen",
            &grpc,
            "--http-listen",
            &http,
        ];
        let tollgate = Tollgate::start(&[&own[..], args].concat());
        assert_eq!((&tollgate.addr, &tollgate.http_addr), (&grpc, &http));
        tollgate
    }

    fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("unix:{}", self.path("grpc.sock")));
        QuotaServiceClient::new(endpoint.unwrap().connect_lazy())
    }

    fn get(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.path("http.sock")).unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ports_can_be_unix_sockets_which_count_and_drain_as_tcp_does() {
    let sockets = Sockets::new();
    let mut tollgate = sockets.start(&[]);
    let client = sockets.client();
    assert_eq!(verdict_text(&reserve(&client, 10, "").await), "FREE");
    // Readiness follows the store's first answer, for which the call waited.
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !sockets.get("/readyz").starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "{}", sockets.get("/readyz"));
    }
    let metrics = sockets.get("/metrics");
    let mode = fs::metadata(sockets.path("grpc.sock")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o660);
    let open = "tollgate_connections{port=\"grpc\"} 1";
    assert!(metrics.contains(open), "{metrics}");
    let log = format!("{:?}", tollgate.log());
    assert!(!log.contains("not on loopback"), "{log}");
    tollgate.signal(Signal::SIGTERM);
    assert!(tollgate.wait(WAIT_TIMEOUT).success());
    for name in ["grpc.sock", "http.sock"] {
        assert!(!Path::new(&sockets.path(name)).exists(), "{name}");
    }
}

#[tokio::test]
async fn the_socket_of_a_killed_process_is_replaced_and_that_of_a_live_one_is_in_use() {
    let sockets = Sockets::new();
    let mut killed = sockets.start(&[]);
    killed.signal(Signal::SIGKILL);
    killed.wait(WAIT_TIMEOUT);
    assert!(Path::new(&sockets.path("grpc.sock")).exists());
    let _live = sockets.start(&[]);
    let grpc = format!("unix:{}", sockets.path("grpc.sock"));
    let second = run(program().args(["serve", "--store", "memory:", "--listen", &grpc]));
    let stderr = second.stderr;
    assert!(stderr.contains("listen: can't bind unix:"), "{stderr}");
    assert!(stderr.contains("in use"), "{stderr}");
    assert_eq!(
        verdict_text(&reserve(&sockets.client(), 10, "").await),
        "FREE"
    );
    let file = sockets.path("file");
    fs::write(&file, "kept").unwrap();
    let grpc = format!("unix:{file}");
    let third = run(program().args(["serve", "--store", "memory:", "--listen", &grpc]));
    assert!(third.stderr.contains("no socket"), "{}", third.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
}

#[tokio::test]
async fn a_token_is_taken_over_a_unix_socket_without_tls() {
    let callers = TextFile::new(
        "[callers.gateway]\ntokens = [\"sha256:\
         0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d\"]\n\
         organizations = [\"*\"]\nroles = [\"read\"]\n",
    );
    let sockets = Sockets::new();
    let tollgate = sockets.start(&["--callers", callers.path()]);
    let addr = tollgate.addr.clone();
    let mut client = program();
    client.args(["quota", "acme", "--addr", &addr]);
    let ran = run(client.env("TOLLGATE_TOKEN", "tg_nobody"));
    assert!(ran.stderr.contains("UNAUTHENTICATED"), "{}", ran.stderr);
}

#[tokio::test]
async fn the_client_and_grpcurl_reach_a_unix_socket() {
    let sockets = Sockets::new();
    let tollgate = sockets.start(&[]);
    let ran = run(program().args(["quota", "acme", "--addr", &tollgate.addr]));
    assert!(
        ran.expect_success().contains("large"),
        "the pools are listed"
    );
    let socket = sockets.path("grpc.sock");
    let url = format!("unix://{socket}");
    // The old grpcurl sends the path as the authority, which is invalid.
    let older = ["-plaintext", "-unix", "-authority", "localhost", &socket];
    for (grpcurl, words) in [
        ("bin/grpcurl", &["-plaintext", &url][..]),
        ("bin/grpcurl-1.8.6", &older),
    ] {
        let mut command = std::process::Command::new(tool(grpcurl));
        let listed = run(command.args(words).arg("list")).expect_success();
        assert!(listed.contains("tollgate.v1.QuotaService"), "{listed}");
    }
    // A socket without a listener is reported in words.
    drop(UnixListener::bind(sockets.path("stale.sock")).unwrap());
    let stale = format!("unix:{}", sockets.path("stale.sock"));
    let ran = run(program().args(["quota", "acme", "--addr", &stale]));
    assert!(ran.stderr.contains("refused"), "{}", ran.stderr);
}
