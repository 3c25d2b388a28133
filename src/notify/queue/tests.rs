use chrono::DateTime;

use super::*;
use crate::domain::{OrgId, PoolName, Threshold, Tokens};

const SECOND: Duration = Duration::from_secs(1);

const HOUR: Duration = Duration::from_secs(60 * 60);

const FAILED: StepResult = StepResult::Failed { retry_after: None };

/// A notice of the first moment of a day.
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
        assert!(queue.add(Instant::now(), &notice(org), NoticeOrigin::Decided));
    }
    queue
}

/// As [`notice`], of the next day.
fn next_day_notice(org: usize) -> Notice {
    let notice = notice(org);
    Notice {
        day: notice.day.plus_days(1),
        noticed_at: notice.day.end(),
        ..notice
    }
}

fn take_all(queue: &mut DeliveryQueue, now: Instant) -> Vec<Delivery> {
    std::iter::from_fn(|| queue.take(now)).collect()
}

/// Takes all that is due. What is to be checked is not confirmed.
fn take_checked(queue: &mut DeliveryQueue, now: Instant) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while let Some(delivery) = queue.take(now) {
        match delivery.step {
            DeliveryStep::Check => queue.finish(now, delivery, StepResult::Done),
            DeliveryStep::Post | DeliveryStep::Confirm => taken.push(delivery),
        }
    }
    taken
}

fn steps(deliveries: &[Delivery]) -> Vec<DeliveryStep> {
    deliveries.iter().map(|it| it.step).collect()
}

fn orgs(deliveries: &[Delivery]) -> Vec<&str> {
    let orgs = deliveries.iter().map(|it| it.notice.org.as_str());
    orgs.collect()
}

#[test]
fn a_notice_that_is_queued_or_under_way_is_not_queued_again() {
    let (mut queue, now) = (queue_of(1), Instant::now());
    assert!(!queue.add(now, &notice(0), NoticeOrigin::Found));
    let posted = queue.take(now).expect("one");
    assert_eq!(posted.step, DeliveryStep::Post, "the first one stays");
    assert!(!queue.add(now, &notice(0), NoticeOrigin::Found));
    assert_eq!((queue.len(), queue.take(now).is_none()), (1, true));
    queue.finish(now, posted, StepResult::Done);
    assert!(!queue.add(now, &notice(0), NoticeOrigin::Found));
    let confirmed = queue.take(now).expect("its confirmation");
    assert_eq!(confirmed.step, DeliveryStep::Confirm);
    queue.finish(now, confirmed, StepResult::Done);
    assert_eq!((queue.len(), queue.take(now).is_none()), (0, true));
    assert!(queue.add(now, &notice(0), NoticeOrigin::Found));
    assert!(queue.take(now + MAX_FOUND_DELAY / 3).is_none(), "it waits");
    let found = queue.take(now + MAX_FOUND_DELAY).expect("it is new");
    assert_eq!((found.step, found.is_logged), (DeliveryStep::Check, false));
}

#[test]
fn a_full_queue_takes_no_more_of_a_day_until_one_has_ended() {
    let (mut queue, now) = (queue_of(MAX_NOTICES), Instant::now());
    assert!(queue.add(now, &notice(MAX_NOTICES), NoticeOrigin::Decided));
    assert_eq!((queue.len(), queue.take_left_out()), (MAX_NOTICES, 1));
    assert!(!queue.add(now, &notice(7), NoticeOrigin::Decided));
    let first = queue.take(now).expect("one");
    queue.finish(now, first, StepResult::Obsolete);
    assert!(queue.add(now, &notice(MAX_NOTICES), NoticeOrigin::Decided));
    assert_eq!((queue.len(), queue.take_left_out()), (MAX_NOTICES, 0));
}

#[test]
fn in_a_full_queue_a_notice_displaces_one_of_the_oldest_day() {
    let (mut queue, now) = (queue_of(MAX_NOTICES - 1), Instant::now());
    queue.add(now, &next_day_notice(0), NoticeOrigin::Decided);
    for org in 1..=3 {
        queue.add(now, &next_day_notice(org), NoticeOrigin::Decided);
    }
    queue.add(now, &notice(MAX_NOTICES), NoticeOrigin::Decided);
    assert_eq!((queue.len(), queue.take_left_out()), (MAX_NOTICES, 4));
    let today = notice(0).day.plus_days(1);
    let of_today = queue.ready.iter().filter(|it| it.notice.day == today);
    assert_eq!(of_today.count(), 4);
}

#[test]
fn what_was_found_expires_with_its_day_and_what_was_decided_six_hours_later() {
    let (mut queue, now) = (queue_of(2), Instant::now());
    let posted = queue.take(now).expect("one");
    queue.finish(now, posted, StepResult::Done);
    queue.add(now, &notice(2), NoticeOrigin::Found);
    for (hours, len, left_out) in [(23, 3, 0), (25, 2, 1), (29, 2, 0), (31, 0, 1)] {
        let later = now + hours * HOUR;
        queue.drop_expired(later);
        let counts = (queue.len(), queue.take_left_out());
        assert_eq!(counts, (len, left_out), "{hours}");
    }
    queue.add(now, &notice(2), NoticeOrigin::Found);
    let found = queue.take(now + 23 * HOUR).expect("one");
    assert!(!found.is_expired(now + 23 * HOUR) && found.is_expired(now + 24 * HOUR));
    queue.finish(now + 24 * HOUR, found, StepResult::Expired);
    assert_eq!((queue.len(), queue.take_left_out()), (0, 1));
}

#[test]
fn what_was_decided_is_checked_once_another_replica_may_have_posted_it() {
    let (mut queue, now) = (queue_of(2), Instant::now());
    let soon = queue.take(now + 9 * SECOND).expect("one");
    assert_eq!(soon.step, DeliveryStep::Post);
    let later = now + 11 * SECOND;
    let late = queue.take(later).expect("one");
    assert_eq!(late.step, DeliveryStep::Check);
    queue.finish(later, late, StepResult::Done);
    let late = queue.take(later).expect("it is not confirmed");
    assert_eq!(late.step, DeliveryStep::Post);
}

#[test]
fn checks_take_no_place_of_posts_and_wait_while_the_ledger_fails() {
    let (mut queue, now) = (DeliveryQueue::default(), Instant::now());
    for org in 0..10 {
        queue.add(now, &notice(org), NoticeOrigin::Found);
    }
    let due = now + MAX_FOUND_DELAY;
    let checks = take_all(&mut queue, due);
    assert_eq!(steps(&checks), [DeliveryStep::Check; MAX_ATTEMPTS]);
    for org in 10..20 {
        queue.add(due, &notice(org), NoticeOrigin::Decided);
    }
    let posts = take_all(&mut queue, due);
    assert_eq!(steps(&posts), [DeliveryStep::Post; MAX_ATTEMPTS]);
    for check in checks {
        queue.finish(due, check, FAILED);
    }
    assert!(take_all(&mut queue, due).is_empty(), "the ledger fails");
    for post in posts {
        queue.finish(due, post, FAILED);
    }
    // The ledger has recovered and the receiver has not: what was found is checked nevertheless.
    let later = due + 2 * SECOND;
    queue.receiver.failed(later, HOUR);
    let check = queue.take(later).expect("one");
    assert!(
        queue.take(later).is_none(),
        "one shows whether it recovered"
    );
    queue.finish(later, check, StepResult::Done);
    let checks = take_all(&mut queue, later);
    assert_eq!(steps(&checks), [DeliveryStep::Check; MAX_ATTEMPTS]);
    assert!(checks.iter().all(|it| !it.is_logged));
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
        let mut tried = take_checked(&mut queue, now);
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
    let mut recovered = take_checked(&mut queue, now);
    queue.finish(now, recovered.remove(0), StepResult::Done);
    // The confirmation of the one that was delivered, and posts in all places.
    assert_eq!(take_checked(&mut queue, now).len(), 1 + MAX_ATTEMPTS);
}

#[test]
fn a_notice_that_is_always_refused_holds_up_others_by_a_pause_only() {
    let (mut queue, now) = (queue_of(1), Instant::now());
    let refused = queue.take(now).expect("one");
    queue.finish(now, refused, FAILED);
    let now = now + 60 * SECOND;
    for org in 1..=3 {
        queue.add(now, &notice(org), NoticeOrigin::Decided);
    }
    let next = take_all(&mut queue, now);
    assert_eq!(orgs(&next), ["org-00001"], "a new one comes first");
    for delivery in next {
        queue.finish(now, delivery, StepResult::Done);
    }
    let rest = take_all(&mut queue, now);
    let names = ["org-00001", "org-00002", "org-00003", "org-00000"];
    assert_eq!(orgs(&rest), names);
    let [confirm, post, check] = [
        DeliveryStep::Confirm,
        DeliveryStep::Post,
        DeliveryStep::Check,
    ];
    // Another replica may have been faster with the one that was refused.
    assert_eq!(steps(&rest), [confirm, post, post, check]);
}

#[test]
fn retry_after_is_honoured_up_to_its_bound() {
    for (asked, waits) in [(7, 7), (100_000, MAX_RETRY_AFTER.as_secs())] {
        let (mut queue, now) = (queue_of(2), Instant::now());
        let retry_after = Some(asked * SECOND);
        let both = take_all(&mut queue, now);
        for delivery in both {
            queue.finish(now, delivery, StepResult::Failed { retry_after });
        }
        assert_eq!(queue.next_due(now), Some(now + Duration::from_secs(waits)));
    }
}

#[test]
fn no_success_ends_a_pause_that_the_receiver_asked_for() {
    let (mut queue, now) = (queue_of(6), Instant::now());
    let retry_after = Some(120 * SECOND);
    for (at, delivery) in take_all(&mut queue, now).into_iter().enumerate() {
        let result = match at {
            0 => StepResult::Failed { retry_after },
            1 => FAILED,
            _ => StepResult::Done,
        };
        queue.finish(now, delivery, result);
    }
    let due_last = queue.repeated.keys().last().map(|(due, _)| *due);
    assert_eq!(
        due_last,
        Some(now + 120 * SECOND),
        "the one that was refused"
    );
    let before = take_all(&mut queue, now + 119 * SECOND);
    assert_eq!(steps(&before), [DeliveryStep::Confirm; 2]);
    for delivery in before {
        queue.finish(now, delivery, StepResult::Done);
    }
    let posts = take_checked(&mut queue, now + 120 * SECOND);
    assert_eq!(steps(&posts), [DeliveryStep::Post; MAX_ATTEMPTS]);
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
        queue.finish(now, delivery, FAILED);
    }
    queue.add(now, &notice(9), NoticeOrigin::Decided);
    let posted = take_all(&mut queue, now);
    assert_eq!(orgs(&posted), ["org-00009"]);
    let due = queue.next_due(now).expect("a pause ends");
    assert!(due >= now + SECOND && due <= now + 2 * SECOND);
    let again = take_all(&mut queue, now + 2 * SECOND);
    let steps: Vec<_> = again.iter().map(|it| it.step).collect();
    assert_eq!(steps, [DeliveryStep::Confirm]);
    assert_eq!(queue.len(), 4);
}
