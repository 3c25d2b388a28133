//! Read-only queries, on the last commit.

use redb::{Database, ReadOnlyTable, ReadableDatabase as _, TableError};

use super::{
    super::{DayCounters, RowKey, UsageRows, external_changes::decode},
    encoding::Record,
    errors::RecordError,
    tables,
};
use crate::domain::{ExternalChanges, OrgId, PoolName, ShareId, UsageCounters, UtcDay};

/// The counters of pools and shares on a day.
pub(super) fn pools(
    database: &Database,
    org: &OrgId,
    day: UtcDay,
    pools: &[PoolName],
    shares: &[ShareId],
) -> Result<DayCounters, RecordError> {
    let transaction = database.begin_read()?;
    let table = transaction.open_table(tables::POOLS)?;
    let pools = pools
        .iter()
        .map(|it| read_or_default(&table, &tables::pool(day, org, it)));
    let pools = pools.collect::<Result<_, _>>()?;
    let table = transaction.open_table(tables::SHARES)?;
    let shares = shares
        .iter()
        .map(|it| read_or_default(&table, &tables::share(day, org, it)));
    let shares = shares.collect::<Result<_, _>>()?;
    Ok(DayCounters { pools, shares })
}

fn read_or_default<R: Record + Default>(
    table: &ReadOnlyTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<R, RecordError> {
    let found = table.get(key)?;
    found.map_or(Ok(R::default()), |bytes| R::read(bytes.value()))
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

/// The changes of external usage on a day.
pub(super) fn external_changes(
    database: &Database,
    org: &OrgId,
    day: UtcDay,
) -> Result<ExternalChanges, RecordError> {
    let mut changes = ExternalChanges::default();
    let table = match database.begin_read()?.open_table(tables::EXTERNAL_CHANGES) {
        Ok(table) => table,
        // An earlier version wrote the file, and nothing was written since.
        Err(TableError::TableDoesNotExist(_)) => return Ok(changes),
        Err(error) => return Err(error.into()),
    };
    let keys = tables::rows(day, org, None);
    for entry in table.range(&*keys.start..&*keys.end)? {
        let (_, bytes) = entry?;
        if bytes.value().is_empty() {
            changes.is_truncated = true;
            continue;
        }
        changes.add_kept(decode(org, bytes.value()));
    }
    Ok(changes)
}
