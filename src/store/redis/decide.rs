//! Deciding: from batches to calls of the script, and from its replies to what became of them.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use futures_util::future::{join_all, select_ok};
use redis::{Cmd, Value};

use super::{
    acl_check::AclCheck,
    conn::{
        RedisClient,
        connection::{SendOptions, retry_if_cut},
        errors::{SendError, denied, is_denial, is_missing, no_right},
        message::sanitize,
    },
    recovery::snapshots::Snapshots,
    reply::{self, BatchReply},
    script::{
        Script,
        keys::OrgKeys,
        request::{self, CallOptions},
    },
};
use crate::{
    domain::{PoolName, UtcDay},
    store::{Batch, Decided, StoreError, Timed, UsageLimits},
};

/// A reservation names at most one pool that the caller didn't; a policy that lost more is asked for
/// again. And so is what this replica remembers, where Redis lost writes.
const MAX_ROUNDS: usize = 5;

/// How many batches and operations one call of the script takes: Redis serves nobody else meanwhile. In
/// a cluster it takes one batch, since no two organizations need be on the same node.
pub(super) const MAX_BATCHES: usize = 64;
const MOST_OPERATIONS: usize = Batch::MOST_OPERATIONS;

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

/// The script, and what it needs to know besides a batch.
pub(super) struct Decider {
    pub(super) rights: AclCheck,
    pub(super) key_prefix: String,
    pub(super) memory: Snapshots,
    usage_limits: UsageLimits,
    /// For batches without ids: the same script without the part that they don't need.
    plain: Script,
    with_ids: Script,
    /// For where Redis has lost writes.
    whole: Script,
}

/// Batches as one call of the script takes them.
#[derive(Default)]
struct ScriptCall {
    keys: Vec<String>,
    /// One for each batch.
    arguments: Vec<Vec<u8>>,
    /// The pools that each batch names, and the turn that is remembered of each.
    pools: Vec<Vec<(PoolName, u64)>>,
    has_ids: bool,
}

pub(super) type Result<T> = std::result::Result<T, StoreError>;

impl Decider {
    pub(super) fn new(rights: AclCheck, key_prefix: String, usage_limits: UsageLimits) -> Self {
        Self {
            rights,
            key_prefix,
            memory: Snapshots::new(),
            usage_limits,
            plain: Script::new(concat!(
                include_str!("script/plain.lua"),
                include_str!("script/usage.lua"),
                include_str!("script/pools.lua"),
                include_str!("script/decide.lua")
            )),
            with_ids: Script::new(concat!(
                include_str!("script/plain.lua"),
                include_str!("script/usage.lua"),
                include_str!("script/pools.lua"),
                include_str!("script/reservations.lua"),
                include_str!("script/decide.lua")
            )),
            whole: Script::new(concat!(
                include_str!("script/plain.lua"),
                include_str!("script/usage.lua"),
                include_str!("script/recovery.lua"),
                include_str!("script/pools.lua"),
                include_str!("script/reservations.lua"),
                include_str!("script/decide.lua")
            )),
        }
    }

    /// Decides batches by as few calls as the bounds allow, all of them written at once.
    pub(super) async fn decide(
        &self,
        client: &RedisClient,
        batches: &[Batch],
    ) -> Vec<Result<Timed<Decided>>> {
        let most = if client.is_sharded() { 1 } else { MAX_BATCHES };
        let told = CallOptions::default();
        let calls = calls(batches, most);
        let calls = calls.map(|batches| self.decide_in_one_call(client, batches, &told));
        let mut decided: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
        self.explain(client, batches, &mut decided).await;
        decided
    }

    /// Names the rights that are missing, where decisions failed for that: the first failure stands for all.
    async fn explain(
        &self,
        client: &RedisClient,
        batches: &[Batch],
        decided: &mut [Result<Timed<Decided>>],
    ) {
        let mut explained = None;
        for (batch, decided) in batches.iter().zip(decided) {
            let Err(error) = decided else { continue };
            if !is_missing(error) {
                continue;
            }
            if explained.is_none() {
                let key = OrgKeys::new(&self.key_prefix, &batch.org, batch.day).usage();
                explained = Some(self.rights.explain(client, &key, error.clone()).await);
            }
            if let Some(explained) = &explained {
                error.clone_from(explained);
            }
        }
    }

    pub(super) async fn decide_in_one_call(
        &self,
        client: &RedisClient,
        batches: &[Batch],
        told: &CallOptions,
    ) -> Vec<Result<Timed<Decided>>> {
        let (now, replies) = match self.call(client, batches, told).await {
            Ok(replies) => replies,
            Err(error) => return batches.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut lost = Vec::new();
        let mut decided = Vec::with_capacity(batches.len());
        for (batch, reply) in batches.iter().zip(replies) {
            decided.push(match reply {
                BatchReply::Lost(_) => {
                    self.tell_of_loss(batch);
                    lost.push(batch.clone());
                    None
                }
                reply => Some(self.take(client, batch, told, now, reply).await),
            });
        }
        let mut restored = self.decide_restoring(client, &lost, told).await.into_iter();
        let decided = decided.into_iter().map(|decided| {
            let restored = || restored.next().expect("one for each that was lost");
            decided.unwrap_or_else(restored)
        });
        decided.collect()
    }

    /// Decides batches whose counters Redis has lost: all in one call, which restores them.
    async fn decide_restoring(
        &self,
        client: &RedisClient,
        batches: &[Batch],
        told: &CallOptions,
    ) -> Vec<Result<Timed<Decided>>> {
        if batches.is_empty() {
            return Vec::new();
        }
        let told = CallOptions {
            restores: true,
            ..told.clone()
        };
        let (now, replies) = match self.call(client, batches, &told).await {
            Ok(replies) => replies,
            Err(error) => return batches.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut decided = Vec::with_capacity(batches.len());
        for (batch, reply) in batches.iter().zip(replies) {
            decided.push(self.take(client, batch, &told, now, reply).await);
        }
        decided
    }

    /// What a reply means; where the script has to be told more, it is.
    async fn take(
        &self,
        client: &RedisClient,
        batch: &Batch,
        told: &CallOptions,
        now: DateTime<Utc>,
        reply: BatchReply,
    ) -> Result<Timed<Decided>> {
        match reply {
            BatchReply::UnnamedPools(_) | BatchReply::Lost(_) => {
                self.decide_telling(client, batch, told.clone(), reply)
                    .await
            }
            reply => answer(now, reply),
        }
    }

    /// Decides a batch that the script has to be told more for: the names of pools that left the policy,
    /// or what Redis has lost.
    async fn decide_telling(
        &self,
        client: &RedisClient,
        batch: &Batch,
        mut told: CallOptions,
        mut reply: BatchReply,
    ) -> Result<Timed<Decided>> {
        for _ in 1..MAX_ROUNDS {
            match reply {
                BatchReply::UnnamedPools(pools) => told.extra.extend(pools),
                BatchReply::Lost(_) => {
                    told.restores = true;
                    self.tell_of_loss(batch);
                }
                _ => {}
            }
            let (now, replies) = self
                .call(client, std::slice::from_ref(batch), &told)
                .await?;
            match replies.into_iter().next() {
                Some(more @ (BatchReply::UnnamedPools(_) | BatchReply::Lost(_))) => reply = more,
                Some(decided) => return answer(now, decided),
                None => break,
            }
        }
        Err(StoreError::Corrupt {
            reason: "the script asks ever more".to_owned(),
        })
    }

    /// Calls the script once. All batches are of one day.
    async fn call(
        &self,
        client: &RedisClient,
        batches: &[Batch],
        told: &CallOptions,
    ) -> Result<(DateTime<Utc>, Vec<BatchReply>)> {
        let day = batches.first().map(|batch| batch.day);
        let day = day.unwrap_or_else(|| UtcDay::of(crate::wall_clock::now()));
        let packed = self.pack(batches, told, day);
        let script = match (told.restores, packed.has_ids) {
            (true, _) => &self.whole,
            (false, true) => &self.with_ids,
            (false, false) => &self.plain,
        };
        let asked = ScriptArgs {
            day,
            keys: packed.keys,
            arguments: packed.arguments,
        };
        let ask = || asked.of(self, script, client, WRITES);
        let reply = if can_be_repeated(batches) {
            retry_if_cut(ask).await
        } else {
            ask().await
        };
        let reply = reply?;
        let (now, mut replies) = reply::parse_decided(reply::bytes(&reply)?, batches)?;
        self.remember(batches, told, packed.pools, &mut replies)?;
        Ok((now, replies))
    }

    fn pack(&self, batches: &[Batch], told: &CallOptions, day: UtcDay) -> ScriptCall {
        let mut call = ScriptCall::default();
        let known = self.memory.lock();
        for batch in batches {
            let known = known.pools(&batch.org, day);
            let packed = request::pack(batch, told, known, &self.key_prefix, call.keys.len());
            call.keys.extend(packed.keys);
            call.arguments.push(packed.argument);
            call.pools.push(packed.pools);
            call.has_ids |= packed.has_ids;
        }
        call
    }

    /// Asks every server whether it would decide, and takes the first one's clock: the store is of use
    /// as long as one of them does.
    pub(super) async fn probe(
        &self,
        client: &RedisClient,
        keys: &[String],
    ) -> Result<DateTime<Utc>> {
        let probes = keys
            .iter()
            .map(|key| Box::pin(self.rights.probe(client, key, WRITES)));
        Ok(select_ok(probes).await?.0)
    }
}

const WRITES: SendOptions = SendOptions {
    asking: false,
    writes: true,
};

/// What the script is asked.
struct ScriptArgs {
    day: UtcDay,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl ScriptArgs {
    async fn of(
        &self,
        decider: &Decider,
        script: &Script,
        client: &RedisClient,
        manner: SendOptions,
    ) -> std::result::Result<Value, SendError> {
        let Self {
            day,
            keys,
            arguments,
        } = self;
        // Of its own for each try: what was written instead of lost writes has another.
        let number = decider.memory.next_call();
        let push = |command: &mut Cmd| {
            command.arg(keys.len()).arg(keys);
            command.arg(day.start().timestamp());
            let limits = decider.usage_limits;
            command.arg(u64::from(limits.retention_days) * SECONDS_A_DAY);
            command.arg(decider.memory.replica).arg(number);
            command.arg(limits.max_rows);
            command.arg(arguments);
        };
        // All keys of a call are in one place.
        let key = keys.first().map_or("", String::as_str);
        script.run(client, key, manner, push).await
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
fn answer(now: DateTime<Utc>, reply: BatchReply) -> Result<Timed<Decided>> {
    let answer = match reply {
        BatchReply::Done(outcomes, _) => Decided::Outcomes(outcomes),
        BatchReply::AnotherDay => Decided::OnAnotherDay,
        BatchReply::UnnamedPools(_) | BatchReply::Lost(_) => {
            let reason = "a question that was answered".to_owned();
            return Err(StoreError::Corrupt { reason });
        }
        // The script asks for its rights before it writes. What else it fails for before its first
        // write is what it read, and no retry mends that.
        BatchReply::Failed { why, .. } if is_denial(&why) => {
            return Err(no_right(denied(&sanitize(&why))));
        }
        BatchReply::Failed { why, key } => {
            let reason = format!("{key}: {why}");
            return Err(StoreError::Corrupt { reason });
        }
        BatchReply::Torn(reason) => return Err(StoreError::NoAnswer { reason }),
    };
    Ok(Timed { now, answer })
}
