//! What the provider counted on a day, and how the day was compared with it (docs/CONTRACT.md, "Background reconcile").
//!
//! Redis and the file have these records as text:
//!
//! | record | text | example |
//! | --- | --- | --- |
//! | a row | free tokens, other tokens; empty: the row was removed | `900 50` |
//! | a comparison | seconds since 1970, the result, and each kind of drift with its tokens | `1795351200 drifts false_free=30 external=5` |

use std::collections::BTreeMap;

use chrono::DateTime;

use super::RowKey;
use crate::{
    domain::{ComparisonResult, DayComparison, OrgId, ProviderUsage, Tokens, UtcDay},
    telemetry::log_limited,
};

/// What the provider counted of an organization on a day.
pub type ProviderRows = BTreeMap<RowKey, ProviderUsage>;

/// Rows to write; `None` removes the row.
pub type ProviderChanges = BTreeMap<RowKey, Option<ProviderUsage>>;

/// The maximum number of rows in a call of [`Store::record_comparison`](super::Store::record_comparison).
pub const MAX_PROVIDER_CHANGES: usize = 500;

pub(super) fn usage_text(usage: Option<ProviderUsage>) -> String {
    usage.map_or_else(String::new, |usage| {
        format!("{} {}", usage.free_tokens, usage.billed_tokens)
    })
}

/// The row, or that it was removed; `None` if [`usage_text`] can't have written this.
pub(super) fn parse_usage(text: &[u8]) -> Option<Option<ProviderUsage>> {
    if text.is_empty() {
        return Some(None);
    }
    let (free, billed) = str::from_utf8(text).ok()?.split_once(' ')?;
    Some(Some(ProviderUsage {
        free_tokens: parse_tokens(free)?,
        billed_tokens: parse_tokens(billed)?,
    }))
}

pub(super) fn comparison_text(comparison: &DayComparison) -> String {
    let result: &str = comparison.result.into();
    let mut text = format!("{} {result}", comparison.compared_at.timestamp());
    for (kind, tokens) in &comparison.drift {
        text += &format!(" {}={tokens}", kind.name());
    }
    text
}

/// The comparison; `None` if this can't be read. Kinds of a later release are left out, and its results are unknown.
pub(super) fn parse_comparison(text: &[u8]) -> Option<DayComparison> {
    let mut words = str::from_utf8(text).ok()?.split(' ');
    let compared_at = DateTime::from_timestamp(words.next()?.parse().ok()?, 0)?;
    let result = words.next()?.parse().unwrap_or(ComparisonResult::Unknown);
    let mut drift = BTreeMap::new();
    for word in words {
        let (kind, tokens) = word.split_once('=')?;
        let tokens = parse_tokens(tokens)?;
        if let Ok(kind) = kind.parse() {
            drift.insert(kind, tokens);
        }
    }
    Some(DayComparison {
        compared_at,
        result,
        drift,
    })
}

/// A record that can't be read is left out, with this warning: it is shown, and nothing is decided by it.
pub(super) fn warn_unreadable(org: &OrgId, day: UtcDay) {
    log_limited!(warn, %org, %day, "a record of what the provider counted can't be read, and is left out");
}

/// Digits only: `str::parse` would take "+1" too.
fn parse_tokens(digits: &str) -> Option<Tokens> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    Tokens::new(digits.parse().ok().filter(|_| is_number)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_release_can_have_written_is_refused() {
        for text in [
            "1",
            "1 ",
            " 1",
            "+1 2",
            "1 2 3",
            "1 9007199254740992",
            "a b",
        ] {
            assert_eq!(parse_usage(text.as_bytes()), None, "{text}");
        }
        for text in [
            "",
            "1",
            "x agrees",
            "1 drifts lost",
            "1 drifts lost=x",
            "1 drifts lost=-1",
        ] {
            assert_eq!(parse_comparison(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_result_of_a_later_release_is_unknown() {
        let comparison = parse_comparison(b"1795351200 later_result external=5");
        let known = "1795351200 unknown external=5";
        assert_eq!(comparison_text(&comparison.expect("a comparison")), known);
    }

    #[test]
    fn a_kind_of_drift_of_a_later_release_is_left_out() {
        let text = "1795351200 drifts false_free=30 later_kind=7 external=5";
        let comparison = parse_comparison(text.as_bytes()).expect("a comparison");
        let known = text.replace(" later_kind=7", "");
        assert_eq!(comparison_text(&comparison), known);
    }
}
