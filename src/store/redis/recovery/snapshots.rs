//! What this replica remembers of today's pools, so that Redis can't forget it silently.
//!
//! A failover, a restart without persistence or a FLUSHALL takes back writes that were acknowledged. Each
//! pool's record holds a part for each replica, with the turn of that replica's last write. The replica
//! remembers the record that its last write left, and names its turn with the next call: where Redis
//! knows an older one, the script says so, and is told the whole record. Whatever the replica knew of
//! others is older than its own last write, so Redis can't lose any of it without losing that too.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::domain::{OrgId, PoolName, UtcDay};

/// What a replica remembers of the pools that it wrote to.
pub(crate) struct Snapshots {
    /// Which replica this is: a number that no other has.
    pub(crate) replica: u64,
    days: Mutex<Days>,
    calls: AtomicU64,
    /// How often a batch found that Redis had lost writes.
    losses: AtomicU64,
    /// What they were before all pools were looked at last.
    losses_looked_after: AtomicU64,
}

/// The days that were written on last, the latest write first: a clock may step back over midnight, or have
/// been far ahead for a moment.
#[derive(Default)]
pub(crate) struct Days(VecDeque<(UtcDay, Day)>);

/// How many days.
const DAYS: usize = 2;

#[derive(Default)]
struct Day {
    by_org: HashMap<OrgId, Vec<PoolSnapshot>>,
    /// Those in it, and which of them is looked at next.
    orgs: Vec<OrgId>,
    next: usize,
    /// Whose pools were written last, the last one first.
    newest: VecDeque<OrgId>,
}

/// How many organizations are the newest, and how many more are looked at with them.
const NEWEST: usize = 16;
const OTHERS: usize = 48;

/// What a pool was after the replica's last write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolSnapshot {
    pub(crate) pool: PoolName,
    /// The turn of that write.
    pub(crate) turn: u64,
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
            losses_looked_after: AtomicU64::new(0),
        }
    }

    /// The number of a new call of the script.
    pub(crate) fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    pub(crate) fn count_loss(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether Redis was found to have lost writes since all pools were looked at.
    pub(crate) fn has_to_look(&self) -> bool {
        self.losses() != self.losses_looked_after.load(Ordering::Relaxed)
    }

    /// All pools were looked at, after so many losses.
    pub(crate) fn looked(&self, losses: u64) {
        self.losses_looked_after.store(losses, Ordering::Relaxed);
    }

    /// The day of the latest write, and whose pools are to be looked at now: those that were written last, and some
    /// others in turn.
    pub(crate) fn some(&self) -> Option<(UtcDay, Vec<OrgId>)> {
        let mut days = self.lock();
        let (day, known) = days.0.front_mut()?;
        let others = known.orgs.iter().cycle().skip(known.next);
        let others = others.take(OTHERS.min(known.orgs.len()));
        let orgs: Vec<OrgId> = known.newest.iter().chain(others).cloned().collect();
        known.next = (known.next + OTHERS) % known.orgs.len().max(1);
        Some((*day, orgs))
    }

    /// The day of the latest write, and all whose pools were written on it.
    pub(crate) fn all(&self) -> Option<(UtcDay, Vec<OrgId>)> {
        let days = self.lock();
        let (day, known) = days.0.front()?;
        Some((*day, known.orgs.clone()))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Days> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Days {
    /// What is remembered of an organization's pools on a day.
    pub(crate) fn pools(&self, org: &OrgId, day: UtcDay) -> &[PoolSnapshot] {
        let known = self.0.iter().find(|(known_day, _)| *known_day == day);
        let known = known.and_then(|(_, known)| known.by_org.get(org));
        known.map_or(&[], Vec::as_slice)
    }

    /// Remembers what a write left, on a day by Redis' clock. An organization's decisions are made one call
    /// after the other, so what the last one left is what there is.
    pub(crate) fn learn(&mut self, org: &OrgId, day: UtcDay, written: Vec<PoolSnapshot>) {
        if written.is_empty() {
            return;
        }
        let known = self.0.iter().position(|(known_day, _)| *known_day == day);
        match known {
            Some(0) => {}
            Some(at) => self.0.swap(0, at),
            None => {
                self.0.push_front((day, Day::default()));
                self.0.truncate(DAYS);
            }
        }
        self.0[0].1.learn(org, written);
    }
}

impl Days {
    /// Remembers what a look left that went on beside the decisions: not over what one of these has left
    /// since, perhaps at another server that took over. `before` is what was remembered when it began.
    pub(crate) fn learn_beside(
        &mut self,
        org: &OrgId,
        day: UtcDay,
        before: &[(PoolName, u64)],
        mut written: Vec<PoolSnapshot>,
    ) {
        let known = self.pools(org, day);
        written.retain(|new| {
            let turn = known.iter().find(|known| known.pool == new.pool);
            let turn = turn.map_or(0, |known| known.turn);
            before.contains(&(new.pool.clone(), turn))
        });
        self.learn(org, day, written);
    }
}

impl Day {
    fn learn(&mut self, org: &OrgId, written: Vec<PoolSnapshot>) {
        if self.newest.front() != Some(org) {
            self.newest.retain(|other| other != org);
            self.newest.truncate(NEWEST - 1);
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

    fn written(turn: u64) -> Vec<PoolSnapshot> {
        vec![PoolSnapshot {
            pool: PoolName::parse("large").expect("a name"),
            turn,
            record: Vec::new(),
        }]
    }

    #[test]
    fn the_last_two_days_that_were_written_on_are_remembered() {
        let org = OrgId::parse("acme").expect("a name");
        let today = UtcDay::parse("2026-11-22").expect("a day");
        let tomorrow = UtcDay::of(today.end());
        let memory = Snapshots::new();
        memory.lock().learn(&org, today, written(1));
        // Asked for by a clock that is ahead, before the store has said which day it is.
        assert_eq!(memory.lock().pools(&org, tomorrow), []);
        memory.lock().learn(&org, tomorrow, Vec::new());
        assert_eq!(memory.lock().pools(&org, today), written(1));
        memory.lock().learn(&org, tomorrow, written(3));
        assert_eq!(memory.lock().pools(&org, tomorrow), written(3));
        assert_eq!(memory.lock().pools(&org, today), written(1));
        assert_eq!(
            memory.some(),
            Some((tomorrow, vec![org.clone(), org.clone()]))
        );
        // Redis' clock was a year ahead for a moment: what is written after it is what is looked after.
        memory.lock().learn(&org, today.plus_days(365), written(5));
        memory.lock().learn(&org, tomorrow, written(7));
        assert_eq!(memory.lock().pools(&org, tomorrow), written(7));
        assert_eq!(memory.lock().pools(&org, today), []);
        let day = memory.all().map(|(day, _)| day);
        assert_eq!(day, Some(tomorrow));
    }

    #[test]
    fn what_a_look_left_does_not_replace_what_a_decision_has_left_since() {
        let org = OrgId::parse("acme").expect("a name");
        let today = UtcDay::parse("2026-11-22").expect("a day");
        let large = PoolName::parse("large").expect("a name");
        let memory = Snapshots::new();
        memory.lock().learn(&org, today, written(10));
        // A look begins, and a decision overtakes it at a server that has taken over.
        let before = [(large, 10)];
        memory.lock().learn(&org, today, written(12));
        memory
            .lock()
            .learn_beside(&org, today, &before, written(13));
        assert_eq!(memory.lock().pools(&org, today), written(12));
        memory.lock().learn(&org, today, written(10));
        memory
            .lock()
            .learn_beside(&org, today, &before, written(13));
        assert_eq!(memory.lock().pools(&org, today), written(13));
    }
}
