use chrono::DateTime;

use super::*;
use crate::domain::{OrgId, PoolName, Threshold, Tokens, UtcDay};

const SECOND: Duration = Duration::from_secs(1);

const FAILED: StepResult = StepResult::ReceiverFailed { retry_after: None };

fn notice(org: usize) -> Notice {
    let now = DateTime::UNIX_EPOCH;
    Notice {
        org: OrgId::parse(format!("org-{org:05}")).expect("a name"),
        pool: PoolName::parse("large").expect("a name"),
        day: UtcDay::of(now),
        threshold: Threshold::new(95).expect("legal"),
        used: Tokens::ZERO,
        external: Tokens::ZERO,
        allowance: Tokens::ZERO,
        noticed_at: now,
    }
}

/// A queue with this many new notices.
fn queue_of(notices: usize) -> DeliveryQueue {
    let mut queue = DeliveryQueue::default();
    for org in 0..notices {
        assert!(queue.add(notice(org), NoticeOrigin::Decided));
    }
    queue
}

fn take_all(queue: &mut DeliveryQueue, now: Instant) -> Vec<Delivery> {
    std::iter::from_fn(|| queue.take(now)).collect()
}

fn orgs(deliveries: &[Delivery]) -> Vec<&str> {
    let orgs = deliveries.iter().map(|it| it.notice.org.as_str());
    orgs.collect()
}

#[test]
fn a_notice_that_is_queued_or_under_way_is_not_queued_again() {
    let (mut queue, now) = (queue_of(1), Instant::now());
    assert!(queue.add(notice(0), NoticeOrigin::Found));
    let posted = queue.take(now).expect("one");
    assert!(!posted.needs_check, "the first one stays");
    assert!(queue.add(notice(0), NoticeOrigin::Found));
    assert_eq!((queue.len(), queue.take(now).is_none()), (1, true));
    queue.finish(now, posted, StepResult::Done);
    assert!(queue.add(notice(0), NoticeOrigin::Found));
    let confirmed = queue.take(now).expect("its confirmation");
    assert_eq!(confirmed.step, DeliveryStep::Confirm);
    queue.finish(now, confirmed, StepResult::Done);
    assert_eq!((queue.len(), queue.take(now).is_none()), (0, true));
    queue.add(notice(0), NoticeOrigin::Found);
    assert!(queue.take(now).expect("it is new").needs_check);
}

#[test]
fn a_full_queue_takes_no_more_until_one_has_ended() {
    let (mut queue, now) = (queue_of(MAX_NOTICES), Instant::now());
    assert!(!queue.add(notice(MAX_NOTICES), NoticeOrigin::Decided));
    assert!(queue.add(notice(7), NoticeOrigin::Decided), "it is there");
    let first = queue.take(now).expect("one");
    queue.finish(now, first, StepResult::Obsolete);
    assert!(queue.add(notice(MAX_NOTICES), NoticeOrigin::Decided));
}

#[test]
fn few_are_under_way_and_one_while_the_receiver_fails() {
    let (mut queue, mut now) = (queue_of(100), Instant::now());
    let mut first = take_all(&mut queue, now);
    assert_eq!(first.len(), MAX_ATTEMPTS);
    assert_eq!(queue.next_due(now), None, "all places are taken");
    queue.finish(now, first.remove(0), FAILED);
    assert_eq!(queue.take(now).map(|it| it.notice), None);
    for delivery in first {
        queue.finish(now, delivery, FAILED);
    }
    assert_eq!(queue.receiver.failures, 1, "those at the same time are one");
    for failures in 2..10 {
        let due = queue.next_due(now).expect("a pause ends");
        assert!(queue.take(due - Duration::from_millis(1)).is_none());
        now = due;
        let mut tried = take_all(&mut queue, now);
        assert_eq!(tried.len(), 1, "one shows whether it has recovered");
        queue.finish(now, tried.remove(0), FAILED);
        let pause = queue.next_due(now).expect("a pause") - now;
        let longest = (2_u32.pow(failures) * SECOND).min(60 * SECOND);
        assert!(
            pause >= longest / 2 && pause <= longest,
            "{failures}: {pause:?}"
        );
    }
    now = queue.next_due(now).expect("a pause ends");
    let recovered = queue.take(now).expect("one");
    queue.finish(now, recovered, StepResult::Done);
    // The confirmation of the one that was delivered, and posts in all places.
    assert_eq!(take_all(&mut queue, now).len(), 1 + MAX_ATTEMPTS);
}

#[test]
fn a_notice_that_is_always_refused_holds_up_others_by_a_pause_only() {
    let (mut queue, now) = (queue_of(1), Instant::now());
    let refused = queue.take(now).expect("one");
    queue.finish(now, refused, FAILED);
    for org in 1..=3 {
        queue.add(notice(org), NoticeOrigin::Decided);
    }
    let now = now + 60 * SECOND;
    let next = take_all(&mut queue, now);
    assert_eq!(orgs(&next), ["org-00001"], "a new one comes first");
    for delivery in next {
        queue.finish(now, delivery, StepResult::Done);
    }
    let rest = take_all(&mut queue, now);
    let posted = rest.into_iter().filter(|it| it.step == DeliveryStep::Post);
    let posted: Vec<_> = posted.collect();
    assert_eq!(orgs(&posted), ["org-00002", "org-00003", "org-00000"]);
    assert!(
        posted[2].needs_check,
        "another replica may have been faster"
    );
}

#[test]
fn retry_after_is_honoured_up_to_its_bound() {
    for (asked, waits) in [(7, 7), (100_000, MAX_RETRY_AFTER.as_secs())] {
        let (mut queue, now) = (queue_of(2), Instant::now());
        let retry_after = Some(asked * SECOND);
        let both = take_all(&mut queue, now);
        for delivery in both {
            queue.finish(now, delivery, StepResult::ReceiverFailed { retry_after });
        }
        assert_eq!(queue.next_due(now), Some(now + Duration::from_secs(waits)));
    }
}

#[test]
fn a_failing_ledger_delays_confirmations_and_no_posts() {
    let (mut queue, now) = (queue_of(3), Instant::now());
    for delivery in take_all(&mut queue, now) {
        queue.finish(now, delivery, StepResult::Done);
    }
    let confirmations = take_all(&mut queue, now);
    assert_eq!(confirmations.len(), 3);
    for delivery in confirmations {
        queue.finish(now, delivery, StepResult::LedgerFailed);
    }
    queue.add(notice(9), NoticeOrigin::Decided);
    let posted = take_all(&mut queue, now);
    assert_eq!(orgs(&posted), ["org-00009"]);
    let due = queue.next_due(now).expect("a pause ends");
    assert!(due >= now + SECOND && due <= now + 2 * SECOND);
    let again = take_all(&mut queue, now + 2 * SECOND);
    let steps: Vec<_> = again.iter().map(|it| it.step).collect();
    assert_eq!(steps, [DeliveryStep::Confirm]);
    assert_eq!(queue.len(), 4);
}
