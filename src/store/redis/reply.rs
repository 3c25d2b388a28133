//! What the scripts say: the parsers of their replies. The replies are small texts, parsed strictly:
//! whatever the scripts can't have said is an error, never a guess.

use chrono::{DateTime, Utc};
use redis::Value;

use super::{keys, letters};
use crate::{
    domain::{CounterFull, PoolCounters, PoolName, Refusal, Terms, Tokens, UsageCounters, Verdict},
    store::{Outcome, PoolFigures, RowKey},
};

/// What `decide.lua` said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is another day by Redis' clock.
    AnotherDay,
    /// Records name pools that the caller didn't.
    UnnamedPools(Vec<PoolName>),
    /// An outcome for each item.
    Done(Vec<Outcome>),
}

/// The reply is none that the script can give. Says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadReply(String);

fn bad(what: impl Into<String>) -> BadReply {
    BadReply(what.into())
}

/// Reads the reply of `decide.lua` to `items` items.
///
/// # Errors
///
/// [`BadReply`] where the script can't have said that.
pub fn parse_decided(
    reply: &Value,
    terms: &Terms,
    items: usize,
) -> Result<(DateTime<Utc>, Reply), BadReply> {
    let texts = texts(reply)?;
    let [kind, seconds, micros, rest @ ..] = texts.as_slice() else {
        return Err(bad("a reply of fewer than three parts"));
    };
    let now = parse_time(seconds, micros)?;
    let reply = match *kind {
        "day" if rest.is_empty() => Reply::AnotherDay,
        "pools" if !rest.is_empty() => Reply::UnnamedPools(
            rest.iter()
                .map(|name| parse_pool(name))
                .collect::<Result<_, _>>()?,
        ),
        "done" if rest.len() == items => {
            let outcomes = rest.iter().map(|text| parse_outcome(text, terms));
            Reply::Done(outcomes.collect::<Result<_, _>>()?)
        }
        _ => {
            return Err(bad(format!(
                "a reply {kind:?} of {} answers to {items}",
                rest.len()
            )));
        }
    };
    Ok((now, reply))
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
        let fields: Vec<&str> = text.split(',').collect();
        let [used, free_requests, billed_tokens, billed_requests, closed] = fields.as_slice()
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

fn parse_outcome(text: &str, terms: &Terms) -> Result<Outcome, BadReply> {
    let parts: Vec<&str> = text.split(',').collect();
    Ok(match parts.as_slice() {
        ["R", verdict, replayed, pool, used] => Outcome::Reserved {
            verdict: verdict_of(verdict)?,
            pool: parse_present_figures(terms, pool, used)?,
            replayed: parse_bool(replayed)?,
        },
        ["S", verdict, reserved_as, replayed, pool, used] => Outcome::Settled {
            verdict: verdict_of(verdict)?,
            reserved_as: verdict_of(reserved_as)?,
            pool: parse_figures(terms, pool, used)?,
            replayed: parse_bool(replayed)?,
        },
        ["V", tokens, replayed, pool, used] => Outcome::Released {
            tokens: parse_tokens(tokens)?,
            pool: parse_figures(terms, pool, used)?,
            replayed: parse_bool(replayed)?,
        },
        ["E", "fields"] => Outcome::Refused(Refusal::OtherFields),
        ["E", "released"] => Outcome::Refused(Refusal::Released),
        ["E", "settled"] => Outcome::Refused(Refusal::Settled),
        ["E", "unknown"] => Outcome::Refused(Refusal::UnknownRequestId),
        ["E", "amount", settled] => Outcome::Refused(Refusal::OtherAmount {
            settled: parse_tokens(settled)?,
        }),
        ["E", "full"] => Outcome::Full(CounterFull),
        _ => return Err(bad(format!("an answer {text:?}"))),
    })
}

/// The figures of a pool of today or, where `used` is empty, of a past day.
fn parse_figures(terms: &Terms, pool: &str, used: &str) -> Result<Option<PoolFigures>, BadReply> {
    match (pool, used) {
        (pool, "") if !pool.is_empty() => Ok(Some(PoolFigures::of_past_day(parse_pool(pool)?))),
        (pool, used) => parse_present_figures(terms, pool, used),
    }
}

fn parse_present_figures(
    terms: &Terms,
    pool: &str,
    used: &str,
) -> Result<Option<PoolFigures>, BadReply> {
    if pool.is_empty() && used.is_empty() {
        return Ok(None);
    }
    let used = parse_tokens(used)?;
    Ok(Some(PoolFigures::today(terms, parse_pool(pool)?, used)))
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
    use super::*;
    use crate::domain::BilledReason;

    fn reply(parts: &[&str]) -> Value {
        Value::Array(
            parts
                .iter()
                .map(|part| Value::BulkString(part.as_bytes().to_vec()))
                .collect(),
        )
    }

    fn decided(parts: &[&str]) -> Result<Reply, BadReply> {
        parse_decided(
            &reply(parts),
            &Terms::default(),
            parts.len().saturating_sub(3),
        )
        .map(|(_, reply)| reply)
    }

    #[test]
    fn a_reply_gives_an_outcome_for_each_item() {
        let pool = |used| {
            let pool = PoolName::parse("large").expect("legal");
            Some(PoolFigures {
                pool,
                allowance: Tokens::ZERO,
                used: Tokens::new(used).expect("small"),
            })
        };
        let parts = [
            "done",
            "1795305600",
            "5",
            "R,F,1,large,7",
            "S,X,F,0,large,",
            "E,amount,12",
        ];
        assert_eq!(
            decided(&parts),
            Ok(Reply::Done(vec![
                Outcome::Reserved {
                    verdict: Verdict::Free,
                    pool: pool(7),
                    replayed: true
                },
                Outcome::Settled {
                    verdict: Verdict::Billed(BilledReason::AllowanceExceeded),
                    reserved_as: Verdict::Free,
                    pool: pool(0),
                    replayed: false,
                },
                Outcome::Refused(Refusal::OtherAmount {
                    settled: Tokens::new(12).expect("small")
                }),
            ]))
        );
    }

    #[test]
    fn what_the_script_cannot_have_said_is_refused() {
        for answer in [
            "",
            "R,F,1,large,",
            "R",
            "R,F,1,large",
            "R,F,2,large,7",
            "R,F,1,large,+7",
            "R,F,1,la rge,7",
        ] {
            assert!(decided(&["done", "1", "1", answer]).is_err(), "{answer:?}");
        }
        let huge = "R,F,1,large,9007199254740992";
        assert!(decided(&["done", "1", "1", huge]).is_err());
        assert!(decided(&["done", "1"]).is_err());
        assert!(parse_decided(&reply(&["done", "1", "1"]), &Terms::default(), 1).is_err());
        assert!(parse_decided(&Value::Nil, &Terms::default(), 0).is_err());
        assert!(parse_time("1", "1000000").is_err());
    }
}
