//! Snapshots of the pools after this replica's last writes, which reveal and repair losses in Redis.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{
    domain::{OrgId, PoolName, UtcDay},
    telemetry::LogLimit,
};

/// How many days have snapshots. A clock may step back over midnight, or have been far ahead for a moment.
const MAX_DAYS: usize = 2;

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
    /// The number of losses at the last full audit.
    audited_losses: AtomicU64,
}

/// By day, the day of the latest write first.
#[derive(Default)]
pub(crate) struct SnapshotDays(VecDeque<(UtcDay, DaySnapshots)>);

#[derive(Default)]
struct DaySnapshots {
    by_org: HashMap<OrgId, Vec<PoolSnapshot>>,
    /// All organizations of the day. `next` is where the next audit begins.
    orgs: Vec<OrgId>,
    next: usize,
    /// The most recently written organizations, the newest first.
    newest: VecDeque<OrgId>,
}

/// A pool after the replica's last write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolSnapshot {
    pub(crate) pool: PoolName,
    /// The sequence number of that write.
    pub(crate) seq: u64,
    /// As Redis holds it.
    pub(crate) record: Vec<u8>,
}

impl Snapshots {
    pub(crate) fn new() -> Self {
        // Random, and exact in Lua.
        let replica = RandomState::new().build_hasher().finish() >> 12;
        Self {
            replica,
            days: Mutex::default(),
            calls: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            audited_losses: AtomicU64::new(0),
        }
    }

    /// The number of a new call of the script.
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

    /// Whether a loss was found since the last full audit.
    pub(crate) fn needs_full_audit(&self) -> bool {
        self.losses() != self.audited_losses.load(Ordering::Relaxed)
    }

    /// Records that all organizations were audited after this number of losses.
    pub(crate) fn record_full_audit(&self, losses: u64) {
        self.audited_losses.store(losses, Ordering::Relaxed);
    }

    /// The day of the latest write, and the organizations to audit next.
    pub(crate) fn next_audit(&self) -> Option<(UtcDay, Vec<OrgId>)> {
        let mut days = self.lock();
        let (day, snapshots) = days.0.front_mut()?;
        let others = snapshots.orgs.iter().cycle().skip(snapshots.next);
        let others = others.take(OTHERS_PER_AUDIT.min(snapshots.orgs.len()));
        let orgs = snapshots.newest.iter().chain(others).cloned().collect();
        snapshots.next = (snapshots.next + OTHERS_PER_AUDIT) % snapshots.orgs.len().max(1);
        Some((*day, orgs))
    }

    /// The day of the latest write, and all organizations that were written on it.
    pub(crate) fn full_audit(&self) -> Option<(UtcDay, Vec<OrgId>)> {
        let days = self.lock();
        let (day, snapshots) = days.0.front()?;
        Some((*day, snapshots.orgs.clone()))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SnapshotDays> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotDays {
    /// The snapshots of an organization's pools on a day.
    pub(crate) fn pools(&self, org: &OrgId, day: UtcDay) -> &[PoolSnapshot] {
        let snapshots = self.0.iter().find(|(known, _)| *known == day);
        let pools = snapshots.and_then(|(_, snapshots)| snapshots.by_org.get(org));
        pools.map_or(&[], Vec::as_slice)
    }

    /// Records the pools that a decision wrote on a day by Redis' clock. An organization has one call under way
    /// at a time, so the last snapshot is the newest.
    pub(crate) fn record(&mut self, org: &OrgId, day: UtcDay, written: Vec<PoolSnapshot>) {
        if written.is_empty() {
            return;
        }
        match self.0.iter().position(|(known, _)| *known == day) {
            Some(at) => self.0.swap(0, at),
            None => {
                self.0.push_front((day, DaySnapshots::default()));
                self.0.truncate(MAX_DAYS);
            }
        }
        self.0[0].1.record(org, written);
    }

    /// Records the pools that an audit wrote. It runs beside decisions, so it replaces only the snapshots that it
    /// began with, `before`: a decision may have written a newer one since, perhaps on a new master.
    pub(crate) fn record_audited(
        &mut self,
        org: &OrgId,
        day: UtcDay,
        before: &[(PoolName, u64)],
        mut written: Vec<PoolSnapshot>,
    ) {
        let known = self.pools(org, day);
        written.retain(|new| {
            let seq = known.iter().find(|known| known.pool == new.pool);
            let seq = seq.map_or(0, |known| known.seq);
            before.contains(&(new.pool.clone(), seq))
        });
        self.record(org, day, written);
    }
}

impl DaySnapshots {
    fn record(&mut self, org: &OrgId, written: Vec<PoolSnapshot>) {
        if self.newest.front() != Some(org) {
            self.newest.retain(|other| other != org);
            self.newest.truncate(NEWEST_PER_AUDIT - 1);
            self.newest.push_front(org.clone());
        }
        let Some(pools) = self.by_org.get_mut(org) else {
            self.by_org.insert(org.clone(), written);
            self.orgs.push(org.clone());
            return;
        };
        for new in written {
            match pools.iter_mut().find(|known| known.pool == new.pool) {
                Some(known) => *known = new,
                None => pools.push(new),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(seq: u64) -> Vec<PoolSnapshot> {
        vec![PoolSnapshot {
            pool: PoolName::parse("large").expect("a name"),
            seq,
            record: Vec::new(),
        }]
    }

    #[test]
    fn the_last_two_days_that_were_written_on_have_snapshots() {
        let org = OrgId::parse("acme").expect("a name");
        let today = UtcDay::parse("2026-11-22").expect("a day");
        let tomorrow = UtcDay::of(today.end());
        let snapshots = Snapshots::new();
        let record = |day, written| snapshots.lock().record(&org, day, written);
        let pools = |day| snapshots.lock().pools(&org, day).to_vec();
        record(today, written(1));
        // A replica whose clock is ahead reads before it knows the store's day.
        assert_eq!(pools(tomorrow), []);
        record(tomorrow, Vec::new());
        assert_eq!(pools(today), written(1));
        record(tomorrow, written(3));
        assert_eq!(pools(tomorrow), written(3));
        assert_eq!(pools(today), written(1));
        let audit = snapshots.next_audit();
        assert_eq!(audit, Some((tomorrow, vec![org.clone(), org.clone()])));
        // Redis' clock was a year ahead for a moment: the audit is of the latest write's day.
        record(today.plus_days(365), written(5));
        record(tomorrow, written(7));
        assert_eq!(pools(tomorrow), written(7));
        assert_eq!(pools(today), []);
        let day = snapshots.full_audit().map(|(day, _)| day);
        assert_eq!(day, Some(tomorrow));
    }

    #[test]
    fn an_audit_does_not_replace_the_snapshot_of_a_later_decision() {
        let org = OrgId::parse("acme").expect("a name");
        let today = UtcDay::parse("2026-11-22").expect("a day");
        let large = PoolName::parse("large").expect("a name");
        let mut days = SnapshotDays::default();
        days.record(&org, today, written(10));
        // An audit begins, and a decision overtakes it at a new master.
        let before = [(large, 10)];
        days.record(&org, today, written(12));
        days.record_audited(&org, today, &before, written(13));
        assert_eq!(days.pools(&org, today), written(12));
        days.record(&org, today, written(10));
        days.record_audited(&org, today, &before, written(13));
        assert_eq!(days.pools(&org, today), written(13));
    }
}
