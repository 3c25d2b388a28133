//! The record of a change of external usage, as Redis and the file have it: JSON, to which a later release may add
//! fields.

use std::borrow::Cow;

use chrono::DateTime;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{ExternalChange, ExternalSource, OrgId, PoolName, Tokens},
    telemetry::log_limited,
};

/// A change as JSON. Fields that it does not have are ignored.
#[derive(Serialize, Deserialize)]
struct ChangeRecord<'r> {
    /// Microseconds since 1970.
    at: i64,
    pool: Cow<'r, str>,
    source: Cow<'r, str>,
    before: Option<u64>,
    after: u64,
    caller: Option<Cow<'r, str>>,
    note: Cow<'r, str>,
}

/// Encodes a change.
pub(super) fn encode(change: &ExternalChange) -> Vec<u8> {
    let record = ChangeRecord {
        at: change.at.timestamp_micros(),
        pool: change.pool.as_str().into(),
        source: <&str>::from(change.source).into(),
        before: change.before.map(Tokens::get),
        after: change.after.get(),
        caller: change.caller.as_deref().map(Cow::from),
        note: (&*change.note).into(),
    };
    serde_json::to_vec(&record).expect("a record of texts and numbers")
}

/// The inverse of [`encode`]. A record that can't be read, such as one of a later release, is logged.
pub(super) fn decode(org: &OrgId, bytes: &[u8]) -> Option<ExternalChange> {
    let change = parse(bytes);
    if change.is_none() {
        log_limited!(
            warn,
            %org,
            "a change of external usage can't be read and is not listed; the audit log has it"
        );
    }
    change
}

/// `None` if [`encode`] can't have returned this.
fn parse(bytes: &[u8]) -> Option<ExternalChange> {
    let record: ChangeRecord<'_> = serde_json::from_slice(bytes).ok()?;
    let before = match record.before {
        Some(before) => Some(Tokens::new(before)?),
        None => None,
    };
    Some(ExternalChange {
        at: DateTime::from_timestamp_micros(record.at)?,
        pool: PoolName::parse(&*record.pool).ok()?,
        source: ExternalSource::of_name(&record.source)?,
        before,
        after: Tokens::new(record.after)?,
        caller: record.caller.map(Cow::into_owned),
        note: record.note.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written_and_fields_of_a_later_release_are_ignored() {
        let change = ExternalChange {
            at: DateTime::from_timestamp_micros(1_763_812_800_123_456).expect("a moment"),
            pool: PoolName::parse("large \"\u{202e}").expect("a name"),
            source: ExternalSource::Reconciled,
            before: None,
            after: Tokens::MAX,
            caller: None,
            note: "\"},{\u{1f600}".to_owned(),
        };
        for change in [
            ExternalChange {
                before: Some(Tokens::ZERO),
                caller: Some("ops".to_owned()),
                source: ExternalSource::Manual,
                ..change.clone()
            },
            change,
        ] {
            let text = String::from_utf8(encode(&change)).expect("JSON is text");
            assert_eq!(parse(text.as_bytes()).as_ref(), Some(&change));
            let later = text.replacen('{', "{\"ticket\":[1],", 1);
            assert_eq!(parse(later.as_bytes()), Some(change));
        }
    }

    #[test]
    fn what_is_no_change_is_refused() {
        let good = r#"{"at":1,"pool":"p","source":"manual","before":null,"after":1,"caller":null,"note":""}"#;
        assert!(parse(good.as_bytes()).is_some());
        for (good_part, bad_part) in [
            ("\"p\"", "\"\""),
            ("manual", "guessed"),
            ("\"after\":1", "\"after\":9007199254740992"),
            ("\"at\":1", "\"at\":9223372036854775807"),
            ("null", "-1"),
            ("}", ""),
        ] {
            let bad = good.replacen(good_part, bad_part, 1);
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
