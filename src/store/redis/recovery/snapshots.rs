//! Snapshots of the pools after this replica's last writes, which reveal and repair losses in Redis.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use indexmap::IndexMap;

use crate::{
    domain::{OrgId, Tokens, UtcDay},
    store::redis::script::keys::CounterId,
    telemetry::LogLimit,
};

/// How many days have snapshots: today, tomorrow near midnight, and one more, since a clock may step back over midnight,
/// or have been far ahead for a moment.
const MAX_DAYS: usize = 3;

/// How many organizations an audit covers: the most recently written ones, and others in turn.
const NEWEST_PER_AUDIT: usize = 16;
const OTHERS_PER_AUDIT: usize = 48;

/// The snapshots of the pools that this replica wrote to.
pub(crate) struct Snapshots {
    /// The unique number of this replica.
    pub(crate) replica: u64,
    days: Mutex<SnapshotDays>,
    calls: AtomicU64,
    losses: AtomicU64,
}

#[derive(Default)]
pub(crate) struct SnapshotDays {
    /// By Redis' clock.
    today: Option<UtcDay>,
    /// The day of the latest write first.
    days: VecDeque<(UtcDay, DaySnapshots)>,
}

#[derive(Default)]
struct DaySnapshots {
    /// In the order of each organization's first write.
    by_org: IndexMap<OrgId, Vec<PoolSnapshot>>,
    /// Where the next audit begins.
    next: usize,
    /// The most recently written organizations, the newest first.
    newest: VecDeque<OrgId>,
}

/// The record of a pool or a share after the replica's last write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolSnapshot {
    pub(crate) counter: CounterId,
    /// The sequence number of that write.
    pub(crate) seq: u64,
    /// As Redis holds it.
    pub(crate) record: Vec<u8>,
    /// The peak in it.
    pub(crate) peak: Tokens,
}

/// A day, and organizations whose pools are audited on it.
pub(crate) type Audit = (UtcDay, Vec<OrgId>);

impl Snapshots {
    pub(crate) fn new() -> Self {
        Self {
            // Random, and exact in Lua.
            replica: RandomState::new().build_hasher().finish() >> 12,
            days: Mutex::default(),
            calls: AtomicU64::new(0),
            losses: AtomicU64::new(0),
        }
    }

    pub(crate) fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Counts and logs a loss of an organization's writes.
    pub(crate) fn record_loss(&self, org: &OrgId, day: UtcDay) {
        static THROTTLE: LogLimit = LogLimit::new();
        self.losses.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = THROTTLE.admit(Instant::now()) {
            tracing::error!(
                %org,
                %day,
                left_out,
                "Redis has lost writes that it had acknowledged: what this replica remembers of the \
                 organization's pools is restored"
            );
        }
    }

    /// Today, and the organizations to audit next.
    pub(crate) fn next_audit(&self) -> Option<Audit> {
        let mut days = self.lock();
        let (day, snapshots) = days.today_mut()?;
        let (known, next) = (&snapshots.by_org, snapshots.next);
        let others = known.keys().cycle().skip(next);
        let others = others.take(OTHERS_PER_AUDIT.min(known.len()));
        let orgs = snapshots.newest.iter().chain(others).cloned().collect();
        snapshots.next = (next + OTHERS_PER_AUDIT) % known.len().max(1);
        Some((*day, orgs))
    }

    /// Today, and all organizations that have snapshots of it.
    pub(crate) fn full_audit(&self) -> Option<Audit> {
        let mut days = self.lock();
        let (day, snapshots) = days.today_mut()?;
        Some((*day, snapshots.by_org.keys().cloned().collect()))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SnapshotDays> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotDays {
    /// Sets Redis' day.
    pub(crate) fn set_today(&mut self, day: UtcDay) {
        self.today = Some(day);
    }

    fn today_mut(&mut self) -> Option<&mut (UtcDay, DaySnapshots)> {
        let today = self.today?;
        self.days.iter_mut().find(|(day, _)| *day == today)
    }

    /// The snapshots of an organization's pools on a day.
    pub(crate) fn pools(&self, org: &OrgId, day: UtcDay) -> &[PoolSnapshot] {
        let snapshots = self.days.iter().find(|(known, _)| *known == day);
        let pools = snapshots.and_then(|(_, snapshots)| snapshots.by_org.get(org));
        pools.map_or(&[], Vec::as_slice)
    }

    /// Records a pool of a day that a call wrote. An organization has one decision under way at a
    /// time, so the last snapshot is the newest. An audit runs beside decisions, so it replaces only the snapshot
    /// with the seq that it began with, `audited`: a decision may have written a newer one since, perhaps on a
    /// new master.
    pub(crate) fn record(
        &mut self,
        org: &OrgId,
        day: UtcDay,
        written: PoolSnapshot,
        audited: Option<u64>,
    ) {
        let known = self.pools(org, day).iter();
        let seq = known
            .filter(|known| known.counter == written.counter)
            .map(|known| known.seq);
        if audited.is_some_and(|audited| audited != seq.max().unwrap_or(0)) {
            return;
        }
        match self.days.iter().position(|(known, _)| *known == day) {
            Some(at) => self.days.swap(0, at),
            None => {
                self.days.push_front((day, DaySnapshots::default()));
                self.days.truncate(MAX_DAYS);
            }
        }
        let DaySnapshots { by_org, newest, .. } = &mut self.days[0].1;
        if newest.front() != Some(org) {
            newest.retain(|other| other != org);
            newest.truncate(NEWEST_PER_AUDIT - 1);
            newest.push_front(org.clone());
        }
        let pools = by_org.entry(org.clone()).or_default();
        match pools
            .iter_mut()
            .find(|known| known.counter == written.counter)
        {
            Some(known) => *known = written,
            None => pools.push(written),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(seq: u64) -> PoolSnapshot {
        PoolSnapshot {
            counter: CounterId::decode("large").expect("a name"),
            seq,
            record: Vec::new(),
            peak: Tokens::ZERO,
        }
    }

    #[test]
    fn the_last_three_days_that_were_written_on_have_snapshots_and_todays_are_audited() {
        let org = OrgId::parse("acme").expect("a name");
        let today = UtcDay::parse("2026-11-22").expect("a day");
        let tomorrow = UtcDay::of(today.end());
        let snapshots = Snapshots::new();
        let record = |day, seq| snapshots.lock().record(&org, day, written(seq), None);
        let pools = |day| snapshots.lock().pools(&org, day).to_vec();
        let audited = || snapshots.next_audit().map(|(day, _)| day);
        assert_eq!(audited(), None);
        record(today, 1);
        snapshots.lock().set_today(today);
        // A replica whose clock is ahead reads before it knows the store's day.
        assert_eq!(pools(tomorrow), []);
        // A reservation is carried into tomorrow.
        record(tomorrow, 3);
        assert_eq!(pools(tomorrow), [written(3)]);
        assert_eq!(pools(today), [written(1)]);
        let audit = snapshots.next_audit();
        assert_eq!(audit, Some((today, vec![org.clone(), org.clone()])));
        snapshots.lock().set_today(tomorrow);
        assert_eq!(audited(), Some(tomorrow));
        // Redis' clock was a year ahead for a moment.
        let ahead = today.plus_days(365);
        record(ahead, 5);
        snapshots.lock().set_today(ahead);
        record(tomorrow, 7);
        snapshots.lock().set_today(tomorrow);
        record(tomorrow.plus_days(1), 9);
        assert_eq!(pools(tomorrow), [written(7)]);
        assert_eq!(pools(today), []);
        let day = snapshots.full_audit().map(|(day, _)| day);
        assert_eq!(day, Some(tomorrow));
    }

    #[test]
    fn an_audit_does_not_replace_the_snapshot_of_a_later_decision() {
        let org = OrgId::parse("acme").expect("a name");
        let today = UtcDay::parse("2026-11-22").expect("a day");
        let mut days = SnapshotDays::default();
        // The audit began with 10, and a decision overtook it at a new master.
        for (seq, is_replaced) in [(12, false), (10, true)] {
            days.record(&org, today, written(seq), None);
            days.record(&org, today, written(13), Some(10));
            let left = if is_replaced { 13 } else { seq };
            assert_eq!(days.pools(&org, today), [written(left)]);
        }
    }
}
