//! The invariants of the ledger, checked against all calls and answers. [`Rules`] say what a fault allows. How many
//! tokens it may grant twice follows from the history.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tonic::Code;

use super::{
    CALL_TIMEOUT, Rules, allowance,
    history::{Answer, Call, CallKind, History, Request},
    traffic::Gateway,
};
use crate::support::calls::{Client, large_of, sum, usage_of};

/// How long after its deadline a call may be answered on a busy machine.
const MAX_LATENESS: Duration = Duration::from_secs(2);

/// How many ids of each organization are replayed at the end.
const MAX_REPLAYS: usize = 40;

/// Reserves in several steps until nothing is left, first once through each replica: after a loss, this restores all
/// snapshots.
pub async fn use_up(gateway: &mut Gateway, org: &str) {
    static NAMES: AtomicU64 = AtomicU64::new(0);
    for step in 0..100 {
        let replica = step % gateway.replicas.len();
        let remaining = large_of(&gateway.replicas[replica], org).await.remaining;
        let spoken = step >= gateway.replicas.len();
        let request = Arc::new(Request {
            org: org.to_owned(),
            name: format!("last {}", NAMES.fetch_add(1, Ordering::Relaxed)),
            has_id: true,
            tokens: if spoken { remaining.max(1) } else { 1 },
        });
        let answer = gateway.call_until_answered(&request, CallKind::Reserve, replica, None);
        let is_free = answer.await.is_free();
        if spoken && remaining == 0 {
            assert!(!is_free, "{org}: more is granted than remained");
            return;
        }
    }
    panic!("{org}: something remains after all");
}

/// Checks the answers against the ledger.
pub async fn all(replicas: &[Client], orgs: &[String], history: &History, rules: &Rules) {
    for call in &history.calls {
        fails_only_as_allowed(call, rules);
    }
    let (mut failed, mut unknown) = (0, 0);
    for call in history.failed() {
        failed += 1;
        unknown += usize::from(
            matches!(call.answer, Answer::Failed { counted_nothing, .. } if !counted_nothing),
        );
    }
    println!(
        "{} calls, {failed} failed, {unknown} of them unknown",
        history.calls.len()
    );
    for calls in history.by_request(None).values() {
        answers_agree(calls, rules);
    }
    for org in orgs {
        let used = counters_match_the_answers(replicas, org, history, rules).await;
        replays(replicas, org, history, rules).await;
        let again = large_of(&replicas[0], org).await.used;
        assert_eq!(again, used, "{org}: replays count nothing");
    }
}

/// A call fails in time, with UNAVAILABLE; after a loss, its id may be unknown.
fn fails_only_as_allowed(call: &Call, rules: &Rules) {
    let took = call.ended - call.begun;
    let limit = call.deadline.or(rules.call_timeout).unwrap_or(CALL_TIMEOUT);
    assert!(took < limit + MAX_LATENESS, "{took:?}: {call:?}");
    let Answer::Failed { code, .. } = call.answer else {
        return;
    };
    let allowed = match code {
        Code::Unavailable => true,
        // The timer of tonic's client may expire first.
        Code::Cancelled | Code::DeadlineExceeded => {
            call.deadline.is_some_and(|deadline| took >= deadline)
        }
        Code::NotFound => call.kind != CallKind::Reserve && !rules.losses.is_empty(),
        _ => false,
    };
    assert!(allowed, "{call:?}");
}

/// All answers to equal calls are equal, and at most one of them is no replay.
fn answers_agree(calls: &[&Call], rules: &Rules) {
    let request = &calls[0].request;
    if !request.has_id {
        assert_eq!(calls.len(), 1, "{request:?}");
        return;
    }
    let kinds: BTreeSet<String> = calls
        .iter()
        .map(|call| format!("{:?}", call.kind))
        .collect();
    for what in kinds {
        let same = || {
            let same = calls
                .iter()
                .filter(|call| format!("{:?}", call.kind) == what);
            same.map(|call| &call.answer)
        };
        let (mut verdicts, mut first, mut failed) = (BTreeSet::new(), 0, 0);
        for answer in same() {
            let (verdict, replayed) = match answer {
                Answer::Verdict { verdict, replayed } => (verdict.clone(), replayed),
                Answer::Released { tokens, replayed } => (tokens.to_string(), replayed),
                Answer::Failed { .. } => {
                    failed += 1;
                    continue;
                }
            };
            verdicts.insert(verdict);
            first += usize::from(!replayed);
        }
        assert!(verdicts.len() <= 1 && first <= 1, "{request:?}: {calls:?}");
        if rules.cuts_nothing && failed == 0 {
            assert_eq!(first, 1, "{request:?}: {calls:?}");
        }
    }
}

/// No more than the allowance is granted, and all that was granted is counted. Gives `used`.
async fn counters_match_the_answers(
    replicas: &[Client],
    org: &str,
    history: &History,
    rules: &Rules,
) -> u64 {
    let loses = !rules.losses.is_empty();
    let counts = history.counts(org, &rules.losses);
    let unshared = history.unshared(org, &rules.losses, replicas.len());
    let pool = large_of(&replicas[0], org).await;
    let used = pool.used as i64;
    println!("{org}: used {used}, counts {counts:?}, may be granted twice {unshared}");
    assert!(
        counts.min <= (allowance() + unshared) as i64,
        "{org}: {} free tokens of {} were granted, and {unshared} may be twice",
        counts.min,
        allowance()
    );
    assert!(
        (counts.min..=counts.max).contains(&used),
        "{org}: {used} is counted, and callers know of {counts:?}"
    );
    for client in replicas {
        assert_eq!(large_of(client, org).await, pool, "{org}");
    }
    if !loses {
        assert_eq!(pool.used, allowance(), "{org}: all is used up");
        let listed = sum(&usage_of(&replicas[0], org, "").await);
        // What ran outside the programme is in the rows alone.
        let (outside_tokens, outside_requests) = history.outside(org);
        let counted = (
            pool.used,
            pool.billed_tokens + outside_tokens,
            pool.free_requests,
            pool.billed_requests + outside_requests,
        );
        assert_eq!(listed, counted, "{org}");
    }
    pool.used
}

/// Repeats some answered calls whose ids Redis can't have lost since.
async fn replays(replicas: &[Client], org: &str, history: &History, rules: &Rules) {
    let lost_until = rules.losses.iter().map(|loss| loss.until).max();
    let requests = history.by_request(Some(org));
    let remembered = requests.values().filter(|calls| {
        let all_known = calls
            .iter()
            .all(|call| lost_until.is_none_or(|until| call.begun > until));
        calls[0].request.has_id && all_known
    });
    let remembered: Vec<_> = remembered.collect();
    let every = (remembered.len() / MAX_REPLAYS).max(1);
    let mut gateway = Gateway::over(replicas);
    for (at, calls) in remembered.iter().step_by(every).enumerate() {
        let last = calls.iter().rev();
        let Some(last) = last
            .clone()
            .find(|call| !matches!(call.answer, Answer::Failed { .. }))
        else {
            continue;
        };
        let again = gateway
            .call_until_answered(&last.request, last.kind, at, None)
            .await;
        let replay = match last.answer.clone() {
            Answer::Verdict { verdict, .. } => Answer::Verdict {
                verdict,
                replayed: true,
            },
            Answer::Released { tokens, .. } => Answer::Released {
                tokens,
                replayed: true,
            },
            failed @ Answer::Failed { .. } => failed,
        };
        assert_eq!(again, replay, "{org}: {calls:?}");
    }
}
