//! A file that changes a hundred times a second, and is mostly invalid.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tollgate::grpc::proto::GetQuotaRequest;

use super::{LOADED, REFUSED, ReloadingService, policy};
use crate::support::{
    calls::{Client, new_reserve, verdict_text},
    random::Random,
};

/// The duration of the test.
const TEST_DURATION: Duration = Duration::from_secs(5);
const WRITE_INTERVAL: Duration = Duration::from_millis(10);

/// How many different valid policies there are; each grants `large` a million and a different remainder.
const VALID_POLICIES: u64 = 50;
const MIN_ALLOWANCE: u64 = 1_000_000;

/// Replaces the file's content.
fn flap(file: &Path, random: &mut Random) {
    let text = policy(MIN_ALLOWANCE + random.below(VALID_POLICIES));
    let next = file.with_extension("next");
    match random.below(7) {
        0 | 1 => fs::write(file, text).unwrap(),
        2 => {
            fs::write(&next, text).unwrap();
            fs::rename(&next, file).unwrap();
        }
        // Without the allowance for `mini`: cut off within its line.
        3 => fs::write(file, &text[..text.find("mini = ").unwrap() + 3]).unwrap(),
        4 => fs::write(file, "").unwrap(),
        5 => drop(fs::remove_file(file)),
        _ => File::create(file).unwrap().set_len(200 << 20).unwrap(),
    }
}

/// Calls until the end. Every answer must follow one of the valid policies.
async fn call(mut client: Client, end: Arc<AtomicBool>, calls: Arc<AtomicU64>) -> BTreeSet<u64> {
    let mut seen = BTreeSet::new();
    while !end.load(Ordering::Relaxed) {
        let org = "acme".to_owned();
        let quota = client.get_quota(GetQuotaRequest { org }).await.unwrap();
        let pools = quota.into_inner().pools;
        let [large, mini] = pools.as_slice() else {
            panic!("{pools:?}");
        };
        assert_eq!(mini.allowance, large.allowance + 1_000_000);
        let reserved = client
            .reserve(new_reserve(1, ""))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(verdict_text(&reserved), "FREE");
        for allowance in [large.allowance, reserved.allowance] {
            let known = MIN_ALLOWANCE..MIN_ALLOWANCE + VALID_POLICIES;
            assert!(known.contains(&allowance), "{allowance}");
            seen.insert(allowance);
        }
        calls.fetch_add(2, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_flaps_fails_no_call_and_mixes_nothing_and_the_last_version_is_loaded() {
    let service = ReloadingService::start_in(|dir| {
        fs::write(dir.join("policy.toml"), policy(MIN_ALLOWANCE)).unwrap();
    });
    let (end, calls): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let client = service.tollgate.client();
            tokio::spawn(call(client, Arc::clone(&end), Arc::clone(&calls)))
        })
        .collect();
    let file = service.file();
    let flapping = tokio::task::spawn_blocking(move || {
        let (begun, mut random, mut flaps) = (Instant::now(), Random(5), 0);
        while begun.elapsed() < TEST_DURATION {
            flap(&file, &mut random);
            flaps += 1;
            std::thread::sleep((WRITE_INTERVAL * flaps).saturating_sub(begun.elapsed()));
        }
        flaps
    });
    let flaps: u32 = flapping.await.unwrap();
    let (taken, refused) = (service.logged(LOADED).len(), service.logged(REFUSED).len());
    service.write(&policy(MIN_ALLOWANCE + VALID_POLICIES - 1));
    let took = service.grants(MIN_ALLOWANCE + VALID_POLICIES - 1).await;
    // All of them use the last policy.
    tokio::time::sleep(WRITE_INTERVAL * 20).await;
    end.store(true, Ordering::Relaxed);
    let mut seen = BTreeSet::new();
    for caller in callers {
        seen.extend(caller.await.unwrap());
    }
    let calls = calls.load(Ordering::Relaxed);
    eprintln!(
        "{flaps} flaps, {taken} taken, {refused} refused, {calls} calls; the last took {took:?}"
    );
    assert!(flaps > 200, "{flaps}");
    // It is neither postponed forever nor loaded at each change.
    let most = usize::try_from(TEST_DURATION.as_secs()).unwrap() * 5;
    assert!(
        (1..=most).contains(&(taken + refused)),
        "{taken} and {refused}"
    );
    assert!(seen.len() > 1, "{seen:?}");
}
