//! kill -9 under traffic, repeatedly, on the same file.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use crate::support::{
    calls::{large, new_reserve, policy_file, verdict_text},
    clock::Clock,
    tollgate::{Tollgate, program},
    world::NOON,
};

const ALLOWANCE: u64 = 9_000;
const TOKENS: u64 = 7;
const CALLERS: usize = 16;
/// How many answers a round has before the process is killed.
const ANSWERS: usize = 250;

/// The answer by id; `None` without an answer.
type Answers = BTreeMap<String, Option<String>>;

fn rounds() -> usize {
    match std::env::var("TOLLGATE_LONG") {
        Ok(long) if long == "1" => 50,
        _ => 6,
    }
}

/// Reserves concurrently until the process is killed.
async fn traffic(tollgate: &Tollgate, round: usize) -> Answers {
    let answers = Arc::new(Mutex::new(Answers::new()));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (client, answers, answered) = (
            tollgate.client(),
            Arc::clone(&answers),
            Arc::clone(&answered),
        );
        callers.spawn(async move {
            for at in 0.. {
                let id = format!("{round} {caller} {at}");
                answers.lock().unwrap().insert(id.clone(), None);
                let Ok(answer) = client.clone().reserve(new_reserve(TOKENS, &id)).await else {
                    return;
                };
                let verdict = verdict_text(answer.get_ref());
                answers.lock().unwrap().insert(id, Some(verdict));
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    while answered.load(Ordering::SeqCst) < ANSWERS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tollgate.signal(Signal::SIGKILL);
    while callers.join_next().await.is_some() {}
    std::mem::take(&mut answers.lock().unwrap())
}

/// Repeats every id: answered ones get the same answer, the others are decided now.
async fn replay(tollgate: &Tollgate, answers: &mut Answers) {
    let client = tollgate.client();
    let mut answers: Vec<_> = answers.iter_mut().collect();
    for some in answers.chunks_mut(256) {
        let again = some.iter().map(|(id, _)| {
            let (mut client, call) = (client.clone(), new_reserve(TOKENS, id));
            async move { client.reserve(call).await.unwrap().into_inner() }
        });
        for (answer, (_, known)) in join_all(again).await.into_iter().zip(some.iter_mut()) {
            match known {
                Some(known) => assert_eq!(
                    (verdict_text(&answer), answer.replayed),
                    (known.clone(), true)
                ),
                None => **known = Some(verdict_text(&answer)),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_before_a_kill_are_counted_after_it() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
    let store = format!("file:{}", dir.path().join("tollgate.db").display());
    let policy = policy_file(ALLOWANCE);
    let args = ["--store", &store, "--policy", policy.path()];
    let mut all = Answers::new();
    for round in 0..rounds() {
        // A process that is killed while it opens the file does no harm.
        let mut opening = program();
        clock.preload(&mut opening);
        let quiet = opening.arg("serve").args(args).stderr(Stdio::null());
        let anywhere = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
        let mut opening = quiet.args(anywhere).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(round as u64 * 3)).await;
        opening.kill().unwrap();
        opening.wait().unwrap();

        let tollgate = Tollgate::start_at(&clock, &args);
        let granted = |verdict: &Option<String>| verdict.as_deref() == Some("FREE");
        let least = TOKENS * all.values().filter(|verdict| granted(verdict)).count() as u64;
        let unknown = TOKENS * all.values().filter(|verdict| verdict.is_none()).count() as u64;
        let used = large(&tollgate.client()).await.used;
        assert!(
            (least..=least + unknown).contains(&used),
            "{least} {unknown} {used}"
        );
        replay(&tollgate, &mut all).await;
        let exact = TOKENS * all.values().filter(|verdict| granted(verdict)).count() as u64;
        let pool = large(&tollgate.client()).await;
        assert_eq!(pool.used, exact);
        assert!(exact <= ALLOWANCE);
        assert_eq!(pool.free_requests + pool.billed_requests, all.len() as u64);
        all.extend(traffic(&tollgate, round).await);
    }
    let granted = all
        .values()
        .flatten()
        .filter(|verdict| *verdict == "FREE")
        .count() as u64;
    assert!(granted * TOKENS > ALLOWANCE - TOKENS, "{granted}");
}
