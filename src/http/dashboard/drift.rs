//! Drift against the provider: how an organization was compared last (docs/CONTRACT.md, "Background reconcile").

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::figures::{counted, grouped};
use crate::{
    domain::{ComparisonResult, DayComparison, DriftKind, Tokens, comparison::total_drift},
    ledger::ComparedDay,
};

/// Drift in the list of organizations, if there was a comparison.
pub(super) fn glance(days: &[ComparedDay]) -> Markup {
    html! {
        @if !days.is_empty() {
            p.drift { "Drift: " (summary(days)) }
        }
    }
}

/// When an organization was compared, and what was found on each day.
pub(super) fn section(days: &[ComparedDay], now: DateTime<Utc>) -> Markup {
    let compared_at = days.iter().map(|(_, it)| it.compared_at).max();
    html! {
        @if let Some(compared_at) = compared_at {
            section #drift aria-labelledby="drift-title" {
                h2 #drift-title { "Drift against the provider" }
                p { (summary(days)) ". Compared " (ago(compared_at, now)) "." }
                details #drift-details {
                    summary { "Table of the days that were compared" }
                    div.table role="region" aria-label="Drift by day" tabindex="0" {
                        table #drift-table {
                            caption { "Drift against the provider by day, in tokens" }
                            thead { tr {
                                th scope="col" { "Day (UTC)" }
                                th scope="col" { "Drift" }
                            } }
                            tbody {
                                @for (day, comparison) in days.iter().rev() {
                                    tr {
                                        th scope="row" { (day) }
                                        td { (found(comparison.result, &comparison.drift)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What was found over all days.
fn summary(days: &[ComparedDay]) -> Markup {
    let days = days.iter().map(|(_, comparison)| comparison);
    let drift = total_drift(days.clone());
    let is_unknown = |it: &DayComparison| it.result == ComparisonResult::Unknown;
    let result = match days.clone().any(is_unknown) {
        true => ComparisonResult::Unknown,
        false if drift.is_empty() => ComparisonResult::Agrees,
        false => ComparisonResult::Drifts,
    };
    found(result, &drift)
}

fn found(result: ComparisonResult, drift: &BTreeMap<DriftKind, Tokens>) -> Markup {
    let kinds = drift.iter().map(|(kind, tokens)| {
        let kind = kind.name().replace('_', " ");
        format!("{kind} {} tokens", grouped(tokens.get()))
    });
    let kinds: Vec<String> = kinds.collect();
    html! {
        @match result {
            ComparisonResult::Agrees => "none",
            ComparisonResult::Drifts => strong { (kinds.join(", ")) },
            ComparisonResult::Unknown => {
                @if !kinds.is_empty() { strong { (kinds.join(", ")) } ", and " }
                "not everything could be compared"
            }
        }
    }
}

/// "3 minutes ago".
fn ago(moment: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let minutes = (now - moment).num_minutes();
    match usize::try_from(minutes).unwrap_or_default() {
        0 => "less than a minute ago".to_owned(),
        minutes @ 1..120 => format!("{} ago", counted(minutes, "minute")),
        minutes => format!("{} ago", counted(minutes / 60, "hour")),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn the_age_of_a_comparison_is_in_minutes_or_hours() {
        let now = DateTime::UNIX_EPOCH;
        for (minutes, text) in [
            (-1, "less than a minute ago"),
            (0, "less than a minute ago"),
            (1, "1 minute ago"),
            (119, "119 minutes ago"),
            (120, "2 hours ago"),
        ] {
            assert_eq!(ago(now - TimeDelta::minutes(minutes), now), text);
        }
    }
}
