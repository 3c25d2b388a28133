//! Reads the replies and records of the scripts: consecutive MessagePack values. A value that the scripts can't
//! have written is an error.

use chrono::{DateTime, Utc};
use redis::Value;
use rmp::Marker;

use crate::domain::{Tokens, UsageCounters};

/// Says why the script can't have given this reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadReply(String);

pub(crate) fn bad(what: impl Into<String>) -> BadReply {
    BadReply(what.into())
}

#[derive(Clone)]
pub(crate) struct MsgPackReader<'r> {
    rest: &'r [u8],
}

impl<'r> MsgPackReader<'r> {
    pub(crate) fn new(packed: &'r [u8]) -> Self {
        Self { rest: packed }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn is_number(&self) -> bool {
        let next = self.rest.first().map(|byte| Marker::from_u8(*byte));
        matches!(
            next,
            Some(Marker::FixPos(_) | Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64)
        )
    }

    /// Any bytes, packed as a string.
    pub(crate) fn bytes(&mut self) -> Result<&'r [u8], BadReply> {
        let mut rest = self.rest;
        let length = rmp::decode::read_str_len(&mut rest).ok();
        let split = length.and_then(|length| rest.split_at_checked(length as usize));
        let (bytes, rest) = split.ok_or_else(|| bad("a value that is not a string"))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'r str, BadReply> {
        std::str::from_utf8(self.bytes()?).map_err(|_| bad("a value that is not text"))
    }

    /// Skips `false`, which a missing value is in Lua.
    pub(crate) fn skip_false(&mut self) -> bool {
        let rest = self.rest.strip_prefix(&[Marker::False.to_u8()]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Any bytes, if there is a value.
    pub(crate) fn stored(&mut self) -> Result<Option<&'r [u8]>, BadReply> {
        match self.skip_false() {
            true => Ok(None),
            false => self.bytes().map(Some),
        }
    }

    pub(crate) fn amount(&mut self) -> Result<Tokens, BadReply> {
        let amount = rmp::decode::read_int(&mut self.rest).ok();
        let amount = amount.and_then(Tokens::new);
        amount.ok_or_else(|| bad("a value that is not an amount"))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, BadReply> {
        rmp::decode::read_bool(&mut self.rest).map_err(|_| bad("a value that is not a flag"))
    }

    /// A reply to TIME: seconds since 1970, and microseconds, both as digits.
    pub(crate) fn time(&mut self) -> Result<DateTime<Utc>, BadReply> {
        let (seconds, micros) = (self.bytes()?, self.bytes()?);
        let time = || {
            let seconds = i64::try_from(parse_number(seconds)?).ok()?;
            let micros = u32::try_from(parse_number(micros)?).ok()?;
            let nanos = micros.checked_mul(1000).filter(|it| *it < 1_000_000_000)?;
            DateTime::from_timestamp(seconds, nanos)
        };
        time().ok_or_else(|| bad("the time"))
    }

    pub(crate) fn change(&mut self) -> Result<i64, BadReply> {
        let change: Option<i64> = rmp::decode::read_int(&mut self.rest).ok();
        let change = change.filter(|it| it.unsigned_abs() <= Tokens::MAX.get());
        change.ok_or_else(|| bad("a value that is not a signed amount"))
    }

    /// The counters of a usage row, up to the end.
    pub(crate) fn row(mut self) -> Result<UsageCounters, BadReply> {
        let row = UsageCounters {
            free_tokens: self.amount()?,
            billed_tokens: self.amount()?,
            free_requests: self.amount()?.get(),
            billed_requests: self.amount()?.get(),
        };
        match self.flag()? {
            true => Err(bad("a usage row that is closed")),
            false => self.end().map(|()| row),
        }
    }

    /// Checks that all bytes were read.
    pub(crate) fn end(&self) -> Result<(), BadReply> {
        match self.left() {
            0 => Ok(()),
            more => Err(bad(format!("{more} bytes too many"))),
        }
    }
}

/// Digits only: `str::parse` would take "+1" too.
pub(crate) fn parse_number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let is_number = digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.parse().ok()).flatten()
}

/// The bytes of a script's reply.
pub(crate) fn bytes(reply: &Value) -> Result<&[u8], BadReply> {
    match reply {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(bad("a reply that is not a string")),
    }
}
