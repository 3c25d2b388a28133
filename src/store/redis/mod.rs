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
//! **Which server** ([`links`]) has an organization's keys: the one there is, the master that sentinels
//! name ([`sentinel`]), or a node of a cluster ([`cluster`]).
//!
//! **Failures** ([`errors`]) are told in the store's own words, and in the server's ([`message`]); a right that is
//! missing by its name ([`rights`]). A Redis that may delete what was counted is
//! none for Tollgate ([`fitness`]).

mod arguments;
mod cluster;
mod connector;
mod decide;
mod errors;
mod fitness;
pub mod keys;
mod link;
mod links;
mod login;
mod losses;
mod memory;
mod message;
mod packed;
pub mod readings;
pub mod record;
mod refusals;
pub mod reply;
mod rights;
mod script;
mod sentinel;
mod slots;
mod tls;
mod url;

use std::sync::Arc;

use async_trait::async_trait;
use redis::{Cmd, RedisError, Value};
use tokio::sync::Semaphore;

use self::{
    decide::Decider,
    errors::store_error,
    fitness::Fitness,
    keys::OrgKeys,
    link::{Failed, Manner, again_if_cut},
    links::{Answered, Links},
    packed::BadReply,
    record::Record,
    rights::Rights,
    script::Script,
    url::Topology,
};
use super::{Batch, Decision, RowKey, Store, StoreError, Timestamped, UsageLimits, UsageRows};
use crate::{
    domain::{OrgId, PoolCounters, PoolName, Tokens, UtcDay},
    files::pem::PemError,
};

pub use self::{
    fitness::UnsafeEviction,
    link::Timeouts,
    login::{Login, Password},
    tls::TlsFiles,
    url::RedisUrl,
};

/// How to reach Redis, and how to use it.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Where it is.
    pub url: RedisUrl,
    /// The files of a connection over TLS.
    pub tls: TlsFiles,
    /// How to log in to sentinels.
    pub sentinel_login: Login,
    /// Before every key.
    pub key_prefix: String,
    /// How long Redis may take.
    pub timeouts: Timeouts,
    /// How many replicas of Redis must have a decision before it is answered.
    pub wait_replicas: u16,
    /// How much of the usage history is kept.
    pub usage_limits: UsageLimits,
    /// What to do with a Redis that may evict what was counted.
    pub unsafe_eviction: UnsafeEviction,
}

impl RedisConfig {
    /// What is sent besides the scripts, sooner or later.
    fn commands_beside_scripts(&self) -> Vec<&'static str> {
        let mut commands = Vec::new();
        match self.url.topology {
            Topology::One => {}
            Topology::Sentinel(_) => commands.push("role"),
            Topology::Cluster => commands.extend(["cluster|slots", "asking"]),
        }
        if self.url.login.database.unwrap_or(0) != 0 {
            commands.push("select");
        }
        if self.wait_replicas > 0 {
            commands.push("wait");
        }
        commands
    }
}

/// Why a store can't be prepared.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file of a connection over TLS.
    #[error(transparent)]
    Tls(#[from] PemError),
    /// The client library takes no such connection.
    #[error(transparent)]
    Client(#[from] RedisError),
}

/// The counters in Redis, version 7 or later.
pub struct RedisStore {
    links: Arc<Links>,
    fitness: Fitness,
    /// A day's rows are read whole for each page: only so many at a time.
    usage_reads: Semaphore,
    decider: Arc<Decider>,
    /// One look at what Redis still has at a time.
    verifying: Arc<Semaphore>,
    pools: Script,
}

/// How many calls to decide may be under way.
const MOST_CALLS: usize = 4;

/// In a cluster a call is one organization's, so that none waits for the node of another: as many as the
/// connection to a node has room for.
const MOST_CALLS_IN_A_CLUSTER: usize = 1024;

/// How often a day's usage is read anew because its key moved between two steps.
const MOST_SCANS: usize = 4;

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
        let links = Links::new(&config)?;
        let others = config.commands_beside_scripts();
        let rights = Rights::new(&config.key_prefix, others);
        let RedisConfig {
            key_prefix,
            usage_limits,
            unsafe_eviction,
            ..
        } = config;
        Ok(Self {
            links: Arc::new(links),
            fitness: Fitness::new(unsafe_eviction),
            usage_reads: Semaphore::new(MAX_USAGE_READS),
            decider: Arc::new(Decider::new(rights, key_prefix, usage_limits)),
            verifying: Arc::new(Semaphore::new(1)),
            pools: Script::new(include_str!("pools.lua")),
        })
    }

    /// Begins a look at whether Redis still has what it acknowledged, unless one is under way. It may take
    /// longer than a probe may.
    fn verify(&self) {
        if let Ok(turn) = Arc::clone(&self.verifying).try_acquire_owned() {
            let (decider, links) = (Arc::clone(&self.decider), Arc::clone(&self.links));
            tokio::spawn(async move {
                decider.verify(&links).await;
                drop(turn);
            });
        }
    }

    /// Runs the script that reads pools, where a key is.
    async fn read_pools(&self, key: &str, push: impl Fn(&mut Cmd)) -> Result<Value, StoreError> {
        let run = || self.pools.run(&self.links, key, Manner::default(), &push);
        match again_if_cut(run).await {
            Ok(reply) => Ok(reply),
            Err(failed) => Err(self.explained(key, &failed).await),
        }
    }

    async fn explained(&self, key: &str, failed: &Failed) -> StoreError {
        let rights = &self.decider.rights;
        rights.explain(&self.links, key, store_error(failed)).await
    }

    fn keys(&self, org: &OrgId, day: UtcDay) -> OrgKeys {
        OrgKeys::new(&self.decider.key_prefix, org, day)
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timestamped<Decision>, StoreError>> {
        self.decider.decide(&self.links, batches).await
    }

    fn calls_at_once(&self) -> Option<usize> {
        Some(if self.links.are_many() {
            MOST_CALLS_IN_A_CLUSTER
        } else {
            MOST_CALLS
        })
    }

    fn batches_in_a_call(&self) -> usize {
        if self.links.are_many() { 1 } else { usize::MAX }
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
    ) -> Result<Timestamped<Vec<PoolCounters>>, StoreError> {
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
        let (now, mut kept) = readings::parse_pools(&reply, pools.len())?;
        // What Redis lost shows here too, though only a decision restores it. Where it lost nothing, it knows more
        // than this replica does: what others made one part since, say.
        for known in remembered {
            if let Some(at) = pools.iter().position(|pool| *pool == known.pool)
                && kept[at].0.turn_of(self.decider.memory.replica) < known.turn
            {
                kept[at].0.join(Record::parse(&known.record)?);
            }
        }
        let counters = |(record, held): (Record, Tokens)| PoolCounters {
            held,
            ..record.counters()
        };
        let answer = kept.into_iter().map(counters).collect();
        Ok(Timestamped { now, answer })
    }

    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError> {
        let _turn = self.usage_reads.acquire().await;
        let key = self.keys(org, day).usage();
        let mut scans = 1;
        let mut scanned_by = None;
        let mut rows = UsageRows::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&key).arg(&cursor).arg("COUNT").arg(USAGE_STEP);
            let answered = again_if_cut(|| self.links.ask(&key, &command, Manner::default())).await;
            let Answered { value, by } = match answered {
                Ok(answered) => answered,
                Err(failed) => return Err(self.explained(&key, &failed).await),
            };
            if scanned_by.replace(by).is_some_and(|before| before != by) {
                // Where one server was in its scan means nothing to another.
                if scans == MOST_SCANS {
                    let reason = "the key of the usage moves again and again".to_owned();
                    return Err(StoreError::OutcomeUnknown { reason });
                }
                scans += 1;
                scanned_by = None;
                rows.clear();
                "0".clone_into(&mut cursor);
                continue;
            }
            let (next, step) = readings::parse_scan(&value)?;
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
        let (now, _) = readings::parse_pools(&reply, 0)?;
        Ok(Timestamped { now, answer: rows })
    }

    fn losses(&self) -> u64 {
        self.decider.memory.losses()
    }

    fn partial_refusal(&self) -> Option<String> {
        self.decider.refusals.reasons()
    }

    async fn probe(&self) -> Result<Timestamped<()>, StoreError> {
        self.links.follow().await;
        let keys = self.links.probe_keys(&self.decider.key_prefix).await;
        let keys = keys.map_err(|error| store_error(&error))?;
        self.fitness.check(&self.links, &keys).await?;
        let now = self.decider.probe(&self.links, keys).await?;
        self.verify();
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
