//! What this replica remembers of today's pools, so that Redis can't forget it silently.
//!
//! A failover, a restart without persistence or a FLUSHALL takes back writes that were acknowledged. Each
//! pool's record holds a part for each replica, with the turn of that replica's last write. The replica
//! remembers the record that its last write left, and names its turn with the next call: where Redis
//! knows an older one, the script says so, and is told the whole record. Whatever the replica knew of
//! others is older than its own last write, so Redis can't lose any of it without losing that too.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::domain::{OrgId, PoolName, UtcDay};

/// What a replica remembers of the pools that it wrote to.
pub(super) struct Memory {
    /// Which replica this is: a number that no other has.
    pub(super) replica: u64,
    day: Mutex<Day>,
    calls: AtomicU64,
    /// How often Redis was found to have lost writes.
    losses: AtomicU64,
}

/// Of the latest day that was written on: what is told of a past one says nothing of the next.
#[derive(Default)]
pub(super) struct Day {
    day: Option<UtcDay>,
    by_org: HashMap<OrgId, Vec<Remembered>>,
}

/// What a pool was after the replica's last write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) pool: PoolName,
    /// The turn of that write.
    pub(super) turn: u64,
    /// As Redis holds it.
    pub(super) record: Vec<u8>,
}

impl Memory {
    pub(super) fn new() -> Self {
        // Random, and exact in Lua.
        let replica = RandomState::new().build_hasher().finish() >> 12;
        Self {
            replica,
            day: Mutex::default(),
            calls: AtomicU64::new(0),
            losses: AtomicU64::new(0),
        }
    }

    /// The number of a new call of the script.
    pub(super) fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    pub(super) fn count_loss(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    /// What is remembered.
    pub(super) fn day(&self) -> MutexGuard<'_, Day> {
        self.day.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Day {
    /// What is remembered of an organization's pools on a day.
    pub(super) fn pools(&self, org: &OrgId, day: UtcDay) -> &[Remembered] {
        match self.by_org.get(org) {
            Some(pools) if self.day == Some(day) => pools,
            _ => &[],
        }
    }

    /// Remembers what a write on this day left. Only a write begins another day: what a caller takes the
    /// day for, by a clock that may be wrong, forgets nothing.
    pub(super) fn learn(&mut self, org: &OrgId, day: UtcDay, written: Vec<Remembered>) {
        if written.is_empty() || self.day > Some(day) {
            return;
        }
        if self.day < Some(day) {
            *self = Self {
                day: Some(day),
                by_org: HashMap::new(),
            };
        }
        let Some(pools) = self.by_org.get_mut(org) else {
            self.by_org.insert(org.clone(), written);
            return;
        };
        for new in written {
            match pools.iter_mut().find(|known| known.pool == new.pool) {
                Some(known) if known.turn < new.turn => *known = new,
                Some(_) => {}
                None => pools.push(new),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(turn: u64) -> Vec<Remembered> {
        vec![Remembered {
            pool: PoolName::parse("large").expect("a name"),
            turn,
            record: Vec::new(),
        }]
    }

    #[test]
    fn only_a_write_on_a_later_day_forgets_what_was_before() {
        let org = OrgId::parse("acme").expect("a name");
        let today = UtcDay::parse("2026-11-22").expect("a day");
        let (yesterday, tomorrow) = (today.yesterday(), UtcDay::of(today.end()));
        let memory = Memory::new();
        memory.day().learn(&org, today, written(1));
        // Asked for by a clock that is ahead, before the store has said which day it is.
        assert_eq!(memory.day().pools(&org, tomorrow), []);
        memory.day().learn(&org, tomorrow, Vec::new());
        assert_eq!(memory.day().pools(&org, today), written(1));
        memory.day().learn(&org, yesterday, written(2));
        assert_eq!(memory.day().pools(&org, today), written(1));
        memory.day().learn(&org, tomorrow, written(3));
        assert_eq!(memory.day().pools(&org, today), []);
        assert_eq!(memory.day().pools(&org, tomorrow), written(3));
    }
}
