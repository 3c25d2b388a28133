//! What a batch would change: read through to the file's tables, and written to them once the batch is
//! decided as a whole.

use std::collections::HashMap;

use redb::{ReadableTable as _, StorageError, Table, TableError, WriteTransaction};

use super::{
    super::{
        Batch, Outcome,
        book::{self, Day, Records},
    },
    keys,
    records::{self, BadRecord},
};
use crate::domain::{
    ModelName, OrgId, PoolCounters, PoolName, ProjectId, RequestId, Reservation, RowCounts,
    UsageCounters, UtcDay, other_row,
};

/// Records by their keys.
type Sorted<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// The tables of records, within a transaction.
pub(super) struct Tables<'t> {
    pools: Sorted<'t>,
    usage: Sorted<'t>,
    row_counts: Sorted<'t>,
    requests: Sorted<'t>,
}

/// Why a batch can't be decided.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The file can't be read or written. Nothing of the whole transaction stands.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A record is not one of ours. Nothing of the batch stands.
    #[error(transparent)]
    Record(#[from] BadRecord),
}

/// What a batch has read and would write.
struct Draft<'d, 't> {
    tables: &'d Tables<'t>,
    org: &'d OrgId,
    today: UtcDay,
    pools: HashMap<Vec<u8>, Sheet<PoolCounters>>,
    rows: HashMap<Vec<u8>, Sheet<UsageCounters>>,
    row_counts: Option<Sheet<RowCounts>>,
    /// Those that the batch writes.
    requests: HashMap<Vec<u8>, Reservation>,
}

/// Counters as the batch would leave them; none where there are none.
struct Sheet<T> {
    counters: Option<T>,
    changed: bool,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            pools: transaction.open_table(keys::POOLS)?,
            usage: transaction.open_table(keys::USAGE)?,
            row_counts: transaction.open_table(keys::ROW_COUNTS)?,
            requests: transaction.open_table(keys::REQUESTS)?,
        })
    }

    /// Decides a batch and writes what it changes; says how many records that were. A day has at most
    /// `max_rows` usage rows, besides the row `(other)`, `(other)`.
    ///
    /// # Errors
    ///
    /// A record, or the file, can't be read: nothing of the batch was written. The file can't be written:
    /// the transaction is not to be committed.
    pub(super) fn decide(
        &mut self,
        today: UtcDay,
        max_rows: u64,
        batch: &Batch,
    ) -> Result<(Vec<Outcome>, usize), Fault> {
        let mut draft = Draft {
            tables: self,
            org: &batch.org,
            today,
            pools: HashMap::new(),
            rows: HashMap::new(),
            row_counts: None,
            requests: HashMap::new(),
        };
        let operations = batch.operations.iter();
        let outcomes = operations.map(|it| book::decide(&mut draft, &batch.terms, max_rows, it));
        let outcomes: Vec<Outcome> = outcomes.collect::<Result<_, _>>()?;
        let Draft {
            pools,
            rows,
            row_counts,
            requests,
            ..
        } = draft;
        let mut written = 0;
        for (key, counters) in changes(pools) {
            self.pools.insert(&*key, &*records::pool_bytes(&counters))?;
            written += 1;
        }
        for (key, row) in changes(rows) {
            self.usage.insert(&*key, &*records::row_bytes(&row))?;
            written += 1;
        }
        if let Some(counts) = row_counts.and_then(Sheet::change) {
            let key = keys::org(today, &batch.org);
            let bytes = records::row_counts_bytes(counts);
            self.row_counts.insert(&*key, &*bytes)?;
            written += 1;
        }
        // Neighbours in the file one behind the other.
        let mut requests: Vec<_> = requests.into_iter().collect();
        requests.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (key, reservation) in requests {
            let bytes = records::reservation_bytes(&reservation);
            self.requests.insert(&*key, &*bytes)?;
            written += 1;
        }
        Ok((outcomes, written))
    }

    /// Removes records from before yesterday, and usage rows that are past their retention: at most so
    /// many. Says how many it removed.
    ///
    /// # Errors
    ///
    /// The file can't be read or written.
    pub(super) fn remove_old(
        &mut self,
        today: UtcDay,
        usage_retention_days: u32,
        most: usize,
    ) -> Result<usize, StorageError> {
        let oldest_usage = today.minus_days(usage_retention_days);
        let mut removed = 0;
        for (table, oldest) in [
            (&mut self.pools, today.yesterday()),
            (&mut self.row_counts, today.yesterday()),
            (&mut self.requests, today.yesterday()),
            (&mut self.usage, oldest_usage),
        ] {
            let before: &[u8] = &keys::begin(oldest);
            let mut old = table.extract_from_if(..before, |_, _| true)?;
            while removed < most && old.next().transpose()?.is_some() {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// The records that a batch changed.
fn changes<T>(sheets: HashMap<Vec<u8>, Sheet<T>>) -> impl Iterator<Item = (Vec<u8>, T)> {
    let changes = sheets.into_iter();
    changes.filter_map(|(key, sheet)| Some((key, sheet.change()?)))
}

impl<T> Sheet<T> {
    fn changed(counters: T) -> Self {
        Self {
            counters: Some(counters),
            changed: true,
        }
    }

    fn change(self) -> Option<T> {
        self.counters.filter(|_| self.changed)
    }
}

/// The counters of a key: the draft's, else the file's.
fn counters<T: Copy>(
    sheets: &mut HashMap<Vec<u8>, Sheet<T>>,
    table: &Sorted<'_>,
    key: Vec<u8>,
    read: fn(&[u8]) -> Result<T, BadRecord>,
) -> Result<Option<T>, Fault> {
    if let Some(sheet) = sheets.get(&key) {
        return Ok(sheet.counters);
    }
    let counters = match table.get(&*key)? {
        Some(bytes) => Some(read(bytes.value())?),
        None => None,
    };
    let changed = false;
    sheets.insert(key, Sheet { counters, changed });
    Ok(counters)
}

impl Draft<'_, '_> {
    /// How many rows today has where that is not kept: they are the first ones of the day, or an earlier
    /// format did not count them.
    fn count_rows(&self) -> Result<RowCounts, Fault> {
        let (project, model) = other_row();
        let other = keys::row(self.today, self.org, &project, &model);
        let rows = keys::rows(self.today, self.org, None);
        let mut counts = RowCounts::default();
        for entry in self.tables.usage.range(&*rows.start..&*rows.end)? {
            if entry?.0.value() != other {
                counts.add(true);
            }
        }
        Ok(counts)
    }
}

impl Records for Draft<'_, '_> {
    type Error = Fault;

    fn pool(&mut self, day: Day, pool: &PoolName) -> Result<Option<PoolCounters>, Fault> {
        let key = keys::pool(day.date(self.today), self.org, pool);
        counters(&mut self.pools, &self.tables.pools, key, records::pool)
    }

    fn set_pool(&mut self, day: Day, pool: &PoolName, counters: PoolCounters) {
        let key = keys::pool(day.date(self.today), self.org, pool);
        self.pools.insert(key, Sheet::changed(counters));
    }

    fn row(
        &mut self,
        day: Day,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<Option<UsageCounters>, Fault> {
        let key = keys::row(day.date(self.today), self.org, project, model);
        counters(&mut self.rows, &self.tables.usage, key, records::row)
    }

    fn set_row(&mut self, day: Day, project: &ProjectId, model: &ModelName, row: UsageCounters) {
        let key = keys::row(day.date(self.today), self.org, project, model);
        self.rows.insert(key, Sheet::changed(row));
    }

    fn row_counts(&mut self) -> Result<RowCounts, Fault> {
        if let Some(Sheet { counters, .. }) = &self.row_counts {
            return Ok(counters.unwrap_or_default());
        }
        let key = keys::org(self.today, self.org);
        let counts = match self.tables.row_counts.get(&*key)? {
            Some(bytes) => records::row_counts(bytes.value())?,
            None => self.count_rows()?,
        };
        self.row_counts = Some(Sheet {
            counters: Some(counts),
            changed: false,
        });
        Ok(counts)
    }

    fn set_row_counts(&mut self, counts: RowCounts) {
        self.row_counts = Some(Sheet::changed(counts));
    }

    fn reservation(&mut self, day: Day, id: &RequestId) -> Result<Option<Reservation>, Fault> {
        let key = keys::request(day.date(self.today), self.org, id);
        if let Some(reservation) = self.requests.get(&key) {
            return Ok(Some(reservation.clone()));
        }
        let found = self.tables.requests.get(&*key)?;
        let reservation = found.map(|bytes| records::reservation(bytes.value()));
        Ok(reservation.transpose()?)
    }

    fn set_reservation(&mut self, day: Day, id: &RequestId, reservation: Reservation) {
        let key = keys::request(day.date(self.today), self.org, id);
        self.requests.insert(key, reservation);
    }
}
