//! The tables of the file, and their keys.
//!
//! A key is the day (4 bytes, big-endian, sign bit flipped), the organization, and further names, each after
//! a zero byte. Names have no control characters, so keys sort by day, organization, then names.

use std::ops::{Range, RangeInclusive};

use chrono::DateTime;
use redb::TableDefinition;

use super::super::RowKey;
use crate::domain::{
    ExternalSource, ModelName, OrgId, PoolName, ProjectId, RequestId, ShareId, UtcDay,
};

/// A table of records by their keys.
pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Counters of pools, of today and yesterday.
pub(super) const POOLS: Definition = TableDefinition::new("pools");
/// FREE tokens of shares, of today and yesterday.
pub(super) const SHARES: Definition = TableDefinition::new("shares");
/// Usage rows, for the retention time.
pub(super) const USAGE: Definition = TableDefinition::new("usage");
/// Numbers of usage rows, of today and yesterday.
pub(super) const ROW_COUNTS: Definition = TableDefinition::new("row_counts");
/// Reservations, of today and yesterday.
pub(super) const REQUESTS: Definition = TableDefinition::new("requests");
/// Changes of external usage, for the retention time. The table that earlier versions of this format do not have.
pub(super) const EXTERNAL_CHANGES: Definition = TableDefinition::new("external_changes");
/// What the provider counted, and how a day was compared; for the retention time. A file that an earlier release wrote
/// has it from its first transaction on, and earlier releases ignore it.
pub(super) const PROVIDER: Definition = TableDefinition::new("provider");
/// Metadata: [`FORMAT`], [`COMMITS`], [`STEADY_TIME`].
pub(super) const METADATA: TableDefinition<'static, &'static str, i64> =
    TableDefinition::new("tollgate");

/// The version of the file format.
pub(super) const FORMAT: &str = "format";
/// The number of commits. A file with fewer than were acknowledged has lost some.
pub(super) const COMMITS: &str = "commits";
/// The clock's [`SteadyTime`](crate::store::clock::SteadyTime): the boot id in two halves, then its other fields.
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

/// The key of a share's FREE tokens.
pub(super) fn share(day: UtcDay, org: &OrgId, share: &ShareId) -> Vec<u8> {
    key(day, org, &[share.pool.as_str(), share.project.as_str()])
}

/// The key of an organization's one record of a day.
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

/// The key of a change of external usage: by its number among those of its source on the day, from 1 on.
pub(super) fn external_change(
    day: UtcDay,
    org: &OrgId,
    source: ExternalSource,
    number: usize,
) -> Vec<u8> {
    key(day, org, &[source.into(), &format!("{number:06}")])
}

/// The keys of an organization's changes of external usage on a day, of a source, in the order of their numbers.
pub(super) fn external_changes(
    day: UtcDay,
    org: &OrgId,
    source: ExternalSource,
) -> RangeInclusive<Vec<u8>> {
    external_change(day, org, source, 0)..=external_change(day, org, source, 999_999)
}

/// The keys of an organization's usage rows on a day that come after `after`; of its changes too, without `after`.
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

/// The prefix of the keys of a day. Earlier days sort before it.
pub(super) fn begin(day: UtcDay) -> [u8; DAY_BYTES] {
    let days = (day.start() - DateTime::UNIX_EPOCH).num_days();
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
    use chrono::{TimeDelta, Utc};

    use super::*;

    #[test]
    fn days_are_in_order() {
        let first = DateTime::<Utc>::MIN_UTC;
        let epoch = DateTime::UNIX_EPOCH;
        let moments = [
            first,
            epoch - TimeDelta::days(1),
            epoch,
            DateTime::<Utc>::MAX_UTC,
        ];
        let begins = moments.map(|moment| begin(UtcDay::of(moment)));
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
