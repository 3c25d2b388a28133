//! `redis://` and its kin: counters that any number of replicas share.
//!
//! **Keys** ([`keys`]). Three per organization and day: the pools' counters, the usage rows, and the
//! reservations by request id. An organization's keys share a hash tag.
//!
//! **Protocol** ([`decide`]). One script decides batches, each of one organization. It reads, judges a
//! batch whole, and only then writes, since a script is atomic but does not roll back. The service names
//! the day's keys; the script compares that day with its own clock (one TIME call) and writes nothing
//! where it is another. A reservation may name a pool that has left the policy since: the script then
//! asks for that pool's key, and again has written nothing of the batch.
//!
//! **The connection** ([`link`]) is kept and shared. What counts once however often it is asked is asked
//! again where it is cut.
//!
//! **Which server** ([`client`]) has an organization's keys: the one there is, the master that sentinels
//! name ([`sentinel`]), or a node of a cluster ([`cluster`]).
//!
//! **Failures** ([`errors`]) are told in the store's own words, and in the server's ([`message`]); a right that is
//! missing by its name ([`rights`]). A Redis that may delete what was counted is
//! none for Tollgate ([`fitness`]).

mod acl_check;
mod conn;
mod decide;
mod eviction_check;
pub mod queries;
pub mod recovery;
pub mod reply;
pub mod script;

use std::sync::Arc;

use async_trait::async_trait;
use redis::{Cmd, Value};
use tokio::sync::Semaphore;

use self::{
    acl_check::AclCheck,
    conn::{
        RedisClient,
        connection::{Reply, SendOptions, retry_if_cut},
        errors::SendError,
    },
    decide::Decider,
    eviction_check::EvictionCheck,
    recovery::pn_counter::PoolCounter,
    script::{
        Script,
        keys::{self, OrgKeys},
        reader::BadReply,
    },
};
use super::{Batch, Decided, RowKey, Store, StoreError, Timed, UsageRows};
use crate::domain::{OrgId, PoolCounters, PoolName, Tokens, UtcDay};

pub use self::conn::{
    config::{RedisConfig, SetupError, Timeouts, UnsafeEviction},
    login::{Login, Password},
    tls::TlsFiles,
    url::RedisUrl,
};

/// The counters in Redis, version 7 or later.
pub struct RedisStore {
    client: Arc<RedisClient>,
    eviction_check: EvictionCheck,
    /// A day's rows are read whole for each page: only so many at a time.
    usage_reads: Semaphore,
    decider: Arc<Decider>,
    /// One look at what Redis still has at a time.
    verifying: Arc<Semaphore>,
    pools: Script,
}

/// How many calls to decide may be under way.
const MAX_CALLS: usize = 4;

/// In a cluster a call is one organization's, so that none waits for the node of another: as many as the
/// connection to a node has room for.
const MAX_CALLS_SHARDED: usize = 1024;

/// How often a day's usage is read anew because its key moved between two steps.
const MAX_SCANS: usize = 4;

/// Rows that one step of reading a day's usage asks for: Redis serves others between the steps.
const USAGE_STEP: usize = 512;

/// How many days' usage is read at a time.
const MAX_USAGE_READS: usize = 4;

impl RedisStore {
    /// Prepares the connections; nothing is connected before the first call.
    ///
    /// # Errors
    ///
    /// A file of TLS can't be used, or the client library takes no such connection.
    pub fn new(config: RedisConfig) -> Result<Self, SetupError> {
        let client = RedisClient::new(&config)?;
        let others = config.commands_beside_scripts();
        let rights = AclCheck::new(&config.key_prefix, others);
        let RedisConfig {
            key_prefix,
            usage_limits,
            unsafe_eviction,
            ..
        } = config;
        Ok(Self {
            client: Arc::new(client),
            eviction_check: EvictionCheck::new(unsafe_eviction),
            usage_reads: Semaphore::new(MAX_USAGE_READS),
            decider: Arc::new(Decider::new(rights, key_prefix, usage_limits)),
            verifying: Arc::new(Semaphore::new(1)),
            pools: Script::new(include_str!("script/query.lua")),
        })
    }

    /// Begins a look at whether Redis still has what it acknowledged, unless one is under way. It may take
    /// longer than a probe may.
    fn verify(&self) {
        if let Ok(turn) = Arc::clone(&self.verifying).try_acquire_owned() {
            let (decider, client) = (Arc::clone(&self.decider), Arc::clone(&self.client));
            tokio::spawn(async move {
                decider.verify(&client).await;
                drop(turn);
            });
        }
    }

    /// Runs the script that reads pools, where a key is.
    async fn read_pools(&self, key: &str, push: impl Fn(&mut Cmd)) -> Result<Value, StoreError> {
        let run = || {
            self.pools
                .run(&self.client, key, SendOptions::default(), &push)
        };
        match retry_if_cut(run).await {
            Ok(reply) => Ok(reply),
            Err(failed) => Err(self.explained(key, failed).await),
        }
    }

    async fn explained(&self, key: &str, failed: SendError) -> StoreError {
        let rights = &self.decider.rights;
        rights.explain(&self.client, key, failed.into()).await
    }

    fn keys(&self, org: &OrgId, day: UtcDay) -> OrgKeys {
        OrgKeys::new(&self.decider.key_prefix, org, day)
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timed<Decided>, StoreError>> {
        self.decider.decide(&self.client, batches).await
    }

    fn calls_at_once(&self) -> Option<usize> {
        Some(if self.client.is_sharded() {
            MAX_CALLS_SHARDED
        } else {
            MAX_CALLS
        })
    }

    fn batches_in_a_call(&self) -> usize {
        if self.client.is_sharded() {
            1
        } else {
            usize::MAX
        }
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
    ) -> Result<Timed<Vec<PoolCounters>>, StoreError> {
        let keys = self.keys(org, day);
        let remembered = self.decider.memory.lock().pools(org, day).to_vec();
        let push = |command: &mut Cmd| {
            command.arg(pools.len() + 1);
            for pool in pools {
                command.arg(keys.pool(&keys::encode(pool.as_str())));
            }
            command.arg(keys.requests());
            for pool in pools {
                command.arg(keys::held_field(pool));
            }
        };
        let key = keys.usage();
        let reply = self.read_pools(&key, push).await?;
        let (now, mut kept) = queries::parse_pools(&reply, pools.len())?;
        // What Redis lost shows here too, though only a decision restores it. Where it lost nothing, it knows more
        // than this replica does: what others made one part since, say.
        for known in remembered {
            if let Some(at) = pools.iter().position(|pool| *pool == known.pool)
                && kept[at].0.seq_of(self.decider.memory.replica) < known.turn
            {
                kept[at].0.merge(PoolCounter::parse(&known.record)?);
            }
        }
        let counters = |(record, held): (PoolCounter, Tokens)| PoolCounters {
            held,
            ..record.counters()
        };
        let answer = kept.into_iter().map(counters).collect();
        Ok(Timed { now, answer })
    }

    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timed<UsageRows>, StoreError> {
        let _turn = self.usage_reads.acquire().await;
        let key = self.keys(org, day).usage();
        let mut scans = 1;
        let mut scanned_by = None;
        let mut rows = UsageRows::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&key).arg(&cursor).arg("COUNT").arg(USAGE_STEP);
            let answered =
                retry_if_cut(|| self.client.send(&key, &command, SendOptions::default())).await;
            let Reply {
                value,
                connection_id: by,
            } = match answered {
                Ok(answered) => answered,
                Err(failed) => return Err(self.explained(&key, failed).await),
            };
            if scanned_by.replace(by).is_some_and(|before| before != by) {
                // Where one server was in its scan means nothing to another.
                if scans == MAX_SCANS {
                    let reason = "the key of the usage moves again and again".to_owned();
                    return Err(StoreError::NoAnswer { reason });
                }
                scans += 1;
                scanned_by = None;
                rows.clear();
                "0".clone_into(&mut cursor);
                continue;
            }
            let (next, step) = queries::parse_scan(&value)?;
            for (row_key, row) in step {
                if Some(&row_key) > after {
                    rows.insert(row_key, row);
                }
                if rows.len() > limit {
                    rows.pop_last();
                }
            }
            if next == "0" {
                break;
            }
            cursor = next;
        }
        // The clock, by a script that may be run where nothing may be written.
        let reply = self
            .read_pools(&key, |command| {
                command.arg(0);
            })
            .await?;
        let (now, _) = queries::parse_pools(&reply, 0)?;
        Ok(Timed { now, answer: rows })
    }

    fn losses(&self) -> u64 {
        self.decider.memory.losses()
    }

    async fn probe(&self) -> Result<Timed<()>, StoreError> {
        self.client.refresh().await;
        let keys = self.client.probe_keys(&self.decider.key_prefix).await;
        let keys = keys?;
        self.eviction_check.check(&self.client, &keys).await?;
        let now = self.decider.probe(&self.client, &keys).await?;
        self.verify();
        Ok(Timed { now, answer: () })
    }
}

impl From<BadReply> for StoreError {
    fn from(bad: BadReply) -> Self {
        Self::Corrupt {
            reason: bad.to_string(),
        }
    }
}
