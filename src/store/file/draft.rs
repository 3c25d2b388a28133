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
    ModelName, OrgId, PoolCounters, PoolName, ProjectId, RequestId, Reservation, UsageCounters,
    UtcDay,
};

/// Records by their keys.
type Sorted<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// The tables of records, within a transaction.
pub(super) struct Tables<'t> {
    pools: Sorted<'t>,
    usage: Sorted<'t>,
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
    /// Those that the batch writes.
    requests: HashMap<Vec<u8>, Reservation>,
}

/// Counters as the batch would leave them.
struct Sheet<T> {
    counters: T,
    changed: bool,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            pools: transaction.open_table(keys::POOLS)?,
            usage: transaction.open_table(keys::USAGE)?,
            requests: transaction.open_table(keys::REQUESTS)?,
        })
    }

    /// Decides a batch and writes what it changes; says how many records that were.
    ///
    /// # Errors
    ///
    /// A record, or the file, can't be read: nothing of the batch was written. The file can't be written:
    /// the transaction is not to be committed.
    pub(super) fn decide(
        &mut self,
        today: UtcDay,
        batch: &Batch,
    ) -> Result<(Vec<Outcome>, usize), Fault> {
        let mut draft = Draft {
            tables: self,
            org: &batch.org,
            today,
            pools: HashMap::new(),
            rows: HashMap::new(),
            requests: HashMap::new(),
        };
        let operations = batch.operations.iter();
        let outcomes = operations.map(|it| book::decide(&mut draft, &batch.terms, it));
        let outcomes: Vec<Outcome> = outcomes.collect::<Result<_, _>>()?;
        let Draft {
            pools,
            rows,
            requests,
            ..
        } = draft;
        let mut written = 0;
        for (key, sheet) in pools.into_iter().filter(|(_, sheet)| sheet.changed) {
            let bytes = records::pool_bytes(&sheet.counters);
            self.pools.insert(&*key, &*bytes)?;
            written += 1;
        }
        for (key, sheet) in rows.into_iter().filter(|(_, sheet)| sheet.changed) {
            let bytes = records::row_bytes(&sheet.counters);
            self.usage.insert(&*key, &*bytes)?;
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

    /// Removes records of days that are over, at most so many; says how many it removed.
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
            (&mut self.pools, today),
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

impl Draft<'_, '_> {
    fn date(&self, day: Day) -> UtcDay {
        match day {
            Day::Today => self.today,
            Day::Yesterday => self.today.yesterday(),
        }
    }
}

/// The counters of a key: the draft's, else the file's.
fn counters<T: Copy + Default>(
    sheets: &mut HashMap<Vec<u8>, Sheet<T>>,
    table: &Sorted<'_>,
    key: Vec<u8>,
    read: fn(&[u8]) -> Result<T, BadRecord>,
) -> Result<T, Fault> {
    if let Some(sheet) = sheets.get(&key) {
        return Ok(sheet.counters);
    }
    let counters = match table.get(&*key)? {
        Some(bytes) => read(bytes.value())?,
        None => T::default(),
    };
    let changed = false;
    sheets.insert(key, Sheet { counters, changed });
    Ok(counters)
}

fn changed<T>(counters: T) -> Sheet<T> {
    let changed = true;
    Sheet { counters, changed }
}

impl Records for Draft<'_, '_> {
    type Error = Fault;

    fn pool(&mut self, pool: &PoolName) -> Result<PoolCounters, Fault> {
        let key = keys::pool(self.today, self.org, pool);
        counters(&mut self.pools, &self.tables.pools, key, records::pool)
    }

    fn set_pool(&mut self, pool: &PoolName, counters: PoolCounters) {
        let key = keys::pool(self.today, self.org, pool);
        self.pools.insert(key, changed(counters));
    }

    fn row(
        &mut self,
        day: Day,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<UsageCounters, Fault> {
        let key = keys::row(self.date(day), self.org, project, model);
        counters(&mut self.rows, &self.tables.usage, key, records::row)
    }

    fn set_row(&mut self, day: Day, project: &ProjectId, model: &ModelName, row: UsageCounters) {
        let key = keys::row(self.date(day), self.org, project, model);
        self.rows.insert(key, changed(row));
    }

    fn reservation(&mut self, day: Day, id: &RequestId) -> Result<Option<Reservation>, Fault> {
        let key = keys::request(self.date(day), self.org, id);
        if let Some(reservation) = self.requests.get(&key) {
            return Ok(Some(reservation.clone()));
        }
        let found = self.tables.requests.get(&*key)?;
        let reservation = found.map(|bytes| records::reservation(bytes.value()));
        Ok(reservation.transpose()?)
    }

    fn set_reservation(&mut self, day: Day, id: &RequestId, reservation: Reservation) {
        let key = keys::request(self.date(day), self.org, id);
        self.requests.insert(key, reservation);
    }
}
