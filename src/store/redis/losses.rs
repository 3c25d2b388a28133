//! Redis may lose writes that it acknowledged: what the pools were is remembered, looked after, and restored.
//!
//! The rule: docs/DURABILITY.md, "When Redis forgets".

use std::{sync::Arc, time::Instant};

use super::{
    arguments::Told,
    decide::{Decider, MOST_BATCHES, Result},
    links::Links,
    memory::Remembered,
    reply::Reply,
};
use crate::{
    domain::{OrgId, PoolName, UtcDay},
    store::{Batch, StoreError},
    telemetry::LogLimit,
};

static LOSSES: LogLimit = LogLimit::new();

impl Decider {
    /// Looks whether Redis still has this replica's newest writes: one server can have lost no other without
    /// these. And at some others, since one of many servers can. Where any is lost, all are looked at, and
    /// what is gone is restored.
    pub(super) async fn verify(&self, links: &Links) {
        if let Some((day, some)) = self.memory.some() {
            self.look_at(links, day, some).await;
        }
        if self.memory.has_to_look()
            && let Some((day, all)) = self.memory.all()
        {
            let losses = self.memory.losses();
            if self.look_at(links, day, all).await {
                self.memory.looked(losses);
            }
        }
    }

    /// Tells whether Redis could be asked for all of them: else the next probe begins anew.
    async fn look_at(&self, links: &Links, day: UtcDay, orgs: Vec<OrgId>) -> bool {
        let told = Told {
            verifies: true,
            ..Told::default()
        };
        let most = if links.are_many() { 1 } else { MOST_BATCHES };
        let batches = orgs.into_iter().map(|org| Batch {
            org,
            day,
            terms: Arc::default(),
            operations: Vec::new(),
        });
        let batches: Vec<Batch> = batches.collect();
        let mut all = true;
        for batches in batches.chunks(most) {
            for looked in self.decide_in_one_call(links, batches, &told).await {
                match looked {
                    // What is foreign stays so, and holds up nobody else.
                    Ok(_) | Err(StoreError::Corrupt { .. }) => {}
                    Err(_) if links.are_many() => all = false,
                    Err(_) => return false,
                }
            }
        }
        all
    }

    /// Remembers what the pools were after the writes of these batches.
    pub(super) fn remember(
        &self,
        batches: &[Batch],
        told: &Told,
        pools: Vec<Vec<(PoolName, u64)>>,
        replies: &mut [Reply],
    ) -> Result<()> {
        for ((batch, pools), reply) in batches.iter().zip(pools).zip(replies) {
            let Reply::Done(_, written) = reply else {
                continue;
            };
            let written = std::mem::take(written).into_iter().map(|it| {
                Ok(Remembered {
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

    pub(super) fn tell_of_loss(&self, batch: &Batch) {
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
