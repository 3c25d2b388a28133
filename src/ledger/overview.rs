//! The overview: today's figures of every organization, as this replica last read them.
//!
//! [`overview_loop`](super::overview_loop) reads the organizations one after the other. Two turns share its rate: that of
//! organizations that have counted something, whose figures change, and that of all others. Only the former are kept in
//! memory. The others have no figures but zeros; for them it is kept when their stretch of the policy was read.

use std::{
    collections::BTreeMap,
    iter,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::{
    domain::{OrgId, PoolCounters, PoolName, UtcDay},
    policy::Policy,
    store::Timestamped,
};

/// Between two reads of an organization, at least.
const MIN_READ_INTERVAL: Duration = Duration::from_secs(5);

/// How many organizations a turn passes over at a time.
const MAX_PASSED_OVER: usize = 256;

/// How many organizations are visited under one lock.
const MAX_VISITED: usize = 1024;

/// How many successive organizations share the time of their read while they have counted nothing.
const STRETCH_LEN: usize = 64;

/// The figures of all organizations.
#[derive(Default)]
pub(super) struct Overview {
    state: RwLock<OverviewState>,
}

#[derive(Default)]
struct OverviewState {
    /// Of organizations that have counted something, or had before, and of those that can't be read.
    figures: BTreeMap<OrgId, Figures>,
    /// The policy of the stretches.
    policy: Weak<Policy>,
    /// The policy's organizations in their order, [`STRETCH_LEN`] each.
    stretches: Vec<Stretch>,
}

/// What an organization had when it was read.
struct Figures {
    /// When the store was asked last.
    read_at: Instant,
    /// The store's clock at its last answer; none: it has not answered.
    as_of: Option<DateTime<Utc>>,
    /// The pools that had counted something.
    pools: Box<[(PoolName, PoolCounters)]>,
}

/// Successive organizations of the policy.
#[derive(Clone, Copy, Default)]
struct Stretch {
    /// When the last of them was read; none: they were not.
    read_at: Option<Instant>,
    /// The store's clock before the first of them was read.
    as_of: Option<DateTime<Utc>>,
}

/// An organization's figures, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KnownFigures {
    /// The pools that have counted something today.
    pub(super) pools: Box<[(PoolName, PoolCounters)]>,
    /// When they were read, by the store's clock.
    pub(super) as_of: Option<DateTime<Utc>>,
}

/// Whose turn it is to be read.
#[derive(Default)]
pub(super) struct Turns {
    is_turn_of_known: bool,
    /// The last organization with figures whose turn it was.
    last_known: Option<OrgId>,
    /// The stretch whose turn it is, and the place in it.
    stretch: usize,
    offset: usize,
    /// The store's clock at the first answer since the stretch before.
    stretch_as_of: Option<DateTime<Utc>>,
    /// Whether an organization of the stretch is being read.
    is_reading: bool,
}

impl Overview {
    /// Visits the organizations that have counted something, with their figures of today: those of another day count
    /// as zero. They can be recorded in between.
    pub(super) fn visit(
        &self,
        today: UtcDay,
        mut visit: impl FnMut(&OrgId, &[(PoolName, PoolCounters)]),
    ) {
        let mut last: Option<OrgId> = None;
        loop {
            let state = self.read();
            let after = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let following = state.figures.range::<OrgId, _>((after, Bound::Unbounded));
            let visited = following.take(MAX_VISITED).inspect(|(org, figures)| {
                visit(org, figures.on(today));
            });
            let visited = visited.last().map(|(org, _)| org.clone());
            match visited {
                Some(org) => last = Some(org),
                None => return,
            }
        }
    }

    /// What is known of an organization of the policy, which is at this place there.
    pub(super) fn figures(
        &self,
        org: &OrgId,
        index: usize,
        policy: &Arc<Policy>,
        today: UtcDay,
    ) -> KnownFigures {
        let state = self.read();
        if let Some(figures) = state.figures.get(org) {
            return KnownFigures {
                pools: figures.on(today).into(),
                as_of: figures.as_of,
            };
        }
        let stretch = state.stretches.get(index / STRETCH_LEN);
        let stretch = stretch.filter(|_| state.is_of(policy));
        KnownFigures {
            pools: Box::default(),
            as_of: stretch.and_then(|it| it.as_of),
        }
    }

    /// Records what was read of an organization; none: the store failed.
    pub(super) fn record(
        &self,
        turns: &mut Turns,
        org: OrgId,
        pools: &[PoolName],
        read: Option<Timestamped<Vec<PoolCounters>>>,
    ) {
        turns.is_reading = false;
        if let Some(read) = &read {
            turns.stretch_as_of.get_or_insert(read.now);
        }
        let mut state = self.write();
        let known = state.figures.get_mut(&org);
        let is_known = known.is_some();
        let figures = match (read, known) {
            (None, Some(_)) => return,
            (None, None) => Figures::read_now(None),
            (Some(read), _) => {
                let counted = pools.iter().cloned().zip(read.answer);
                Figures {
                    pools: counted
                        .filter(|(_, counters)| *counters != PoolCounters::default())
                        .collect(),
                    ..Figures::read_now(Some(read.now))
                }
            }
        };
        // Zeros replace what is there until its next turn, so that it is not read again before.
        if figures.must_stay() || is_known {
            state.figures.insert(org, figures);
        }
    }

    /// The organizations to read now, at most so many.
    pub(super) fn next_turn(
        &self,
        turns: &mut Turns,
        policy: &Arc<Policy>,
        max: usize,
    ) -> Vec<OrgId> {
        let now = Instant::now();
        let mut state = self.write();
        if !state.is_of(policy) {
            state.policy = Arc::downgrade(policy);
            state.stretches = vec![Stretch::default(); policy.orgs.len().div_ceil(STRETCH_LEN)];
            (turns.stretch, turns.offset) = (0, 0);
        }
        let next = iter::from_fn(|| state.next(turns, policy, now));
        next.take(max).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, OverviewState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, OverviewState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OverviewState {
    fn is_of(&self, policy: &Arc<Policy>) -> bool {
        self.policy.as_ptr() == Arc::as_ptr(policy)
    }

    /// The organization to read next, if it is the turn of any.
    fn next(&mut self, turns: &mut Turns, policy: &Policy, now: Instant) -> Option<OrgId> {
        turns.is_turn_of_known = !turns.is_turn_of_known;
        if turns.is_turn_of_known {
            let known = self.next_known(turns, policy, now);
            known.or_else(|| self.next_other(turns, policy, now))
        } else {
            let other = self.next_other(turns, policy, now);
            other.or_else(|| self.next_known(turns, policy, now))
        }
    }

    /// The next organization with figures that may be read again. Removes those that left the policy, and those that
    /// have had none since midnight.
    fn next_known(&mut self, turns: &mut Turns, policy: &Policy, now: Instant) -> Option<OrgId> {
        for _ in 0..MAX_PASSED_OVER.min(self.figures.len()) {
            let after = turns.last_known.as_ref();
            let after = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut following = self.figures.range::<OrgId, _>((after, Bound::Unbounded));
            let Some((org, figures)) = following.next().or_else(|| self.figures.iter().next())
            else {
                break;
            };
            let org = org.clone();
            turns.last_known = Some(org.clone());
            if now.duration_since(figures.read_at) < MIN_READ_INTERVAL {
                continue;
            }
            if !policy.orgs.contains_key(&org) || !figures.must_stay() {
                self.figures.remove(&org);
            } else if let Some(figures) = self.figures.get_mut(&org) {
                figures.read_at = now;
                return Some(org);
            }
        }
        None
    }

    /// The next organization of the policy without figures, if its stretch may be read again.
    fn next_other(&mut self, turns: &mut Turns, policy: &Policy, now: Instant) -> Option<OrgId> {
        for _ in 0..MAX_PASSED_OVER {
            let stretch = self.stretches.get_mut(turns.stretch)?;
            let is_young = |at| now.duration_since(at) < MIN_READ_INTERVAL;
            if turns.offset == 0 && stretch.read_at.is_some_and(is_young) {
                return None;
            }
            let index = turns.stretch * STRETCH_LEN + turns.offset;
            let org = policy.orgs.get_index(index);
            let Some((org, _)) = org.filter(|_| turns.offset < STRETCH_LEN) else {
                if turns.is_reading {
                    return None;
                }
                stretch.read_at = Some(now);
                stretch.as_of = turns.stretch_as_of.take().or(stretch.as_of);
                turns.stretch = (turns.stretch + 1) % self.stretches.len();
                turns.offset = 0;
                continue;
            };
            turns.offset += 1;
            if !self.figures.contains_key(org) {
                turns.is_reading = true;
                return Some(org.clone());
            }
        }
        None
    }
}

impl Figures {
    fn read_now(as_of: Option<DateTime<Utc>>) -> Self {
        Self {
            read_at: Instant::now(),
            as_of,
            pools: Box::default(),
        }
    }

    /// The figures on this day: those of another one count as zero.
    fn on(&self, day: UtcDay) -> &[(PoolName, PoolCounters)] {
        match self.as_of {
            Some(as_of) if UtcDay::of(as_of) == day => &self.pools,
            _ => &[],
        }
    }

    /// Whether a stretch can't stand for it: it has figures, or was never read.
    fn must_stay(&self) -> bool {
        !self.pools.is_empty() || self.as_of.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Tokens;

    fn read(used: u64) -> Option<Timestamped<Vec<PoolCounters>>> {
        let counters = PoolCounters {
            used: Tokens::new(used).expect("an amount"),
            ..PoolCounters::default()
        };
        Some(Timestamped {
            now: crate::wall_clock::now(),
            answer: vec![counters, PoolCounters::default()],
        })
    }

    /// The organizations in memory, with the number of pools in memory.
    fn kept(overview: &Overview) -> Vec<(String, usize)> {
        let state = overview.read();
        let kept = state.figures.iter();
        kept.map(|(org, figures)| (org.to_string(), figures.pools.len()))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn zeros_are_not_kept_in_memory() {
        let (overview, policy) = (Overview::default(), Arc::new(Policy::builtin()));
        let org = |name: &str| OrgId::parse(name).expect("a name");
        let mut turns = Turns::default();
        let record = |turns: &mut Turns, name, used| {
            overview.record(turns, org(name), &policy.pools, read(used));
        };
        record(&mut turns, "idle", 0);
        record(&mut turns, "org-demo", 7);
        record(&mut turns, "gone", 7);
        let pools = |name: &str| (name.to_owned(), 1);
        assert_eq!(kept(&overview), [pools("gone"), pools("org-demo")]);
        // Both turns pass over what was read just now.
        let next = |turns: &mut Turns| overview.next_turn(turns, &policy, 10);
        assert_eq!(next(&mut turns), []);
        tokio::time::advance(MIN_READ_INTERVAL).await;
        assert_eq!(next(&mut turns), [org("org-demo")]);
        assert_eq!(
            kept(&overview),
            [pools("org-demo")],
            "the other left the policy"
        );
        record(&mut turns, "org-demo", 0);
        assert_eq!(kept(&overview), [("org-demo".to_owned(), 0)]);
        tokio::time::advance(MIN_READ_INTERVAL).await;
        next(&mut turns);
        assert_eq!(kept(&overview), []);
        // It is one of the others now.
        tokio::time::advance(MIN_READ_INTERVAL).await;
        assert_eq!(next(&mut turns), [org("org-demo")]);
    }
}
