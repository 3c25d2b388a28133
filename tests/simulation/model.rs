//! The model of one organization's pool, reservations and replicas under faults.

use std::collections::BTreeMap;

pub const ALLOWANCE: i64 = 1_000;

/// A process of a replica. A new process has no snapshots.
pub type Process = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Reserve { id: Option<u64>, tokens: i64 },
    Settle { id: u64, tokens: i64, outside: bool },
    Release { id: u64 },
    SetExternal { tokens: i64 },
}

/// The answer: verdict, used tokens and whether it is a replay; or the error.
pub type Answer = Result<(&'static str, i64, bool), &'static str>;

/// The PN-counter component of a process: the effect of each of its writes on the free tokens.
#[derive(Debug, Clone, Default)]
struct Component {
    seq: u64,
    writes: BTreeMap<u64, i64>,
}

/// A pool's record.
#[derive(Debug, Clone, Default)]
struct Pool {
    components: BTreeMap<Process, Component>,
    /// The external usage: the sequence number of its last write, and the tokens.
    external: (u64, i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Held,
    Settled { tokens: i64, verdict: &'static str },
    Released,
}

#[derive(Debug, Clone)]
struct Reservation {
    tokens: i64,
    verdict: &'static str,
    state: State,
    /// A loss may have reverted its Settle or Release.
    stale: bool,
}

/// The content of Redis.
#[derive(Debug, Clone, Default)]
pub struct RedisState {
    pool: Pool,
    /// Today's and yesterday's.
    reservations: [BTreeMap<u64, Reservation>; 2],
}

#[derive(Default)]
pub struct Model {
    pub redis: RedisState,
    /// The snapshots of today of each living process.
    snapshots: BTreeMap<Process, Pool>,
    calls: BTreeMap<Process, u64>,
    /// The hour, and the steps so far: Redis' clock in the order of its moments.
    pub now: u64,
    writes: u64,
    granted: i64,
    granted_by_id: BTreeMap<u64, i64>,
    /// The free tokens that Settles and Releases sent today may have left of an id: minimum and maximum.
    left_by_id: BTreeMap<u64, (i64, i64)>,
}

/// A call in flight.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    process: Process,
    /// The number of the process's call, and its last acknowledged sequence number.
    number: u64,
    acknowledged: u64,
    operation: Operation,
}

/// The outcome of a call that reached Redis.
enum CallResult {
    /// Redis lost writes of this process: nothing was written.
    Lost,
    /// The decision, and the id of its write, if any.
    Decided(Answer, Option<u64>),
}

fn sum(pool: &Pool) -> i64 {
    let writes = pool
        .components
        .values()
        .flat_map(|component| component.writes.values());
    writes.sum()
}

fn used(pool: &Pool) -> i64 {
    sum(pool).max(0)
}

/// Returns whether anything was newer.
fn merge(pool: &mut Pool, other: &Pool) -> bool {
    let mut newer = other.external.0 > pool.external.0;
    pool.external = pool.external.max(other.external);
    for (process, component) in &other.components {
        let known = pool.components.entry(*process).or_default();
        if component.seq > known.seq {
            *known = component.clone();
            newer = true;
        }
    }
    newer
}

impl Model {
    pub fn call(&mut self, process: Process, operation: Operation) -> Call {
        let number = self.calls.entry(process).or_default();
        *number += 1;
        let component = self
            .snapshots
            .get(&process)
            .and_then(|pool| pool.components.get(&process));
        let left = match operation {
            Operation::Settle {
                id, outside: true, ..
            }
            | Operation::Release { id } => Some((id, 0)),
            Operation::Settle { id, tokens, .. } => Some((id, tokens)),
            Operation::Reserve { .. } | Operation::SetExternal { .. } => None,
        };
        if let Some((id, tokens)) = left {
            let (least, most) = self.left_by_id.entry(id).or_insert((tokens, tokens));
            (*least, *most) = (tokens.min(*least), tokens.max(*most));
        }
        Call {
            process,
            number: *number,
            acknowledged: component.map_or(0, |component| component.seq),
            operation,
        }
    }

    /// Applies a call whose answer arrives.
    pub fn apply(&mut self, call: Call) -> Answer {
        let Call {
            process, operation, ..
        } = call;
        let (answer, write) = match self.apply_once(call) {
            CallResult::Decided(answer, write) => (answer, write),
            CallResult::Lost => {
                let again = self.call(process, operation);
                let snapshots = self.snapshots.get(&process).cloned().unwrap_or_default();
                if merge(&mut self.redis.pool, &snapshots) {
                    for reservation in self.redis.reservations[0].values_mut() {
                        reservation.stale = true;
                    }
                }
                let CallResult::Decided(answer, write) = self.apply_once(again) else {
                    unreachable!("the model is up to date");
                };
                (answer, Some(write.unwrap_or_else(|| self.write(again, 0))))
            }
        };
        if write.is_some() {
            self.snapshots.insert(process, self.redis.pool.clone());
        }
        match (operation, answer) {
            (Operation::Reserve { id: None, tokens }, Ok(("FREE", ..))) => self.granted += tokens,
            (
                Operation::Reserve {
                    id: Some(id),
                    tokens,
                },
                Ok(("FREE", ..)),
            ) if self.redis.reservations[0].contains_key(&id) => {
                self.granted_by_id.insert(id, tokens);
            }
            _ => {}
        }
        answer
    }

    /// Applies a call whose answer is lost.
    pub fn apply_without_reply(&mut self, call: Call) {
        let _ = self.apply_once(call);
    }

    fn apply_once(&mut self, call: Call) -> CallResult {
        let Call {
            process,
            acknowledged,
            operation,
            ..
        } = call;
        let id = match operation {
            Operation::Reserve { id, .. } => id,
            Operation::Settle { id, .. } | Operation::Release { id } => Some(id),
            Operation::SetExternal { .. } => None,
        };
        let found = id.and_then(|id| {
            let mut days = self.redis.reservations.iter().enumerate();
            days.find_map(|(day, known)| known.get(&id).map(|it| (day, it.clone())))
        });
        let reads_pool = found.is_some()
            || matches!(
                operation,
                Operation::Reserve { .. } | Operation::SetExternal { .. }
            );
        let seq = self
            .redis
            .pool
            .components
            .get(&process)
            .map_or(0, |component| component.seq);
        if reads_pool && seq < acknowledged {
            return CallResult::Lost;
        }
        match (operation, found) {
            (Operation::Reserve { id, tokens }, None) => self.reserve(call, id, tokens),
            (Operation::Reserve { tokens, .. }, Some((day, known))) => {
                self.replay(call, tokens, day, &known)
            }
            (Operation::SetExternal { tokens }, _) => self.set_external(call, tokens),
            (_, None) => CallResult::Decided(Err("unknown"), None),
            (Operation::Settle { .. }, Some((day, known))) => self.settle(call, day, &known),
            (Operation::Release { id }, Some((day, known))) => self.release(call, id, day, &known),
        }
    }

    fn reserve(&mut self, call: Call, id: Option<u64>, tokens: i64) -> CallResult {
        let before = used(&self.redis.pool);
        let fits = self.fits(before + tokens);
        let (verdict, change) = if fits {
            ("FREE", tokens)
        } else {
            ("EXCEEDED", 0)
        };
        if let Some(id) = id {
            let reservation = Reservation {
                tokens,
                verdict,
                state: State::Held,
                stale: false,
            };
            self.redis.reservations[0].insert(id, reservation);
        }
        let write = self.write(call, change);
        CallResult::Decided(Ok((verdict, before + change, false)), Some(write))
    }

    fn fits(&self, total: i64) -> bool {
        total + self.redis.pool.external.1 <= ALLOWANCE
    }

    fn set_external(&mut self, call: Call, tokens: i64) -> CallResult {
        let seq = (self.redis.pool.external.0 + 1).max(self.now);
        self.redis.pool.external = (seq, tokens);
        let write = self.write(call, 0);
        CallResult::Decided(Ok(("", used(&self.redis.pool), false)), Some(write))
    }

    fn replay(&mut self, call: Call, tokens: i64, day: usize, known: &Reservation) -> CallResult {
        if known.tokens != tokens {
            return CallResult::Decided(Err("fields"), None);
        }
        if known.state == State::Released {
            return CallResult::Decided(Err("released"), None);
        }
        let write = (day == 0).then(|| self.write(call, 0));
        let used = used(&self.redis.pool);
        CallResult::Decided(Ok((known.verdict, used, true)), write)
    }

    fn release(&mut self, call: Call, id: u64, day: usize, known: &Reservation) -> CallResult {
        let before = used(&self.redis.pool);
        let shown = |used| if day == 0 { used } else { 0 };
        match known.state {
            State::Settled { .. } => CallResult::Decided(Err("settled"), None),
            State::Released => {
                let write = (day == 0).then(|| self.write(call, 0));
                CallResult::Decided(Ok(("", shown(before), true)), write)
            }
            State::Held => {
                let free = day == 0 && known.verdict == "FREE" && !known.stale;
                let after = if free {
                    (before - known.tokens).max(0)
                } else {
                    before
                };
                self.change(id, day, State::Released);
                let write = (day == 0).then(|| self.write(call, after - before));
                CallResult::Decided(Ok(("", shown(after), false)), write)
            }
        }
    }

    fn settle(&mut self, call: Call, day: usize, known: &Reservation) -> CallResult {
        let Operation::Settle {
            id,
            tokens,
            outside,
        } = call.operation
        else {
            unreachable!("it is a Settle");
        };
        let before = used(&self.redis.pool);
        let shown = |used| if day == 0 { used } else { 0 };
        match known.state {
            State::Released => return CallResult::Decided(Err("released"), None),
            State::Settled {
                tokens: settled,
                verdict,
            } => {
                if (verdict == "OUTSIDE") != outside {
                    return CallResult::Decided(Err("place"), None);
                }
                if settled != tokens {
                    return CallResult::Decided(Err("amount"), None);
                }
                let write = (day == 0).then(|| self.write(call, 0));
                return CallResult::Decided(Ok((verdict, shown(before), true)), write);
            }
            State::Held => {}
        }
        let free = known.verdict == "FREE";
        // What may have been given back before is not given back again.
        let stale = free && day == 0 && known.stale;
        let without = if free && !stale {
            (before - known.tokens).max(0)
        } else {
            before
        };
        let verdict = match (day, free) {
            _ if outside => "OUTSIDE",
            (0, true) if tokens <= known.tokens || self.fits(without + tokens) => "FREE",
            (0, false) if self.fits(before + tokens) => "FREE",
            (0, _) => "EXCEEDED",
            (_, true) if tokens > known.tokens => "DAY_CLOSED",
            _ => known.verdict,
        };
        self.change(id, day, State::Settled { tokens, verdict });
        if day != 0 {
            return CallResult::Decided(Ok((verdict, 0, false)), None);
        }
        let after = if stale && tokens <= known.tokens {
            before
        } else if verdict == "FREE" {
            without + tokens
        } else {
            without
        };
        let write = self.write(call, after - before);
        CallResult::Decided(Ok((verdict, after, false)), Some(write))
    }

    fn change(&mut self, id: u64, day: usize, state: State) {
        let reservation = self.redis.reservations[day].get_mut(&id);
        reservation.expect("it was found").state = state;
    }

    fn write(&mut self, call: Call, change: i64) -> u64 {
        self.writes += 1;
        // If more was given back than is left, the next write compensates.
        let missing = (-sum(&self.redis.pool)).max(0);
        let component = self.redis.pool.components.entry(call.process).or_default();
        component.seq = (component.seq + 1).max(call.number * 1024);
        component.writes.insert(self.writes, change + missing);
        self.writes
    }

    /// The used tokens and the external usage in GetQuota through a process.
    pub fn quota_through(&self, process: Process) -> (i64, i64) {
        let mut pool = self.redis.pool.clone();
        if let Some(snapshots) = self.snapshots.get(&process) {
            merge(&mut pool, snapshots);
        }
        (used(&pool), pool.external.1)
    }

    /// Reverts Redis to an earlier state.
    pub fn fall_back(&mut self, to: RedisState) {
        self.redis = to;
    }

    pub fn end(&mut self, process: Process) {
        self.snapshots.remove(&process);
    }

    pub fn next_day(&mut self) {
        let ended = std::mem::take(&mut self.redis.reservations[0]);
        self.redis.reservations[1] = ended;
        self.redis.pool = Pool::default();
        self.snapshots.clear();
        self.granted = 0;
        self.granted_by_id.clear();
        self.left_by_id.clear();
    }

    /// The free tokens of today that were acknowledged. For settled or released requests, or those that may be, the
    /// minimum. A Settle of more than was reserved may have been billed.
    pub fn granted(&self) -> i64 {
        let by_id = self.granted_by_id.iter();
        let by_id = by_id.map(|(id, granted)| match self.left_by_id.get(id) {
            None => *granted,
            Some((_, most)) if most > granted => 0,
            Some((least, _)) => *least,
        });
        self.granted + by_id.sum::<i64>()
    }
}
