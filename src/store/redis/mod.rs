//! `redis://`: counters that any number of replicas share.
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

mod arguments;
mod decide;
pub mod keys;
mod link;
mod packed;
pub mod readings;
pub mod reply;
mod script;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use redis::{Cmd, RedisError};
use tokio::sync::Semaphore;

use self::{
    decide::Decider,
    keys::OrgKeys,
    link::{Link, again_if_cut, store_error},
    packed::BadReply,
    script::Script,
};
use super::{Batch, Decided, RowKey, Store, StoreError, Timed, UsageRows};
use crate::domain::{OrgId, PoolCounters, PoolName, UtcDay};

pub use self::link::Timeouts;

/// `redis://[user:password@]host[:port][/database]`. Displays without user and password.
#[derive(Clone)]
pub struct RedisUrl(redis::ConnectionInfo);

impl RedisUrl {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// What is wrong, without repeating the text: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|error: RedisError| match error.detail() {
                Some(detail) => format!("is no Redis URL: {detail}"),
                None => "is no Redis URL of the form redis://[user:password@]host[:port][/db]"
                    .to_owned(),
            })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "redis://{}/{}",
            self.0.addr(),
            self.0.redis_settings().db()
        )
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How to reach Redis, and how to use it.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Where it is.
    pub url: RedisUrl,
    /// Before every key.
    pub key_prefix: String,
    /// How long Redis may take.
    pub timeouts: Timeouts,
    /// How many days usage is kept after its day.
    pub usage_retention_days: u32,
}

/// The counters in a Redis server, version 7 or later.
pub struct RedisStore {
    link: Link,
    /// A day's rows are read whole for each page: only so many at a time.
    usage_reads: Semaphore,
    decider: Decider,
    pools: Script,
}

/// How many calls to decide may be under way.
const MOST_CALLS: usize = 4;

/// Rows that one step of reading a day's usage asks for: Redis serves others between the steps.
const USAGE_STEP: usize = 512;

/// How many days' usage is read at a time.
const MAX_USAGE_READS: usize = 4;

impl RedisStore {
    /// Prepares the connections; nothing is connected before the first call.
    ///
    /// # Errors
    ///
    /// The client library takes no such connection.
    pub fn new(config: RedisConfig) -> Result<Self, RedisError> {
        let RedisConfig {
            url: RedisUrl(info),
            key_prefix,
            timeouts,
            usage_retention_days,
        } = config;
        let days = u64::from(usage_retention_days);
        Ok(Self {
            link: Link::new(info, timeouts)?,
            usage_reads: Semaphore::new(MAX_USAGE_READS),
            decider: Decider::new(key_prefix, Duration::from_secs(days * 24 * 60 * 60)),
            pools: Script::new(include_str!("pools.lua")),
        })
    }

    fn keys(&self, org: &OrgId, day: UtcDay) -> OrgKeys {
        OrgKeys::new(&self.decider.key_prefix, org, day)
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timed<Decided>, StoreError>> {
        self.decider.decide(&self.link, batches).await
    }

    fn calls_at_once(&self) -> Option<usize> {
        Some(MOST_CALLS)
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
    ) -> Result<Timed<Vec<PoolCounters>>, StoreError> {
        let keys = self.keys(org, day);
        let push = |command: &mut Cmd| {
            command.arg(pools.len());
            for pool in pools {
                command.arg(keys.pool(&keys::encode(pool.as_str())));
            }
        };
        let reply = again_if_cut(|| self.pools.run(&self.link, push)).await;
        let reply = reply.map_err(|error| store_error(&error))?;
        let (now, answer) = readings::parse_pools(&reply, pools.len())?;
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
        let mut rows = UsageRows::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&key).arg(&cursor).arg("COUNT").arg(USAGE_STEP);
            let reply = again_if_cut(|| self.link.send(&command)).await;
            let reply = reply.map_err(|error| store_error(&error))?;
            let (next, step) = readings::parse_scan(&reply)?;
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
        let Timed { now, answer: () } = self.probe().await?;
        Ok(Timed { now, answer: rows })
    }

    async fn probe(&self) -> Result<Timed<()>, StoreError> {
        let now = self.decider.probe(&self.link).await?;
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
