//! The queue of notices: which one is due, and how long a failure delays it. The time is an argument.
//!
//! A failure delays the notice, and all others at the same endpoint: while the receiver fails, one notice at a time is
//! posted, after pauses that grow from a second to a minute. The same holds for checks and confirmations while the ledger
//! fails. New notices come before repeated ones, so a notice that the receiver never takes holds up no other for long.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use tokio::time::Instant;

use super::notification;
use crate::{
    domain::UtcDay,
    ledger::{Notice, NoticeOrigin},
};

/// How many notices wait at most. With the longest legal names they take some 30 MB.
pub(super) const MAX_NOTICES: usize = 10_000;

/// How many notices are posted at a time; and how many are checked or confirmed.
pub(super) const MAX_ATTEMPTS: usize = 4;

/// The longest time after which a notice that was found is due.
pub(super) const MAX_FOUND_DELAY: Duration = Duration::from_secs(20);

/// How long a notice counts as unconfirmed without another check: another replica that finds it posts it no earlier.
const MAX_UNCHECKED: Duration = Duration::from_secs(10);

/// How long after the end of its day the replica that decided goes on to deliver a notice.
const MAX_LATENESS: Duration = Duration::from_secs(6 * 60 * 60);

/// How often expired notices are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// The longest pause after failures.
const MAX_BACK_OFF: Duration = Duration::from_secs(60);

/// The longest pause that the receiver may ask for.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

/// When a delivery is due, and its number, by which no two are the same.
type DueTime = (Instant, u64);

/// The notices that are neither confirmed nor dropped.
#[derive(Default)]
pub(super) struct DeliveryQueue {
    /// Those that wait, and those under way.
    ids: BTreeSet<(UtcDay, String)>,
    /// To be posted, by `unconfirmed_at`.
    ready: VecDeque<Delivery>,
    /// To be checked, and logged only then.
    found: BTreeMap<DueTime, Delivery>,
    /// To be checked before they are posted again.
    repeated: BTreeMap<DueTime, Delivery>,
    unconfirmed: BTreeMap<DueTime, Delivery>,
    receiver: RetryState,
    ledger: RetryState,
    /// How many were delayed.
    delayed: u64,
    /// How many were left out or dropped since [`DeliveryQueue::take_left_out`].
    left_out: u64,
    /// When expired notices are looked for.
    next_expiry: Option<Instant>,
}

/// A notice on its way.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) notice: Notice,
    pub(super) step: DeliveryStep,
    pub(super) is_logged: bool,
    /// When no other replica had it confirmed.
    unconfirmed_at: Instant,
    /// When it is dropped. One that was found: at the end of its day, when no check can find it confirmed any more.
    expires: Instant,
    /// The failed attempts to post it, or to confirm it.
    failures: u32,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryStep {
    /// Ask the ledger whether another replica had it confirmed.
    Check,
    /// Post it, if there is a receiver.
    Post,
    /// Have it confirmed.
    Confirm,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepResult {
    /// It is done; after a confirmation nothing is left to do.
    Done,
    /// Another replica had it confirmed.
    Obsolete,
    /// It is too late to deliver it.
    Expired,
    /// The receiver failed, or the ledger.
    Failed {
        /// How long the receiver asks to wait.
        retry_after: Option<Duration>,
    },
}

/// What is known of the receiver, or of the ledger.
#[derive(Default)]
struct RetryState {
    /// Failures in a row; those under way at the same time count as one.
    failures: u32,
    /// The end of the pause after failures.
    back_off_end: Option<Instant>,
    /// The end of the pause that was asked for. No success ends it.
    asked_end: Option<Instant>,
    under_way: usize,
}

impl Delivery {
    /// Whether it is too late to deliver it.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires <= now
    }
}

impl DeliveryQueue {
    /// The number of notices.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// How many notices did not fit, were displaced or have expired since the last call.
    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    /// Adds a notice, unless it is there: then it returns false. In a full queue it displaces one of an earlier day, or is
    /// left out. One that was found is due 10 to 20 s later: the replica that decided may be about to deliver it, and of
    /// several that found it one is the first.
    pub(super) fn add(&mut self, now: Instant, notice: &Notice, origin: NoticeOrigin) -> bool {
        let key = key(notice);
        if self.ids.contains(&key) {
            return false;
        }
        if self.len() >= MAX_NOTICES {
            self.displace_one(notice.day);
        }
        if self.len() >= MAX_NOTICES {
            self.left_out += 1;
            return true;
        }
        self.ids.insert(key);
        let until_end = (notice.day.end() - notice.noticed_at).to_std();
        let day_end = now + until_end.unwrap_or_default();
        let mut delivery = Delivery {
            notice: notice.clone(),
            step: DeliveryStep::Post,
            is_logged: true,
            unconfirmed_at: now,
            expires: day_end + MAX_LATENESS,
            failures: 0,
        };
        match origin {
            NoticeOrigin::Decided => self.ready.push_back(delivery),
            NoticeOrigin::Found => {
                delivery.is_logged = false;
                delivery.expires = day_end;
                self.delay(delivery, now + half_or_more_of(MAX_FOUND_DELAY));
            }
        }
        true
    }

    /// Drops the notices that have expired.
    pub(super) fn drop_expired(&mut self, now: Instant) {
        if self.next_expiry.is_none_or(|at| at <= now) {
            self.next_expiry = Some(now + EXPIRY_INTERVAL);
            self.retain(|it| !it.is_expired(now));
        }
    }

    /// The next delivery that is due, with its step. It is under way until [`DeliveryQueue::finish`].
    pub(super) fn take(&mut self, now: Instant) -> Option<Delivery> {
        let ledger_admits = self.ledger.admits(now);
        if ledger_admits {
            let confirm = pop_due(&mut self.unconfirmed, now);
            if let Some(delivery) = confirm.or_else(|| pop_due(&mut self.found, now)) {
                self.ledger.under_way += 1;
                return Some(delivery);
            }
        }
        if !self.receiver.admits(now) {
            return None;
        }
        let first = self.ready.partition_point(|it| !is_fresh(it, now));
        if let Some(delivery) = self.ready.remove(first) {
            self.receiver.under_way += 1;
            return Some(delivery);
        }
        if !ledger_admits {
            return None;
        }
        let waited = self.ready.pop_front();
        let mut delivery = waited.or_else(|| pop_due(&mut self.repeated, now))?;
        delivery.step = DeliveryStep::Check;
        self.ledger.under_way += 1;
        Some(delivery)
    }

    /// When [`DeliveryQueue::take`] has one, if nothing ends or is added before.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let by_ledger = [&self.unconfirmed, &self.found].map(first_due);
        let by_ledger = by_ledger.into_iter().flatten().min();
        let by_ledger = by_ledger.and_then(|due| self.ledger.next_after(due));
        let newest = self.ready.back();
        let post = newest.filter(|it| is_fresh(it, now));
        let post = post.and_then(|_| self.receiver.next_after(now));
        let check = newest.map_or_else(|| first_due(&self.repeated), |_| Some(now));
        let check = check.and_then(|due| self.receiver.next_after(due));
        let check = check.and_then(|due| self.ledger.next_after(due));
        [by_ledger, post, check].into_iter().flatten().min()
    }

    /// Records how a step of a delivery ended, and queues what is left to do.
    pub(super) fn finish(&mut self, now: Instant, mut delivery: Delivery, result: StepResult) {
        let endpoint = match delivery.step {
            DeliveryStep::Post => &mut self.receiver,
            DeliveryStep::Check | DeliveryStep::Confirm => &mut self.ledger,
        };
        endpoint.under_way -= 1;
        if let StepResult::Failed { retry_after } = result {
            let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
            endpoint.failed(now, asked);
            delivery.failures += 1;
            let pause = back_off(delivery.failures).max(asked);
            self.delay(delivery, now + pause);
            return;
        }
        endpoint.succeeded();
        match (result, delivery.step) {
            (StepResult::Done, DeliveryStep::Check) => {
                delivery.step = DeliveryStep::Post;
                delivery.unconfirmed_at = now;
                self.ready.push_back(delivery);
            }
            (StepResult::Done, DeliveryStep::Post) => {
                delivery.step = DeliveryStep::Confirm;
                delivery.failures = 0;
                self.delay(delivery, now);
            }
            _ => {
                self.left_out += u64::from(result == StepResult::Expired);
                self.ids.remove(&key(&delivery.notice));
            }
        }
    }

    fn delay(&mut self, mut delivery: Delivery, due: Instant) {
        self.delayed += 1;
        let waiting = match delivery.step {
            DeliveryStep::Confirm => &mut self.unconfirmed,
            DeliveryStep::Check | DeliveryStep::Post => {
                delivery.step = DeliveryStep::Check;
                match delivery.is_logged {
                    true => &mut self.repeated,
                    false => &mut self.found,
                }
            }
        };
        waiting.insert((due, self.delayed), delivery);
    }

    /// Drops a waiting notice of the oldest day, if that is before this one.
    fn displace_one(&mut self, day: UtcDay) {
        let oldest = self.ids.first().map(|(oldest, _)| *oldest);
        let Some(oldest) = oldest.filter(|it| *it < day) else {
            return;
        };
        let mut is_done = false;
        self.retain(|it| {
            let is_kept = is_done || it.notice.day != oldest;
            is_done |= !is_kept;
            is_kept
        });
    }

    /// Drops the waiting notices that are not to be kept. Those that were posted count as delivered.
    fn retain(&mut self, mut is_kept: impl FnMut(&Delivery) -> bool) {
        let (ids, left_out) = (&mut self.ids, &mut self.left_out);
        let mut keep = |it: &Delivery| {
            let is_kept = is_kept(it);
            if !is_kept {
                ids.remove(&key(&it.notice));
                *left_out += u64::from(it.step != DeliveryStep::Confirm);
            }
            is_kept
        };
        self.ready.retain(&mut keep);
        for waiting in [&mut self.found, &mut self.repeated, &mut self.unconfirmed] {
            waiting.retain(|_, it| keep(it));
        }
    }
}

impl RetryState {
    /// While it fails, one attempt at a time shows whether it has recovered.
    const fn max_under_way(&self) -> usize {
        if self.failures == 0 { MAX_ATTEMPTS } else { 1 }
    }

    fn admits(&self, now: Instant) -> bool {
        self.next_after(now) == Some(now)
    }

    /// When it admits what is due then; none: not before an attempt has ended.
    fn next_after(&self, due: Instant) -> Option<Instant> {
        let has_room = self.under_way < self.max_under_way();
        let pause_end = self.back_off_end.max(self.asked_end);
        has_room.then(|| pause_end.map_or(due, |end| end.max(due)))
    }

    const fn succeeded(&mut self) {
        self.failures = 0;
        self.back_off_end = None;
    }

    fn failed(&mut self, now: Instant, asked: Duration) {
        if self.back_off_end.is_none_or(|end| end <= now) {
            self.failures += 1;
            self.back_off_end = Some(now + back_off(self.failures));
        }
        self.asked_end = self.asked_end.max(Some(now + asked));
    }
}

/// What a notice is known by.
fn key(notice: &Notice) -> (UtcDay, String) {
    (notice.day, notification::id(notice))
}

/// Whether no other replica can have posted it since it was known to be unconfirmed.
fn is_fresh(delivery: &Delivery, now: Instant) -> bool {
    now <= delivery.unconfirmed_at + MAX_UNCHECKED
}

/// The pause after so many failures: up to 2, 4, 8 … 60 s, at random between half of it and all of it.
fn back_off(failures: u32) -> Duration {
    let seconds = 2_u64.saturating_pow(failures.max(1));
    half_or_more_of(Duration::from_secs(seconds).min(MAX_BACK_OFF))
}

/// A random time between half of the longest and the longest.
fn half_or_more_of(longest: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1_001;
    longest.mul_f64(0.5 + random as f64 / 2_000.0)
}

fn first_due(waiting: &BTreeMap<DueTime, Delivery>) -> Option<Instant> {
    waiting.keys().next().map(|(due, _)| *due)
}

fn pop_due(waiting: &mut BTreeMap<DueTime, Delivery>, now: Instant) -> Option<Delivery> {
    let first = waiting.first_entry()?;
    let (due, _) = *first.key();
    (due <= now).then(|| first.remove())
}

#[cfg(test)]
mod tests;
