//! A refused file shows until it is fixed, and no longer.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tonic_health::pb::health_check_response::ServingStatus;

use super::WAIT_TIMEOUT;
use crate::{
    server::http_get,
    support::{
        calls::{TextFile, policy_file},
        tollgate::Tollgate,
    },
};

/// Several times the interval at which files are read.
const SEVERAL_READS: Duration = Duration::from_secs(1);

/// The files that are refused, from a scrape; it has a sample for each file that can be followed.
fn refused(text: &str) -> Vec<&str> {
    let samples = text.lines().filter_map(|line| {
        let samples = line.strip_prefix("tollgate_file_refused{of=\"")?;
        samples.split_once("\"} ")
    });
    let samples: Vec<_> = samples.collect();
    let files: Vec<_> = samples.iter().map(|(of, _)| *of).collect();
    assert_eq!(files, ["policy", "callers", "tls", "http_tls"], "{text}");
    let refused = samples.into_iter().filter(|(_, value)| *value == "1");
    refused.map(|(of, _)| of).collect()
}

/// Breaks a followed file and fixes it: meanwhile exactly this file shows as refused. `get` returns head and body of a
/// GET.
pub async fn shows_until_fixed(
    tollgate: &Tollgate,
    get: impl AsyncFn(&'static str) -> String,
    of: &str,
    damage: impl FnOnce(),
    fix: impl FnOnce(),
) {
    let until = async |wanted: &[&str]| {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let text = get("/metrics").await;
            if refused(&text) == wanted {
                break;
            }
            let late = Instant::now() > deadline;
            assert!(!late, "{:?}, not {wanted:?}", refused(&text));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(&[]).await;
    damage();
    until(&[of]).await;
    tollgate.signal(Signal::SIGHUP);
    let end = Instant::now() + SEVERAL_READS;
    while Instant::now() < end {
        assert_eq!(refused(&get("/metrics").await), [of]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ready = get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let (_, body) = ready.split_once("\r\n\r\nok\n").unwrap();
    assert!(body.starts_with(&format!("{of}: ")), "{ready}");
    assert!(body.contains(" was refused at 20"), "{ready}");
    assert!(body.ends_with(" stays\n"), "{ready}");
    assert_eq!(body.lines().count(), 1, "{ready}");
    fix();
    until(&[]).await;
    let ready = get("/readyz").await;
    assert!(ready.ends_with("\r\n\r\nok\n"), "{ready}");
}

#[tokio::test]
async fn a_refused_policy_and_a_refused_callers_file_show_until_they_are_fixed() {
    let (policy, callers) = (
        policy_file(1_000),
        TextFile::new(
            "[callers.gateway]\ncertificates = [\"gateway.internal\"]\nroles = [\"read\"]\n\
             organizations = [\"*\"]\n",
        ),
    );
    let files = ["--policy", policy.path(), "--callers", callers.path()];
    let tollgate = Tollgate::start(&[&files[..], &["--store", "memory:"]].concat());
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let get = async |path: &'static str| {
        let (head, body) = http_get(&tollgate.http_addr, path);
        format!("{head}\r\n\r\n{body}")
    };
    for (of, file) in [("policy", policy.path()), ("callers", callers.path())] {
        let good = fs::read_to_string(file).unwrap();
        let write = |text: &str| fs::write(file, text).unwrap();
        let bad = good.replace("[orgs.", "[org.").replace("roles", "rule");
        shows_until_fixed(&tollgate, &get, of, || write(&bad), || write(&good)).await;
        let another = good.clone() + "# In other words.\n";
        let remove = || fs::remove_file(file).unwrap();
        shows_until_fixed(&tollgate, &get, of, remove, || write(&another)).await;
    }
}
