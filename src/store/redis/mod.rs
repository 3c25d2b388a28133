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
//! **Connections** ([`link`]) are kept and shared: one for decisions, one for reads and probes. What
//! counts once however often it is asked is asked again where its connection is cut.

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
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

use self::{
    keys::OrgKeys,
    link::{Link, again_if_cut, store_error},
    reply::{BadReply, Reply},
};
use super::{Decided, Decision, Operation, Outcome, Store, StoreError, Timed, UsageRows};
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
    decisions: Link,
    reads: Link,
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
            decisions: Link::new(info.clone(), timeouts)?,
            reads: Link::new(info, timeouts)?,
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
            let ask = || self.decide.run(&self.decisions, push);
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
        let closes = terms.overflow == crate::domain::Overflow::CloseUntilReset;
        command
            .arg(day.start().timestamp())
            .arg(self.usage_retention.as_secs())
            .arg(u8::from(closes));
        arguments::push_pools(command, terms, extra);
        for operation in operations {
            arguments::push_item(command, terms, operation);
        }
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
    org: &'b OrgId,
    terms: &'b Arc<Terms>,
    at: Vec<usize>,
}

/// Splits a batch so that every organization's decisions keep their order.
fn groups(batch: &[Decision]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut newest: HashMap<&OrgId, usize> = HashMap::new();
    for (at, Decision { org, terms, .. }) in batch.iter().enumerate() {
        let group = newest.get(org).copied();
        match group.filter(|group| groups[*group].terms == terms) {
            Some(group) => groups[group].at.push(at),
            None => {
                newest.insert(org, groups.len());
                groups.push(Group {
                    org,
                    terms,
                    at: vec![at],
                });
            }
        }
    }
    groups
}

#[async_trait]
impl Store for RedisStore {
    async fn decide(&self, day: UtcDay, batch: Vec<Decision>) -> Vec<Decided> {
        let mut decided: Vec<Option<Decided>> = vec![None; batch.len()];
        // Calls are sent in this order over one connection, and Redis takes them in this order.
        let calls = groups(&batch).into_iter().map(|group| async {
            let operations: Vec<_> = group.at.iter().map(|at| &batch[*at].operation).collect();
            let outcomes = self
                .decide_group(day, group.org, group.terms, &operations)
                .await;
            (group.at, outcomes)
        });
        for (at, outcomes) in join_all(calls).await {
            match outcomes {
                Ok(Timed { now, answer }) => {
                    for (at, answer) in at.into_iter().zip(answer) {
                        decided[at] = Some(Ok(Timed { now, answer }));
                    }
                }
                Err(error) => at
                    .into_iter()
                    .for_each(|at| decided[at] = Some(Err(error.clone()))),
            }
        }
        let decided: Option<Vec<Decided>> = decided.into_iter().collect();
        decided.expect("every decision is in one group")
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
        let reply = again_if_cut(|| self.pools.run(&self.reads, push)).await;
        let reply = reply.map_err(|error| store_error(&error))?;
        let (now, answer) = reply::parse_pools(&reply, pools.len())?;
        Ok(Timed { now, answer })
    }

    async fn usage(&self, org: &OrgId, day: UtcDay) -> Result<Timed<UsageRows>, StoreError> {
        let key = self.keys(org).usage(day);
        let mut rows = UsageRows::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&key).arg(&cursor).arg("COUNT").arg(USAGE_STEP);
            let reply = again_if_cut(|| self.reads.send(&command)).await;
            let reply = reply.map_err(|error| store_error(&error))?;
            cursor = scan_step(&reply, &mut rows)?;
            if cursor == "0" {
                break;
            }
        }
        let Timed { now, answer: () } = self.probe().await?;
        Ok(Timed { now, answer: rows })
    }

    async fn probe(&self) -> Result<Timed<()>, StoreError> {
        let time = redis::cmd("TIME");
        let reply = again_if_cut(|| self.reads.send(&time)).await;
        let reply = reply.map_err(|error| store_error(&error))?;
        let Value::Array(parts) = &reply else {
            return Err(StoreError::Corrupt {
                reason: "a time that is no list".to_owned(),
            });
        };
        let [seconds, micros] = parts.as_slice() else {
            return Err(StoreError::Corrupt {
                reason: "a time of other than two parts".to_owned(),
            });
        };
        let now: DateTime<Utc> = reply::parse_time(reply::text(seconds)?, reply::text(micros)?)?;
        Ok(Timed { now, answer: () })
    }
}

/// Takes the rows of one step of a scan, and gives the cursor of the next; "0" ends it.
fn scan_step(reply: &Value, rows: &mut UsageRows) -> Result<String, StoreError> {
    let corrupt = |reason: &str| StoreError::Corrupt {
        reason: reason.to_owned(),
    };
    let Value::Array(parts) = reply else {
        return Err(corrupt("a scan that is no list"));
    };
    let [cursor, Value::Array(fields)] = parts.as_slice() else {
        return Err(corrupt("a scan of other than two parts"));
    };
    for pair in fields.chunks(2) {
        let [field, row] = pair else {
            return Err(corrupt("a usage row without counters"));
        };
        let row_key = keys::parse_row_field(reply::text(field)?);
        let row_key = row_key.ok_or_else(|| corrupt("a usage row without project and model"))?;
        rows.insert(row_key, reply::parse_row(reply::text(row)?)?);
    }
    Ok(reply::text(cursor)?.to_owned())
}

impl Script {
    fn new(source: &'static str) -> Self {
        Self {
            source,
            hash: redis::Script::new(source).get_hash().to_owned(),
        }
    }

    /// Runs the script with the keys and arguments that `push` adds.
    async fn run(&self, link: &Link, push: impl Fn(&mut Cmd)) -> Result<Value, RedisError> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash);
        push(&mut command);
        let sent = link.send(&command).await;
        if matches!(&sent, Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript)) {
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
