//! The tables within a transaction. What a batch changes is buffered, and flushed to the tables once the whole
//! batch is decided.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use redb::{ReadableTable as _, StorageError, Table, TableError, WriteTransaction};

use super::{
    super::{
        Batch, Decision, engine,
        external_changes::encode,
        records::{Records, RelativeDay},
    },
    encoding::Record,
    errors::RecordError,
    tables::{self, Definition},
};
use crate::domain::{
    ExternalChange, ExternalChanges, ModelName, OrgId, PoolCounters, PoolName, ProjectId,
    RequestId, Reservation, RowCounts, ShareId, Tokens, UsageCounters, UtcDay, other_row,
};

/// The tables, within a transaction.
pub(super) struct Tables<'t> {
    pools: BufferedTable<'t>,
    shares: BufferedTable<'t>,
    usage: BufferedTable<'t>,
    row_counts: BufferedTable<'t>,
    requests: BufferedTable<'t>,
    external_changes: BufferedTable<'t>,
    pub(super) provider: BufferedTable<'t>,
}

pub(super) struct BufferedTable<'t> {
    pub(super) table: Table<'t, &'static [u8], &'static [u8]>,
    /// Records to write, by key. In order, so that neighbouring pages are written together.
    changes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// How long the records of a table are kept.
enum Retention {
    /// On their day and the following one.
    TwoDays,
    /// As long as usage rows.
    AsUsage,
}

impl<'t> BufferedTable<'t> {
    fn open(transaction: &'t WriteTransaction, table: Definition) -> Result<Self, TableError> {
        let table = transaction.open_table(table)?;
        let changes = BTreeMap::new();
        Ok(Self { table, changes })
    }

    fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>, RecordError> {
        if let Some(bytes) = self.changes.get(key) {
            return R::read(bytes).map(Some);
        }
        let found = self.table.get(key)?;
        found.map(|bytes| R::read(bytes.value())).transpose()
    }

    fn set(&mut self, key: Vec<u8>, record: &impl Record) {
        self.changes.insert(key, record.encode());
    }
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            pools: BufferedTable::open(transaction, tables::POOLS)?,
            shares: BufferedTable::open(transaction, tables::SHARES)?,
            usage: BufferedTable::open(transaction, tables::USAGE)?,
            row_counts: BufferedTable::open(transaction, tables::ROW_COUNTS)?,
            requests: BufferedTable::open(transaction, tables::REQUESTS)?,
            external_changes: BufferedTable::open(transaction, tables::EXTERNAL_CHANGES)?,
            provider: BufferedTable::open(transaction, tables::PROVIDER)?,
        })
    }

    fn all(&mut self) -> [(&mut BufferedTable<'t>, Retention); 7] {
        [
            (&mut self.pools, Retention::TwoDays),
            (&mut self.shares, Retention::TwoDays),
            (&mut self.usage, Retention::AsUsage),
            (&mut self.row_counts, Retention::TwoDays),
            (&mut self.requests, Retention::TwoDays),
            (&mut self.external_changes, Retention::AsUsage),
            (&mut self.provider, Retention::AsUsage),
        ]
    }

    /// Decides a batch and writes its changes. Returns the outcomes and the number of records written.
    ///
    /// # Errors
    ///
    /// A record is corrupt: nothing of the batch was written. Or the file can't be read or written: the
    /// transaction must not be committed.
    pub(super) fn decide(
        &mut self,
        now: DateTime<Utc>,
        max_rows: u64,
        batch: &Batch,
    ) -> Result<(Decision, usize), RecordError> {
        // Those of a batch with a corrupt record.
        for (table, _) in self.all() {
            table.changes.clear();
        }
        let mut records = OrgRecords {
            tables: self,
            org: &batch.org,
            today: UtcDay::of(now),
        };
        let mut crossings = Vec::new();
        let outcomes = batch.operations.iter().map(|it| {
            engine::decide(
                &mut records,
                &batch.terms,
                now,
                max_rows,
                it,
                &mut crossings,
            )
        });
        let outcomes = outcomes.collect::<Result<_, _>>()?;
        let mut written = 0;
        for (BufferedTable { table, changes }, _) in self.all() {
            written += changes.len();
            for (key, record) in std::mem::take(changes) {
                table.insert(&*key, &*record)?;
            }
        }
        let decision = Decision::Outcomes {
            outcomes,
            crossings,
        };
        Ok((decision, written))
    }

    /// Keeps a change of external usage, unless its day has as many of its source as are kept. Returns the number of
    /// records written: an empty one says that there were more.
    ///
    /// # Errors
    ///
    /// The file can't be read or written.
    pub(super) fn keep_external_change(
        &mut self,
        org: &OrgId,
        change: &ExternalChange,
    ) -> Result<usize, StorageError> {
        let (day, source) = (UtcDay::of(change.at), change.source);
        let table = &mut self.external_changes.table;
        let keys = tables::external_changes(day, org, source);
        let made = table.range(&**keys.start()..=&**keys.end())?.count();
        let record = match made {
            made if made < ExternalChanges::MAX => encode(change),
            ExternalChanges::MAX => Vec::new(),
            _ => return Ok(0),
        };
        let key = tables::external_change(day, org, source, made + 1);
        table.insert(&*key, &*record)?;
        Ok(1)
    }

    /// Removes at most `most` records from before yesterday, and usage rows, changes and what the provider counted past
    /// their retention. Returns the number removed.
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
        let yesterday = today.yesterday();
        let oldest_usage = today.minus_days(usage_retention_days);
        let mut removed = 0;
        for (BufferedTable { table, .. }, retention) in self.all() {
            let before: &[u8] = &tables::begin(match retention {
                Retention::TwoDays => yesterday,
                Retention::AsUsage => oldest_usage,
            });
            let mut old = table.extract_from_if(..before, |_, _| true)?;
            while removed < most && old.next().transpose()?.is_some() {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// The records of a batch's organization.
struct OrgRecords<'d, 't> {
    tables: &'d mut Tables<'t>,
    org: &'d OrgId,
    today: UtcDay,
}

impl OrgRecords<'_, '_> {
    fn pool_key(&self, day: RelativeDay, pool: &PoolName) -> Vec<u8> {
        tables::pool(day.date(self.today), self.org, pool)
    }

    fn share_key(&self, day: RelativeDay, share: &ShareId) -> Vec<u8> {
        tables::share(day.date(self.today), self.org, share)
    }

    fn row_key(&self, day: RelativeDay, project: &ProjectId, model: &ModelName) -> Vec<u8> {
        tables::row(day.date(self.today), self.org, project, model)
    }

    fn request_key(&self, day: RelativeDay, id: &RequestId) -> Vec<u8> {
        tables::request(day.date(self.today), self.org, id)
    }

    /// Counts today's rows in the table.
    fn count_rows(&self) -> Result<RowCounts, RecordError> {
        let (project, model) = other_row();
        let other = self.row_key(RelativeDay::Today, &project, &model);
        let rows = tables::rows(self.today, self.org, None);
        let mut counts = RowCounts::default();
        for entry in self.tables.usage.table.range(&*rows.start..&*rows.end)? {
            if entry?.0.value() != other {
                counts.add(true);
            }
        }
        Ok(counts)
    }
}

impl Records for OrgRecords<'_, '_> {
    type Error = RecordError;

    fn pool(
        &mut self,
        day: RelativeDay,
        pool: &PoolName,
    ) -> Result<Option<PoolCounters>, RecordError> {
        self.tables.pools.get(&self.pool_key(day, pool))
    }

    fn set_pool(&mut self, day: RelativeDay, pool: &PoolName, counters: PoolCounters) {
        let key = self.pool_key(day, pool);
        self.tables.pools.set(key, &counters);
    }

    fn share(&mut self, day: RelativeDay, share: &ShareId) -> Result<Option<Tokens>, RecordError> {
        self.tables.shares.get(&self.share_key(day, share))
    }

    fn set_share(&mut self, day: RelativeDay, share: &ShareId, used: Tokens) {
        let key = self.share_key(day, share);
        self.tables.shares.set(key, &used);
    }

    fn row(
        &mut self,
        day: RelativeDay,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<Option<UsageCounters>, RecordError> {
        self.tables.usage.get(&self.row_key(day, project, model))
    }

    fn set_row(
        &mut self,
        day: RelativeDay,
        project: &ProjectId,
        model: &ModelName,
        row: UsageCounters,
    ) {
        let key = self.row_key(day, project, model);
        self.tables.usage.set(key, &row);
    }

    fn row_counts(&mut self) -> Result<RowCounts, RecordError> {
        let key = tables::org(self.today, self.org);
        if let Some(counts) = self.tables.row_counts.get(&key)? {
            return Ok(counts);
        }
        // The first row of a day, or a file of format 1. The batch has no new row yet, and counts only once.
        let counts = self.count_rows()?;
        self.set_row_counts(counts);
        Ok(counts)
    }

    fn set_row_counts(&mut self, counts: RowCounts) {
        let key = tables::org(self.today, self.org);
        self.tables.row_counts.set(key, &counts);
    }

    fn reservation(
        &mut self,
        day: RelativeDay,
        id: &RequestId,
    ) -> Result<Option<Reservation>, RecordError> {
        self.tables.requests.get(&self.request_key(day, id))
    }

    fn set_reservation(&mut self, day: RelativeDay, id: &RequestId, reservation: Reservation) {
        let key = self.request_key(day, id);
        self.tables.requests.set(key, &reservation);
    }
}
