//! Read-only queries, on the last commit.

use redb::{Database, ReadableDatabase as _};

use super::{
    super::{RowKey, UsageRows},
    encoding::Record as _,
    errors::RecordError,
    tables,
};
use crate::domain::{OrgId, PoolCounters, PoolName, UsageCounters, UtcDay};

/// The counters of pools on a day.
pub(super) fn pools(
    database: &Database,
    org: &OrgId,
    day: UtcDay,
    pools: &[PoolName],
) -> Result<Vec<PoolCounters>, RecordError> {
    let table = database.begin_read()?.open_table(tables::POOLS)?;
    let counters = |pool| {
        let found = table.get(&*tables::pool(day, org, pool))?;
        found.map_or(Ok(PoolCounters::default()), |bytes| {
            PoolCounters::read(bytes.value())
        })
    };
    pools.iter().map(counters).collect()
}

/// The first usage rows of a day that come after `after`.
pub(super) fn usage(
    database: &Database,
    org: &OrgId,
    day: UtcDay,
    after: Option<&RowKey>,
    limit: usize,
) -> Result<UsageRows, RecordError> {
    let table = database.begin_read()?.open_table(tables::USAGE)?;
    let range = tables::rows(day, org, after);
    let mut rows = UsageRows::new();
    for entry in table.range(&*range.start..&*range.end)? {
        if rows.len() >= limit {
            break;
        }
        let (key, bytes) = entry?;
        let row = UsageCounters::read(bytes.value())?;
        if !row.is_empty() {
            let names = tables::row_names(key.value());
            rows.insert(names.ok_or(RecordError::Corrupt(UsageCounters::NAME))?, row);
        }
    }
    Ok(rows)
}
