//! docs/CONTRACT.md, "The program": what a listener allows, and TLS.

mod bounds;
mod cancellations;
mod floods;
mod refusals;
mod tls;

use std::time::{Duration, Instant};

use crate::support::{
    calls::{TextFile, policy_file},
    tollgate::Tollgate,
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// A service over memory with these settings, which logs the end of each connection.
fn start(settings: &str) -> Tollgate {
    let (settings, policy) = (TextFile::new(settings), policy_file(1_000_000));
    Tollgate::start(&[
        "--config",
        settings.path(),
        "--policy",
        policy.path(),
        "--store",
        "memory:",
        "--log",
        "info,tollgate=debug",
    ])
}

/// How many connections ended for this reason.
fn ended(tollgate: &Tollgate, why: &str) -> usize {
    let lines = tollgate.log().into_iter();
    let ended = lines.filter(|line| {
        line["message"] == "a connection ended"
            && line["end"].as_str().is_some_and(|end| end.contains(why))
    });
    ended.count()
}

/// Waits for a condition.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
