//! Deciding: from batches to calls of the script, and from its replies to decisions.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, Utc};
use futures_util::{
    StreamExt as _,
    future::{join_all, ready},
    stream::FuturesUnordered,
};
use redis::{Cmd, Value};

use super::{
    acl_check::AclCheck,
    conn::{
        RedisClient,
        connection::{SendOptions, retry_if_cut},
        errors::{SendError, is_denial, is_permission_denied, permission_denied},
        message::sanitize,
    },
    recovery::snapshots::{PoolSnapshot, Snapshots},
    refusals::Refusals,
    reply::{self, BatchReply, WrittenPool},
    script::{
        Script,
        keys::OrgKeys,
        reader::bytes,
        request::{BatchOptions, ScriptCall},
    },
};
use crate::{
    domain::{OrgId, PoolName, UtcDay},
    store::{Batch, Decision, StoreError, Timestamped, UsageLimits},
};

/// A reservation names at most one pool that the caller didn't, so one round asks for those of a policy that
/// lost pools, and one for the snapshots. More than these are for what changes meanwhile.
const MAX_ROUNDS: usize = 5;

/// How many batches one call of the script takes: Redis serves nobody else meanwhile. In a cluster it takes
/// one, since no two organizations need be on the same node.
const MAX_BATCHES: usize = 64;

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

const WRITES: SendOptions = SendOptions {
    asking: false,
    writes: true,
};

/// The script that decides, and what it needs to know besides a batch.
pub(super) struct Decider {
    pub(super) acl_check: AclCheck,
    pub(super) key_prefix: String,
    pub(super) snapshots: Snapshots,
    pub(super) refusals: Refusals,
    usage_limits: UsageLimits,
    script: Script,
}

pub(super) type Result<T> = std::result::Result<T, StoreError>;

impl Decider {
    pub(super) fn new(acl_check: AclCheck, key_prefix: String, usage_limits: UsageLimits) -> Self {
        Self {
            acl_check,
            key_prefix,
            snapshots: Snapshots::new(),
            refusals: Refusals::default(),
            usage_limits,
            script: Script::new(concat!(
                include_str!("script/call.lua"),
                include_str!("script/rules.lua"),
                include_str!("script/recovery.lua"),
                include_str!("script/pools.lua"),
                include_str!("script/usage.lua"),
                include_str!("script/reservations.lua"),
                include_str!("script/decide.lua"),
            )),
        }
    }

    /// Decides batches by as few calls as the bounds allow, all of them sent at once.
    pub(super) async fn decide(
        &self,
        client: &RedisClient,
        batches: &[Batch],
    ) -> Vec<Result<Timestamped<Decision>>> {
        let calls = calls(batches, max_batches(client));
        let calls = calls.map(|batches| self.decide_in_rounds(client, batches, false));
        let mut decided: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
        self.explain(client, batches, &mut decided).await;
        decided
    }

    /// Names the missing permissions, where decisions failed for that: the first failure stands for all.
    async fn explain(
        &self,
        client: &RedisClient,
        batches: &[Batch],
        decided: &mut [Result<Timestamped<Decision>>],
    ) {
        let mut explained = None;
        for (batch, decided) in batches.iter().zip(decided) {
            let Err(error) = decided else { continue };
            if !is_permission_denied(error) {
                continue;
            }
            if explained.is_none() {
                let key = OrgKeys::new(&self.key_prefix, &batch.org, batch.day).usage();
                let cause = self.acl_check.explain(client, &key, error.clone()).await;
                explained = Some(cause);
            }
            if let Some(explained) = &explained {
                error.clone_from(explained);
            }
        }
    }

    /// Decides batches of one day in one call, and again those that the script asks more about: the names of
    /// pools that left the policy, or the snapshots of pools that Redis lost.
    async fn decide_in_rounds(
        &self,
        client: &RedisClient,
        batches: &[Batch],
        audits: bool,
    ) -> Vec<Result<Timestamped<Decision>>> {
        let undecided = StoreError::Corrupt {
            reason: "the script asks ever more".to_owned(),
        };
        let mut decided = vec![Err(undecided); batches.len()];
        let options = BatchOptions {
            audits,
            ..BatchOptions::default()
        };
        let pending = batches.iter().enumerate();
        let mut pending: Vec<_> = pending.map(|(at, it)| (at, it, options.clone())).collect();
        for _ in 0..MAX_ROUNDS {
            if pending.is_empty() {
                break;
            }
            let (now, replies) = match self.call(client, &pending).await {
                Ok(replies) => replies,
                Err(error) => {
                    for (at, ..) in pending {
                        decided[at] = Err(error.clone());
                    }
                    break;
                }
            };
            let mut again = Vec::new();
            for ((at, batch, mut options), reply) in pending.into_iter().zip(replies) {
                match reply {
                    BatchReply::UnnamedPools(pools) => options.extra_pools.extend(pools),
                    BatchReply::Stale => {
                        options.sends_snapshots = true;
                        self.snapshots.record_loss(&batch.org, batch.day);
                    }
                    BatchReply::Done(outcomes, _) => {
                        let answer = Decision::Outcomes(outcomes);
                        decided[at] = Ok(Timestamped { now, answer });
                        continue;
                    }
                    BatchReply::DayChanged => {
                        let answer = Decision::DayChanged;
                        decided[at] = Ok(Timestamped { now, answer });
                        continue;
                    }
                    BatchReply::Failed { why, key } => {
                        decided[at] = Err(failure(&why, &key));
                        continue;
                    }
                    BatchReply::PartialWrite(reason) => {
                        decided[at] = Err(StoreError::OutcomeUnknown { reason });
                        continue;
                    }
                }
                again.push((at, batch, options));
            }
            pending = again;
        }
        decided
    }

    /// Calls the script once.
    async fn call(
        &self,
        client: &RedisClient,
        pending: &[(usize, &Batch, BatchOptions)],
    ) -> Result<(DateTime<Utc>, Vec<BatchReply>)> {
        let batches: Vec<&Batch> = pending.iter().map(|(_, batch, _)| *batch).collect();
        let mut call = ScriptCall::default();
        {
            let snapshots = self.snapshots.lock();
            for (_, batch, options) in pending {
                let snapshots = snapshots.pools(&batch.org, batch.day);
                call.add(batch, options, snapshots, &self.key_prefix);
            }
        }
        let day = batches[0].day;
        let send = || self.send(client, day, &call);
        let reply = if is_idempotent(&batches) {
            retry_if_cut(send).await
        } else {
            send().await
        };
        let reply = reply?;
        let (now, mut replies) = reply::parse_decided(bytes(&reply)?, &batches)?;
        for ((at, reply), pools) in replies.iter_mut().enumerate().zip(&call.pools) {
            if let BatchReply::Done(_, written) = reply {
                let written = snapshots_of(pools, std::mem::take(written))?;
                let (_, batch, options) = &pending[at];
                let (mut snapshots, org) = (self.snapshots.lock(), &batch.org);
                if options.audits {
                    snapshots.record_audited(org, day, pools, written);
                } else {
                    snapshots.record(org, day, written);
                }
            }
        }
        Ok((now, replies))
    }

    async fn send(
        &self,
        client: &RedisClient,
        day: UtcDay,
        call: &ScriptCall,
    ) -> std::result::Result<Value, SendError> {
        // Each try has a number of its own: what is written in place of lost writes must differ from them.
        let number = self.snapshots.next_call();
        let push = |command: &mut Cmd| {
            command.arg(call.keys.len()).arg(&call.keys);
            command.arg(day.start().timestamp());
            command.arg(u64::from(self.usage_limits.retention_days) * SECONDS_A_DAY);
            command.arg(self.snapshots.replica).arg(number);
            command.arg(self.usage_limits.max_rows);
            command.arg(&call.arguments);
        };
        // All keys of a call are at one server.
        self.script.run(client, &call.keys[0], WRITES, push).await
    }

    /// Asks every server whether it would decide, and takes the first one's clock: the store is of use as long
    /// as one of them does. The others' answers are recorded when they come.
    pub(super) async fn probe(
        self: &Arc<Self>,
        client: &Arc<RedisClient>,
        keys: Vec<String>,
    ) -> Result<DateTime<Utc>> {
        self.refusals.retain(&keys);
        let probes = keys.into_iter().map(|key| {
            let (decider, client) = (Arc::clone(self), Arc::clone(client));
            async move {
                let probed = decider.acl_check.probe(&client, &key, WRITES).await;
                let failure = probed.as_ref().err();
                decider.refusals.record(&client, &key, failure);
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

    /// Checks whether Redis still has this replica's newest writes: one server can have lost no others without
    /// these. And some others in turn, since one of many servers can. If any is lost, all are checked.
    pub(super) async fn audit(&self, client: &RedisClient) {
        if let Some((day, orgs)) = self.snapshots.next_audit() {
            self.audit_orgs(client, day, orgs).await;
        }
        if self.snapshots.needs_full_audit()
            && let Some((day, orgs)) = self.snapshots.full_audit()
        {
            let losses = self.snapshots.losses();
            if self.audit_orgs(client, day, orgs).await {
                self.snapshots.record_full_audit(losses);
            }
        }
    }

    /// Gives whether Redis answered for all of them: else the next probe begins anew.
    async fn audit_orgs(&self, client: &RedisClient, day: UtcDay, orgs: Vec<OrgId>) -> bool {
        let batches = orgs.into_iter().map(|org| Batch {
            org,
            day,
            terms: Default::default(),
            operations: Vec::new(),
        });
        let batches: Vec<Batch> = batches.collect();
        let mut is_complete = true;
        for batches in batches.chunks(max_batches(client)) {
            for audited in self.decide_in_rounds(client, batches, true).await {
                match audited {
                    // What is foreign stays so, and holds up nobody else.
                    Ok(_) | Err(StoreError::Corrupt { .. }) => {}
                    Err(_) if client.is_sharded() => is_complete = false,
                    Err(_) => return false,
                }
            }
        }
        is_complete
    }
}

/// The maximum number of batches in a call of the script.
pub(super) fn max_batches(client: &RedisClient) -> usize {
    if client.is_sharded() { 1 } else { MAX_BATCHES }
}

/// Splits batches by what one call takes, and by day.
fn calls(batches: &[Batch], max_batches: usize) -> impl Iterator<Item = &[Batch]> {
    let mut rest = batches;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut operations = 0;
        let fits = |batch: &&Batch| {
            operations += batch.operations.len();
            batch.day == first.day && operations <= Batch::MAX_OPERATIONS
        };
        let count = rest.iter().take(max_batches).take_while(fits).count();
        let (call, behind) = rest.split_at(count.max(1));
        rest = behind;
        Some(call)
    })
}

/// Whether a second run of these gives the answers of the first: each operation is idempotent, and no two are
/// about one id, which the first run would have changed.
fn is_idempotent(batches: &[&Batch]) -> bool {
    let mut ids = HashSet::new();
    let operations = batches.iter().flat_map(|batch| {
        let operations = batch.operations.iter();
        operations.map(move |operation| (&batch.org, operation))
    });
    let mut operations = operations.map(|(org, operation)| {
        let id = operation.request_id();
        operation.is_idempotent() && id.is_none_or(|id| ids.insert((org, id)))
    });
    operations.all(|is_idempotent| is_idempotent)
}

/// The snapshots of the pools that a batch wrote.
fn snapshots_of(pools: &[(PoolName, u64)], written: Vec<WrittenPool>) -> Result<Vec<PoolSnapshot>> {
    let snapshots = written.into_iter().map(|it| {
        let (pool, _) = pools.get(it.place).ok_or_else(|| StoreError::Corrupt {
            reason: "a write to a pool that was not named".to_owned(),
        })?;
        Ok(PoolSnapshot {
            pool: pool.clone(),
            seq: it.seq,
            record: it.record,
        })
    });
    snapshots.collect()
}

/// Why a batch failed before its first write.
fn failure(why: &str, key: &str) -> StoreError {
    // The script checks its permissions before it writes. Anything else is about what it read, and no retry mends
    // that.
    if is_denial(why) {
        return permission_denied(&sanitize(why));
    }
    StoreError::Corrupt {
        reason: format!("{key}: {why}"),
    }
}
