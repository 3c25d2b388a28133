//! The calls and answers of all callers, and what they imply for the ledger.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::{Code, Status};

/// A request of a gateway; several calls may refer to it.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub org: String,
    /// Unique; also the `request_id` if the request has one.
    pub name: String,
    pub has_id: bool,
    pub tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    Reserve,
    /// The tokens that were really used.
    Settle(u64),
    /// The tokens that were used outside the programme.
    SettleOutside(u64),
    Release,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Of a Reserve or a Settle: "FREE", or the name of the billed reason.
    Verdict { verdict: String, replayed: bool },
    /// Of a Release.
    Released { tokens: u64, replayed: bool },
    Failed {
        code: Code,
        /// The message says that the call counted nothing.
        counted_nothing: bool,
        message: String,
    },
}

#[derive(Debug, Clone)]
pub struct Call {
    pub request: Arc<Request>,
    pub kind: CallKind,
    /// The index of the replica.
    pub replica: usize,
    pub begun: Instant,
    pub ended: Instant,
    /// The call's own deadline, if any.
    pub deadline: Option<Duration>,
    pub answer: Answer,
}

/// All calls. The calls of one request are in order, because one caller makes them.
#[derive(Debug, Default)]
pub struct History {
    pub calls: Vec<Call>,
}

/// A loss of acknowledged writes that were made between these times, or earlier.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// Before this, the replicas had shared their writes with each other.
    pub from: Instant,
    /// After this, all acknowledged writes are durable.
    pub until: Instant,
}

impl Loss {
    pub fn now() -> Self {
        let now = Instant::now();
        Self {
            from: now,
            until: now,
        }
    }
}

/// How long after a loss all replicas have restored their snapshots, also on a busy machine.
const RECOVERY_TIME: Duration = Duration::from_secs(3);

/// The free tokens that a request counts, as far as its caller knows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub min: i64,
    pub max: i64,
}

impl Answer {
    pub fn failed(status: &Status) -> Self {
        Self::Failed {
            code: status.code(),
            counted_nothing: status.message().contains("this call counted nothing"),
            message: status.message().to_owned(),
        }
    }

    pub fn is_free(&self) -> bool {
        matches!(self, Self::Verdict { verdict, .. } if verdict == "FREE")
    }

    /// Whether the call changed a counter.
    fn wrote(&self) -> bool {
        match self {
            Self::Verdict { replayed, .. } | Self::Released { replayed, .. } => !replayed,
            Self::Failed { .. } => false,
        }
    }

    /// Whether the outcome is unknown. If Redis lost the id, the call fails with NOT_FOUND, and counts nothing.
    fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Failed { counted_nothing: false, code, .. } if *code != Code::NotFound
        )
    }
}

impl Call {
    /// The free tokens that the answer granted.
    fn granted(&self) -> u64 {
        match self.kind {
            _ if !self.answer.is_free() => 0,
            CallKind::Reserve => self.request.tokens,
            CallKind::Settle(tokens) => tokens,
            CallKind::SettleOutside(_) | CallKind::Release => 0,
        }
    }
}

impl History {
    /// The calls of each request, of one organization or of all.
    pub fn by_request(&self, org: Option<&str>) -> BTreeMap<(&str, &str), Vec<&Call>> {
        let mut requests = BTreeMap::<_, Vec<&Call>>::new();
        for call in &self.calls {
            let request = &call.request;
            if org.is_none_or(|org| org == request.org) {
                let key = (request.org.as_str(), request.name.as_str());
                requests.entry(key).or_default().push(call);
            }
        }
        requests
    }

    pub fn failed(&self) -> impl Iterator<Item = &Call> {
        let failed = |call: &&Call| matches!(call.answer, Answer::Failed { .. });
        self.calls.iter().filter(failed)
    }

    /// The free tokens that an organization has counted if all answers are true.
    pub fn counts(&self, org: &str, losses: &[Loss]) -> Counts {
        let requests = self.by_request(Some(org));
        let each = requests.values().map(|calls| counts(calls, losses));
        each.fold(Counts::default(), |sum, it| Counts {
            min: sum.min + it.min,
            max: sum.max + it.max,
        })
    }

    /// The tokens and the number of an organization's requests that were settled as run outside the programme.
    pub fn outside(&self, org: &str) -> (u64, u64) {
        let its = self.calls.iter().filter(|call| call.request.org == org);
        let outside = its.filter_map(|call| match call.kind {
            CallKind::SettleOutside(tokens) if !matches!(call.answer, Answer::Failed { .. }) => {
                Some((call.request.name.as_str(), tokens))
            }
            _ => None,
        });
        // Repetitions and replays count once.
        let outside: BTreeMap<&str, u64> = outside.collect();
        (outside.values().sum(), outside.len() as u64)
    }

    /// The free tokens of an organization that may be granted twice after a loss, because only one replica knew them:
    /// those acknowledged after the earliest of the replicas' last writes before the loss. A replica knows all that was
    /// acknowledged before its own last write began, and restores it with its next write. A single replica knows
    /// everything.
    pub fn unshared(&self, org: &str, losses: &[Loss], replicas: usize) -> u64 {
        if replicas == 1 {
            return 0;
        }
        let its = || self.calls.iter().filter(|call| call.request.org == org);
        let unshared = |loss: &Loss| -> u64 {
            let last_writes = (0..replicas).map(|replica| {
                let writes = its().filter(|call| {
                    call.replica == replica && call.answer.wrote() && call.ended < loss.from
                });
                writes.map(|call| call.begun).max()
            });
            // A replica that never wrote knows nothing.
            let since = last_writes.min().flatten();
            let within = its().filter(|call| {
                since.is_none_or(|since| call.ended >= since) && call.begun <= loss.until
            });
            within.map(Call::granted).sum()
        };
        losses.iter().map(unshared).sum()
    }
}

/// The tokens that a request counts, from its calls in order. If Redis lost the request, a repetition may count again:
/// an unknown call and its repetition then both count. A request that is older than the recovery gives nothing back.
fn counts(calls: &[&Call], losses: &[Loss]) -> Counts {
    let loses = !losses.is_empty();
    let gives_back = losses
        .iter()
        .all(|loss| calls[0].begun > loss.until + RECOVERY_TIME);
    // The tokens of the last answer; and the tokens that unknown calls may have added or removed, since that answer or,
    // after a loss, at any time.
    let (mut known, mut added, mut taken) = (0, 0, 0);
    for call in calls {
        let tokens = call.request.tokens as i64;
        match (call.kind, call.answer.is_unknown()) {
            (CallKind::Reserve, true) if loses => added += tokens,
            (CallKind::Reserve, true) => added = tokens,
            (CallKind::Settle(actual), true) => {
                let more = actual as i64;
                taken = if loses { taken + known.max(0) } else { known };
                added = if loses {
                    added + more
                } else {
                    added.max(more - known)
                };
            }
            (CallKind::SettleOutside(_) | CallKind::Release, true) => {
                taken = if loses { taken + known } else { known }
            }
            (_, false) if matches!(call.answer, Answer::Failed { .. }) => {}
            (kind, false) => {
                if kind != CallKind::Reserve && !gives_back {
                    added += known.max(0);
                }
                known = call.granted() as i64;
                if !loses {
                    (added, taken) = (0, 0);
                }
            }
        }
    }
    Counts {
        min: known - taken,
        max: known + added,
    }
}

mod tests {
    use super::*;

    fn call(kind: CallKind, answer: Answer) -> Call {
        let request = Arc::new(Request {
            org: "org-0".to_owned(),
            name: "r".to_owned(),
            has_id: true,
            tokens: 10,
        });
        let now = Instant::now();
        Call {
            request,
            kind,
            replica: 0,
            begun: now,
            ended: now,
            deadline: None,
            answer,
        }
    }

    fn verdict_text(verdict: &str) -> Answer {
        Answer::Verdict {
            verdict: verdict.to_owned(),
            replayed: false,
        }
    }

    fn failed(counted_nothing: bool) -> Answer {
        Answer::Failed {
            code: Code::Unavailable,
            counted_nothing,
            message: String::new(),
        }
    }

    #[test]
    fn a_request_counts_what_was_acknowledged_and_perhaps_what_is_unknown() {
        let released = Answer::Released {
            tokens: 10,
            replayed: false,
        };
        let (free, billed) = (verdict_text("FREE"), verdict_text("AllowanceExceeded"));
        let (unknown, nothing) = (failed(false), failed(true));
        let reserve = |answer: &Answer| call(CallKind::Reserve, answer.clone());
        let settle = |tokens, answer: &Answer| call(CallKind::Settle(tokens), answer.clone());
        let outside = |answer: &Answer| call(CallKind::SettleOutside(15), answer.clone());
        let release = |answer: &Answer| call(CallKind::Release, answer.clone());
        for (calls, keeps, loses) in [
            (vec![reserve(&free)], (10, 10), (10, 10)),
            (vec![reserve(&billed)], (0, 0), (0, 0)),
            (vec![reserve(&nothing)], (0, 0), (0, 0)),
            (vec![reserve(&unknown)], (0, 10), (0, 10)),
            // An id counts once, unless Redis lost it.
            (
                vec![reserve(&unknown), reserve(&unknown), reserve(&free)],
                (10, 10),
                (10, 30),
            ),
            // After a loss, the reserved tokens may not be given back.
            (vec![reserve(&free), settle(15, &free)], (15, 15), (15, 25)),
            (vec![reserve(&free), settle(15, &billed)], (0, 0), (0, 10)),
            (vec![reserve(&billed), settle(4, &free)], (4, 4), (4, 4)),
            (vec![reserve(&free), settle(15, &unknown)], (0, 15), (0, 25)),
            (vec![reserve(&free), release(&released)], (0, 0), (0, 10)),
            (vec![reserve(&free), outside(&billed)], (0, 0), (0, 10)),
            (vec![reserve(&free), outside(&unknown)], (0, 10), (0, 10)),
            (vec![reserve(&free), release(&unknown)], (0, 10), (0, 10)),
            (
                vec![reserve(&free), release(&unknown), release(&released)],
                (0, 0),
                (-10, 10),
            ),
        ] {
            let calls: Vec<&Call> = calls.iter().collect();
            for (losses, (min, max)) in [(vec![], keeps), (vec![Loss::now()], loses)] {
                assert_eq!(counts(&calls, &losses), Counts { min, max }, "{calls:?}");
            }
        }
    }
}
