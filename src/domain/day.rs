//! The UTC day, by which everything is counted.

use std::fmt;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};

use super::ids::InvalidField;

/// A day in UTC. The store's clock says which day is today (docs/CONTRACT.md, "The day").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcDay(NaiveDate);

/// The length of "2026-11-22". Years past 9999 are written longer, as in "+12026-11-22".
const TEXT_BYTES: usize = 10;

impl UtcDay {
    /// The day of a moment.
    pub fn of(moment: DateTime<Utc>) -> Self {
        Self(moment.date_naive())
    }

    /// Parses "2026-11-22" and no other form.
    ///
    /// # Errors
    ///
    /// Names the field `day`.
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()
            .map(Self)
            .filter(|day| day.to_string() == text && text.len() == TEXT_BYTES)
            .ok_or_else(|| {
                let text: String = text.chars().take(32).collect();
                InvalidField {
                    field: "day",
                    fault: format!("is not a day of the form 2026-11-22: {text:?}"),
                }
            })
    }

    /// 00:00 UTC at which this day ends: when its pool counters expire.
    pub fn end(self) -> DateTime<Utc> {
        self.plus_days(1).start()
    }

    /// 00:00 UTC at which this day begins.
    pub fn start(self) -> DateTime<Utc> {
        self.0.and_time(NaiveTime::MIN).and_utc()
    }

    /// The day before.
    pub fn yesterday(self) -> Self {
        self.minus_days(1)
    }

    /// The day `days` earlier, at least the first day of the calendar.
    #[must_use]
    pub fn minus_days(self, days: u32) -> Self {
        let earlier = self.0.checked_sub_days(Days::new(u64::from(days)));
        Self(earlier.unwrap_or(NaiveDate::MIN))
    }

    /// The day `days` later, at most the last day of the calendar.
    #[must_use]
    pub fn plus_days(self, days: u32) -> Self {
        let later = self.0.checked_add_days(Days::new(u64::from(days)));
        Self(later.unwrap_or(NaiveDate::MAX))
    }
}

impl fmt::Display for UtcDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%d"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_reads_as_it_prints_and_ends_at_the_next_midnight() {
        let day = UtcDay::parse("2026-12-31").expect("a day");
        assert_eq!(day.to_string(), "2026-12-31");
        assert_eq!(day.end().to_rfc3339(), "2027-01-01T00:00:00+00:00");
        assert_eq!(day.plus_days(1).yesterday(), day);
        assert_eq!(UtcDay::of(day.end()), day.plus_days(1));
    }

    #[test]
    fn anything_looser_is_refused() {
        for text in [
            "",
            "2026-1-2",
            "2026-02-30",
            "+2026-01-02",
            "+12026-01-02",
            "-0001-01-02",
            " 2026-01-02",
            "2026-01-02T00:00",
        ] {
            assert!(UtcDay::parse(text).is_err(), "{text:?}");
        }
    }
}
