//! What the script that decides says.

use chrono::{DateTime, Utc};
use redis::Value;

use super::{
    keys,
    packed::{BadReply, Said, bad},
};
use crate::{
    domain::{CounterFull, Eligibility, PoolName, Refusal, Terms, Tokens, Verdict},
    store::{Batch, Operation, Outcome, PoolFigures, letters},
};

/// What the script that decides said of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is another day by Redis' clock.
    AnotherDay,
    /// Records name pools that the caller didn't.
    UnnamedPools(Vec<PoolName>),
    /// An outcome for each operation.
    Done(Vec<Outcome>),
    /// It failed, having written nothing.
    Failed {
        /// What Redis or the script says.
        why: String,
        /// The key that was read last.
        key: String,
    },
    /// It failed between its writes.
    Torn(String),
}

/// The bytes of a reply that is one string.
///
/// # Errors
///
/// [`BadReply`] where it is none.
pub fn bytes(reply: &Value) -> Result<&[u8], BadReply> {
    match reply {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(bad("a reply that is no string")),
    }
}

/// Reads the reply of the script that decides to these batches: its clock, and a reply for each.
///
/// # Errors
///
/// [`BadReply`] where the script can't have said that.
pub fn parse_decided(
    reply: &[u8],
    batches: &[Batch],
) -> Result<(DateTime<Utc>, Vec<Reply>), BadReply> {
    let mut said = Said::new(reply);
    let now = said.time()?;
    let mut ahead = said.clone();
    if ahead.text() == Ok("day") && ahead.left() == 0 {
        return Ok((now, vec![Reply::AnotherDay; batches.len()]));
    }
    let mut replies = Vec::with_capacity(batches.len());
    for batch in batches {
        replies.push(said.reply(batch)?);
    }
    match said.left() {
        0 => Ok((now, replies)),
        more => Err(bad(format!("{more} bytes too many"))),
    }
}

impl Said<'_> {
    fn reply(&mut self, batch: &Batch) -> Result<Reply, BadReply> {
        Ok(match self.text()? {
            "pools" => {
                let count = self.amount()?.get();
                let pools = (0..count).map(|_| parse_pool(self.text()?));
                Reply::UnnamedPools(pools.collect::<Result<_, _>>()?)
            }
            "done" => {
                let mut outcomes = Vec::with_capacity(batch.operations.len());
                for operation in &batch.operations {
                    outcomes.push(self.outcome(&batch.terms, operation)?);
                }
                Reply::Done(outcomes)
            }
            "failed" => Reply::Failed {
                why: self.text()?.to_owned(),
                key: self.text()?.to_owned(),
            },
            "torn" => Reply::Torn(self.text()?.to_owned()),
            kind => return Err(bad(format!("a reply {kind:?}"))),
        })
    }

    fn outcome(&mut self, terms: &Terms, operation: &Operation) -> Result<Outcome, BadReply> {
        if let Operation::Reserve { eligibility, .. } = operation
            && self.is_number()
        {
            // Only what is eligible can be free.
            let pool = figures_asked(terms, eligibility, self.amount()?);
            pool.as_ref().ok_or_else(|| bad("free, and not eligible"))?;
            return Ok(Outcome::Reserved {
                verdict: Verdict::Free,
                pool,
                replayed: false,
            });
        }
        let kind = self.text()?;
        Ok(match (kind, operation) {
            ("r", Operation::Reserve { .. }) => Outcome::Reserved {
                verdict: verdict_of(self.text()?)?,
                pool: self.figures(terms)?,
                replayed: true,
            },
            ("s", Operation::Settle { .. }) => Outcome::Settled {
                verdict: verdict_of(self.text()?)?,
                reserved_as: verdict_of(self.text()?)?,
                replayed: self.flag()?,
                pool: self.figures_on_its_day(terms)?,
            },
            ("v", Operation::Release { .. }) => Outcome::Released {
                tokens: self.amount()?,
                replayed: self.flag()?,
                pool: self.figures_on_its_day(terms)?,
            },
            ("e", _) => match self.text()? {
                "fields" => Outcome::Refused(Refusal::OtherFields),
                "released" => Outcome::Refused(Refusal::Released),
                "settled" => Outcome::Refused(Refusal::Settled),
                "unknown" => Outcome::Refused(Refusal::UnknownRequestId),
                "full" => Outcome::Full(CounterFull),
                why => return Err(bad(format!("a refusal {why:?}"))),
            },
            ("a", Operation::Settle { .. }) => {
                let settled = self.amount()?;
                Outcome::Refused(Refusal::OtherAmount { settled })
            }
            (verdict, Operation::Reserve { eligibility, .. }) if verdict != "F" => {
                let (verdict, used) = (verdict_of(verdict)?, self.amount()?);
                Outcome::Reserved {
                    verdict,
                    pool: figures_asked(terms, eligibility, used),
                    replayed: false,
                }
            }
            (kind, _) => return Err(bad(format!("an answer {kind:?} to another question"))),
        })
    }

    fn figures(&mut self, terms: &Terms) -> Result<Option<PoolFigures>, BadReply> {
        let (pool, used) = (self.text()?, self.amount()?);
        if pool.is_empty() {
            return Ok(None);
        }
        Ok(Some(PoolFigures::today(terms, parse_pool(pool)?, used)))
    }

    /// The figures of a pool of today, or of a past day, which has none.
    fn figures_on_its_day(&mut self, terms: &Terms) -> Result<Option<PoolFigures>, BadReply> {
        let mut ahead = self.clone();
        let pool = ahead.text()?;
        if ahead.flag() == Ok(false) {
            *self = ahead;
            return Ok(Some(PoolFigures::of_past_day(parse_pool(pool)?)));
        }
        self.figures(terms)
    }
}

/// The figures of the pool that a Reserve falls in, where it is eligible.
fn figures_asked(terms: &Terms, eligibility: &Eligibility, used: Tokens) -> Option<PoolFigures> {
    match eligibility {
        Eligibility::Eligible(pool) => Some(PoolFigures::today(terms, pool.clone(), used)),
        Eligibility::Ineligible(_) => None,
    }
}

fn verdict_of(text: &str) -> Result<Verdict, BadReply> {
    letters::verdict(text).ok_or_else(|| bad(format!("a verdict {text:?}")))
}

fn parse_pool(encoded: &str) -> Result<PoolName, BadReply> {
    let name = keys::decode(encoded).and_then(|name| PoolName::parse(name).ok());
    name.ok_or_else(|| bad(format!("a pool {encoded:?}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{
            BilledReason, ModelName, OrgId, ProjectId, RequestFields, RequestId, Tokens, UtcDay,
            Workload,
        },
        store::Recording,
    };

    /// One value of a reply.
    enum Part {
        Text(&'static str),
        Number(u64),
        Flag(bool),
    }
    use Part::{Flag, Number, Text};

    fn packed(parts: &[Part]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            match part {
                Text(text) => rmp::encode::write_str(&mut bytes, text).expect("written"),
                Number(it) => drop(rmp::encode::write_uint(&mut bytes, *it).expect("written")),
                Flag(flag) => rmp::encode::write_bool(&mut bytes, *flag).expect("written"),
            }
        }
        bytes
    }

    fn pool() -> PoolName {
        PoolName::parse("large").expect("legal")
    }

    fn reserve() -> Operation {
        let fields = RequestFields {
            project: ProjectId::parse("p").expect("legal"),
            model: ModelName::parse("gpt-4o").expect("legal"),
            tokens: Tokens::ZERO,
            workload: Workload::Inference,
        };
        Operation::Reserve {
            request_id: None,
            fields,
            eligibility: Eligibility::Eligible(pool()),
            recording: Recording::Record,
        }
    }

    fn settle() -> Operation {
        Operation::Settle {
            request_id: RequestId::parse("r").expect("legal"),
            tokens: Tokens::ZERO,
        }
    }

    fn batch(operations: &[Operation]) -> Batch {
        Batch {
            org: OrgId::parse("acme").expect("legal"),
            day: UtcDay::parse("2026-11-22").expect("a day"),
            terms: Arc::default(),
            operations: operations.to_vec(),
        }
    }

    const TIME: [Part; 2] = [Text("1795305600"), Text("5")];

    fn decided(parts: &[Part], operations: &[Operation]) -> Result<Vec<Reply>, BadReply> {
        let reply = [packed(&TIME), packed(&[Text("done")]), packed(parts)].concat();
        parse_decided(&reply, &[batch(operations)]).map(|(_, replies)| replies)
    }

    #[test]
    fn a_reply_gives_an_outcome_for_each_operation() {
        let figures = |used| {
            Some(PoolFigures {
                pool: pool(),
                allowance: Tokens::ZERO,
                used: Tokens::new(used).expect("small"),
            })
        };
        let parts = [
            [Number(7)].as_slice(),
            &[Text("X"), Number(7)],
            &[Text("r"), Text("F"), Text("large"), Number(7)],
            &[
                Text("s"),
                Text("X"),
                Text("F"),
                Flag(false),
                Text("large"),
                Flag(false),
            ],
            &[Text("a"), Number(12)],
            &[Text("e"), Text("unknown")],
        ];
        let exceeded = Verdict::Billed(BilledReason::AllowanceExceeded);
        let reserved = |verdict, replayed| Outcome::Reserved {
            verdict,
            pool: figures(7),
            replayed,
        };
        let outcomes = vec![
            reserved(Verdict::Free, false),
            reserved(exceeded, false),
            reserved(Verdict::Free, true),
            Outcome::Settled {
                verdict: exceeded,
                reserved_as: Verdict::Free,
                pool: figures(0),
                replayed: false,
            },
            Outcome::Refused(Refusal::OtherAmount {
                settled: Tokens::new(12).expect("small"),
            }),
            Outcome::Refused(Refusal::UnknownRequestId),
        ];
        let operations = [
            reserve(),
            reserve(),
            reserve(),
            settle(),
            settle(),
            settle(),
        ];
        let reply: Vec<u8> = parts.into_iter().flat_map(packed).collect();
        let failed = packed(&[Text("failed"), Text("foreign"), Text("k")]);
        let head = [packed(&TIME), failed, packed(&[Text("done")])].concat();
        let batches = [batch(&[reserve()]), batch(&operations)];
        let (now, replies) = parse_decided(&[head, reply].concat(), &batches).expect("a reply");
        assert_eq!(now.timestamp_micros(), 1_795_305_600_000_005);
        let (why, key) = ("foreign".to_owned(), "k".to_owned());
        let failed = Reply::Failed { why, key };
        assert_eq!(replies, [failed, Reply::Done(outcomes)]);
        let day = [packed(&TIME), packed(&[Text("day")])].concat();
        let (_, replies) = parse_decided(&day, &batches).expect("a reply");
        assert_eq!(replies, [Reply::AnotherDay, Reply::AnotherDay]);
    }

    #[test]
    fn what_is_not_eligible_is_never_free() {
        let mut asked = reserve();
        if let Operation::Reserve { eligibility, .. } = &mut asked {
            *eligibility = Eligibility::Ineligible(BilledReason::ModelNotCovered);
        }
        assert!(decided(&[Text("M"), Number(0)], &[asked.clone()]).is_ok());
        for free in [&[Number(0)][..], &[Text("F"), Number(0)]] {
            assert!(decided(free, &[asked.clone()]).is_err());
        }
    }

    #[test]
    fn what_the_script_cannot_have_said_is_refused() {
        let cases: [&[Part]; 10] = [
            &[],
            &[Text("X")],
            // Free is said by a number alone.
            &[Text("F"), Number(7)],
            &[Text("?"), Number(7)],
            &[Text("X"), Text("7")],
            &[Number(1 << 53)],
            &[Number(7), Number(7)],
            &[Text("r"), Text("F"), Text("la rge"), Number(7)],
            &[
                Text("s"),
                Text("F"),
                Text("F"),
                Flag(true),
                Text("large"),
                Number(7),
            ],
            &[Text("e"), Text("")],
        ];
        for parts in cases {
            assert!(decided(parts, &[reserve()]).is_err());
        }
        assert!(decided(&[Number(7)], &[]).is_err());
        assert!(decided(&[Number(7)], &[settle()]).is_err());
        assert!(parse_decided(&[], &[]).is_err());
        assert!(bytes(&Value::Nil).is_err());
        let late = packed(&[Text("1"), Text("1000000")]);
        assert!(parse_decided(&late, &[]).is_err());
    }
}
