//! Deciding: from batches to calls of the script, and from its replies to what became of them.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::future::{join_all, select_ok};
use redis::{Cmd, Value};

use super::{
    arguments::{self, Packed},
    link::{Failed, again_if_cut, store_error},
    links::Links,
    reply::{self, Reply},
    script::Script,
};
use crate::{
    domain::{PoolName, UtcDay},
    store::{Batch, Decided, StoreError, Timed},
};

/// A reservation names at most one pool that the caller didn't; a policy that lost more is asked for
/// again.
const MAX_ROUNDS: usize = 4;

/// How many batches and operations one call of the script takes: Redis serves nobody else meanwhile. In
/// a cluster it takes one batch, since no two organizations need be on the same node.
const MOST_BATCHES: usize = 64;
const MOST_OPERATIONS: usize = Batch::MOST_OPERATIONS;

/// The script, and what it needs to know besides a batch.
pub(super) struct Decider {
    pub(super) key_prefix: String,
    usage_retention: Duration,
    /// For batches without ids: the same script without the part that they don't need.
    plain: Script,
    with_ids: Script,
}

type Result<T> = std::result::Result<T, StoreError>;

impl Decider {
    pub(super) fn new(key_prefix: String, usage_retention: Duration) -> Self {
        Self {
            key_prefix,
            usage_retention,
            plain: Script::new(concat!(
                include_str!("decide/plain.lua"),
                include_str!("decide/batch.lua")
            )),
            with_ids: Script::new(concat!(
                include_str!("decide/plain.lua"),
                include_str!("decide/past.lua"),
                include_str!("decide/batch.lua")
            )),
        }
    }

    /// Decides batches by as few calls as the bounds allow, all of them written at once.
    pub(super) async fn decide(
        &self,
        links: &Links,
        batches: &[Batch],
    ) -> Vec<Result<Timed<Decided>>> {
        let most = if links.are_many() { 1 } else { MOST_BATCHES };
        let calls = calls(batches, most).map(|batches| self.decide_in_one_call(links, batches));
        join_all(calls).await.into_iter().flatten().collect()
    }

    async fn decide_in_one_call(
        &self,
        links: &Links,
        batches: &[Batch],
    ) -> Vec<Result<Timed<Decided>>> {
        let (now, replies) = match self.call(links, batches, &[]).await {
            Ok(replies) => replies,
            Err(error) => return batches.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut decided = Vec::with_capacity(batches.len());
        for (batch, reply) in batches.iter().zip(replies) {
            decided.push(match reply {
                Reply::UnnamedPools(pools) => self.decide_naming(links, batch, pools).await,
                reply => answer(now, reply),
            });
        }
        decided
    }

    /// Decides a batch with a reservation of a pool that left the policy.
    async fn decide_naming(
        &self,
        links: &Links,
        batch: &Batch,
        mut extra: Vec<PoolName>,
    ) -> Result<Timed<Decided>> {
        for _ in 1..MAX_ROUNDS {
            let (now, mut replies) = self
                .call(links, std::slice::from_ref(batch), &extra)
                .await?;
            match replies.pop() {
                Some(Reply::UnnamedPools(pools)) => extra.extend(pools),
                Some(reply) => return answer(now, reply),
                None => break,
            }
        }
        Err(StoreError::Corrupt {
            reason: "reservations name ever more pools".to_owned(),
        })
    }

    /// Calls the script once. All batches are of one day.
    async fn call(
        &self,
        links: &Links,
        batches: &[Batch],
        extra: &[PoolName],
    ) -> Result<(DateTime<Utc>, Vec<Reply>)> {
        let day = batches.first().map(|batch| batch.day);
        let mut keys = Vec::new();
        let mut arguments = Vec::with_capacity(batches.len());
        let mut has_ids = false;
        for batch in batches {
            let packed = arguments::pack(batch, extra, &self.key_prefix, keys.len());
            let Packed { keys: its, .. } = packed;
            keys.extend(its);
            arguments.push(packed.argument);
            has_ids |= packed.has_ids;
        }
        let day = day.unwrap_or_else(|| UtcDay::of(Utc::now()));
        let asked = Asked {
            day,
            keys,
            arguments,
        };
        let script = if has_ids { &self.with_ids } else { &self.plain };
        let ask = || asked.of(self, script, links);
        let reply = if can_be_repeated(batches) {
            again_if_cut(ask).await
        } else {
            ask().await
        };
        let reply = reply.map_err(|error| store_error(&error))?;
        Ok(reply::parse_decided(reply::bytes(&reply)?, batches)?)
    }

    /// Asks every server whether it would decide, and takes the first one's clock: the store is of use
    /// as long as one of them does.
    pub(super) async fn probe(&self, links: &Links) -> Result<DateTime<Utc>> {
        let keys = links.probe_keys(&self.key_prefix).await;
        let keys = keys.map_err(|error| store_error(&error))?;
        let probes = keys.iter().map(|key| Box::pin(self.probe_at(links, key)));
        Ok(select_ok(probes).await?.0)
    }

    /// Runs the script on nothing, where a key is: where Redis would refuse a decision, being read-only,
    /// out of memory, without the slot or without the right to run it, it refuses this too. Gives its
    /// clock.
    pub(super) async fn probe_at(&self, links: &Links, key: &str) -> Result<DateTime<Utc>> {
        let asked = Asked {
            day: UtcDay::of(Utc::now()),
            keys: vec![key.to_owned()],
            arguments: Vec::new(),
        };
        let reply = again_if_cut(|| asked.of(self, &self.plain, links)).await;
        let reply = reply.map_err(|error| store_error(&error))?;
        Ok(reply::parse_decided(reply::bytes(&reply)?, &[])?.0)
    }
}

/// What the script is asked.
struct Asked {
    day: UtcDay,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl Asked {
    async fn of(
        &self,
        decider: &Decider,
        script: &Script,
        links: &Links,
    ) -> std::result::Result<Value, Failed> {
        let Self {
            day,
            keys,
            arguments,
        } = self;
        let push = |command: &mut Cmd| {
            command.arg(keys.len()).arg(keys);
            command.arg(day.start().timestamp());
            command.arg(decider.usage_retention.as_secs());
            command.arg(arguments);
        };
        // All keys of a call are in one place.
        let key = keys.first().map_or("", String::as_str);
        script.run(links, key, push).await
    }
}

/// Splits batches by what one call takes, and by day.
fn calls(batches: &[Batch], most: usize) -> impl Iterator<Item = &[Batch]> {
    let mut rest = batches;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut operations = 0;
        let fits = |batch: &&Batch| {
            operations += batch.operations.len();
            batch.day == first.day && operations <= MOST_OPERATIONS
        };
        let count = rest.iter().take(most).take_while(fits).count();
        let (call, behind) = rest.split_at(count.max(1));
        rest = behind;
        Some(call)
    })
}

/// Whether a second run of these gives the answers of the first: each counts once however often it is
/// asked, and none is about the id of another, which the first run would have changed.
fn can_be_repeated(batches: &[Batch]) -> bool {
    let mut ids = HashSet::new();
    let mut operations = batches
        .iter()
        .flat_map(|batch| batch.operations.iter().map(move |it| (&batch.org, it)));
    operations.all(|(org, operation)| {
        let apart = operation
            .request_id()
            .is_none_or(|id| ids.insert((org, id)));
        apart && operation.counts_once()
    })
}

/// What the script's reply to a batch means.
fn answer(now: DateTime<Utc>, reply: Reply) -> Result<Timed<Decided>> {
    let answer = match reply {
        Reply::Done(outcomes) => Decided::Outcomes(outcomes),
        Reply::AnotherDay => Decided::OnAnotherDay,
        Reply::UnnamedPools(_) => {
            let reason = "pools that were named".to_owned();
            return Err(StoreError::Corrupt { reason });
        }
        // The script asks for its rights before it writes. What else it fails for before its first
        // write is what it read, and no retry mends that.
        Reply::Failed { why, key } if why.starts_with("NOPERM") => {
            let reason = format!("{why} ({key})");
            return Err(StoreError::Refused { reason });
        }
        Reply::Failed { why, key } => {
            let reason = format!("{key}: {why}");
            return Err(StoreError::Corrupt { reason });
        }
        Reply::Torn(reason) => return Err(StoreError::NoAnswer { reason }),
    };
    Ok(Timed { now, answer })
}
