//! The tables within a transaction, and the write buffer of a batch, which is flushed to them once the whole
//! batch is decided.

use std::collections::HashMap;

use redb::{ReadableTable as _, StorageError, Table, TableError, WriteTransaction};

use super::{
    super::{
        Batch, Outcome,
        engine::{self, Records, RelativeDay},
    },
    encoding::{self, BadRecord},
    errors::RecordError,
    tables,
};
use crate::domain::{
    ModelName, OrgId, PoolCounters, PoolName, ProjectId, RequestId, Reservation, RowCounts,
    UsageCounters, UtcDay, other_row,
};

/// A table of records.
type Sorted<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// The tables, within a transaction.
pub(super) struct Tables<'t> {
    pools: Sorted<'t>,
    usage: Sorted<'t>,
    row_counts: Sorted<'t>,
    requests: Sorted<'t>,
}

/// The records that a batch has read or will write.
struct WriteBuffer<'d, 't> {
    tables: &'d Tables<'t>,
    org: &'d OrgId,
    today: UtcDay,
    pools: HashMap<Vec<u8>, CachedRecord<PoolCounters>>,
    rows: HashMap<Vec<u8>, CachedRecord<UsageCounters>>,
    row_counts: Option<CachedRecord<RowCounts>>,
    /// Only new ones.
    requests: HashMap<Vec<u8>, Reservation>,
}

/// The counters of a key, if there are any, after the operations so far.
struct CachedRecord<T> {
    counters: Option<T>,
    changed: bool,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            pools: transaction.open_table(tables::POOLS)?,
            usage: transaction.open_table(tables::USAGE)?,
            row_counts: transaction.open_table(tables::ROW_COUNTS)?,
            requests: transaction.open_table(tables::REQUESTS)?,
        })
    }

    /// Decides a batch and writes its changes. Returns the outcomes and the number of records written.
    ///
    /// # Errors
    ///
    /// A record is corrupt: nothing of the batch was written. Or the file can't be read or written: the
    /// transaction must not be committed.
    pub(super) fn decide(
        &mut self,
        today: UtcDay,
        max_rows: u64,
        batch: &Batch,
    ) -> Result<(Vec<Outcome>, usize), RecordError> {
        let mut buffer = WriteBuffer {
            tables: self,
            org: &batch.org,
            today,
            pools: HashMap::new(),
            rows: HashMap::new(),
            row_counts: None,
            requests: HashMap::new(),
        };
        let operations = batch.operations.iter();
        let outcomes = operations.map(|it| engine::decide(&mut buffer, &batch.terms, max_rows, it));
        let outcomes: Vec<Outcome> = outcomes.collect::<Result<_, _>>()?;
        let WriteBuffer {
            pools,
            rows,
            row_counts,
            requests,
            ..
        } = buffer;
        let mut written = 0;
        for (key, counters) in changes(pools) {
            self.pools
                .insert(&*key, &*encoding::pool_bytes(&counters))?;
            written += 1;
        }
        for (key, row) in changes(rows) {
            self.usage.insert(&*key, &*encoding::row_bytes(&row))?;
            written += 1;
        }
        if let Some(counts) = row_counts.and_then(CachedRecord::change) {
            let key = tables::org(today, &batch.org);
            let bytes = encoding::row_counts_bytes(counts);
            self.row_counts.insert(&*key, &*bytes)?;
            written += 1;
        }
        // Sorted, so that neighbouring pages are written together.
        let mut requests: Vec<_> = requests.into_iter().collect();
        requests.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (key, reservation) in requests {
            let bytes = encoding::reservation_bytes(&reservation);
            self.requests.insert(&*key, &*bytes)?;
            written += 1;
        }
        Ok((outcomes, written))
    }

    /// Removes at most `most` records from before yesterday, and usage rows past their retention. Returns the
    /// number removed.
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
            let before: &[u8] = &tables::begin(oldest);
            let mut old = table.extract_from_if(..before, |_, _| true)?;
            while removed < most && old.next().transpose()?.is_some() {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// The records that a batch changed.
fn changes<T>(cache: HashMap<Vec<u8>, CachedRecord<T>>) -> impl Iterator<Item = (Vec<u8>, T)> {
    let changes = cache.into_iter();
    changes.filter_map(|(key, record)| Some((key, record.change()?)))
}

impl<T> CachedRecord<T> {
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

/// The counters of a key: from the buffer, else from the table.
fn counters<T: Copy>(
    cache: &mut HashMap<Vec<u8>, CachedRecord<T>>,
    table: &Sorted<'_>,
    key: Vec<u8>,
    read: fn(&[u8]) -> Result<T, BadRecord>,
) -> Result<Option<T>, RecordError> {
    if let Some(record) = cache.get(&key) {
        return Ok(record.counters);
    }
    let counters = match table.get(&*key)? {
        Some(bytes) => Some(read(bytes.value()).map_err(RecordError::Corrupt)?),
        None => None,
    };
    let changed = false;
    cache.insert(key, CachedRecord { counters, changed });
    Ok(counters)
}

impl WriteBuffer<'_, '_> {
    /// Counts today's rows. Used if their number is not kept yet, as in a file of format 1.
    fn count_rows(&self) -> Result<RowCounts, RecordError> {
        let (project, model) = other_row();
        let other = tables::row(self.today, self.org, &project, &model);
        let rows = tables::rows(self.today, self.org, None);
        let mut counts = RowCounts::default();
        for entry in self.tables.usage.range(&*rows.start..&*rows.end)? {
            if entry?.0.value() != other {
                counts.add(true);
            }
        }
        Ok(counts)
    }
}

impl Records for WriteBuffer<'_, '_> {
    type Error = RecordError;

    fn pool(
        &mut self,
        day: RelativeDay,
        pool: &PoolName,
    ) -> Result<Option<PoolCounters>, RecordError> {
        let key = tables::pool(day.date(self.today), self.org, pool);
        counters(&mut self.pools, &self.tables.pools, key, encoding::pool)
    }

    fn set_pool(&mut self, day: RelativeDay, pool: &PoolName, counters: PoolCounters) {
        let key = tables::pool(day.date(self.today), self.org, pool);
        self.pools.insert(key, CachedRecord::changed(counters));
    }

    fn row(
        &mut self,
        day: RelativeDay,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<Option<UsageCounters>, RecordError> {
        let key = tables::row(day.date(self.today), self.org, project, model);
        counters(&mut self.rows, &self.tables.usage, key, encoding::row)
    }

    fn set_row(
        &mut self,
        day: RelativeDay,
        project: &ProjectId,
        model: &ModelName,
        row: UsageCounters,
    ) {
        let key = tables::row(day.date(self.today), self.org, project, model);
        self.rows.insert(key, CachedRecord::changed(row));
    }

    fn row_counts(&mut self) -> Result<RowCounts, RecordError> {
        if let Some(CachedRecord { counters, .. }) = &self.row_counts {
            return Ok(counters.unwrap_or_default());
        }
        let key = tables::org(self.today, self.org);
        let counts = match self.tables.row_counts.get(&*key)? {
            Some(bytes) => encoding::row_counts(bytes.value()).map_err(RecordError::Corrupt)?,
            None => self.count_rows()?,
        };
        self.row_counts = Some(CachedRecord {
            counters: Some(counts),
            changed: false,
        });
        Ok(counts)
    }

    fn set_row_counts(&mut self, counts: RowCounts) {
        self.row_counts = Some(CachedRecord::changed(counts));
    }

    fn reservation(
        &mut self,
        day: RelativeDay,
        id: &RequestId,
    ) -> Result<Option<Reservation>, RecordError> {
        let key = tables::request(day.date(self.today), self.org, id);
        if let Some(reservation) = self.requests.get(&key) {
            return Ok(Some(reservation.clone()));
        }
        let found = self.tables.requests.get(&*key)?;
        let reservation = found.map(|bytes| encoding::reservation(bytes.value()));
        reservation.transpose().map_err(RecordError::Corrupt)
    }

    fn set_reservation(&mut self, day: RelativeDay, id: &RequestId, reservation: Reservation) {
        let key = tables::request(day.date(self.today), self.org, id);
        self.requests.insert(key, reservation);
    }
}
