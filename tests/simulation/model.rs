//! The model of one organization's pool, the share of a project in it, reservations and replicas under faults.

use std::collections::BTreeMap;

pub const ALLOWANCE: i64 = 1_000;

/// What the project with a share may use.
pub const SHARE: i64 = 450;

/// A process of a replica. A new process has no snapshots.
pub type Process = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Reserve {
        id: Option<u64>,
        tokens: i64,
        /// Whether its project has a share.
        in_share: bool,
    },
    Settle {
        id: u64,
        tokens: i64,
        outside: bool,
    },
    Release {
        id: u64,
    },
    SetExternal {
        tokens: i64,
    },
}

/// The answer: verdict, used tokens and whether it is a replay; or the error.
pub type Answer = Result<(&'static str, i64, bool), &'static str>;

/// The PN-counter component of a process: the effect of each of its writes on the free tokens.
#[derive(Debug, Clone, Default)]
struct Component {
    seq: u64,
    writes: BTreeMap<u64, i64>,
}

/// The record of the pool, or of the share.
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
    in_share: bool,
    /// A loss may have reverted its Settle or Release.
    stale: bool,
}

/// Both records: see [`POOL`] and [`IN_SHARE`].
type Records = [Pool; 2];

/// The places of the records.
const POOL: usize = 0;
const IN_SHARE: usize = 1;

/// The content of Redis.
#[derive(Debug, Clone, Default)]
pub struct RedisState {
    records: Records,
    /// Today's and yesterday's.
    reservations: [BTreeMap<u64, Reservation>; 2],
}

#[derive(Default)]
pub struct Model {
    pub redis: RedisState,
    /// The snapshots of today of each living process.
    snapshots: BTreeMap<Process, Records>,
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
    /// The number of the process's call, and its last acknowledged sequence number of each record.
    number: u64,
    acknowledged: [u64; 2],
    operation: Operation,
}

/// The outcome of a call that reached Redis.
enum CallResult {
    /// Redis lost writes of this process: nothing was written.
    Lost,
    /// The decision, and which records it wrote.
    Decided(Answer, [bool; 2]),
}

const NOTHING: [bool; 2] = [false; 2];

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
        let snapshots = self.snapshots.get(&process);
        let acknowledged = [POOL, IN_SHARE].map(|which| {
            let component = snapshots.and_then(|it| it[which].components.get(&process));
            component.map_or(0, |component| component.seq)
        });
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
            acknowledged,
            operation,
        }
    }

    /// Applies a call whose answer arrives.
    pub fn apply(&mut self, call: Call) -> Answer {
        let Call {
            process, operation, ..
        } = call;
        let (answer, written) = match self.apply_once(call) {
            CallResult::Decided(answer, written) => (answer, written),
            CallResult::Lost => self.recover(process, operation),
        };
        for which in [POOL, IN_SHARE] {
            if written[which] {
                let snapshots = self.snapshots.entry(process).or_default();
                snapshots[which] = self.redis.records[which].clone();
            }
        }
        match (operation, answer) {
            (
                Operation::Reserve {
                    id: None, tokens, ..
                },
                Ok(("FREE", ..)),
            ) => {
                self.granted += tokens;
            }
            (
                Operation::Reserve {
                    id: Some(id),
                    tokens,
                    ..
                },
                Ok(("FREE", ..)),
            ) if self.redis.reservations[0].contains_key(&id) => {
                self.granted_by_id.insert(id, tokens);
            }
            _ => {}
        }
        answer
    }

    /// Sends the snapshots of the records that the operation reads, and decides it.
    fn recover(&mut self, process: Process, operation: Operation) -> (Answer, [bool; 2]) {
        let again = self.call(process, operation);
        let snapshots = self.snapshots.get(&process).cloned().unwrap_or_default();
        let (_, reads) = self.reads(operation);
        let mut recovered = NOTHING;
        for which in [POOL, IN_SHARE] {
            let record = &mut self.redis.records[which];
            recovered[which] = reads[which] && merge(record, &snapshots[which]);
        }
        if recovered != NOTHING {
            for reservation in self.redis.reservations[0].values_mut() {
                reservation.stale = true;
            }
        }
        let CallResult::Decided(answer, mut written) = self.apply_once(again) else {
            unreachable!("the model is up to date");
        };
        for which in [POOL, IN_SHARE] {
            if recovered[which] && !written[which] {
                self.write(which, again, 0);
                written[which] = true;
            }
        }
        (answer, written)
    }

    /// The reservation of an operation's id with its day, and the records that the operation reads.
    fn reads(&self, operation: Operation) -> (Option<(usize, Reservation)>, [bool; 2]) {
        let (id, in_share) = match operation {
            Operation::Reserve { id, in_share, .. } => (id, in_share),
            Operation::Settle { id, .. } | Operation::Release { id } => (Some(id), false),
            Operation::SetExternal { .. } => (None, false),
        };
        let found = id.and_then(|id| {
            let mut days = self.redis.reservations.iter().enumerate();
            days.find_map(|(day, known)| known.get(&id).map(|it| (day, it.clone())))
        });
        let ends = matches!(
            operation,
            Operation::Settle { .. } | Operation::Release { .. }
        );
        let of_today = found
            .as_ref()
            .is_some_and(|(day, it)| *day == 0 && it.in_share);
        let reads = [!ends || found.is_some(), in_share || of_today];
        (found, reads)
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
        let (found, reads) = self.reads(operation);
        for which in [POOL, IN_SHARE] {
            let component = self.redis.records[which].components.get(&process);
            let seq = component.map_or(0, |component| component.seq);
            if reads[which] && seq < acknowledged[which] {
                return CallResult::Lost;
            }
        }
        match (operation, found) {
            (Operation::Reserve { .. }, None) => self.reserve(call),
            (Operation::Reserve { tokens, .. }, Some((day, known))) => {
                self.replay(call, tokens, day, &known)
            }
            (Operation::SetExternal { tokens }, _) => self.set_external(call, tokens),
            (_, None) => CallResult::Decided(Err("unknown"), NOTHING),
            (Operation::Settle { .. }, Some((day, known))) => self.settle(call, day, &known),
            (Operation::Release { id }, Some((day, known))) => self.release(call, id, day, &known),
        }
    }

    fn reserve(&mut self, call: Call) -> CallResult {
        let Operation::Reserve {
            id,
            tokens,
            in_share,
        } = call.operation
        else {
            unreachable!("it is a Reserve");
        };
        let [before, used_share] = [POOL, IN_SHARE].map(|which| used(&self.redis.records[which]));
        let (verdict, change) = if !self.fits(before + tokens) {
            ("EXCEEDED", 0)
        } else if in_share && used_share + tokens > SHARE {
            ("SHARE", 0)
        } else {
            ("FREE", tokens)
        };
        if let Some(id) = id {
            let reservation = Reservation {
                tokens,
                verdict,
                state: State::Held,
                in_share,
                stale: false,
            };
            self.redis.reservations[0].insert(id, reservation);
        }
        self.write(POOL, call, change);
        let counts_in_share = in_share && verdict == "FREE";
        if counts_in_share {
            self.write(IN_SHARE, call, tokens);
        }
        CallResult::Decided(
            Ok((verdict, before + change, false)),
            [true, counts_in_share],
        )
    }

    fn fits(&self, total: i64) -> bool {
        total + self.redis.records[POOL].external.1 <= ALLOWANCE
    }

    fn set_external(&mut self, call: Call, tokens: i64) -> CallResult {
        let external = &mut self.redis.records[POOL].external;
        *external = ((external.0 + 1).max(self.now), tokens);
        self.write(POOL, call, 0);
        CallResult::Decided(
            Ok(("", used(&self.redis.records[POOL]), false)),
            [true, false],
        )
    }

    fn replay(&mut self, call: Call, tokens: i64, day: usize, known: &Reservation) -> CallResult {
        if known.tokens != tokens {
            return CallResult::Decided(Err("fields"), NOTHING);
        }
        if known.state == State::Released {
            return CallResult::Decided(Err("released"), NOTHING);
        }
        let written = self.touch(call, day, known);
        let used = used(&self.redis.records[POOL]);
        CallResult::Decided(Ok((known.verdict, used, true)), written)
    }

    fn release(&mut self, call: Call, id: u64, day: usize, known: &Reservation) -> CallResult {
        let before = used(&self.redis.records[POOL]);
        let shown = |used| if day == 0 { used } else { 0 };
        match known.state {
            State::Settled { .. } => CallResult::Decided(Err("settled"), NOTHING),
            State::Released => {
                let written = self.touch(call, day, known);
                CallResult::Decided(Ok(("", shown(before), true)), written)
            }
            State::Held => {
                let free = day == 0 && known.verdict == "FREE" && !known.stale;
                let after = if free {
                    (before - known.tokens).max(0)
                } else {
                    before
                };
                self.change(id, day, State::Released);
                if day != 0 {
                    return CallResult::Decided(Ok(("", 0, false)), NOTHING);
                }
                self.write(POOL, call, after - before);
                let in_share = self.replace_in_share(call, known, None);
                CallResult::Decided(Ok(("", after, false)), [true, in_share])
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
        let before = used(&self.redis.records[POOL]);
        let shown = |used| if day == 0 { used } else { 0 };
        match known.state {
            State::Released => return CallResult::Decided(Err("released"), NOTHING),
            State::Settled {
                tokens: settled,
                verdict,
            } => {
                if (verdict == "OUTSIDE") != outside {
                    return CallResult::Decided(Err("place"), NOTHING);
                }
                if settled != tokens {
                    return CallResult::Decided(Err("amount"), NOTHING);
                }
                let written = self.touch(call, day, known);
                return CallResult::Decided(Ok((verdict, shown(before), true)), written);
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
            (0, false) if known.verdict == "SHARE" => "SHARE",
            (0, false) if self.fits(before + tokens) => "FREE",
            (0, _) => "EXCEEDED",
            (_, true) if tokens > known.tokens => "DAY_CLOSED",
            _ => known.verdict,
        };
        self.change(id, day, State::Settled { tokens, verdict });
        if day != 0 {
            return CallResult::Decided(Ok((verdict, 0, false)), NOTHING);
        }
        let after = if stale && tokens <= known.tokens {
            before
        } else if verdict == "FREE" {
            without + tokens
        } else {
            without
        };
        self.write(POOL, call, after - before);
        let is_free = verdict == "FREE";
        let in_share = self.replace_in_share(call, known, is_free.then_some(tokens));
        CallResult::Decided(Ok((verdict, after, false)), [true, in_share])
    }

    /// Takes what a reservation of today counted off its share, and counts the free tokens of its Settle. Returns
    /// whether the share is written.
    fn replace_in_share(&mut self, call: Call, known: &Reservation, free: Option<i64>) -> bool {
        let was_free = known.verdict == "FREE";
        let is_stale = was_free && known.stale;
        let takes_back = was_free && !is_stale;
        let counted = free.filter(|tokens| !is_stale || *tokens > known.tokens);
        if !known.in_share {
            return false;
        }
        let before = used(&self.redis.records[IN_SHARE]);
        let taken_back = if takes_back { known.tokens } else { 0 };
        let after = (before - taken_back).max(0) + counted.unwrap_or(0);
        self.write(IN_SHARE, call, after - before);
        true
    }

    /// A replay writes the pool, and the share, with their counters unchanged.
    fn touch(&mut self, call: Call, day: usize, known: &Reservation) -> [bool; 2] {
        let touches = [day == 0, day == 0 && known.in_share];
        for which in [POOL, IN_SHARE] {
            if touches[which] {
                self.write(which, call, 0);
            }
        }
        touches
    }

    fn change(&mut self, id: u64, day: usize, state: State) {
        let reservation = self.redis.reservations[day].get_mut(&id);
        reservation.expect("it was found").state = state;
    }

    fn write(&mut self, which: usize, call: Call, change: i64) {
        self.writes += 1;
        let record = &mut self.redis.records[which];
        // If more was given back than is left, the next write compensates.
        let missing = (-sum(record)).max(0);
        let component = record.components.entry(call.process).or_default();
        component.seq = (component.seq + 1).max(call.number * 1024);
        component.writes.insert(self.writes, change + missing);
    }

    /// The used tokens, the external usage, and what the share used, in GetQuota through a process.
    pub fn quota_through(&self, process: Process) -> (i64, i64, i64) {
        let mut records = self.redis.records.clone();
        if let Some(snapshots) = self.snapshots.get(&process) {
            for which in [POOL, IN_SHARE] {
                merge(&mut records[which], &snapshots[which]);
            }
        }
        let [pool, share] = records;
        (used(&pool), pool.external.1, used(&share))
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
        self.redis.records = Records::default();
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
