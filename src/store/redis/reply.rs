//! What the scripts say: the parsers of their replies. They are strict: whatever the scripts can't have
//! said is an error, never a guess.

use chrono::{DateTime, Utc};
use redis::Value;

use super::{keys, letters};
use crate::{
    domain::{
        CounterFull, Eligibility, PoolCounters, PoolName, Refusal, Terms, Tokens, UsageCounters,
        Verdict,
    },
    store::{Batch, Operation, Outcome, PoolFigures, RowKey},
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
    /// It failed, as Redis or the script says.
    Failed(String),
}

/// The reply is none that the script can give. Says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadReply(String);

fn bad(what: impl Into<String>) -> BadReply {
    BadReply(what.into())
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
    let mut said = Said { rest: reply };
    let now = parse_time(said.text()?, said.text()?)?;
    let mut ahead = Said { rest: said.rest };
    if ahead.text() == Ok("day") && ahead.rest.is_empty() {
        return Ok((now, vec![Reply::AnotherDay; batches.len()]));
    }
    let mut replies = Vec::with_capacity(batches.len());
    for batch in batches {
        replies.push(said.reply(batch)?);
    }
    match said.rest.len() {
        0 => Ok((now, replies)),
        more => Err(bad(format!("{more} bytes too many"))),
    }
}

/// MessagePack values that the script packed one behind the other.
struct Said<'r> {
    rest: &'r [u8],
}

impl<'r> Said<'r> {
    fn text(&mut self) -> Result<&'r str, BadReply> {
        let read = rmp::decode::read_str_from_slice(self.rest);
        let (text, rest) = read.map_err(|_| bad("a part that is no text"))?;
        self.rest = rest;
        Ok(text)
    }

    fn amount(&mut self) -> Result<Tokens, BadReply> {
        let amount = rmp::decode::read_int(&mut self.rest).ok();
        let amount = amount.and_then(Tokens::new);
        amount.ok_or_else(|| bad("a part that is no amount"))
    }

    fn flag(&mut self) -> Result<bool, BadReply> {
        rmp::decode::read_bool(&mut self.rest).map_err(|_| bad("a part that is no flag"))
    }

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
            "failed" => Reply::Failed(self.text()?.to_owned()),
            kind => return Err(bad(format!("a reply {kind:?}"))),
        })
    }

    fn outcome(&mut self, terms: &Terms, operation: &Operation) -> Result<Outcome, BadReply> {
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
            (verdict, Operation::Reserve { eligibility, .. }) => {
                let (verdict, used) = (verdict_of(verdict)?, self.amount()?);
                let pool = match eligibility {
                    Eligibility::Eligible(pool) => {
                        Some(PoolFigures::today(terms, pool.clone(), used))
                    }
                    Eligibility::Ineligible(_) => None,
                };
                Outcome::Reserved {
                    verdict,
                    pool,
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
        let mut ahead = Said { rest: self.rest };
        let pool = ahead.text()?;
        if ahead.flag() == Ok(false) {
            self.rest = ahead.rest;
            return Ok(Some(PoolFigures::of_past_day(parse_pool(pool)?)));
        }
        self.figures(terms)
    }
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

/// Reads the reply of `pools.lua` to `pools` pools.
///
/// # Errors
///
/// [`BadReply`] where the script can't have said that.
pub fn parse_pools(
    reply: &Value,
    pools: usize,
) -> Result<(DateTime<Utc>, Vec<PoolCounters>), BadReply> {
    let texts = texts(reply)?;
    let [seconds, micros, rest @ ..] = texts.as_slice() else {
        return Err(bad("a reply of fewer than two parts"));
    };
    if rest.len() != pools {
        return Err(bad(format!("{} answers to {pools}", rest.len())));
    }
    let counters = rest.iter().map(|text| {
        let fields: Vec<&str> = text.split(' ').collect();
        let [used, billed_tokens, free_requests, billed_requests, closed] = fields.as_slice()
        else {
            return Err(bad(format!("counters {text:?}")));
        };
        Ok(PoolCounters {
            used: parse_tokens(used)?,
            free_requests: parse_number(free_requests)?,
            billed_tokens: parse_tokens(billed_tokens)?,
            billed_requests: parse_number(billed_requests)?,
            closed: parse_bool(closed)?,
        })
    });
    Ok((
        parse_time(seconds, micros)?,
        counters.collect::<Result<_, _>>()?,
    ))
}

/// Reads a usage row.
///
/// # Errors
///
/// [`BadReply`] where the script can't have written that.
fn parse_row(text: &str) -> Result<UsageCounters, BadReply> {
    let numbers: Vec<&str> = text.split(' ').collect();
    let [free_tokens, billed_tokens, free_requests, billed_requests] = numbers.as_slice() else {
        return Err(bad(format!("usage row {text:?}")));
    };
    Ok(UsageCounters {
        free_tokens: parse_tokens(free_tokens)?,
        billed_tokens: parse_tokens(billed_tokens)?,
        free_requests: parse_number(free_requests)?,
        billed_requests: parse_number(billed_requests)?,
    })
}

/// Reads one step of a scan of a day's usage: the cursor of the next step, "0" after the last, and the
/// rows. A row of zeros, which a release leaves behind, is none.
///
/// # Errors
///
/// [`BadReply`] where Redis can't have said that of what the script wrote.
pub fn parse_scan(reply: &Value) -> Result<(String, Vec<(RowKey, UsageCounters)>), BadReply> {
    let Value::Array(parts) = reply else {
        return Err(bad("a scan that is no list"));
    };
    let [cursor, Value::Array(fields)] = parts.as_slice() else {
        return Err(bad("a scan of other than two parts"));
    };
    let mut rows = Vec::with_capacity(fields.len() / 2);
    for pair in fields.chunks(2) {
        let [field, row] = pair else {
            return Err(bad("a usage row without counters"));
        };
        let key = keys::parse_row_field(text(field)?);
        let key = key.ok_or_else(|| bad("a usage row without project and model"))?;
        let row = parse_row(text(row)?)?;
        if !row.is_empty() {
            rows.push((key, row));
        }
    }
    Ok((text(cursor)?.to_owned(), rows))
}

/// Reads what Redis' TIME gives: seconds since 1970, and microseconds.
///
/// # Errors
///
/// [`BadReply`] where it can't have.
fn parse_time(seconds: &str, micros: &str) -> Result<DateTime<Utc>, BadReply> {
    let wrong = || bad(format!("the time {seconds:?} {micros:?}"));
    let seconds_number = i64::try_from(parse_number(seconds)?).map_err(|_| wrong())?;
    let nanos = parse_number(micros)?
        .checked_mul(1000)
        .filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos
        .and_then(|nanos| u32::try_from(nanos).ok())
        .ok_or_else(wrong)?;
    DateTime::from_timestamp(seconds_number, nanos).ok_or_else(wrong)
}

fn verdict_of(text: &str) -> Result<Verdict, BadReply> {
    letters::verdict(text).ok_or_else(|| bad(format!("a verdict {text:?}")))
}

fn parse_pool(encoded: &str) -> Result<PoolName, BadReply> {
    let name = keys::decode(encoded).and_then(|name| PoolName::parse(name).ok());
    name.ok_or_else(|| bad(format!("a pool {encoded:?}")))
}

fn parse_tokens(text: &str) -> Result<Tokens, BadReply> {
    Tokens::new(parse_number(text)?).ok_or_else(|| bad(format!("an amount {text:?}")))
}

/// Digits only: `str::parse` would take "+1" too.
fn parse_number(text: &str) -> Result<u64, BadReply> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| bad(format!("a number {text:?}")))
}

fn parse_bool(text: &str) -> Result<bool, BadReply> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(bad(format!("a flag {text:?}"))),
    }
}

fn texts(reply: &Value) -> Result<Vec<&str>, BadReply> {
    let Value::Array(parts) = reply else {
        return Err(bad("a reply that is no list"));
    };
    parts.iter().map(text).collect()
}

/// The text of one part of a reply.
///
/// # Errors
///
/// [`BadReply`] where it is none.
fn text(part: &Value) -> Result<&str, BadReply> {
    match part {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| bad("not UTF-8")),
        Value::SimpleString(text) => Ok(text),
        _ => Err(bad("a part that is no text")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{
            BilledReason, ModelName, OrgId, ProjectId, RequestFields, RequestId, UtcDay, Workload,
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
            [Text("X"), Number(7)].as_slice(),
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
        let operations = [reserve(), reserve(), settle(), settle(), settle()];
        let reply: Vec<u8> = parts.into_iter().flat_map(packed).collect();
        let failed = packed(&[Text("failed"), Text("CORRUPT")]);
        let head = [packed(&TIME), failed, packed(&[Text("done")])].concat();
        let batches = [batch(&[reserve()]), batch(&operations)];
        let (now, replies) = parse_decided(&[head, reply].concat(), &batches).expect("a reply");
        assert_eq!(now.timestamp_micros(), 1_795_305_600_000_005);
        let failed = Reply::Failed("CORRUPT".to_owned());
        assert_eq!(replies, [failed, Reply::Done(outcomes)]);
        let day = [packed(&TIME), packed(&[Text("day")])].concat();
        let (_, replies) = parse_decided(&day, &batches).expect("a reply");
        assert_eq!(replies, [Reply::AnotherDay, Reply::AnotherDay]);
    }

    #[test]
    fn what_the_script_cannot_have_said_is_refused() {
        let cases: [&[Part]; 9] = [
            &[],
            &[Text("F")],
            &[Text("?"), Number(7)],
            &[Text("F"), Text("7")],
            &[Text("F"), Number(1 << 53)],
            &[Text("F"), Number(7), Number(7)],
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
        assert!(decided(&[Text("F"), Number(7)], &[]).is_err());
        assert!(decided(&[Text("F"), Number(7)], &[settle()]).is_err());
        assert!(parse_decided(&[], &[]).is_err());
        assert!(bytes(&Value::Nil).is_err());
        assert!(parse_time("1", "1000000").is_err());
    }
}
