//! Redis may lose writes that it acknowledged: what the pools were is remembered, looked after, and restored.
//!
//! The rule: docs/DURABILITY.md, "When Redis forgets".

pub mod pn_counter;
pub(crate) mod snapshots;

use std::{sync::Arc, time::Instant};

use self::snapshots::PoolSnapshot;
use super::{
    conn::RedisClient,
    decide::{Decider, MAX_BATCHES, Result},
    reply::BatchReply,
    script::request::CallOptions,
};
use crate::{
    domain::{OrgId, PoolName, UtcDay},
    store::{Batch, StoreError},
    telemetry::Throttle,
};

static LOSSES: Throttle = Throttle::new();

impl Decider {
    /// Looks whether Redis still has this replica's newest writes: one server can have lost no other without
    /// these. And at some others, since one of many servers can. Where any is lost, all are looked at, and
    /// what is gone is restored.
    pub(crate) async fn verify(&self, client: &RedisClient) {
        if let Some((day, some)) = self.memory.some() {
            self.look_at(client, day, some).await;
        }
        if self.memory.has_to_look()
            && let Some((day, all)) = self.memory.all()
        {
            let losses = self.memory.losses();
            if self.look_at(client, day, all).await {
                self.memory.looked(losses);
            }
        }
    }

    /// Tells whether Redis could be asked for all of them: else the next probe begins anew.
    async fn look_at(&self, client: &RedisClient, day: UtcDay, orgs: Vec<OrgId>) -> bool {
        let told = CallOptions {
            verifies: true,
            ..CallOptions::default()
        };
        let most = if client.is_sharded() { 1 } else { MAX_BATCHES };
        let batches = orgs.into_iter().map(|org| Batch {
            org,
            day,
            terms: Arc::default(),
            operations: Vec::new(),
        });
        let batches: Vec<Batch> = batches.collect();
        let mut all = true;
        for batches in batches.chunks(most) {
            for looked in self.decide_in_one_call(client, batches, &told).await {
                match looked {
                    // What is foreign stays so, and holds up nobody else.
                    Ok(_) | Err(StoreError::Corrupt { .. }) => {}
                    Err(_) if client.is_sharded() => all = false,
                    Err(_) => return false,
                }
            }
        }
        all
    }

    /// Remembers what the pools were after the writes of these batches.
    pub(crate) fn remember(
        &self,
        batches: &[Batch],
        told: &CallOptions,
        pools: Vec<Vec<(PoolName, u64)>>,
        replies: &mut [BatchReply],
    ) -> Result<()> {
        for ((batch, pools), reply) in batches.iter().zip(pools).zip(replies) {
            let BatchReply::Done(_, written) = reply else {
                continue;
            };
            let written = std::mem::take(written).into_iter().map(|it| {
                Ok(PoolSnapshot {
                    pool: pools.get(it.place).ok_or_else(no_such_pool)?.0.clone(),
                    turn: it.turn,
                    record: it.record,
                })
            });
            let written = written.collect::<Result<_>>()?;
            let (org, day, mut memory) = (&batch.org, batch.day, self.memory.lock());
            if told.verifies {
                memory.learn_beside(org, day, &pools, written);
            } else {
                memory.learn(org, day, written);
            }
        }
        Ok(())
    }

    pub(crate) fn tell_of_loss(&self, batch: &Batch) {
        self.memory.count_loss();
        if let Some(left_out) = LOSSES.admit(Instant::now()) {
            tracing::error!(
                org = %batch.org,
                day = %batch.day,
                left_out,
                "Redis has lost writes that it had acknowledged: what this replica remembers of the \
                 organization's pools is restored"
            );
        }
    }
}

fn no_such_pool() -> StoreError {
    StoreError::Corrupt {
        reason: "a write to a pool that was not named".to_owned(),
    }
}
