//! The days of a usage view.

use chrono::{Datelike as _, Weekday};

use super::links::PageQuery;
use crate::{
    domain::{InvalidField, UtcDay},
    ledger::UsageDays,
};

/// The days of the default range, with today.
const DEFAULT_DAYS: u32 = 7;

/// The days that are shown by day, with today: as many as are kept by default.
const MAX_CHART_DAYS: u32 = 36;

/// Days of which the usage is shown, all of them kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UsageRange {
    pub(super) from: UtcDay,
    pub(super) to: UtcDay,
    pub(super) label: RangeLabel,
}

/// What a range is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RangeLabel {
    Last7Days,
    LastWeek,
    Today,
    Yesterday,
    AllKept,
    Other,
}

/// The days that are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeptDays {
    pub(super) oldest: UtcDay,
    pub(super) today: UtcDay,
}

impl RangeLabel {
    /// In a sentence after "in", or "of".
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Last7Days => "the last 7 days",
            Self::LastWeek => "last week",
            Self::Today => "today",
            Self::Yesterday => "yesterday",
            Self::AllKept => "all days that are kept",
            Self::Other => "these days",
        }
    }
}

impl KeptDays {
    pub(super) fn new(today: UtcDay, retention_days: u32) -> Self {
        // A range is at most as long as one of ListUsage.
        let days = retention_days.min(UsageDays::MAX_DAYS - 1);
        Self {
            oldest: today.minus_days(days),
            today,
        }
    }

    /// The days of the chart, oldest first.
    pub(super) fn chart_days(self) -> Vec<UtcDay> {
        let oldest = self.today.minus_days(MAX_CHART_DAYS - 1);
        days_between(oldest.max(self.oldest), self.today)
    }

    /// The ranges that a click chooses.
    pub(super) fn presets(self) -> [UsageRange; 5] {
        let range = |label, from: UtcDay, to: UtcDay| UsageRange {
            from: from.max(self.oldest),
            to: to.max(self.oldest),
            label,
        };
        let (today, yesterday) = (self.today, self.today.yesterday());
        let since_monday = today.start().weekday().days_since(Weekday::Mon);
        let sunday = today.minus_days(since_monday + 1);
        [
            range(
                RangeLabel::Last7Days,
                today.minus_days(DEFAULT_DAYS - 1),
                today,
            ),
            range(RangeLabel::LastWeek, sunday.minus_days(6), sunday),
            range(RangeLabel::Today, today, today),
            range(RangeLabel::Yesterday, yesterday, yesterday),
            range(RangeLabel::AllKept, self.oldest, today),
        ]
    }

    /// The range that `from` and `to` name, as far as its days are kept. By default the last 7 days.
    ///
    /// # Errors
    ///
    /// Names the field, `from` or `to`.
    pub(super) fn range(self, query: &PageQuery) -> Result<UsageRange, InvalidField> {
        let [default, ..] = self.presets();
        let to = day(query, "to")?.map_or(self.today, |day| day.clamp(self.oldest, self.today));
        let from = match day(query, "from")? {
            None if query.get("to").is_none() => return Ok(default),
            None => to.minus_days(DEFAULT_DAYS - 1),
            Some(from) if from > to => {
                let fault = format!("{from} is after the last day, {to}");
                return Err(InvalidField {
                    field: "from",
                    fault,
                });
            }
            Some(from) => from,
        };
        let from = from.max(self.oldest);
        let same = |preset: &UsageRange| (preset.from, preset.to) == (from, to);
        let label = self.presets().into_iter().find(same);
        let label = label.map_or(RangeLabel::Other, |preset| preset.label);
        Ok(UsageRange { from, to, label })
    }
}

impl UsageRange {
    pub(super) fn days(self) -> Vec<UtcDay> {
        days_between(self.from, self.to)
    }
}

fn day(query: &PageQuery, field: &'static str) -> Result<Option<UtcDay>, InvalidField> {
    let day = query.get(field).map(UtcDay::parse).transpose();
    day.map_err(|invalid| InvalidField { field, ..invalid })
}

fn days_between(from: UtcDay, to: UtcDay) -> Vec<UtcDay> {
    let days = std::iter::successors(Some(from), |day| Some(day.plus_days(1)));
    days.take_while(|day| *day <= to).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn kept() -> KeptDays {
        let monday = UtcDay::parse("2026-11-30").expect("a day");
        KeptDays::new(monday, 35)
    }

    fn range(from: &str, to: &str) -> Result<(String, String, RangeLabel), String> {
        let given = [("from", from), ("to", to)];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let query = PageQuery::new(BTreeMap::from(given), &["from", "to"]);
        let range = kept().range(&query);
        let range = range.map_err(|error| error.to_string())?;
        Ok((range.from.to_string(), range.to.to_string(), range.label))
    }

    #[test]
    fn a_range_is_the_last_7_days_by_default_and_never_leaves_the_kept_days() {
        for (from, to, first, last, label) in [
            ("", "", "2026-11-24", "2026-11-30", RangeLabel::Last7Days),
            (
                "2026-11-24",
                "",
                "2026-11-24",
                "2026-11-30",
                RangeLabel::Last7Days,
            ),
            (
                "2026-11-23",
                "2026-11-29",
                "2026-11-23",
                "2026-11-29",
                RangeLabel::LastWeek,
            ),
            (
                "",
                "2026-11-10",
                "2026-11-04",
                "2026-11-10",
                RangeLabel::Other,
            ),
            (
                "2000-01-01",
                "2100-01-01",
                "2026-10-26",
                "2026-11-30",
                RangeLabel::AllKept,
            ),
            (
                "2026-11-29",
                "2026-11-29",
                "2026-11-29",
                "2026-11-29",
                RangeLabel::Yesterday,
            ),
        ] {
            let expected = (first.to_owned(), last.to_owned(), label);
            assert_eq!(range(from, to), Ok(expected), "{from:?} {to:?}");
        }
        assert_eq!(kept().chart_days().len(), 36);
    }

    #[test]
    fn a_malformed_day_is_named_by_its_field() {
        for (from, to, field) in [
            ("yesterday", "", "from: "),
            ("2026-11-24", "2026-11", "to: "),
            ("2026-11-24", "2026-11-23", "from: "),
        ] {
            let error = range(from, to).expect_err("a fault");
            assert!(error.starts_with(field), "{error}");
        }
    }
}
