//! Counters in Redis, which any number of replicas of the service share.
//!
//! # What is kept
//!
//! Five kinds of keys for each organization and day (docs/CONTRACT.md, "Keys in Redis"). An organization's keys
//! share a hash tag, so one script may use them together on a cluster ([`script::keys`]).
//!
//! | key | field | value | example |
//! | --- | --- | --- | --- |
//! | `tollgate:{acme}:pool:large:2026-11-22` | none: a string | the pool's record: MessagePack; whether it is closed, and for each replica that wrote: its number, its last sequence number, free tokens, billed tokens, free requests, billed requests; if there is external usage, also its component; if it has reached a threshold, also its peak and what was delivered ([`recovery`]) | `false 71 2048 900 0 3 0` |
//! | `tollgate:{acme}:share:large:web:2026-11-22` | none: a string | the record of a project's share of a pool, like a pool's: FREE requests only. Only if the policy has the share | `false 71 2048 900 0 3 0` |
//! | `tollgate:{acme}:usage:2026-11-22` | `project:model` | a usage row: MessagePack; free tokens, billed tokens, free requests, billed requests, `false` | `web:gpt-4o` → `900 0 3 0 false` |
//! | `tollgate:{acme}:requests:2026-11-22` | a request id | a reservation: its verdict, its state, the id of its class, its tokens | `F1:300` held, `FF1:300` held and carried into the next day, `FsF1:300:280` settled, `FsR1:300:280` settled as run outside the programme, `Fr1:300` released |
//! | | `\1` class | the id of a class, `pool:workload:project:model`, with `+` after the pool if a share counts its reservations | `\1large:i:web:gpt-4o` → `1` |
//! | | `\1` id | the class of that id | `\11` → `large:i:web:gpt-4o` |
//! | | `\1` | the last class id; after a recovery also the last one before it | `1`, `4 3` |
//! | | `\2` pool | the pool's held tokens | `\2large` → `600` |
//! | | `\2` | the number of the day's usage rows, and of those for unlisted models | `12 3` |
//! | `tollgate:{acme}:audit:2026-11-22` | its source and number, from 1 on | a change of external usage: JSON ([`external_changes`]) | `manual:1` → `{"at":…,"pool":"large",…}` |
//! | | `made` | the number of changes, at most one more than are kept | `12` |
//! | `tollgate:{acme}:provider:2026-11-22` | `project:model` | what the provider counted ([`provider`]); only with the background reconcile | `web:gpt-4o` → `900 50` |
//! | | `\1` | how the day was compared with the provider | `1795351200 drifts external=50` |
//!
//! Beside these there is one key for all organizations, the lease of the background reconcile ([`lease`]).
//!
//! # How it is updated
//!
//! The full script decides batches, each of one organization ([`decide`], `script/*.lua`). It judges a batch whole
//! before the first write, since a script is atomic but does not roll back. A shorter one (`script/reserve.lua`)
//! decides most Reserves, and declines the others. The service names the day's keys. The script compares that day with
//! Redis' clock (one TIME call), and writes nothing if it is another day. A reservation may be in a pool that the
//! batch does not name, such as one that the policy no longer has: then the script writes nothing of the batch and
//! returns the pool's name, and the service sends the batch again with that pool's key. Near midnight it asks for
//! tomorrow's pools in the same way, once a day: from then on the service names them.
//!
//! The client sends a call to the server that has the organization's keys: the only one, the master that
//! sentinels name, or a node of a cluster ([`conn`]). A call whose outcome is unknown is sent again only if it is
//! idempotent. A Redis that may evict counters is refused ([`eviction_check`]), and a missing permission is named
//! ([`acl_check`]).
//!
//! # What happens when Redis forgets
//!
//! Each replica keeps a snapshot of the records after its last writes. If a record in Redis is older than the
//! replica's snapshot, the script merges the snapshot before it decides ([`recovery`]).

mod acl_check;
mod conn;
mod decide;
mod eviction_check;
mod external_changes;
mod lease;
mod provider;
pub mod queries;
pub mod recovery;
mod refusals;
pub mod reply;
pub mod script;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use self::{
    acl_check::AclCheck,
    conn::RedisClient,
    decide::{Decider, max_batches},
    eviction_check::EvictionCheck,
    script::{Script, reader::BadReply},
};
use super::{
    Batch, CallLimits, DayCounters, Decision, ProviderChanges, ProviderRows, RowKey, Store,
    StoreError, Timestamped, UsageRows,
};
use crate::{
    domain::{DayComparison, ExternalChange, ExternalChanges, OrgId, PoolName, ShareId, UtcDay},
    files::pem::PemError,
};

pub use crate::tls::TlsFiles;

pub use self::conn::{
    config::{RedisConfig, Timeouts, UnsafeEviction},
    login::{Login, Password},
    url::RedisUrl,
};

/// Maximum number of concurrent calls that decide. One may run both scripts.
const MAX_CALLS: usize = 4;

/// In a cluster a call is about one organization, so none waits for another's node: as many as the connection to
/// a node queues.
const MAX_CALLS_SHARDED: usize = 1024;

/// Maximum number of concurrent queries of usage and of changes: each reads a whole day.
const MAX_USAGE_READS: usize = 4;

/// The counters in Redis, version 7 or later.
pub struct RedisStore {
    client: Arc<RedisClient>,
    eviction_check: EvictionCheck,
    decider: Arc<Decider>,
    /// Reads pools and the clock, and may write nothing.
    query_script: Script,
    lease_script: Script,
    keep_change_script: Script,
    changes_script: Script,
    provider_script: Script,
    usage_reads: Semaphore,
    usage_retention_days: u32,
}

impl RedisStore {
    /// Prepares the connections; nothing is connected before the first call.
    ///
    /// # Errors
    ///
    /// A TLS file can't be used.
    pub fn new(config: RedisConfig) -> Result<Self, PemError> {
        let client = Arc::new(RedisClient::new(&config)?);
        let acl_check = AclCheck::new(&config.key_prefix, config.commands_beside_scripts());
        let usage_retention_days = config.usage_limits.retention_days;
        let decider = Decider::new(acl_check, &config);
        Ok(Self {
            eviction_check: EvictionCheck::new(config.unsafe_eviction),
            query_script: Script::new(include_str!("script/query.lua")),
            lease_script: Script::new(include_str!("script/lease.lua")),
            keep_change_script: Script::new(include_str!("script/keep_change.lua")),
            changes_script: Script::new(include_str!("script/changes.lua")),
            provider_script: Script::new(include_str!("script/provider.lua")),
            usage_reads: Semaphore::new(MAX_USAGE_READS),
            usage_retention_days,
            client,
            decider: Arc::new(decider),
        })
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timestamped<Decision>, StoreError>> {
        self.decider.decide(&self.client, batches).await
    }

    fn call_limits(&self) -> CallLimits {
        CallLimits {
            calls: match self.client.is_sharded() {
                true => MAX_CALLS_SHARDED,
                false => MAX_CALLS,
            },
            batches: max_batches(&self.client),
            operations: Batch::MAX_OPERATIONS,
            bytes: CallLimits::MAX_BYTES,
        }
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
        shares: &[ShareId],
    ) -> Result<Timestamped<DayCounters>, StoreError> {
        self.read_pools(org, day, pools, shares).await
    }

    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError> {
        self.read_usage(org, day, after, limit).await
    }

    async fn keep_external_change(
        &self,
        org: &OrgId,
        change: &ExternalChange,
    ) -> Result<(), StoreError> {
        self.keep_change(org, change).await
    }

    async fn external_changes(
        &self,
        org: &OrgId,
        day: UtcDay,
    ) -> Result<Timestamped<ExternalChanges>, StoreError> {
        self.read_changes(org, day).await
    }

    async fn record_comparison(
        &self,
        org: &OrgId,
        day: UtcDay,
        changes: &ProviderChanges,
        comparison: Option<&DayComparison>,
    ) -> Result<(), StoreError> {
        self.write_comparison(org, day, changes, comparison).await
    }

    async fn provider_usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<ProviderRows, StoreError> {
        self.read_provider_usage(org, day, after, limit).await
    }

    async fn comparisons(
        &self,
        org: &OrgId,
        days: &[UtcDay],
    ) -> Result<Vec<Option<DayComparison>>, StoreError> {
        self.read_comparisons(org, days).await
    }

    async fn take_lease(&self, duration: Duration) -> Result<bool, StoreError> {
        self.take_or_renew_lease(duration).await
    }

    fn losses(&self) -> u64 {
        self.decider.snapshots.losses()
    }

    fn partial_refusal(&self) -> Option<String> {
        self.decider.refusals.reasons()
    }

    async fn probe(&self) -> Result<Timestamped<()>, StoreError> {
        self.client.refresh().await;
        let keys = self.client.probe_keys(&self.decider.key_prefix).await?;
        self.eviction_check.check(&self.client, &keys).await?;
        let now = self.decider.probe(&self.client, keys).await?;
        let (decider, client) = (Arc::clone(&self.decider), Arc::clone(&self.client));
        // It may take longer than a probe.
        tokio::spawn(async move { decider.audit(&client).await });
        Ok(Timestamped { now, answer: () })
    }
}

impl From<BadReply> for StoreError {
    fn from(bad: BadReply) -> Self {
        Self::Corrupt {
            reason: bad.to_string(),
        }
    }
}
