//! How figures, shares and times are written on the pages.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

/// 1234567 as "1,234,567".
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number on an axis: 2500000 as "2.5 M".
pub(super) fn short(number: u64) -> String {
    let units = [
        (1_000_000_000_000, "T"),
        (1_000_000_000, "B"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    let unit = units.into_iter().find(|(size, _)| number >= *size);
    let Some((size, name)) = unit else {
        return number.to_string();
    };
    match (number / size, number % size * 10 / size) {
        (whole, 0) => format!("{whole} {name}"),
        (whole, tenths) => format!("{whole}.{tenths} {name}"),
    }
}

/// A share with one decimal. Only nothing is 0 %, and only all of it is 100 %.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    } else if part >= whole {
        return "100 %".to_owned();
    }
    let (part, whole) = (u128::from(part), u128::from(whole));
    let per_mille = (part * 1_000 + whole / 2) / whole;
    // Rounded, but not to nothing or all.
    let per_mille = per_mille.clamp(1, 999);
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

/// "1 project", "2 projects".
pub(super) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number as u64))
}

/// The time until a moment, in whole minutes: "5 h 12 min".
pub(super) fn until(moment: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let minutes = ((moment - now).num_seconds().max(0) + 59) / 60;
    format!("{} h {} min", minutes / 60, minutes % 60)
}

/// A time of day in UTC. The script adds the viewer's own time.
pub(super) fn utc_time(moment: DateTime<Utc>) -> Markup {
    let machine = moment.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    html! {
        time datetime=(machine) data-local { (moment.format("%H:%M")) " UTC" span.local {} }
    }
}

/// A moment in UTC, with its day. The script adds the viewer's own day and time.
pub(super) fn utc_date_time(moment: DateTime<Utc>) -> Markup {
    let machine = moment.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    html! {
        time datetime=(machine) data-local="date" {
            (moment.format("%Y-%m-%d %H:%M:%S")) " UTC" span.local {}
        }
    }
}

/// A time of day with seconds.
pub(super) fn utc_time_in_seconds(moment: DateTime<Utc>) -> Markup {
    let machine = moment.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    html! { time datetime=(machine) { (moment.format("%H:%M:%S")) " UTC" } }
}

/// A name in a text: its direction of writing does not reach what is around it.
pub(super) fn name(name: &str) -> Markup {
    html! { bdi.name { (name) } }
}

/// A figure of a list.
pub(super) fn fact(label: &str, value: &str) -> Markup {
    html! { div { dt { (label) } dd { (value) } } }
}

/// When a pool runs out at today's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunOut {
    /// Nothing remains.
    Now,
    /// At this moment.
    At(DateTime<Utc>),
    /// Not before the reset.
    NotToday,
}

impl RunOut {
    /// Today's rate is what is used now, over the time since midnight.
    pub(super) fn estimate(
        used: u64,
        remaining: u64,
        now: DateTime<Utc>,
        resets_at: DateTime<Utc>,
    ) -> Self {
        if remaining == 0 {
            return Self::Now;
        }
        let midnight = resets_at - chrono::TimeDelta::days(1);
        let elapsed = (now - midnight).num_seconds().max(1);
        let left = (resets_at - now).num_seconds();
        if used == 0 {
            return Self::NotToday;
        }
        let seconds = i128::from(remaining) * i128::from(elapsed) / i128::from(used);
        match i64::try_from(seconds) {
            Ok(seconds) if seconds < left => Self::At(now + chrono::TimeDelta::seconds(seconds)),
            _ => Self::NotToday,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> DateTime<Utc> {
        let text = format!("2026-11-22T{time}Z");
        text.parse().expect("a time")
    }

    #[test]
    fn numbers_are_grouped_by_thousands_and_short_on_an_axis() {
        for (number, long, axis) in [
            (0, "0", "0"),
            (999, "999", "999"),
            (1_000, "1,000", "1 k"),
            (1_234_567, "1,234,567", "1.2 M"),
            (2_000_000_000, "2,000,000,000", "2 B"),
        ] {
            assert_eq!(
                (grouped(number).as_str(), short(number).as_str()),
                (long, axis)
            );
        }
    }

    #[test]
    fn only_nothing_is_0_per_cent_and_only_all_is_100() {
        for (part, whole, text) in [
            (0, 0, "0 %"),
            (0, 5, "0 %"),
            (1, 1_000_000, "0.1 %"),
            (1, 8, "12.5 %"),
            (999_999, 1_000_000, "99.9 %"),
            (5, 5, "100 %"),
            (u64::MAX - 1, u64::MAX, "99.9 %"),
        ] {
            assert_eq!(percent(part, whole), text, "{part} of {whole}");
        }
    }

    #[test]
    fn a_pool_runs_out_at_todays_rate_or_not_before_the_reset() {
        let resets_at = at("00:00:00") + chrono::TimeDelta::days(1);
        let at_noon =
            |used, remaining| RunOut::estimate(used, remaining, at("12:00:00"), resets_at);
        assert_eq!(at_noon(600, 300), RunOut::At(at("18:00:00")));
        assert_eq!(at_noon(600, 0), RunOut::Now);
        assert_eq!(at_noon(0, 300), RunOut::NotToday);
        assert_eq!(at_noon(600, 600), RunOut::NotToday);
        assert_eq!(at_noon(1, (1 << 53) - 1), RunOut::NotToday);
        // Tokens that were carried over midnight.
        let at_midnight = RunOut::estimate(600, 300, at("00:00:00"), resets_at);
        assert_eq!(at_midnight, RunOut::At(at("00:00:00")));
    }
}
