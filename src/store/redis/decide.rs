//! Deciding: from batches to calls of the script, and from its replies to what became of them.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, Utc};
use futures_util::{
    StreamExt as _,
    future::{join_all, ready},
    stream::FuturesUnordered,
};
use redis::{Cmd, Value};

use super::{
    arguments::{self, Told},
    errors::store_error,
    keys::OrgKeys,
    link::{Failed, Manner, again_if_cut},
    links::Links,
    memory::Memory,
    message::sanitize,
    refusals::Refusals,
    reply::{self, Reply},
    rights::{self, Rights},
    script::Script,
};
use crate::{
    domain::{PoolName, UtcDay},
    store::{Batch, Decision, StoreError, Timestamped, UsageLimits},
};

/// A reservation names at most one pool that the caller didn't; a policy that lost more is asked for
/// again. And so is what this replica remembers, where Redis lost writes.
const MAX_ROUNDS: usize = 5;

/// How many batches and operations one call of the script takes: Redis serves nobody else meanwhile. In
/// a cluster it takes one batch, since no two organizations need be on the same node.
pub(super) const MOST_BATCHES: usize = 64;
const MOST_OPERATIONS: usize = Batch::MAX_OPERATIONS;

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

/// The script, and what it needs to know besides a batch.
pub(super) struct Decider {
    pub(super) rights: Rights,
    pub(super) key_prefix: String,
    pub(super) memory: Memory,
    pub(super) refusals: Refusals,
    usage_limits: UsageLimits,
    /// For batches without ids: the same script without the part that they don't need.
    plain: Script,
    with_ids: Script,
    /// For where Redis has lost writes.
    whole: Script,
}

/// Batches as one call of the script takes them.
#[derive(Default)]
struct PackedCall {
    keys: Vec<String>,
    /// One for each batch.
    arguments: Vec<Vec<u8>>,
    /// The pools that each batch names, and the turn that is remembered of each.
    pools: Vec<Vec<(PoolName, u64)>>,
    has_ids: bool,
}

pub(super) type Result<T> = std::result::Result<T, StoreError>;

impl Decider {
    pub(super) fn new(rights: Rights, key_prefix: String, usage_limits: UsageLimits) -> Self {
        Self {
            rights,
            key_prefix,
            memory: Memory::new(),
            refusals: Refusals::default(),
            usage_limits,
            plain: Script::new(concat!(
                include_str!("decide/plain.lua"),
                include_str!("decide/rows.lua"),
                include_str!("decide/record.lua"),
                include_str!("decide/batch.lua")
            )),
            with_ids: Script::new(concat!(
                include_str!("decide/plain.lua"),
                include_str!("decide/rows.lua"),
                include_str!("decide/record.lua"),
                include_str!("decide/past.lua"),
                include_str!("decide/batch.lua")
            )),
            whole: Script::new(concat!(
                include_str!("decide/plain.lua"),
                include_str!("decide/rows.lua"),
                include_str!("decide/restore.lua"),
                include_str!("decide/record.lua"),
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
    ) -> Vec<Result<Timestamped<Decision>>> {
        let most = if links.are_many() { 1 } else { MOST_BATCHES };
        let told = Told::default();
        let calls = calls(batches, most);
        let calls = calls.map(|batches| self.decide_in_one_call(links, batches, &told));
        let mut decided: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
        self.explain(links, batches, &mut decided).await;
        decided
    }

    /// Names the rights that are missing, where decisions failed for that: the first failure stands for all.
    async fn explain(
        &self,
        links: &Links,
        batches: &[Batch],
        decided: &mut [Result<Timestamped<Decision>>],
    ) {
        let mut explained = None;
        for (batch, decided) in batches.iter().zip(decided) {
            let Err(error) = decided else { continue };
            if !rights::is_missing(error) {
                continue;
            }
            if explained.is_none() {
                let key = OrgKeys::new(&self.key_prefix, &batch.org, batch.day).usage();
                explained = Some(self.rights.explain(links, &key, error.clone()).await);
            }
            if let Some(explained) = &explained {
                error.clone_from(explained);
            }
        }
    }

    pub(super) async fn decide_in_one_call(
        &self,
        links: &Links,
        batches: &[Batch],
        told: &Told,
    ) -> Vec<Result<Timestamped<Decision>>> {
        let (now, replies) = match self.call(links, batches, told).await {
            Ok(replies) => replies,
            Err(error) => return batches.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut lost = Vec::new();
        let mut decided = Vec::with_capacity(batches.len());
        for (batch, reply) in batches.iter().zip(replies) {
            decided.push(match reply {
                Reply::Lost(_) => {
                    self.tell_of_loss(batch);
                    lost.push(batch.clone());
                    None
                }
                reply => Some(self.take(links, batch, told, now, reply).await),
            });
        }
        let mut restored = self.decide_restoring(links, &lost, told).await.into_iter();
        let decided = decided.into_iter().map(|decided| {
            let restored = || restored.next().expect("one for each that was lost");
            decided.unwrap_or_else(restored)
        });
        decided.collect()
    }

    /// Decides batches whose counters Redis has lost: all in one call, which restores them.
    async fn decide_restoring(
        &self,
        links: &Links,
        batches: &[Batch],
        told: &Told,
    ) -> Vec<Result<Timestamped<Decision>>> {
        if batches.is_empty() {
            return Vec::new();
        }
        let told = Told {
            restores: true,
            ..told.clone()
        };
        let (now, replies) = match self.call(links, batches, &told).await {
            Ok(replies) => replies,
            Err(error) => return batches.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut decided = Vec::with_capacity(batches.len());
        for (batch, reply) in batches.iter().zip(replies) {
            decided.push(self.take(links, batch, &told, now, reply).await);
        }
        decided
    }

    /// What a reply means; where the script has to be told more, it is.
    async fn take(
        &self,
        links: &Links,
        batch: &Batch,
        told: &Told,
        now: DateTime<Utc>,
        reply: Reply,
    ) -> Result<Timestamped<Decision>> {
        match reply {
            Reply::UnnamedPools(_) | Reply::Lost(_) => {
                self.decide_telling(links, batch, told.clone(), reply).await
            }
            reply => answer(now, reply),
        }
    }

    /// Decides a batch that the script has to be told more for: the names of pools that left the policy,
    /// or what Redis has lost.
    async fn decide_telling(
        &self,
        links: &Links,
        batch: &Batch,
        mut told: Told,
        mut reply: Reply,
    ) -> Result<Timestamped<Decision>> {
        for _ in 1..MAX_ROUNDS {
            match reply {
                Reply::UnnamedPools(pools) => told.extra.extend(pools),
                Reply::Lost(_) => {
                    told.restores = true;
                    self.tell_of_loss(batch);
                }
                _ => {}
            }
            let (now, replies) = self.call(links, std::slice::from_ref(batch), &told).await?;
            match replies.into_iter().next() {
                Some(more @ (Reply::UnnamedPools(_) | Reply::Lost(_))) => reply = more,
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
        links: &Links,
        batches: &[Batch],
        told: &Told,
    ) -> Result<(DateTime<Utc>, Vec<Reply>)> {
        let day = batches.first().map(|batch| batch.day);
        let day = day.unwrap_or_else(|| UtcDay::of(crate::wall_clock::now()));
        let packed = self.pack(batches, told, day);
        let script = match (told.restores, packed.has_ids) {
            (true, _) => &self.whole,
            (false, true) => &self.with_ids,
            (false, false) => &self.plain,
        };
        let asked = Asked {
            day,
            keys: packed.keys,
            arguments: packed.arguments,
        };
        let ask = || asked.of(self, script, links, WRITES);
        let reply = if can_be_repeated(batches) {
            again_if_cut(ask).await
        } else {
            ask().await
        };
        let reply = reply.map_err(|error| store_error(&error))?;
        let (now, mut replies) = reply::parse_decided(reply::bytes(&reply)?, batches)?;
        self.remember(batches, told, packed.pools, &mut replies)?;
        Ok((now, replies))
    }

    fn pack(&self, batches: &[Batch], told: &Told, day: UtcDay) -> PackedCall {
        let mut call = PackedCall::default();
        let known = self.memory.lock();
        for batch in batches {
            let known = known.pools(&batch.org, day);
            let packed = arguments::pack(batch, told, known, &self.key_prefix, call.keys.len());
            call.keys.extend(packed.keys);
            call.arguments.push(packed.argument);
            call.pools.push(packed.pools);
            call.has_ids |= packed.has_ids;
        }
        call
    }

    /// Asks every server whether it would decide, and takes the first one's clock: the store is of use
    /// as long as one of them does. The others' answers are recorded when they come.
    pub(super) async fn probe(
        self: &Arc<Self>,
        links: &Arc<Links>,
        keys: Vec<String>,
    ) -> Result<DateTime<Utc>> {
        self.refusals.retain(&keys);
        let probes = keys.into_iter().map(|key| {
            let (decider, links) = (Arc::clone(self), Arc::clone(links));
            async move {
                let probed = decider.rights.probe(&links, &key, WRITES).await;
                decider.refusals.record(&links, &key, probed.as_ref().err());
                probed
            }
        });
        let mut probes: FuturesUnordered<_> = probes.collect();
        let mut failure = None;
        while let Some(probed) = probes.next().await {
            match probed {
                Ok(now) => {
                    tokio::spawn(probes.for_each(|_| ready(())));
                    return Ok(now);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| {
            let reason = "there is no master".to_owned();
            StoreError::Unreachable { reason }
        }))
    }
}

const WRITES: Manner = Manner {
    asking: false,
    writes: true,
};

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
        manner: Manner,
    ) -> std::result::Result<Value, Failed> {
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
        script.run(links, key, manner, push).await
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
        apart && operation.is_idempotent()
    })
}

/// What the script's reply to a batch means.
fn answer(now: DateTime<Utc>, reply: Reply) -> Result<Timestamped<Decision>> {
    let answer = match reply {
        Reply::Done(outcomes, _) => Decision::Outcomes(outcomes),
        Reply::AnotherDay => Decision::DayChanged,
        Reply::UnnamedPools(_) | Reply::Lost(_) => {
            let reason = "a question that was answered".to_owned();
            return Err(StoreError::Corrupt { reason });
        }
        // The script asks for its rights before it writes. What else it fails for before its first
        // write is what it read, and no retry mends that.
        Reply::Failed { why, .. } if rights::is_denial(&why) => {
            return Err(rights::no_right(rights::denied(&sanitize(&why))));
        }
        Reply::Failed { why, key } => {
            let reason = format!("{key}: {why}");
            return Err(StoreError::Corrupt { reason });
        }
        Reply::Torn(reason) => return Err(StoreError::OutcomeUnknown { reason }),
    };
    Ok(Timestamped { now, answer })
}
