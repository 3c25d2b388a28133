//! Decides batches: encodes them as calls of the script, and turns its replies into decisions.

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
        errors::{SendError, is_denial, is_permission_denied, permission_denied, sanitize},
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

/// Maximum number of calls for a batch. One decides, one adds pools that the policy no longer has, one sends the
/// snapshots. The others are for changes in between.
const MAX_ROUNDS: usize = 5;

/// Maximum number of batches in a call of the script, which blocks Redis meanwhile. In a cluster it is 1, since
/// two organizations may be at different nodes.
const MAX_BATCHES: usize = 64;

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

const WRITES: SendOptions = SendOptions {
    asking: false,
    writes: true,
};

/// Calls the script that decides.
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

    /// Decides batches in as few calls as the limits allow, all sent concurrently.
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

    /// Names the missing permission in decisions that failed for one: the first one's, for all.
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

    /// Decides batches of one day in one call. Those that need pools that the policy no longer has, or the
    /// snapshots of pools that Redis lost, are sent again with these.
    async fn decide_in_rounds(
        &self,
        client: &RedisClient,
        batches: &[Batch],
        audits: bool,
    ) -> Vec<Result<Timestamped<Decision>>> {
        let undecided = StoreError::Corrupt {
            reason: "the script needs too many rounds".to_owned(),
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
        // Each attempt has its own number: a write in place of a lost one must differ from it.
        let number = self.snapshots.next_call();
        let push = |command: &mut Cmd| {
            command.arg(call.keys.len()).arg(&call.keys);
            command.arg(day.start().timestamp());
            command.arg(u64::from(self.usage_limits.retention_days) * SECONDS_A_DAY);
            command.arg(self.snapshots.replica).arg(number);
            command.arg(self.usage_limits.max_rows);
            command.arg(&call.arguments);
        };
        // All keys of a call are on one server.
        self.script.run(client, &call.keys[0], WRITES, push).await
    }

    /// Probes every server, and returns the clock of the first that would decide: the store is up as long as one
    /// does. The others' results are recorded when they arrive.
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

    /// Checks whether Redis still has this replica's newest writes: a server that lost any of its writes lost the
    /// newest. Also checks some other organizations in turn, since only one of several servers may have lost
    /// writes. After a loss, checks all.
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

    /// Returns whether Redis answered for all of them. If not, the next probe starts over.
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
                    // A foreign value stays, and must not block the others.
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

/// Splits batches into calls: each of one day, within the limits of a call.
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
        let (call, remaining) = rest.split_at(count.max(1));
        rest = remaining;
        Some(call)
    })
}

/// Whether a second run gives the results of the first: each operation is idempotent, and no two have the same
/// id, which the first run would have changed.
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
    // The script checks its permissions before it writes. Any other failure is about what it read, and a retry
    // does not help.
    if is_denial(why) {
        return permission_denied(&sanitize(why));
    }
    StoreError::Corrupt {
        reason: format!("{key}: {why}"),
    }
}
