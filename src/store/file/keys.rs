//! The tables of the file, and their keys.
//!
//! A key is the day (four bytes, in order), the organization, a zero byte, and what it is of. Names hold no
//! control characters, so the zero byte ends them, and rows stand in the order of their names' bytes.

use std::ops::Range;

use redb::TableDefinition;

use super::super::RowKey;
use crate::domain::{ModelName, OrgId, PoolName, ProjectId, RequestId, UtcDay};

/// A table of records by their keys.
pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Pools' counters: today's and yesterday's.
pub(super) const POOLS: Definition = TableDefinition::new("pools");
/// Usage rows: as many days as the retention says.
pub(super) const USAGE: Definition = TableDefinition::new("usage");
/// How many usage rows an organization has: today's and yesterday's.
pub(super) const ROW_COUNTS: Definition = TableDefinition::new("row_counts");
/// Reservations: today's and yesterday's.
pub(super) const REQUESTS: Definition = TableDefinition::new("requests");
/// What the file says of itself: [`FORMAT`], [`COMMITS`], and since when the clock has been steady.
pub(super) const ABOUT: TableDefinition<'static, &'static str, i64> =
    TableDefinition::new("tollgate");

/// Which version of this format the file is in.
pub(super) const FORMAT: &str = "format";
/// How many transactions were committed: a file that knows fewer than were acknowledged has lost some.
pub(super) const COMMITS: &str = "commits";
/// The clock's [`SteadyTime`](crate::store::clock::SteadyTime): the boot in two halves, then the others.
pub(super) const STEADY_TIME: [&str; 5] = [
    "clock_boot_high",
    "clock_boot_low",
    "clock_boot_micros",
    "clock_steady_since_micros",
    "clock_step_micros",
];

const END_OF_NAME: u8 = 0;
const AFTER_END_OF_NAME: u8 = 1;

/// The key of a pool's counters.
pub(super) fn pool(day: UtcDay, org: &OrgId, pool: &PoolName) -> Vec<u8> {
    key(day, org, &[pool.as_str()])
}

/// The key of a record that an organization has once a day.
pub(super) fn org(day: UtcDay, org: &OrgId) -> Vec<u8> {
    key(day, org, &[])
}

/// The key of a usage row.
pub(super) fn row(day: UtcDay, org: &OrgId, project: &ProjectId, model: &ModelName) -> Vec<u8> {
    key(day, org, &[project.as_str(), model.as_str()])
}

/// The key of a reservation.
pub(super) fn request(day: UtcDay, org: &OrgId, id: &RequestId) -> Vec<u8> {
    key(day, org, &[id.as_str()])
}

/// The keys of an organization's usage rows on a day that come after `after`.
pub(super) fn rows(day: UtcDay, org: &OrgId, after: Option<&RowKey>) -> Range<Vec<u8>> {
    let mut first = key(day, org, &[]);
    let mut end = first.clone();
    first.push(END_OF_NAME);
    end.push(AFTER_END_OF_NAME);
    if let Some((project, model)) = after {
        first = row(day, org, project, model);
        first.push(END_OF_NAME);
    }
    first..end
}

/// The project and model of a usage row.
pub(super) fn row_names(key: &[u8]) -> Option<RowKey> {
    let mut names = key.get(DAY_BYTES..)?.split(|byte| *byte == END_OF_NAME);
    let (_org, project, model) = (names.next()?, names.next()?, names.next()?);
    let text = |name: &[u8]| String::from_utf8(name.to_vec()).ok();
    let project = ProjectId::parse(text(project)?).ok()?;
    let model = ModelName::parse(text(model)?).ok()?;
    names.next().is_none().then_some((project, model))
}

/// Where the keys of a day begin: those of all days before come before it.
pub(super) fn begin(day: UtcDay) -> [u8; DAY_BYTES] {
    let days = day.start().timestamp().div_euclid(24 * 60 * 60);
    let days = i32::try_from(days).expect("the calendar has fewer days");
    // Days before 1970 come before those after.
    (days.cast_unsigned() ^ 1 << 31).to_be_bytes()
}

const DAY_BYTES: usize = 4;

fn key(day: UtcDay, org: &OrgId, names: &[&str]) -> Vec<u8> {
    let mut key = begin(day).to_vec();
    key.extend_from_slice(org.as_str().as_bytes());
    for name in names {
        key.push(END_OF_NAME);
        key.extend_from_slice(name.as_bytes());
    }
    key
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;

    #[test]
    fn days_stand_in_their_order() {
        let days = [
            NaiveDate::MIN,
            NaiveDate::from_ymd_opt(1969, 12, 31).expect("a day"),
            NaiveDate::from_ymd_opt(1970, 1, 1).expect("a day"),
            NaiveDate::from_ymd_opt(2026, 11, 22).expect("a day"),
            NaiveDate::MAX.pred_opt().expect("a day"),
        ];
        let begins = days.map(|day| begin(UtcDay::new(day)));
        assert!(begins.is_sorted_by(|a, b| a < b), "{begins:?}");
    }

    #[test]
    fn the_rows_of_an_organization_are_its_own_and_after_one_come_the_next() {
        let day = UtcDay::parse("2026-11-22").expect("a day");
        let org = |org: &str| OrgId::parse(org).expect("a name");
        let row_of = |of: &str, project: &str, model: &str| {
            let project = ProjectId::parse(project).expect("a name");
            let model = ModelName::parse(model).expect("a name");
            row(day, &org(of), &project, &model)
        };
        let all = rows(day, &org("acme"), None);
        assert!(all.contains(&row_of("acme", "p", "m")));
        for other in ["acm", "acme2", "acme p", "b"] {
            assert!(!all.contains(&row_of(other, "p", "m")), "{other}");
        }
        let after = row_names(&row_of("acme", "p", "m"));
        let rest = rows(day, &org("acme"), after.as_ref());
        assert!(!rest.contains(&row_of("acme", "p", "m")));
        assert!(!rest.contains(&row_of("acme", "a", "z")));
        assert!(rest.contains(&row_of("acme", "p", "m2")));
        assert!(rest.contains(&row_of("acme", "p2", "a")));
    }
}
