//! docs/CONTRACT.md, "When FREE is certain": random traffic through a ledger, against a model of the provider's bill.
//! Traffic has [`DAYS`] days.
//!
//! `TOLLGATE_SIMULATIONS` and `TOLLGATE_SEED` are those of `simulation`; `TOLLGATE_LONG` runs more. A failure prints the
//! fewest requests that still fail.

mod bill;
mod command;
mod drift;
mod history;
mod traffic;

use std::ops::Range;

use tollgate::policy::Policy;

use self::{
    bill::{CountedOn, Programme, RunningTotal},
    history::History,
    traffic::{DAYS, SOUND, Traffic, programme},
};
use crate::support::{seeds, world::World};

const MEMORY_DAYS: u64 = 2_000;
const LONG_MEMORY_DAYS: u64 = 100_000;
const REDIS_DAYS: u64 = 50;
const LONG_REDIS_DAYS: u64 = 2_000;
/// Seeds of traffic whose requests run one at a time.
const SEQUENCES: u64 = 300;
const LONG_SEQUENCES: u64 = 20_000;
const REDIS_SEQUENCES: u64 = 15;
const LONG_REDIS_SEQUENCES: u64 = 500;

/// Every rule that the programme's text leaves open.
fn programmes() -> impl Iterator<Item = Programme> {
    let totals = [RunningTotal::FreeOnly, RunningTotal::All];
    let knobs = totals.map(|total| [CountedOn::Start, CountedOn::End].map(|day| (total, day)));
    knobs.into_iter().flatten().map(|(total, day)| Programme {
        total,
        day,
        ..programme()
    })
}

/// Enough seeds for this many days.
fn days(short: u64, long: u64) -> Range<u64> {
    let days = DAYS.unsigned_abs();
    seeds(short.div_ceil(days), long.div_ceil(days)).0
}

/// The requests that are FREE and billed, under any of the rules.
async fn false_free(world: &mut World, traffic: &Traffic) -> Vec<usize> {
    world.empty();
    let history = History::of(world, traffic).await;
    programmes()
        .flat_map(|it| history.false_free(&it))
        .collect()
}

/// The verdicts that differ from the bill.
async fn wrong_verdicts(world: &mut World, traffic: &Traffic) -> Vec<usize> {
    world.empty();
    let history = History::of(world, traffic).await;
    let bill = programme().bill(&history.completions).into_iter();
    let wrong = bill
        .zip(&history.requests)
        .filter(|(is_free, at)| history.free[**at] != Some(*is_free));
    wrong.map(|(_, at)| *at).collect()
}

/// Fails if the check finds any requests, with the fewest requests that still fail.
async fn expect_none(
    seed: u64,
    world: &mut World,
    mut traffic: Traffic,
    check: impl AsyncFn(&mut World, &Traffic) -> Vec<usize>,
) {
    let mut found = check(world, &traffic).await;
    if found.is_empty() {
        return;
    }
    for at in (0..traffic.requests.len()).rev() {
        let rest = traffic.without(at);
        let found_there = check(world, &rest).await;
        if !found_there.is_empty() {
            (traffic, found) = (rest, found_there);
        }
    }
    panic!("TOLLGATE_SEED={seed} replays it: requests {found:?} of {traffic:#?}");
}

async fn hold_the_promise(seeds: Range<u64>, new: fn(Policy) -> World) {
    let mut world = new(Traffic::random(0, SOUND).policy());
    for seed in seeds {
        let traffic = Traffic::random(seed, SOUND);
        expect_none(seed, &mut world, traffic, false_free).await;
    }
}

#[tokio::test]
async fn under_the_conditions_no_free_is_billed_whatever_the_provider_does_after_an_overflow_or_at_midnight()
 {
    hold_the_promise(days(MEMORY_DAYS, LONG_MEMORY_DAYS), World::memory).await;
}

#[tokio::test]
async fn under_the_conditions_no_free_of_the_redis_store_is_billed() {
    hold_the_promise(days(REDIS_DAYS, LONG_REDIS_DAYS), World::redis).await;
}

async fn hold_the_bill(seeds: Range<u64>, new: fn(Policy) -> World) {
    let mut world = new(Traffic::one_at_a_time(0).policy());
    for seed in seeds {
        let traffic = Traffic::one_at_a_time(seed);
        expect_none(seed, &mut world, traffic, wrong_verdicts).await;
    }
}

/// With a margin too: Settle must not know it.
#[tokio::test]
async fn of_requests_that_run_one_at_a_time_the_settled_verdict_is_the_bill_wherever_billed_ones_run()
 {
    hold_the_bill(seeds(SEQUENCES, LONG_SEQUENCES).0, World::memory).await;
}

#[tokio::test]
async fn of_requests_that_run_one_at_a_time_the_redis_stores_verdict_is_the_bill() {
    hold_the_bill(seeds(REDIS_SEQUENCES, LONG_REDIS_SEQUENCES).0, World::redis).await;
}
