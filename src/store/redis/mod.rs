//! `redis://`: counters that any number of replicas share.
//!
//! **Keys** ([`keys`]). Three per organization and day: the pools' counters, the usage rows, and the
//! reservations by request id. An organization's keys share a hash tag.
//!
//! **Protocol.** One script, `decide.lua`, decides a batch of one organization. It reads, judges
//! everything, and only then writes, since a script is atomic but does not roll back. The service
//! names the day's keys; the script compares that day with its own clock (one TIME call) and writes
//! nothing where it is another. A reservation may name a pool that has left the policy since: the
//! script then asks for that pool's key, and again has written nothing.
//!
//! **Scripts** are sent by their hash. Where Redis doesn't know one (a restart, SCRIPT FLUSH), nothing
//! ran, and its source is sent instead: that can't miss.
//!
//! **The connection** ([`link`]) is kept and shared. What counts once however often it is asked is asked
//! again where it is cut.

mod arguments;
pub mod keys;
mod letters;
mod link;
pub mod reply;

use std::{collections::HashSet, fmt, time::Duration};

use async_trait::async_trait;
use chrono::Utc;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::Semaphore;

use self::{
    arguments::{Head, Packed},
    keys::OrgKeys,
    link::{Failed, Link, again_if_cut, store_error},
    reply::{BadReply, Reply},
};
use super::{Batch, Decided, Operation, RowKey, Store, StoreError, Timed, UsageRows};
use crate::domain::{OrgId, PoolCounters, PoolName, Terms, UtcDay};

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
    decide: Script,
    pools: Script,
    key_prefix: String,
    usage_retention: Duration,
}

struct Script {
    source: &'static str,
    hash: String,
}

/// A record names at most one pool that the caller didn't; a policy that lost more is asked for again.
const MAX_ROUNDS: usize = 4;

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
            decide: Script::new(include_str!("decide.lua")),
            pools: Script::new(include_str!("pools.lua")),
            key_prefix,
            usage_retention: Duration::from_secs(days * 24 * 60 * 60),
        })
    }

    fn keys(&self, org: &OrgId) -> OrgKeys {
        OrgKeys::new(&self.key_prefix, org)
    }

    /// Decides a batch of as many operations as the script takes.
    async fn decide_batch(&self, batch: &Batch) -> Result<Timed<Decided>, StoreError> {
        let keys = self.keys(&batch.org);
        let mut extra = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let head = Head {
                day: batch.day,
                usage_retention_secs: self.usage_retention.as_secs(),
                terms: &batch.terms,
                extra: &extra,
            };
            let packed = arguments::pack(&head, &batch.operations);
            let push = |command: &mut Cmd| {
                push_decide(command, &keys, &head, &packed);
            };
            let ask = || self.decide.run(&self.link, push);
            let reply = if can_be_repeated(&batch.operations) {
                again_if_cut(ask).await
            } else {
                ask().await
            };
            let reply = reply.map_err(|error| store_error(&error))?;
            let (now, reply) =
                reply::parse_decided(reply::bytes(&reply)?, &batch.terms, &batch.operations)?;
            let answer = match reply {
                Reply::Done(outcomes) => Decided::Outcomes(outcomes),
                Reply::AnotherDay => Decided::OnAnotherDay,
                Reply::UnnamedPools(pools) => {
                    extra.extend(pools);
                    continue;
                }
            };
            return Ok(Timed { now, answer });
        }
        Err(StoreError::Corrupt {
            reason: "records name ever more pools".to_owned(),
        })
    }
}

fn push_decide(command: &mut Cmd, keys: &OrgKeys, head: &Head<'_>, packed: &Packed) {
    let (day, yesterday) = (head.day, head.day.yesterday());
    let pools = head.terms.allowances.iter().map(|(pool, _)| pool);
    let pool_count = head.terms.allowances.len() + head.extra.len();
    command.arg(1 + pool_count + if packed.has_ids { 3 } else { 0 });
    command.arg(keys.usage(day));
    for pool in pools.chain(head.extra) {
        command.arg(keys.pool(pool, day));
    }
    if packed.has_ids {
        command
            .arg(keys.requests(day))
            .arg(keys.usage(yesterday))
            .arg(keys.requests(yesterday));
    }
    command.arg(&packed.argument);
}
/// Whether a second run of these gives the answers of the first: each counts once however often it is
/// asked, and none is about the id of another, which the first run would have changed.
fn can_be_repeated(operations: &[Operation]) -> bool {
    let mut ids = HashSet::new();
    operations.iter().all(|operation| {
        let apart = operation.request_id().is_none_or(|id| ids.insert(id));
        apart && operation.counts_once()
    })
}

#[async_trait]
impl Store for RedisStore {
    async fn decide(&self, batch: &Batch) -> Result<Timed<Decided>, StoreError> {
        self.decide_batch(batch).await
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
    ) -> Result<Timed<Vec<PoolCounters>>, StoreError> {
        let keys = self.keys(org);
        let push = |command: &mut Cmd| {
            command.arg(pools.len());
            for pool in pools {
                command.arg(keys.pool(pool, day));
            }
        };
        let reply = again_if_cut(|| self.pools.run(&self.link, push)).await;
        let reply = reply.map_err(|error| store_error(&error))?;
        let (now, answer) = reply::parse_pools(&reply, pools.len())?;
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
        let key = self.keys(org).usage(day);
        let mut rows = UsageRows::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&key).arg(&cursor).arg("COUNT").arg(USAGE_STEP);
            let reply = again_if_cut(|| self.link.send(&command)).await;
            let reply = reply.map_err(|error| store_error(&error))?;
            let (next, step) = reply::parse_scan(&reply)?;
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

    /// Runs the script that decides, on nothing: where Redis would refuse a decision, being read-only,
    /// out of memory or without the right to run it, it refuses this too.
    async fn probe(&self) -> Result<Timed<()>, StoreError> {
        let today = UtcDay::of(Utc::now());
        let head = Head {
            day: today,
            usage_retention_secs: self.usage_retention.as_secs(),
            terms: &Terms::default(),
            extra: &[],
        };
        let packed = arguments::pack(&head, &[]);
        let push = |command: &mut Cmd| {
            command.arg(0).arg(&packed.argument);
        };
        let reply = again_if_cut(|| self.decide.run(&self.link, push)).await;
        let reply = reply.map_err(|error| store_error(&error))?;
        let (now, _) = reply::parse_decided(reply::bytes(&reply)?, &Terms::default(), &[])?;
        Ok(Timed { now, answer: () })
    }
}

const NO_SCRIPT: ErrorKind = ErrorKind::Server(ServerErrorKind::NoScript);

impl Script {
    fn new(source: &'static str) -> Self {
        Self {
            source,
            hash: redis::Script::new(source).get_hash().to_owned(),
        }
    }

    /// Runs the script with the keys and arguments that `push` adds.
    async fn run(&self, link: &Link, push: impl Fn(&mut Cmd)) -> Result<Value, Failed> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash);
        push(&mut command);
        let sent = link.send(&command).await;
        if matches!(&sent, Err(Failed::Asking(e)) if e.kind() == NO_SCRIPT) {
            let mut command = redis::cmd("EVAL");
            command.arg(self.source);
            push(&mut command);
            return link.send(&command).await;
        }
        sent
    }
}

impl From<BadReply> for StoreError {
    fn from(bad: BadReply) -> Self {
        Self::Corrupt {
            reason: bad.to_string(),
        }
    }
}
