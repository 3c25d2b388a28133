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

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::Utc;
use futures_util::future::join_all;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::Semaphore;

use self::{
    keys::OrgKeys,
    link::{Failed, Link, again_if_cut, store_error},
    reply::{BadReply, Reply},
};
use super::{Decided, Decision, Operation, Outcome, RowKey, Store, StoreError, Timed, UsageRows};
use crate::domain::{OrgId, Overflow, PoolCounters, PoolName, Terms, UtcDay};

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

    /// Decides what one organization asks under one set of terms.
    async fn decide_group(
        &self,
        day: UtcDay,
        org: &OrgId,
        terms: &Terms,
        operations: &[&Operation],
    ) -> Result<Timed<Vec<Outcome>>, StoreError> {
        let keys = self.keys(org);
        let mut extra = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let push = |command: &mut Cmd| {
                self.push_decide(command, &keys, day, terms, &extra, operations);
            };
            let ask = || self.decide.run(&self.link, push);
            let reply = if can_be_repeated(operations) {
                again_if_cut(ask).await
            } else {
                ask().await
            };
            let reply = reply.map_err(|error| store_error(&error))?;
            let (now, reply) = reply::parse_decided(&reply, terms, operations.len())?;
            match reply {
                Reply::Done(answer) => return Ok(Timed { now, answer }),
                Reply::AnotherDay => {
                    return Ok(Timed {
                        now,
                        answer: vec![Outcome::AnotherDay; operations.len()],
                    });
                }
                Reply::UnnamedPools(pools) => extra.extend(pools),
            }
        }
        Err(StoreError::Corrupt {
            reason: "records name ever more pools".to_owned(),
        })
    }

    fn push_decide(
        &self,
        command: &mut Cmd,
        keys: &OrgKeys,
        day: UtcDay,
        terms: &Terms,
        extra: &[PoolName],
        operations: &[&Operation],
    ) {
        let yesterday = day.yesterday();
        command.arg(4 + terms.allowances.len() + extra.len());
        command.arg(keys.usage(day)).arg(keys.requests(day));
        command
            .arg(keys.usage(yesterday))
            .arg(keys.requests(yesterday));
        let pools = terms.allowances.iter().map(|(pool, _)| pool).chain(extra);
        for pool in pools {
            command.arg(keys.pool(pool, day));
        }
        self.push_terms(command, day, terms, extra);
        for operation in operations {
            arguments::push_item(command, terms, operation);
        }
    }

    /// The arguments that hold for a whole batch.
    fn push_terms(&self, command: &mut Cmd, day: UtcDay, terms: &Terms, extra: &[PoolName]) {
        command
            .arg(day.start().timestamp())
            .arg(self.usage_retention.as_secs())
            .arg(u8::from(terms.overflow == Overflow::CloseUntilReset));
        arguments::push_pools(command, terms, extra);
    }
}

/// Whether a second run of these gives the answers of the first: each counts once however often it is
/// asked, and none is about the id of another, which the first run would have changed.
fn can_be_repeated(operations: &[&Operation]) -> bool {
    let mut ids = HashSet::new();
    operations.iter().all(|operation| {
        let apart = operation.request_id().is_none_or(|id| ids.insert(id));
        apart && operation.counts_once()
    })
}

/// The decisions of a batch that one call of the script takes: one organization, one set of terms.
struct Group<'b> {
    terms: &'b Arc<Terms>,
    at: Vec<usize>,
}

/// Splits a batch by organization, and an organization's decisions, in their order, by terms: those
/// differ only where the policy changed in between.
fn groups(batch: &[Decision]) -> HashMap<&OrgId, Vec<Group<'_>>> {
    let mut orgs: HashMap<&OrgId, Vec<Group<'_>>> = HashMap::new();
    for (at, Decision { org, terms, .. }) in batch.iter().enumerate() {
        let groups = orgs.entry(org).or_default();
        match groups.last_mut().filter(|group| group.terms == terms) {
            Some(group) => group.at.push(at),
            None => groups.push(Group {
                terms,
                at: vec![at],
            }),
        }
    }
    orgs
}

#[async_trait]
impl Store for RedisStore {
    async fn decide(&self, day: UtcDay, batch: Vec<Decision>) -> Vec<Decided> {
        let orgs = groups(&batch);
        let calls = orgs.into_iter().map(|(org, groups)| {
            let batch = &batch;
            async move {
                let mut decided = Vec::with_capacity(batch.len());
                // One after the other, so that they keep their order whatever a call needs.
                for Group { terms, at } in groups {
                    let operations: Vec<_> = at.iter().map(|at| &batch[*at].operation).collect();
                    let outcomes = self.decide_group(day, org, terms, &operations).await;
                    decided.extend(each_its_own(at, outcomes));
                }
                decided
            }
        });
        let mut decided: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
        decided.sort_unstable_by_key(|(at, _)| *at);
        decided.into_iter().map(|(_, decided)| decided).collect()
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
        let push = |command: &mut Cmd| {
            command.arg(0);
            self.push_terms(command, UtcDay::of(Utc::now()), &Terms::default(), &[]);
        };
        let reply = again_if_cut(|| self.decide.run(&self.link, push)).await;
        let reply = reply.map_err(|error| store_error(&error))?;
        let (now, _) = reply::parse_decided(&reply, &Terms::default(), 0)?;
        Ok(Timed { now, answer: () })
    }
}

/// The result of a call, decision by decision, with their places in the batch.
fn each_its_own(
    at: Vec<usize>,
    outcomes: Result<Timed<Vec<Outcome>>, StoreError>,
) -> Vec<(usize, Decided)> {
    match outcomes {
        Ok(Timed { now, answer }) => {
            let answers = answer.into_iter().map(|answer| Ok(Timed { now, answer }));
            at.into_iter().zip(answers).collect()
        }
        Err(error) => at.into_iter().map(|at| (at, Err(error.clone()))).collect(),
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
