//! The queue of notices: which one is due, and how long a failure delays it. The time is an argument.
//!
//! A failure delays the notice, and all others at the same endpoint: while the receiver fails, one notice at a time is
//! posted, after pauses that grow from a second to a minute. The same holds for confirmations while the ledger fails. New
//! notices come before repeated ones, so a notice that the receiver never takes holds up no other for long.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use tokio::time::Instant;

use super::notification;
use crate::ledger::{Notice, NoticeOrigin};

/// How many notices wait at most. With the longest legal names they take some 30 MB.
pub(super) const MAX_NOTICES: usize = 10_000;

/// How many notices are posted, or confirmed, at a time.
pub(super) const MAX_ATTEMPTS: usize = 4;

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
    ids: HashSet<String>,
    new: VecDeque<Delivery>,
    repeated: BTreeMap<DueTime, Delivery>,
    unconfirmed: BTreeMap<DueTime, Delivery>,
    receiver: RetryState,
    ledger: RetryState,
    /// How many were delayed.
    delayed: u64,
}

/// A notice on its way.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) notice: Notice,
    pub(super) step: DeliveryStep,
    /// Whether another replica may have delivered it.
    pub(super) needs_check: bool,
    pub(super) is_logged: bool,
    /// The failed attempts of this step.
    failures: u32,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryStep {
    /// Post it; without a receiver, log it.
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
    /// The receiver failed.
    ReceiverFailed {
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// The ledger failed.
    LedgerFailed,
}

/// What is known of the receiver, or of the ledger.
#[derive(Default)]
struct RetryState {
    /// Failures in a row; those under way at the same time count as one.
    failures: u32,
    /// The end of the pause.
    pause_end: Option<Instant>,
    under_way: usize,
}

impl DeliveryQueue {
    /// The number of notices.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Adds a notice, unless it is there. Returns false if it does not fit.
    pub(super) fn add(&mut self, notice: Notice, origin: NoticeOrigin) -> bool {
        let id = notification::id(&notice);
        if self.ids.contains(&id) {
            return true;
        }
        if self.ids.len() >= MAX_NOTICES {
            return false;
        }
        self.ids.insert(id);
        self.new.push_back(Delivery {
            notice,
            step: DeliveryStep::Post,
            needs_check: origin == NoticeOrigin::Found,
            is_logged: false,
            failures: 0,
        });
        true
    }

    /// The next delivery that is due. It is under way until [`DeliveryQueue::finish`].
    pub(super) fn take(&mut self, now: Instant) -> Option<Delivery> {
        if self.ledger.admits(now)
            && let Some(delivery) = pop_due(&mut self.unconfirmed, now)
        {
            self.ledger.under_way += 1;
            return Some(delivery);
        }
        if !self.receiver.admits(now) {
            return None;
        }
        let new = self.new.pop_front();
        let delivery = new.or_else(|| pop_due(&mut self.repeated, now))?;
        self.receiver.under_way += 1;
        Some(delivery)
    }

    /// When [`DeliveryQueue::take`] has one, if nothing ends or is added before.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let repeated = self.repeated.keys().next().map(|(due, _)| *due);
        let post = if self.new.is_empty() {
            repeated
        } else {
            Some(now)
        };
        let unconfirmed = self.unconfirmed.keys().next().map(|(due, _)| *due);
        let post = post.and_then(|due| self.receiver.next_after(due));
        let confirm = unconfirmed.and_then(|due| self.ledger.next_after(due));
        post.into_iter().chain(confirm).min()
    }

    /// Records how a step of a delivery ended, and queues what is left to do.
    pub(super) fn finish(&mut self, now: Instant, mut delivery: Delivery, result: StepResult) {
        let endpoint = match delivery.step {
            DeliveryStep::Post => &mut self.receiver,
            DeliveryStep::Confirm => &mut self.ledger,
        };
        endpoint.under_way -= 1;
        match result {
            StepResult::Obsolete => {}
            StepResult::Done => endpoint.succeeded(),
            StepResult::ReceiverFailed { retry_after } => self.receiver.failed(now, retry_after),
            StepResult::LedgerFailed => self.ledger.failed(now, None),
        }
        match result {
            StepResult::Done if delivery.step == DeliveryStep::Post => {
                delivery.step = DeliveryStep::Confirm;
                delivery.failures = 0;
                self.delay(delivery, now);
            }
            StepResult::Done | StepResult::Obsolete => {
                _ = self.ids.remove(&notification::id(&delivery.notice))
            }
            StepResult::ReceiverFailed { .. } | StepResult::LedgerFailed => {
                delivery.failures += 1;
                delivery.needs_check = true;
                let due = now + back_off(delivery.failures);
                self.delay(delivery, due);
            }
        }
    }

    fn delay(&mut self, delivery: Delivery, due: Instant) {
        self.delayed += 1;
        let waiting = match delivery.step {
            DeliveryStep::Post => &mut self.repeated,
            DeliveryStep::Confirm => &mut self.unconfirmed,
        };
        waiting.insert((due, self.delayed), delivery);
    }
}

impl RetryState {
    /// While it fails, one attempt at a time shows whether it has recovered.
    const fn max_under_way(&self) -> usize {
        if self.failures == 0 { MAX_ATTEMPTS } else { 1 }
    }

    fn admits(&self, now: Instant) -> bool {
        self.under_way < self.max_under_way() && self.pause_end.is_none_or(|end| end <= now)
    }

    /// When it admits what is due then; none: not before an attempt has ended.
    fn next_after(&self, due: Instant) -> Option<Instant> {
        let has_room = self.under_way < self.max_under_way();
        has_room.then(|| self.pause_end.map_or(due, |end| end.max(due)))
    }

    const fn succeeded(&mut self) {
        self.failures = 0;
        self.pause_end = None;
    }

    fn failed(&mut self, now: Instant, retry_after: Option<Duration>) {
        let pause_end = self.pause_end.filter(|end| now < *end);
        let pause_end = pause_end.unwrap_or_else(|| {
            self.failures += 1;
            now + back_off(self.failures)
        });
        let asked = now + retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        self.pause_end = Some(pause_end.max(asked));
    }
}

/// The pause after so many failures: up to 2, 4, 8 … 60 s, at random between half of it and all of it.
fn back_off(failures: u32) -> Duration {
    let seconds = 2_u64.saturating_pow(failures.max(1));
    let longest = Duration::from_secs(seconds).min(MAX_BACK_OFF);
    let random = RandomState::new().build_hasher().finish() % 1_001;
    longest.mul_f64(0.5 + random as f64 / 2_000.0)
}

fn pop_due(waiting: &mut BTreeMap<DueTime, Delivery>, now: Instant) -> Option<Delivery> {
    let first = waiting.first_entry()?;
    let (due, _) = *first.key();
    (due <= now).then(|| first.remove())
}

#[cfg(test)]
mod tests;
