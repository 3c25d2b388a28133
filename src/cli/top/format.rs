//! Numbers and times as `tollgate top` shows them.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    client::output::{grouped, shown},
    domain::UtcDay,
    grpc::proto::OrganizationSummary,
};

/// A number in at most five characters: 999, 12.3k, 1.23M. It is rounded down, so what is not reached is never shown as
/// reached.
pub(super) fn compact(number: u64) -> String {
    if number < 1_000 {
        return number.to_string();
    }
    let (mut whole, mut rest, mut unit) = (number, 0, 0);
    while whole >= 1_000 {
        (whole, rest, unit) = (whole / 1_000, whole % 1_000, unit + 1);
    }
    let unit = ["", "k", "M", "G", "T", "P", "E"][unit];
    match whole {
        100.. => format!("{whole}{unit}"),
        10.. => format!("{whole}.{}{unit}", rest / 100),
        _ => format!("{whole}.{:02}{unit}", rest / 10),
    }
}

/// How long ago the figures were read, by this machine's clock.
pub(super) fn age(as_of: Option<&prost_types::Timestamp>, now: DateTime<Utc>) -> String {
    let as_of = as_of.and_then(|it| DateTime::from_timestamp(it.seconds, 0));
    let Some(as_of) = as_of else {
        return "-".to_owned();
    };
    let seconds = now.signed_duration_since(as_of).num_seconds().max(0);
    match seconds {
        0..100 => format!("{seconds}s"),
        100..6_000 => format!("{}m", seconds / 60),
        6_000..360_000 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The time to the next midnight, in whole minutes.
pub(super) fn until_reset(now: DateTime<Utc>) -> String {
    let left = UtcDay::of(now).end() - now + TimeDelta::seconds(59);
    format!("{} h {} min", left.num_hours(), left.num_minutes() % 60)
}

/// For each pool, `large 700,000 / 2,000,000` of all these organizations.
pub(super) fn totals(organizations: &[OrganizationSummary]) -> String {
    let mut totals: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for pool in organizations.iter().flat_map(|it| &it.pools) {
        let (used, allowance) = totals.entry(&pool.pool).or_default();
        *used = used.saturating_add(pool.used);
        *allowance = allowance.saturating_add(pool.allowance);
    }
    let totals = totals.into_iter().map(|(pool, (used, allowance))| {
        format!("{} {} / {}", shown(pool), grouped(used), grouped(allowance))
    });
    totals.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compact_number_has_at_most_five_characters_and_is_never_rounded_up() {
        for (number, wanted) in [
            (0, "0"),
            (999, "999"),
            (9_999, "9.99k"),
            (10_000, "10.0k"),
            (99_999, "99.9k"),
            (999_999, "999k"),
            (1_000_000, "1.00M"),
            (1_239_999, "1.23M"),
            (10_000_000, "10.0M"),
            ((1 << 53) - 1, "9.00P"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(compact(number), wanted);
        }
    }

    #[test]
    fn an_age_has_at_most_three_characters_and_is_not_negative() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let age_of = |seconds: i64| {
            let seconds = 1_800_000_000 - seconds;
            age(Some(&prost_types::Timestamp { seconds, nanos: 0 }), now)
        };
        for (seconds, wanted) in [
            (-5, "0s"),
            (99, "99s"),
            (100, "1m"),
            (5_999, "99m"),
            (6_000, "1h"),
            (400_000, "4d"),
        ] {
            assert_eq!(age_of(seconds), wanted);
        }
        assert_eq!(age(None, now), "-");
    }
}
