//! A policy of 100,000 organizations is loaded and dropped without delaying calls.

use std::{
    fmt::Write as _,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{LOADED, ReloadingService, policy};
use crate::support::calls::{Client, new_reserve};

const ORGANIZATIONS: usize = 100_000;

/// For a debug build on a busy machine.
const MAX_DELAY: Duration = Duration::from_millis(250);

/// In a debug build, reading takes some seconds.
const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

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

/// The longest call until the end.
async fn longest_call(mut client: Client, end: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !end.load(Ordering::Relaxed) {
        let begun = Instant::now();
        client.reserve(new_reserve(1, "")).await.unwrap();
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    longest
}

pub(super) async fn taken(service: &ReloadingService, times: usize) {
    let begun = Instant::now();
    while service.logged(LOADED).len() < times {
        assert!(begun.elapsed() < WAIT_TIMEOUT, "{:?}", service.logged(""));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_100_000_organizations_is_loaded_without_delaying_calls() {
    let service = ReloadingService::start();
    let measure = |end: &Arc<AtomicBool>| {
        let (client, end) = (service.tollgate.client(), Arc::clone(end));
        tokio::spawn(longest_call(client, end))
    };
    // The longest call without a reload.
    let end = Arc::default();
    let quiet = measure(&end);
    tokio::time::sleep(Duration::from_secs(2)).await;
    end.store(true, Ordering::Relaxed);
    let quiet = quiet.await.unwrap();
    let noticed = MAX_DELAY.max(quiet * 3);

    // From the second reload on, a large policy is dropped, too. Other processes may delay a call once or twice.
    for round in 1..=5 {
        let end = Arc::default();
        let busy = measure(&end);
        let text = large_policy(1_000, 1 + u8::try_from(round % 2).unwrap());
        fs::write(service.path("next"), text).unwrap();
        let begun = Instant::now();
        fs::rename(service.path("next"), service.file()).unwrap();
        taken(&service, round).await;
        let took = begun.elapsed();
        // Meanwhile the previous policy is dropped.
        tokio::time::sleep(Duration::from_millis(500)).await;
        end.store(true, Ordering::Relaxed);
        let busy = busy.await.unwrap();
        eprintln!("it took {took:?}; the longest call {busy:?}, before that {quiet:?}");
        if round >= 2 && busy < noticed {
            let line = service.logged(LOADED).pop().unwrap();
            assert_eq!(line["tier_changes"], ORGANIZATIONS);
            assert!(
                line["changed"]
                    .as_str()
                    .unwrap()
                    .ends_with(" and 99980 more")
            );
            return;
        }
    }
    panic!("each time a call took more than {noticed:?}");
}
