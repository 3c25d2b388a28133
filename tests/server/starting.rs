//! The errors of a process that can't start, and the start without a store or without settings.

use std::{
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use tollgate::grpc::proto::GetQuotaRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::http_status;
use crate::support::{
    calls::TextFile,
    free_port,
    redis::RedisServer,
    tollgate::{Tollgate, program},
    world::small_policy,
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
/// Listening addresses for a process that must not start.
const LISTEN_ARGS: [&str; 4] = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];

/// Runs the program until it exits, soon and with this code. Gives its stderr.
fn failing(command: &mut Command, code: i32) -> String {
    let dir = tempfile::tempdir().unwrap();
    command.current_dir(dir.path());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while process.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            process.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let Output { status, stderr, .. } = process.wait_with_output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{stderr}");
    stderr
}

/// `tollgate serve` with these arguments prints one sentence with all of these words. The log before it may warn of a
/// low limit of open files.
fn refuses(args: &[&str], words: &[&str]) -> String {
    let stderr = failing(program().arg("serve").args(args), 1);
    let (log, received): (Vec<_>, Vec<_>) = stderr.lines().partition(|line| line.starts_with('{'));
    assert!(
        log.iter().all(|line| line.contains("\"open_files\":")),
        "{stderr}"
    );
    let [stderr] = received[..] else {
        panic!("it says one line: {stderr}");
    };
    let stderr = stderr.to_owned();
    assert!(stderr.starts_with("tollgate: "), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word:?} is not in: {stderr}");
    }
    stderr
}

#[test]
fn a_port_in_use_is_named_with_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (at, setting) in [(1, "listen"), (3, "http_listen")] {
        let mut args = LISTEN_ARGS;
        args[at] = &taken;
        refuses(&args, &[&format!(" {setting}: "), &taken, "in use"]);
    }
}

#[test]
fn a_bad_policy_is_refused_with_its_file_line_and_key() {
    let text = small_policy("keep_open");
    let policy = TextFile::new(&text.replace("[orgs.other]\ntier = 1", "[orgs.other]\ntier = 3"));
    let line = 1 + text
        .lines()
        .position(|line| line == "[orgs.other]")
        .unwrap();
    let place = format!("{}:{}: orgs.other.tier", policy.path(), line + 1);
    let args = [&LISTEN_ARGS[..], &["--policy", policy.path()]].concat();
    refuses(&args, &[&place]);
    let args = [&LISTEN_ARGS[..], &["--policy", "no/such/policy.toml"]].concat();
    refuses(&args, &["no/such/policy.toml", "can't be read"]);
}

#[test]
fn an_unknown_settings_key_is_refused_with_its_place_and_the_nearest_known_one() {
    let settings = TextFile::new("log = \"info\"\nlisen = \"127.0.0.1:0\"\n");
    let place = format!("{}:2: lisen", settings.path());
    refuses(&["--config", settings.path()], &[&place, "listen"]);
    let settings = TextFile::new("[redis]\nresponse_timeut = \"1s\"\n");
    let place = format!("{}:2: redis.response_timeut", settings.path());
    refuses(
        &["--config", settings.path()],
        &[&place, "response_timeout"],
    );
    refuses(
        &["--config", "no/such.toml"],
        &["no/such.toml", "can't be read"],
    );
}

#[test]
fn a_malformed_store_url_is_refused_without_its_password() {
    for url in [
        "postgres://user:hunter2@db",
        "redis://user:hunter2@:port:",
        "redis://:hunter2@host:70000",
        "redis://:hunter2@host/notadb",
        "redis://",
        "hunter2",
        "",
    ] {
        let args = [&LISTEN_ARGS[..], &["--store", url]].concat();
        let received = refuses(&args, &["--store: "]);
        assert!(!received.contains("hunter2"), "{received}");
        let settings = TextFile::new(&format!("store = \"{url}\"\n"));
        let place = format!("{}:1: store: ", settings.path());
        let received = refuses(&["--config", settings.path()], &[&place]);
        assert!(!received.contains("hunter2"), "{received}");
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tollgate.db");
    let path = path.to_str().unwrap();
    let store = format!("file:{path}");
    let first = Tollgate::start(&["--store", &store]);
    let args = [&LISTEN_ARGS[..], &["--store", &store]].concat();
    for _ in 0..2 {
        refuses(&args, &[path, "in use", "another process"]);
    }
    first.wait_for_readiness(ServingStatus::Serving).await;
    let org = "org-demo".to_owned();
    let quota = first.client().get_quota(GetQuotaRequest { org }).await;
    quota.unwrap();
}

#[test]
fn a_store_file_that_cannot_be_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let foreign = at("foreign");
    std::fs::write(&foreign, "not a store").unwrap();
    let directory = at("");
    for (path, words) in [
        (at("missing/tollgate.db"), ["missing", "does not exist"]),
        (foreign.clone(), [&*foreign, "is not Tollgate's"]),
        (directory.clone(), [&*directory, "is not a file"]),
    ] {
        let store = format!("file:{path}");
        let args = [&LISTEN_ARGS[..], &["--store", &store]].concat();
        refuses(&args, &[&words[..], &[&store]].concat());
    }
    refuses(
        &[&LISTEN_ARGS[..], &["--store", "file:"]].concat(),
        &["--store: names no file"],
    );
}

#[test]
fn wrong_flags_are_reported_with_exit_code_2() {
    for (wrong, word) in [
        (&["serve", "--lisen", "127.0.0.1:0"][..], "--lisen"),
        (
            &["serve", "--on-store-failure", "free"],
            "--on-store-failure",
        ),
        (&["serve", "--log-format", "xml"], "--log-format"),
        (&["sreve"], "sreve"),
    ] {
        let stderr = failing(program().args(wrong), 2);
        assert!(stderr.contains(word), "{stderr}");
    }
}

#[tokio::test]
async fn an_unreachable_redis_at_the_start_is_waited_for() {
    let port = free_port();
    let tollgate = Tollgate::start(&["--store", &format!("redis://127.0.0.1:{port}")]);
    // The first probe has failed.
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let is_outage =
        |log: &serde_json::Value| log["message"] == "the store does not answer: NOT_SERVING";
    while !tollgate.log().iter().any(is_outage) {
        assert!(Instant::now() < deadline, "{:?}", tollgate.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for name in ["readiness", "", "tollgate.v1.QuotaService"] {
        assert_eq!(tollgate.health(name).await, Some(ServingStatus::NotServing));
    }
    let liveness = tollgate.health("liveness").await;
    assert_eq!(liveness, Some(ServingStatus::Serving));
    assert_eq!(http_status(&tollgate.http_addr, "/readyz"), 503);
    assert_eq!(http_status(&tollgate.http_addr, "/livez"), 200);

    let _redis = RedisServer::start_on(port, None, &[]);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    assert_eq!(http_status(&tollgate.http_addr, "/readyz"), 200);
    let quota = GetQuotaRequest {
        org: "org-demo".to_owned(),
    };
    tollgate.client().get_quota(quota).await.unwrap();
}

#[tokio::test]
async fn without_a_policy_it_serves_the_demo_organization_and_says_so() {
    let tollgate = Tollgate::start(&["--store", "memory:"]);
    let org = "org-demo".to_owned();
    let quota = tollgate.client().get_quota(GetQuotaRequest { org }).await;
    let quota = quota.unwrap().into_inner();
    assert_eq!((quota.tier, quota.enrolled), (3, true));
    let allowances = quota.pools.iter().map(|pool| (&*pool.pool, pool.allowance));
    assert_eq!(
        allowances.collect::<Vec<_>>(),
        [("large", 1_000_000), ("mini", 10_000_000)]
    );
    let log = tollgate.log();
    let says = |words: &[&str]| {
        log.iter().any(|line| {
            let message = line["message"].as_str().unwrap();
            words.iter().all(|word| message.contains(word))
        })
    };
    assert!(says(&["org-demo", "--policy"]), "{log:?}");
    assert!(says(&["memory", "--store"]), "{log:?}");
}
