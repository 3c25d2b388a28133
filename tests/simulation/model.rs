//! What is to become of one organization's pool, reservations and replicas under faults, said once more.

use std::collections::BTreeMap;

pub const ALLOWANCE: i64 = 1_000;

/// Which process of which replica: a new one remembers nothing.
pub type Process = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Reserve { id: Option<u64>, tokens: i64 },
    Settle { id: u64, tokens: i64 },
    Release { id: u64 },
}

/// What the caller is told: a verdict, what is used and whether it is a replay; or why not.
pub type Answer = Result<(&'static str, i64, bool), &'static str>;

/// What one process counted in a pool: what each of its writes did to the free tokens.
#[derive(Debug, Clone, Default)]
struct Part {
    turn: u64,
    writes: BTreeMap<u64, i64>,
}

type Pool = BTreeMap<Process, Part>;

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
    /// Redis may have forgotten what settled or released it.
    doubted: bool,
}

/// What Redis holds.
#[derive(Debug, Clone, Default)]
pub struct Held {
    pool: Pool,
    /// Of today, and of yesterday.
    reservations: [BTreeMap<u64, Reservation>; 2],
}

#[derive(Default)]
pub struct Model {
    pub held: Held,
    /// What each living process remembers of today.
    remembered: BTreeMap<Process, Pool>,
    calls: BTreeMap<Process, u64>,
    writes: u64,
    granted: i64,
    granted_by_id: BTreeMap<u64, i64>,
    /// What Settles and Releases that were sent today left of an id: the least and the most.
    left_by_id: BTreeMap<u64, (i64, i64)>,
}

/// A call on its way.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    process: Process,
    /// Its number among those of the process, and the last turn that it names.
    number: u64,
    told: u64,
    asked: Asked,
}

/// What came of a call that reached Redis.
enum Reached {
    /// Redis has lost writes of this process: nothing was written.
    Lost,
    /// Decision, and the write that it was, where it was one.
    Decided(Answer, Option<u64>),
}

fn sum(pool: &Pool) -> i64 {
    let writes = pool.values().flat_map(|part| part.writes.values());
    writes.sum()
}

fn used(pool: &Pool) -> i64 {
    sum(pool).max(0)
}

/// Tells whether anything was further.
fn join(pool: &mut Pool, other: &Pool) -> bool {
    let mut further = false;
    for (process, part) in other {
        let known = pool.entry(*process).or_default();
        if part.turn > known.turn {
            *known = part.clone();
            further = true;
        }
    }
    further
}

impl Model {
    pub fn call(&mut self, process: Process, asked: Asked) -> Call {
        let number = self.calls.entry(process).or_default();
        *number += 1;
        let part = self
            .remembered
            .get(&process)
            .and_then(|pool| pool.get(&process));
        let left = match asked {
            Asked::Settle { id, tokens } => Some((id, tokens)),
            Asked::Release { id } => Some((id, 0)),
            Asked::Reserve { .. } => None,
        };
        if let Some((id, tokens)) = left {
            let (least, most) = self.left_by_id.entry(id).or_insert((tokens, tokens));
            (*least, *most) = (tokens.min(*least), tokens.max(*most));
        }
        Call {
            process,
            number: *number,
            told: part.map_or(0, |part| part.turn),
            asked,
        }
    }

    /// A call that is answered.
    pub fn ask(&mut self, call: Call) -> Answer {
        let Call { process, asked, .. } = call;
        let (answer, write) = match self.reach(call) {
            Reached::Decided(answer, write) => (answer, write),
            Reached::Lost => {
                let again = self.call(process, asked);
                let remembered = self.remembered.get(&process).cloned().unwrap_or_default();
                if join(&mut self.held.pool, &remembered) {
                    for reservation in self.held.reservations[0].values_mut() {
                        reservation.doubted = true;
                    }
                }
                let Reached::Decided(answer, write) = self.reach(again) else {
                    unreachable!("it was told all");
                };
                (answer, Some(write.unwrap_or_else(|| self.write(again, 0))))
            }
        };
        if write.is_some() {
            self.remembered.insert(process, self.held.pool.clone());
        }
        match (asked, answer) {
            (Asked::Reserve { id: None, tokens }, Ok(("FREE", ..))) => self.granted += tokens,
            (
                Asked::Reserve {
                    id: Some(id),
                    tokens,
                },
                Ok(("FREE", ..)),
            ) if self.held.reservations[0].contains_key(&id) => {
                self.granted_by_id.insert(id, tokens);
            }
            _ => {}
        }
        answer
    }

    /// A call that reaches Redis, and whose answer reaches nobody.
    pub fn ask_in_vain(&mut self, call: Call) {
        let _ = self.reach(call);
    }

    fn reach(&mut self, call: Call) -> Reached {
        let Call {
            process,
            told,
            asked,
            ..
        } = call;
        let id = match asked {
            Asked::Reserve { id, .. } => id,
            Asked::Settle { id, .. } | Asked::Release { id } => Some(id),
        };
        let found = id.and_then(|id| {
            let mut days = self.held.reservations.iter().enumerate();
            days.find_map(|(day, known)| known.get(&id).map(|it| (day, it.clone())))
        });
        let reads_pool = found.is_some() || matches!(asked, Asked::Reserve { .. });
        let turn = self.held.pool.get(&process).map_or(0, |part| part.turn);
        if reads_pool && turn < told {
            return Reached::Lost;
        }
        let before = used(&self.held.pool);
        match (asked, found) {
            (Asked::Reserve { id, tokens }, None) => {
                let verdict = if before + tokens <= ALLOWANCE {
                    "FREE"
                } else {
                    "EXCEEDED"
                };
                let change = if verdict == "FREE" { tokens } else { 0 };
                if let Some(id) = id {
                    let state = State::Held;
                    let reservation = Reservation {
                        tokens,
                        verdict,
                        state,
                        doubted: false,
                    };
                    self.held.reservations[0].insert(id, reservation);
                }
                let write = self.write(call, change);
                Reached::Decided(Ok((verdict, before + change, false)), Some(write))
            }
            (Asked::Reserve { tokens, .. }, Some((day, known))) => {
                let answer = match known.state {
                    _ if known.tokens != tokens => Err("fields"),
                    State::Released => Err("released"),
                    _ => {
                        let write = (day == 0).then(|| self.write(call, 0));
                        let used = used(&self.held.pool);
                        return Reached::Decided(Ok((known.verdict, used, true)), write);
                    }
                };
                Reached::Decided(answer, None)
            }
            (_, None) => Reached::Decided(Err("unknown"), None),
            (Asked::Settle { id, tokens }, Some((day, known))) => {
                self.settle(call, id, tokens, day, &known)
            }
            (Asked::Release { id }, Some((day, known))) => {
                let figure = |used| if day == 0 { used } else { 0 };
                match known.state {
                    State::Settled { .. } => Reached::Decided(Err("settled"), None),
                    State::Released => {
                        let write = (day == 0).then(|| self.write(call, 0));
                        Reached::Decided(Ok(("", figure(before), true)), write)
                    }
                    State::Held => {
                        let free = day == 0 && known.verdict == "FREE" && !known.doubted;
                        let after = if free {
                            (before - known.tokens).max(0)
                        } else {
                            before
                        };
                        self.change(id, day, State::Released);
                        let write = (day == 0).then(|| self.write(call, after - before));
                        Reached::Decided(Ok(("", figure(after), false)), write)
                    }
                }
            }
        }
    }

    fn settle(
        &mut self,
        call: Call,
        id: u64,
        tokens: i64,
        day: usize,
        known: &Reservation,
    ) -> Reached {
        let before = used(&self.held.pool);
        let figure = |used| if day == 0 { used } else { 0 };
        match known.state {
            State::Released => return Reached::Decided(Err("released"), None),
            State::Settled {
                tokens: settled,
                verdict,
            } => {
                if settled != tokens {
                    return Reached::Decided(Err("amount"), None);
                }
                let write = (day == 0).then(|| self.write(call, 0));
                return Reached::Decided(Ok((verdict, figure(before), true)), write);
            }
            State::Held => {}
        }
        let free = known.verdict == "FREE";
        // What may have been taken back before is not taken back again.
        let doubted = free && day == 0 && known.doubted;
        let without = if free && !doubted {
            (before - known.tokens).max(0)
        } else {
            before
        };
        let verdict = match (day, free) {
            (0, true) if tokens <= known.tokens || without + tokens <= ALLOWANCE => "FREE",
            (0, false) if before + tokens <= ALLOWANCE => "FREE",
            (0, _) => "EXCEEDED",
            (_, true) if tokens > known.tokens => "DAY_CLOSED",
            _ => known.verdict,
        };
        self.change(id, day, State::Settled { tokens, verdict });
        if day != 0 {
            return Reached::Decided(Ok((verdict, 0, false)), None);
        }
        let after = if doubted && tokens <= known.tokens {
            before
        } else if verdict == "FREE" {
            without + tokens
        } else {
            without
        };
        let write = self.write(call, after - before);
        Reached::Decided(Ok((verdict, after, false)), Some(write))
    }

    fn change(&mut self, id: u64, day: usize, state: State) {
        let reservation = self.held.reservations[day].get_mut(&id);
        reservation.expect("it was found").state = state;
    }

    fn write(&mut self, call: Call, change: i64) -> u64 {
        self.writes += 1;
        // Where more was taken back than is left, the next write makes up for it.
        let missing = (-sum(&self.held.pool)).max(0);
        let part = self.held.pool.entry(call.process).or_default();
        part.turn = (part.turn + 1).max(call.number * 1024);
        part.writes.insert(self.writes, change + missing);
        self.writes
    }

    /// What GetQuota tells through a process.
    pub fn used_through(&self, process: Process) -> i64 {
        let mut pool = self.held.pool.clone();
        if let Some(remembered) = self.remembered.get(&process) {
            join(&mut pool, remembered);
        }
        used(&pool)
    }

    /// Redis falls back to what it was.
    pub fn fall_back(&mut self, to: Held) {
        self.held = to;
    }

    pub fn end(&mut self, process: Process) {
        self.remembered.remove(&process);
    }

    pub fn next_day(&mut self) {
        let ended = std::mem::take(&mut self.held.reservations[0]);
        self.held.reservations[1] = ended;
        self.held.pool.clear();
        self.remembered.clear();
        self.granted = 0;
        self.granted_by_id.clear();
        self.left_by_id.clear();
    }

    /// Free tokens of today that callers were told of: of what was settled or released, or may have been,
    /// the least that this may have left. To settle more than was reserved may have been billed.
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
