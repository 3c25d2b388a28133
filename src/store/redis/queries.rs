//! What is read without deciding: pools' records, and the usage rows of a day.

use chrono::{DateTime, Utc};
use redis::Value;

use super::{
    recovery::pn_counter::PoolCounter,
    script::{
        keys,
        reader::{self, BadReply, MsgPackReader, bad},
    },
};
use crate::{
    domain::{Tokens, UsageCounters},
    store::RowKey,
};

/// A pool's record, and its tokens that are held.
pub type KeptPool = (PoolCounter, Tokens);

/// Reads the reply of `pools.lua` to `pools` pools.
///
/// # Errors
///
/// [`BadReply`] where the script can't have said that.
pub fn parse_pools(
    reply: &Value,
    pools: usize,
) -> Result<(DateTime<Utc>, Vec<KeptPool>), BadReply> {
    let Value::Array(parts) = reply else {
        return Err(bad("a reply that is no list"));
    };
    let [seconds, micros, kept @ ..] = parts.as_slice() else {
        return Err(bad("a reply of fewer than two parts"));
    };
    if kept.len() != 2 * pools {
        return Err(bad(format!("{} answers to {pools} pools", kept.len())));
    }
    let (records, held) = kept.split_at(pools);
    let now = reader::parse_time(text(seconds)?, text(micros)?).ok_or_else(|| bad("the time"))?;
    let kept = records.iter().zip(held).map(|(record, held)| {
        let record = match record {
            Value::Nil => PoolCounter::default(),
            record => PoolCounter::parse(bytes(record)?)?,
        };
        let held = match held {
            Value::Nil => Some(Tokens::ZERO),
            held => reader::parse_number(text(held)?).and_then(Tokens::new),
        };
        Ok((record, held.ok_or_else(|| bad("tokens that are held"))?))
    });
    Ok((now, kept.collect::<Result<_, _>>()?))
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
        let row = MsgPackReader::new(bytes(row)?).row()?;
        if !row.is_empty() {
            rows.push((key, row));
        }
    }
    Ok((text(cursor)?.to_owned(), rows))
}

fn bytes(part: &Value) -> Result<&[u8], BadReply> {
    match part {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.as_bytes()),
        _ => Err(bad("a part that is no string")),
    }
}

pub(super) fn text(part: &Value) -> Result<&str, BadReply> {
    std::str::from_utf8(bytes(part)?).map_err(|_| bad("not UTF-8"))
}
