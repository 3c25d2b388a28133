//! Decides batches: encodes them as calls of the scripts, and turns their replies into decisions.

use std::{
    collections::HashSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use chrono::{DateTime, Utc};
use futures_util::future::{join, join_all, select_ok};
use redis::Value;
use tokio::sync::Mutex;

use super::{
    acl_check::AclCheck,
    conn::{
        RedisClient,
        config::RedisConfig,
        connection::SendOptions,
        errors::{SendError, is_denial, is_permission_denied, permission_denied, sanitize},
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
        request::{self, BatchOptions, NamedPool, ScriptCall, ScriptKind},
    },
};
use crate::{
    domain::{OrgId, UtcDay},
    store::{Batch, Decision, StoreError, ThresholdCrossing, Timestamped, UsageLimits},
    telemetry::log_limited,
};

/// Maximum number of calls for a batch. One is declined or cut, one adds pools that the policy no longer has and
/// tomorrow's, one sends the snapshots, and one decides. The others are for changes in between.
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

/// The script that can decide any batch.
const FULL_SCRIPT: &str = concat!(
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
    /// Whether a call waits until replicas of Redis have its writes.
    waits_for_replicas: bool,
    full_script: Script,
    reserve_script: Script,
    /// The day (its 00:00 UTC in seconds since 1970) on which reservations are carried into tomorrow's pools, as far as
    /// is known: batches with ids name these from the start.
    carrying_day: AtomicI64,
    /// The number of losses at the last full audit. Locked during an audit.
    audited_losses: Mutex<u64>,
}

pub(super) type Result<T> = std::result::Result<T, StoreError>;

type StoreDecision = Result<Timestamped<Decision>>;

impl Decider {
    pub(super) fn new(acl_check: AclCheck, config: &RedisConfig) -> Self {
        Self {
            acl_check,
            key_prefix: config.key_prefix.clone(),
            snapshots: Snapshots::new(),
            refusals: Refusals::default(),
            usage_limits: config.usage_limits,
            waits_for_replicas: config.wait_replicas > 0,
            full_script: Script::new(FULL_SCRIPT),
            reserve_script: Script::new(RESERVE_SCRIPT),
            carrying_day: AtomicI64::new(i64::MIN),
            audited_losses: Mutex::default(),
        }
    }

    /// Decides batches within the limits of a call: those of one day together.
    pub(super) async fn decide(
        &self,
        client: &RedisClient,
        batches: &[Batch],
    ) -> Vec<StoreDecision> {
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
        decided: &mut [StoreDecision],
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

    /// Decides batches of one day. Those that the script for Reserves declines are sent again to the full script, and
    /// those that need further pools, or the snapshots of pools that Redis lost, with these.
    async fn decide_in_rounds(
        &self,
        client: &RedisClient,
        batches: &[Batch],
    ) -> Vec<StoreDecision> {
        let undecided = StoreError::Corrupt {
            reason: "the script needs too many rounds".to_owned(),
        };
        let mut decided = vec![Err(undecided); batches.len()];
        let pending = batches.iter().enumerate();
        let mut pending: Vec<_> = pending
            .map(|(place, batch)| PendingBatch {
                place,
                batch,
                options: self.options(batch),
                unknown_outcome: None,
            })
            .collect();
        for _ in 0..MAX_ROUNDS {
            if pending.is_empty() {
                break;
            }
            for (batch, step) in self.round(client, mem::take(&mut pending)).await {
                match step {
                    Step::Again => pending.push(batch),
                    Step::Decided(result) => decided[batch.place] = batch.answer(result),
                }
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

    /// Sends each batch once: in a call of the script for Reserves, or of the full script. If an organization has two,
    /// all go to the full script; and so do they if calls wait for replicas, and one batch is for the full script, since
    /// Redis begins no second call on a connection that waits.
    async fn round<'b>(
        &self,
        client: &RedisClient,
        pending: Vec<PendingBatch<'b>>,
    ) -> Vec<(PendingBatch<'b>, Step)> {
        let orgs: HashSet<&OrgId> = pending.iter().map(|it| &it.batch.org).collect();
        let is_full_only = orgs.len() < pending.len()
            || self.waits_for_replicas && pending.iter().any(PendingBatch::is_for_full_script);
        let for_full_script = |it: &PendingBatch<'_>| is_full_only || it.is_for_full_script();
        let (full, reserves) = pending.into_iter().partition(for_full_script);
        let full = self.call(client, ScriptKind::Full, full);
        let reserves = self.call(client, ScriptKind::Reserve, reserves);
        let (mut full, reserves) = join(full, reserves).await;
        full.extend(reserves);
        full
    }

    async fn call<'b>(
        &self,
        client: &RedisClient,
        kind: ScriptKind,
        pending: Vec<PendingBatch<'b>>,
    ) -> Vec<(PendingBatch<'b>, Step)> {
        if pending.is_empty() {
            return Vec::new();
        }
        let mut call = ScriptCall::new(kind);
        {
            let snapshots = self.snapshots.lock();
            for it in &pending {
                call.add(it.batch, &it.options, &snapshots, &self.key_prefix);
            }
        }
        let replies = match self.send(client, &call, pending[0].batch.day).await {
            Ok(reply) => self.read(&reply, &call, &pending),
            Err(failed) => return after_failure(kind, failed, pending),
        };
        match replies {
            Ok((now, replies)) => {
                let replies = pending.into_iter().zip(replies);
                let steps = replies.map(|(mut pending, (reply, crossings))| {
                    let step = self.step(&mut pending, now, reply, crossings);
                    (pending, step)
                });
                steps.collect()
            }
            Err(error) => {
                let failed = |it| (it, Step::Decided(Err(error.clone())));
                pending.into_iter().map(failed).collect()
            }
        }
    }

    /// Each call has a number of its own: a write in place of a lost one must differ from it.
    async fn send(
        &self,
        client: &RedisClient,
        call: &ScriptCall,
        day: UtcDay,
    ) -> std::result::Result<Value, SendError> {
        let script = match call.kind {
            ScriptKind::Full => &self.full_script,
            ScriptKind::Reserve => &self.reserve_script,
        };
        let number = self.snapshots.next_call();
        let head = request::head(day, self.usage_limits, self.snapshots.replica, number);
        // All keys of a call are on one server.
        let sent = script.run(client, &call.keys[0], WRITES, |command| {
            command.arg(call.keys.len()).arg(&call.keys);
            command.arg(&head).arg(&call.arguments);
        });
        sent.await
    }

    /// Reads the replies to a call, and records the snapshots of what it wrote.
    fn read(
        &self,
        reply: &Value,
        call: &ScriptCall,
        pending: &[PendingBatch<'_>],
    ) -> Result<Replies> {
        let batches: Vec<&Batch> = pending.iter().map(|it| it.batch).collect();
        let (now, replies) = reply::parse_decided(bytes(reply)?, &batches)?;
        let mut snapshots = self.snapshots.lock();
        snapshots.set_today(UtcDay::of(now));
        let mut read = Vec::with_capacity(batches.len());
        for ((mut reply, pools), batch) in replies.into_iter().zip(&call.pools).zip(batches) {
            let mut crossings = Vec::new();
            if let BatchReply::Done(_, written) = &mut reply {
                for written in mem::take(written) {
                    let named = pools.get(written.place);
                    let named = named.ok_or_else(|| bad("a write to an unnamed pool"))?;
                    crossings.extend(record(&mut snapshots, batch, named, written));
                }
            }
            read.push((reply, crossings));
        }
        Ok((now, read))
    }

    /// How a batch goes on after this reply.
    fn step(
        &self,
        PendingBatch { batch, options, .. }: &mut PendingBatch<'_>,
        now: DateTime<Utc>,
        reply: BatchReply,
        crossings: Vec<ThresholdCrossing>,
    ) -> Step {
        let result = match reply {
            BatchReply::UnnamedPools { pools, tomorrow } => {
                options.extra.extend(pools);
                if tomorrow {
                    options.names_tomorrow = true;
                    let day = batch.day.start().timestamp();
                    self.carrying_day.store(day, Ordering::Relaxed);
                }
                return Step::Again;
            }
            BatchReply::Declined => {
                options.needs_full_script = true;
                return Step::Again;
            }
            BatchReply::Stale => {
                options.sends_snapshots = true;
                self.snapshots.record_loss(&batch.org, batch.day);
                return Step::Again;
            }
            BatchReply::Done(outcomes, _) => Ok(Decision::Outcomes {
                outcomes,
                crossings,
            }),
            BatchReply::DayChanged => Ok(Decision::DayChanged),
            // The script checks its permissions before it writes. Any other failure is about what it read, and a
            // retry does not help.
            BatchReply::Failed { why, .. } if is_denial(&why) => {
                Err(permission_denied(&sanitize(&why)))
            }
            BatchReply::Failed { why, key } => {
                let reason = format!("{key}: {why}");
                Err(StoreError::Corrupt { reason })
            }
            BatchReply::PartialWrite(reason) => Err(StoreError::OutcomeUnknown { reason }),
        };
        Step::Decided(result.map(|answer| Timestamped { now, answer }))
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

/// Redis' clock, and for each batch its reply with the thresholds that it crossed.
type Replies = (DateTime<Utc>, Vec<(BatchReply, Vec<ThresholdCrossing>)>);

/// A batch that is not decided yet.
struct PendingBatch<'b> {
    /// Its place among the batches.
    place: usize,
    batch: &'b Batch,
    options: BatchOptions,
    /// It was sent before, and may have been decided then.
    unknown_outcome: Option<StoreError>,
}

/// How a batch goes on after a call.
enum Step {
    Decided(StoreDecision),
    Again,
}

impl PendingBatch<'_> {
    fn is_for_full_script(&self) -> bool {
        let options = &self.options;
        options.needs_full_script
            || options.sends_snapshots
            || options.names_tomorrow
            || !options.extra.is_empty()
            || !request::is_for_reserve_script(self.batch)
    }

    /// What to answer after a call with this result. Another day, or a failure, says nothing about an earlier call that
    /// may have decided the batch; a foreign value does not either, but is more useful to know.
    fn answer(&self, result: StoreDecision) -> StoreDecision {
        let is_certain = match &result {
            Ok(Timestamped { answer, .. }) => !matches!(answer, Decision::DayChanged),
            Err(error) => matches!(error, StoreError::Corrupt { .. }),
        };
        match &self.unknown_outcome {
            Some(unknown) if !is_certain => Err(unknown.clone()),
            _ => result,
        }
    }
}

/// How the batches of a call go on after its failure.
fn after_failure(
    kind: ScriptKind,
    failed: SendError,
    pending: Vec<PendingBatch<'_>>,
) -> Vec<(PendingBatch<'_>, Step)> {
    // It wrote nothing. The full script names the batch that has the cause, and decides the others.
    let is_of_reserve_script = kind == ScriptKind::Reserve && failed.is_of_script();
    // If Redis cut the connection while it was idle, that may show only during a call.
    let is_cut = failed.is_cut();
    let is_first_cut = is_cut && pending.iter().all(|it| it.unknown_outcome.is_none());
    let is_sent_again = is_of_reserve_script || is_first_cut && is_idempotent(&pending);
    let error = StoreError::from(failed);
    if is_of_reserve_script {
        log_limited!(warn, %error, "the script for Reserves has failed, and the full one decides");
    }
    let steps = pending.into_iter().map(|mut it| {
        if !is_sent_again {
            return (it, Step::Decided(Err(error.clone())));
        }
        // If it did run, its ids are known now.
        it.options.needs_full_script = true;
        if is_cut {
            it.unknown_outcome = Some(error.clone());
        }
        (it, Step::Again)
    });
    steps.collect()
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
fn is_idempotent(pending: &[PendingBatch<'_>]) -> bool {
    let mut ids = HashSet::new();
    pending.iter().all(|PendingBatch { batch, .. }| {
        batch.operations.iter().all(|operation| {
            let id = operation.request_id();
            operation.is_idempotent() && id.is_none_or(|id| ids.insert((&batch.org, id)))
        })
    })
}
