//! Decides batches: encodes them as calls of the script, and turns its replies into decisions.

use std::{
    collections::HashSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use chrono::{DateTime, Utc};
use futures_util::future::{join_all, select_ok};
use tokio::sync::Mutex;

use super::{
    acl_check::AclCheck,
    conn::{
        RedisClient,
        connection::{SendOptions, retry_if_cut},
        errors::{is_denial, is_permission_denied, permission_denied, sanitize},
    },
    recovery::{
        pn_counter::peak_of,
        snapshots::{Audit, PoolSnapshot, SnapshotDays, Snapshots},
    },
    refusals::Refusals,
    reply::{self, BatchReply, WrittenPool},
    script::{
        Script,
        keys::{CounterId, OrgKeys},
        reader::{bad, bytes},
        request::{self, BatchOptions, NamedPool, ScriptCall},
    },
};
use crate::{
    domain::{OrgId, UtcDay},
    store::{Batch, Decision, StoreError, ThresholdCrossing, Timestamped, UsageLimits},
    telemetry::log_limited,
};

/// Maximum number of calls for a batch. One is declined, one adds pools that the policy no longer has and tomorrow's, one
/// sends the snapshots, and one decides. The others are for changes in between.
const MAX_ROUNDS: usize = 6;

/// Maximum number of batches in a call of the script, which blocks Redis meanwhile. In a cluster two organizations
/// may be at different nodes.
pub(super) fn max_batches(client: &RedisClient) -> usize {
    if client.is_sharded() { 1 } else { 64 }
}

const WRITES: SendOptions = SendOptions {
    asking: false,
    writes: true,
};

/// The script that decides every batch.
const SCRIPT: &str = concat!(
    include_str!("script/call.lua"),
    include_str!("script/batch.lua"),
    include_str!("script/rules.lua"),
    include_str!("script/recovery.lua"),
    include_str!("script/pools.lua"),
    include_str!("script/usage.lua"),
    include_str!("script/reservation_rules.lua"),
    include_str!("script/reservations.lua"),
    include_str!("script/decide.lua"),
);

/// The script that decides most Reserves.
const RESERVE_SCRIPT: &str = concat!(
    include_str!("script/call.lua"),
    include_str!("script/reserve.lua"),
);

pub(super) struct Decider {
    pub(super) acl_check: AclCheck,
    pub(super) key_prefix: String,
    pub(super) snapshots: Snapshots,
    pub(super) refusals: Refusals,
    pub(super) usage_limits: UsageLimits,
    script: Script,
    /// For calls that only have Reserves.
    reserve_script: Script,
    /// The day (its 00:00 UTC in seconds since 1970) on which reservations are carried into tomorrow's pools, as far as
    /// is known: batches with ids name these from the start.
    carrying_day: AtomicI64,
    /// The number of losses at the last full audit. Locked during an audit.
    audited_losses: Mutex<u64>,
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
            script: Script::new(SCRIPT),
            reserve_script: Script::new(RESERVE_SCRIPT),
            carrying_day: AtomicI64::new(i64::MIN),
            audited_losses: Mutex::default(),
        }
    }

    /// Decides batches within the limits of a call: those of one day in one call.
    pub(super) async fn decide(
        &self,
        client: &RedisClient,
        batches: &[Batch],
    ) -> Vec<Result<Timestamped<Decision>>> {
        let calls = batches.chunk_by(|a, b| a.day == b.day);
        let calls = calls.map(|batches| self.decide_in_rounds(client, batches));
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
        let is_denied = |it: &Result<_>| matches!(it, Err(error) if is_permission_denied(error));
        let decided = decided.iter_mut().zip(batches);
        let mut denied = decided.filter(|(decided, _)| is_denied(decided));
        let Some((Err(first), batch)) = denied.next() else {
            return;
        };
        let key = OrgKeys::new(&self.key_prefix, &batch.org, batch.day).usage();
        let explained = self.acl_check.explain(client, &key, first.clone()).await;
        for (decided, _) in denied {
            *decided = Err(explained.clone());
        }
        *first = explained;
    }

    /// Decides batches of one day in one call. Those that the script for Reserves declines are sent again to the other
    /// one, and those that need pools that the policy no longer has, or the snapshots of pools that Redis lost, with
    /// these.
    async fn decide_in_rounds(
        &self,
        client: &RedisClient,
        batches: &[Batch],
    ) -> Vec<Result<Timestamped<Decision>>> {
        let undecided = StoreError::Corrupt {
            reason: "the script needs too many rounds".to_owned(),
        };
        let mut decided = vec![Err(undecided); batches.len()];
        let pending = batches.iter().enumerate();
        let mut pending: Vec<_> = pending.map(|(at, it)| (at, it, self.options(it))).collect();
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
            for ((at, batch, mut options), (reply, crossings)) in
                mem::take(&mut pending).into_iter().zip(replies)
            {
                let result = match reply {
                    BatchReply::UnnamedPools { pools, tomorrow } => {
                        options.extra.extend(pools);
                        if tomorrow {
                            options.names_tomorrow = true;
                            let day = batch.day.start().timestamp();
                            self.carrying_day.store(day, Ordering::Relaxed);
                        }
                        pending.push((at, batch, options));
                        continue;
                    }
                    BatchReply::Declined => {
                        options.needs_full_script = true;
                        pending.push((at, batch, options));
                        continue;
                    }
                    BatchReply::Stale => {
                        options.sends_snapshots = true;
                        self.snapshots.record_loss(&batch.org, batch.day);
                        pending.push((at, batch, options));
                        continue;
                    }
                    BatchReply::Done(outcomes, _) => Ok(Decision::Outcomes {
                        outcomes,
                        crossings,
                    }),
                    BatchReply::DayChanged => Ok(Decision::DayChanged),
                    // The script checks its permissions before it writes. Any other failure is about what it
                    // read, and a retry does not help.
                    BatchReply::Failed { why, .. } if is_denial(&why) => {
                        Err(permission_denied(&sanitize(&why)))
                    }
                    BatchReply::Failed { why, key } => {
                        let reason = format!("{key}: {why}");
                        Err(StoreError::Corrupt { reason })
                    }
                    BatchReply::PartialWrite(reason) => Err(StoreError::OutcomeUnknown { reason }),
                };
                decided[at] = result.map(|answer| Timestamped { now, answer });
            }
        }
        decided
    }

    fn options(&self, batch: &Batch) -> BatchOptions {
        let is_carrying =
            self.carrying_day.load(Ordering::Relaxed) == batch.day.start().timestamp();
        let mut operations = batch.operations.iter();
        BatchOptions {
            names_tomorrow: is_carrying && operations.any(|it| it.request_id().is_some()),
            ..BatchOptions::default()
        }
    }

    async fn call(
        &self,
        client: &RedisClient,
        pending: &[(usize, &Batch, BatchOptions)],
    ) -> Result<(DateTime<Utc>, Vec<(BatchReply, Vec<ThresholdCrossing>)>)> {
        let batches: Vec<&Batch> = pending.iter().map(|(_, batch, _)| *batch).collect();
        let mut call = ScriptCall::default();
        let orgs: HashSet<&OrgId> = batches.iter().map(|batch| &batch.org).collect();
        call.needs_full_script = orgs.len() < batches.len();
        {
            let snapshots = self.snapshots.lock();
            for (_, batch, options) in pending {
                call.add(batch, options, &snapshots, &self.key_prefix);
            }
        }
        let day = batches[0].day;
        // All keys of a call are on one server.
        let (call, key) = (&call, &call.keys[0]);
        let is_idempotent = is_idempotent(&batches);
        let run = async |script: &Script| {
            let send = || {
                // Each attempt has its own number: a write in place of a lost one must differ from it.
                let number = self.snapshots.next_call();
                let head = request::head(day, self.usage_limits, self.snapshots.replica, number);
                script.run(client, key, WRITES, move |command| {
                    command.arg(call.keys.len()).arg(&call.keys);
                    command.arg(&head).arg(&call.arguments);
                })
            };
            match is_idempotent {
                true => retry_if_cut(send).await,
                false => send().await,
            }
        };
        let reply = match call.needs_full_script {
            true => run(&self.script).await?,
            false => match run(&self.reserve_script).await {
                // It wrote nothing. The other one names the batch that has the cause, and decides the others.
                Err(failed) if failed.is_of_script() => {
                    log_limited!(warn, error = %StoreError::from(failed), "the script for Reserves has failed, and the other one decides");
                    run(&self.script).await?
                }
                reply => reply?,
            },
        };
        let (now, replies) = reply::parse_decided(bytes(&reply)?, &batches)?;
        let mut snapshots = self.snapshots.lock();
        snapshots.set_today(UtcDay::of(now));
        let mut decided = Vec::with_capacity(replies.len());
        for ((mut reply, pools), (_, batch, _)) in replies.into_iter().zip(&call.pools).zip(pending)
        {
            let mut crossings = Vec::new();
            if let BatchReply::Done(_, written) = &mut reply {
                for written in mem::take(written) {
                    let named = pools.get(written.place);
                    let named = named.ok_or_else(|| bad("a write to an unnamed pool"))?;
                    crossings.extend(record(&mut snapshots, batch, named, written));
                }
            }
            decided.push((reply, crossings));
        }
        Ok((now, decided))
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
            Box::pin(async move {
                let probed = decider.acl_check.probe(&client, &key, WRITES).await;
                let failure = probed.as_ref().err();
                decider.refusals.record(&client, &key, failure);
                probed
            })
        });
        let probes: Vec<_> = probes.collect();
        if probes.is_empty() {
            let reason = "there is no master".to_owned();
            return Err(StoreError::Unreachable { reason });
        }
        let (now, others) = select_ok(probes).await?;
        tokio::spawn(join_all(others));
        Ok(now)
    }

    /// Checks whether Redis still has this replica's newest writes: a server that lost any of its writes lost the
    /// newest. Also checks some other organizations in turn, since only one of several servers may have lost
    /// writes. After a loss, checks all. Does nothing while another audit runs.
    pub(super) async fn audit(&self, client: &RedisClient) {
        let Ok(mut audited_losses) = self.audited_losses.try_lock() else {
            return;
        };
        self.audit_orgs(client, self.snapshots.next_audit()).await;
        let losses = self.snapshots.losses();
        if losses != *audited_losses && self.audit_orgs(client, self.snapshots.full_audit()).await {
            *audited_losses = losses;
        }
    }

    /// Returns whether Redis answered for all of them. If not, the next probe starts over.
    async fn audit_orgs(&self, client: &RedisClient, audit: Option<Audit>) -> bool {
        let Some((day, orgs)) = audit else {
            return true;
        };
        let batches = orgs.into_iter().map(|org| Batch {
            org,
            day,
            terms: Default::default(),
            operations: Vec::new(),
        });
        let batches: Vec<Batch> = batches.collect();
        let is_sharded = client.is_sharded();
        let mut is_complete = true;
        for batches in batches.chunks(max_batches(client)) {
            for audited in self.decide_in_rounds(client, batches).await {
                match audited {
                    // A foreign value stays, and must not block the others.
                    Ok(_) | Err(StoreError::Corrupt { .. }) => {}
                    Err(_) if is_sharded => is_complete = false,
                    Err(_) => return false,
                }
            }
        }
        is_complete
    }
}

/// Records the snapshot of a pool after its write. Returns its crossing, if the write raised its peak.
fn record(
    snapshots: &mut SnapshotDays,
    batch: &Batch,
    named: &NamedPool,
    written: WrittenPool,
) -> Option<ThresholdCrossing> {
    // It was counted. A record that can't be read shows when it is queried.
    let peak = peak_of(&written.record).unwrap_or_default();
    let crossing = match (&named.counter, written.raised) {
        (CounterId::Pool(pool), Some(raised)) => Some(ThresholdCrossing {
            pool: pool.clone(),
            before: raised.before,
            used: peak.less(raised.external),
            external: raised.external,
        }),
        _ => None,
    };
    let snapshot = PoolSnapshot {
        counter: named.counter.clone(),
        seq: written.seq,
        record: written.record,
        peak,
    };
    let audited = batch.operations.is_empty().then_some(named.seq);
    snapshots.record(&batch.org, named.day, snapshot, audited);
    crossing
}

/// Whether a second run gives the results of the first: each operation is idempotent, and no two have the same
/// id, which the first run would have changed.
fn is_idempotent(batches: &[&Batch]) -> bool {
    let mut ids = HashSet::new();
    batches.iter().all(
        |Batch {
             org, operations, ..
         }| {
            operations.iter().all(|operation| {
                let id = operation.request_id();
                operation.is_idempotent() && id.is_none_or(|id| ids.insert((org, id)))
            })
        },
    )
}
