//! A policy of 100,000 organizations is taken and freed without a call that notices.

use std::{
    fmt::Write as _,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Followed, TAKEN, policy};
use crate::support::calls::{Client, ask};

const ORGANIZATIONS: usize = 100_000;

/// Of the program as the tests build it, on a machine that does other things too.
const NOTICED: Duration = Duration::from_millis(250);

/// Reading so many takes some seconds as the tests build the program.
const PATIENCE: Duration = Duration::from_secs(120);

fn large_policy(large: u64, tier: u8) -> String {
    let mut text = policy(large);
    for more in 2..=5 {
        let _ = write!(text, "[tiers.{more}]\nlarge = 1\nmini = 1\n");
    }
    for org in 0..ORGANIZATIONS {
        let _ = write!(
            text,
            "[orgs.org-{org:024x}]\ntier = {tier}\ndata_sharing = \"all\"\n"
        );
    }
    text
}

/// The longest of the calls that are made until the end.
async fn longest_call(mut client: Client, end: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !end.load(Ordering::Relaxed) {
        let begun = Instant::now();
        client.reserve(ask(1, "")).await.unwrap();
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    longest
}

async fn taken(followed: &Followed, times: usize) {
    let begun = Instant::now();
    while followed.logged(TAKEN).len() < times {
        assert!(begun.elapsed() < PATIENCE, "{:?}", followed.logged(""));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_100_000_organizations_is_taken_without_delaying_calls() {
    let followed = Followed::start();
    let measure = |end: &Arc<AtomicBool>| {
        let (client, end) = (followed.tollgate.client(), Arc::clone(end));
        tokio::spawn(longest_call(client, end))
    };
    // What a call may take here anyway.
    let end = Arc::default();
    let quiet = measure(&end);
    tokio::time::sleep(Duration::from_secs(2)).await;
    end.store(true, Ordering::Relaxed);
    let quiet = quiet.await.unwrap();

    let end = Arc::default();
    let busy = measure(&end);
    let begun = Instant::now();
    for (at, tier) in [(1, 2), (2, 3)] {
        fs::write(followed.path("next"), large_policy(1_000, tier)).unwrap();
        fs::rename(followed.path("next"), followed.file()).unwrap();
        taken(&followed, at).await;
    }
    let took = begun.elapsed();
    // The second one is freed meanwhile.
    tokio::time::sleep(Duration::from_secs(1)).await;
    end.store(true, Ordering::Relaxed);
    let busy = busy.await.unwrap();
    eprintln!("two took {took:?}; the longest call {busy:?}, before that {quiet:?}");
    let line = followed.logged(TAKEN).pop().unwrap();
    assert_eq!(line["tier_changes"], ORGANIZATIONS);
    assert!(
        line["changed"]
            .as_str()
            .unwrap()
            .ends_with(" and 99980 more")
    );
    assert!(
        busy < NOTICED.max(quiet * 3),
        "{busy:?}, before that {quiet:?}"
    );
}
