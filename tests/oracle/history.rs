//! Runs planned traffic through a ledger: what the ledger said, and what the provider ran.

use chrono::{DateTime, TimeDelta, Utc};
use tollgate::{
    domain::{ExternalSource, PoolName, Tokens, UtcDay, Verdict, Workload},
    ledger::{Reserve, SetExternalUsage, Settle},
    reconcile::LedgerRow,
};

use super::{
    bill::{Completion, DAY_SECONDS, Programme},
    traffic::{DAYS, Fate, POOLS, PRIVATE, PlannedRequest, Route, Traffic},
};
use crate::support::world::{ReserveExt as _, World, new_reserve, new_settle, org_id};

/// The day of the first midnight.
pub const FIRST_DAY: &str = "2026-11-23";

/// What became of the requests, by their places in the traffic.
pub struct History {
    /// Whether the ledger's last verdict is FREE; `None` if it was not asked.
    pub free: Vec<Option<bool>>,
    pub completions: Vec<Completion>,
    /// The request of each completion.
    pub requests: Vec<usize>,
}

pub fn moment(seconds: i64) -> DateTime<Utc> {
    UtcDay::parse(FIRST_DAY).unwrap().start() + TimeDelta::seconds(seconds)
}

pub fn days() -> impl Iterator<Item = UtcDay> {
    let days = 0..=u32::try_from(DAYS).unwrap();
    days.map(|day| UtcDay::parse(FIRST_DAY).unwrap().plus_days(day))
}

impl History {
    /// Of an empty world.
    pub async fn of(world: &World, traffic: &Traffic) -> Self {
        world.ledger.set_policy(traffic.policy().into());
        let mut history = Self {
            free: vec![None; traffic.requests.len()],
            completions: Vec::new(),
            requests: Vec::new(),
        };
        let times = traffic.requests.iter().enumerate();
        let times =
            times.flat_map(|(at, it)| [(it.reserved_at, at, true), (it.settled_at, at, false)]);
        let mut times: Vec<(i64, usize, bool)> = times.collect();
        times.sort_by_key(|(time, ..)| *time);
        let mut now = i64::MIN;
        for (time, at, is_begin) in times {
            if time != now {
                world.clock.shift(moment(time) - Utc::now());
                now = time;
            }
            let request = &traffic.requests[at];
            match (is_begin, request.route) {
                (true, Route::Tollgate) => history.reserve(world, at, request).await,
                (true, Route::Past) => {
                    history.complete(at, request, request.project, request.actual)
                }
                (true, Route::Announced) => history.announce(world, at, request).await,
                (false, Route::Tollgate) => history.settle(world, at, request).await,
                (false, Route::Past | Route::Announced) => {}
            }
        }
        history
    }

    /// The requests of the ledger's FREE that the provider bills.
    pub fn false_free(&self, programme: &Programme) -> Vec<usize> {
        let bill = programme.bill(&self.completions).into_iter();
        let billed = bill.zip(&self.requests).filter(|(is_free, _)| !is_free);
        let free = billed.filter(|(_, at)| self.free[**at] == Some(true));
        free.map(|(_, at)| *at).collect()
    }

    fn complete(
        &mut self,
        at: usize,
        request: &PlannedRequest,
        project: &'static str,
        tokens: u64,
    ) {
        self.requests.push(at);
        self.completions.push(Completion {
            project,
            model: request.model,
            workload: request.workload,
            tokens,
            started: request.started,
            ended: request.ended,
        });
    }

    fn fate(&self, at: usize, request: &PlannedRequest) -> Fate {
        match self.free[at] == Some(true) {
            true => request.if_free,
            false => request.if_billed,
        }
    }

    async fn reserve(&mut self, world: &World, at: usize, request: &PlannedRequest) {
        let call = reserve_call(at, request);
        let reserved = world.reserve(call.clone()).await;
        self.free[at] = Some(reserved.verdict == Verdict::Free);
        if request.is_retried && request.has_id {
            let again = world.reserve(call).await;
            assert!(again.replayed && again.verdict == reserved.verdict);
        }
        match self.fate(at, request) {
            Fate::Runs | Fate::RunsUnsettled | Fate::RunsAndIsReleased => {
                self.complete(at, request, request.project, request.actual);
            }
            Fate::RunsInPrivate => self.complete(at, request, PRIVATE, request.actual),
            Fate::RunsElsewhere | Fate::IsReleased | Fate::IsAbandoned => {}
        }
    }

    async fn settle(&mut self, world: &World, at: usize, request: &PlannedRequest) {
        if !request.has_id {
            return;
        }
        let (id, fate) = (at.to_string(), self.fate(at, request));
        match fate {
            Fate::Runs | Fate::RunsInPrivate | Fate::RunsElsewhere => {
                let call = Settle {
                    outside_program: fate != Fate::Runs,
                    ..new_settle(&id, request.actual)
                };
                let settled = world.ledger.settle(call.clone()).await.unwrap();
                self.free[at] = Some(settled.verdict == Verdict::Free);
                if request.is_retried {
                    let again = world.ledger.settle(call).await.unwrap();
                    assert!(again.replayed && again.verdict == settled.verdict);
                }
            }
            Fate::RunsAndIsReleased | Fate::IsReleased => {
                world.release(&id).await;
            }
            Fate::RunsUnsettled | Fate::IsAbandoned => {}
        }
    }

    /// Runs the request past Tollgate, with at most the remaining tokens, after it is set as the pool's external usage.
    async fn announce(&mut self, world: &World, at: usize, request: &PlannedRequest) {
        let pool = POOLS
            .iter()
            .find(|(_, _, models)| models.contains(&request.model));
        let Some((pool, ..)) = pool else {
            return;
        };
        let quota = world.quota("acme").await;
        let (balance, counters) = quota
            .pools
            .iter()
            .find(|(it, _)| it.pool.as_str() == *pool)
            .unwrap();
        let tokens = request.actual.min(balance.remaining().get());
        let total = Tokens::new(counters.external.manual.get() + tokens).unwrap();
        let call = SetExternalUsage {
            org: org_id("acme"),
            pool: PoolName::parse(*pool).unwrap(),
            source: ExternalSource::Manual,
            tokens: total,
            note: String::new(),
            caller: None,
        };
        world.ledger.set_external_usage(call).await.unwrap();
        self.complete(at, request, request.project, tokens);
    }
}

/// The id is the place in the traffic.
fn reserve_call(at: usize, request: &PlannedRequest) -> Reserve {
    let workload = Workload::ALL
        .into_iter()
        .find(|it| it.name() == request.workload);
    let call = new_reserve(request.reserved)
        .project(request.project)
        .model(request.model)
        .workload(workload.unwrap());
    match request.has_id {
        true => call.id(&at.to_string()),
        false => call,
    }
}

/// The ledger's usage of all days, once they are closed.
pub async fn ledger_rows(world: &World) -> Vec<LedgerRow> {
    world
        .clock
        .shift(moment((DAYS + 3) * DAY_SECONDS) - Utc::now());
    let mut rows = Vec::new();
    for day in days() {
        let usage = world
            .try_usage("acme", Some(&day.to_string()))
            .await
            .unwrap();
        rows.extend(usage.rows.into_iter().map(|row| LedgerRow {
            day,
            project: row.project.to_string(),
            model: row.model.to_string(),
            free_tokens: row.counters.free_tokens.get(),
            billed_tokens: row.counters.billed_tokens.get(),
        }));
    }
    rows
}
