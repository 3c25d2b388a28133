//! A file that is another one a hundred times a second, and mostly none that can be taken.

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

use super::{Followed, NOT_TAKEN, TAKEN, policy};
use crate::support::{
    calls::{Client, ask, said},
    dice::Dice,
};

/// How long the file flaps.
const A_WHILE: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(10);

/// What the valid ones grant `large`: a million, and up to so many more.
const VALID: u64 = 50;
const LEAST: u64 = 1_000_000;

/// Puts something else in the file's place.
fn flap(file: &Path, dice: &mut Dice) {
    let text = policy(LEAST + dice.below(VALID));
    let beside = file.with_extension("next");
    match dice.below(7) {
        0 | 1 => fs::write(file, text).unwrap(),
        2 => {
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, file).unwrap();
        }
        // No allowance for `mini`: cut off in the middle of its line.
        3 => fs::write(file, &text[..text.find("mini = ").unwrap() + 3]).unwrap(),
        4 => fs::write(file, "").unwrap(),
        5 => drop(fs::remove_file(file)),
        _ => File::create(file).unwrap().set_len(200 << 20).unwrap(),
    }
}

/// Calls until the end; all answers are by one of the valid policies, whole.
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
        let reserved = client.reserve(ask(1, "")).await.unwrap().into_inner();
        assert_eq!(said(&reserved), "FREE");
        for allowance in [large.allowance, reserved.allowance] {
            let known = LEAST..LEAST + VALID;
            assert!(known.contains(&allowance), "{allowance}");
            seen.insert(allowance);
        }
        calls.fetch_add(2, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_flaps_fails_no_call_and_mixes_nothing_and_the_last_one_is_taken() {
    let followed = Followed::start_in(|dir| {
        fs::write(dir.join("policy.toml"), policy(LEAST)).unwrap();
    });
    let (end, calls): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let client = followed.tollgate.client();
            tokio::spawn(call(client, Arc::clone(&end), Arc::clone(&calls)))
        })
        .collect();
    let file = followed.file();
    let flapping = tokio::task::spawn_blocking(move || {
        let (begun, mut dice, mut flaps) = (Instant::now(), Dice(5), 0);
        while begun.elapsed() < A_WHILE {
            flap(&file, &mut dice);
            flaps += 1;
            std::thread::sleep((BETWEEN * flaps).saturating_sub(begun.elapsed()));
        }
        flaps
    });
    let flaps: u32 = flapping.await.unwrap();
    let (taken, refused) = (
        followed.logged(TAKEN).len(),
        followed.logged(NOT_TAKEN).len(),
    );
    followed.write(&policy(LEAST + VALID - 1));
    let took = followed.grants(LEAST + VALID - 1).await;
    // All of them see the last one.
    tokio::time::sleep(BETWEEN * 20).await;
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
    // It is neither left for later for ever, nor taken each time.
    let most = usize::try_from(A_WHILE.as_secs()).unwrap() * 5;
    assert!(
        (1..=most).contains(&(taken + refused)),
        "{taken} and {refused}"
    );
    assert!(seen.len() > 1, "{seen:?}");
}
