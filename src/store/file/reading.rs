//! What is read beside the decisions: a view of what was committed last.

use redb::{Database, ReadableDatabase as _};

use super::{
    super::{RowKey, UsageRows},
    keys,
    records::{self, BadRecord},
};
use crate::domain::{OrgId, PoolCounters, PoolName, UtcDay};

/// Why something can't be read.
pub(super) enum Unread {
    Storage(redb::Error),
    Record(BadRecord),
}

impl<E: Into<redb::Error>> From<E> for Unread {
    fn from(error: E) -> Self {
        Self::Storage(error.into())
    }
}

/// The counters of pools on a day.
pub(super) fn pools(
    database: &Database,
    org: &OrgId,
    day: UtcDay,
    pools: &[PoolName],
) -> Result<Vec<PoolCounters>, Unread> {
    let table = database.begin_read()?.open_table(keys::POOLS)?;
    let counters = |pool| {
        let key = keys::pool(day, org, pool);
        match table.get(&*key)? {
            Some(bytes) => records::pool(bytes.value()).map_err(Unread::Record),
            None => Ok(PoolCounters::default()),
        }
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
) -> Result<UsageRows, Unread> {
    let table = database.begin_read()?.open_table(keys::USAGE)?;
    let range = keys::rows(day, org, after);
    let mut rows = UsageRows::new();
    for entry in table.range(&*range.start..&*range.end)? {
        if rows.len() >= limit {
            break;
        }
        let (key, bytes) = entry?;
        let row = records::row(bytes.value()).map_err(Unread::Record)?;
        if !row.is_empty() {
            let names = keys::row_names(key.value()).ok_or(Unread::Record(records::BAD_ROW))?;
            rows.insert(names, row);
        }
    }
    Ok(rows)
}
