//! What the provider counted on a day: its rows, and how the day was compared, in one table
//! ([`crate::store::provider`]).

use redb::{Database, ReadOnlyTable, ReadableDatabase as _, TableError};

use super::{errors::RecordError, tables, transaction::Tables};
use crate::{
    domain::{DayComparison, OrgId, UtcDay},
    store::{
        RowKey,
        provider::{
            ProviderChanges, ProviderRows, comparison_text, parse_comparison, parse_usage,
            usage_text, warn_unreadable,
        },
    },
};

type ProviderTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// Writes rows and the comparison. Returns the number of records written.
pub(super) fn write(
    tables: &mut Tables<'_>,
    org: &OrgId,
    day: UtcDay,
    changes: &ProviderChanges,
    comparison: Option<&DayComparison>,
) -> Result<usize, redb::Error> {
    let table = &mut tables.provider.table;
    for ((project, model), usage) in changes {
        let key = tables::row(day, org, project, model);
        match usage {
            Some(usage) => table.insert(&*key, usage_text(Some(*usage)).as_bytes())?,
            None => table.remove(&*key)?,
        };
    }
    if let Some(comparison) = comparison {
        let key = tables::org(day, org);
        table.insert(&*key, comparison_text(comparison).as_bytes())?;
    }
    Ok(changes.len() + usize::from(comparison.is_some()))
}

/// The first rows of a day that come after `after`.
pub(super) fn usage(
    database: &Database,
    org: &OrgId,
    day: UtcDay,
    after: Option<&RowKey>,
    limit: usize,
) -> Result<ProviderRows, RecordError> {
    let mut rows = ProviderRows::new();
    let Some(table) = open(database)? else {
        return Ok(rows);
    };
    let range = tables::rows(day, org, after);
    for entry in table.range(&*range.start..&*range.end)? {
        if rows.len() >= limit {
            break;
        }
        let (key, text) = entry?;
        match (tables::row_names(key.value()), parse_usage(text.value())) {
            (Some(names), Some(usage)) => rows.extend(usage.map(|usage| (names, usage))),
            _ => warn_unreadable(org, day),
        }
    }
    Ok(rows)
}

/// How each of these days was compared.
pub(super) fn comparisons(
    database: &Database,
    org: &OrgId,
    days: &[UtcDay],
) -> Result<Vec<Option<DayComparison>>, RecordError> {
    let Some(table) = open(database)? else {
        return Ok(vec![None; days.len()]);
    };
    let found = days.iter().map(|day| {
        let Some(text) = table.get(&*tables::org(*day, org))? else {
            return Ok(None);
        };
        let comparison = parse_comparison(text.value());
        if comparison.is_none() {
            warn_unreadable(org, *day);
        }
        Ok(comparison)
    });
    found.collect()
}

/// The table; none in a file of an earlier release that was not written since.
fn open(database: &Database) -> Result<Option<ProviderTable>, RecordError> {
    match database.begin_read()?.open_table(tables::PROVIDER) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
