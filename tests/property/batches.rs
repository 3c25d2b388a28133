//! Random batches of operations of several organizations, with ids that recur. Each operation must get the answer that
//! the model gives one by one.
//!
//! Batches are made in two ways: directly for the store, and from calls to the ledger that arrive during another call,
//! so that their order is certain.

use std::{collections::BTreeMap, pin::Pin};

use futures_util::{
    future::{Either, join_all, select},
    poll,
};
use proptest::prelude::*;
use tollgate::{
    domain::{Eligibility, ExternalSource, PoolName, Tokens, UtcDay},
    ledger::{Ledger, LedgerConfig},
    policy::Policy,
    store::{Batch, Decision, Operation, Outcome, Recording, ThresholdCrossing},
};

use super::{
    Step, all_queries, balance, begin, check_notices, compare_with_model, first_day,
    model::{Fields, MAX_AMOUNT, Model, Noticed},
    model_answer, operate, org_of, replayed, reserve_call, reserved, resets_at,
    rounds::{Round, sequence},
    run_step,
};
use crate::support::{
    held_store::{HeldCalls, HeldStore},
    world::{World, org_id, request_id, verdict_text},
};

const MEMORY_SEQUENCES: u32 = 600;
const FILE_SEQUENCES: u32 = 150;
const REDIS_SEQUENCES: u32 = 250;

/// tokio's budget lets a task run for 128 steps.
const MAX_ACROSS_MIDNIGHT: usize = 100;

/// An operation for the store.
fn for_the_store(step: &Step, policy: &Policy, day: UtcDay) -> Operation {
    let tokens = |amount: u64| Tokens::new(amount).unwrap();
    match step {
        Step::Reserve {
            org,
            fields,
            id,
            dry,
        } => {
            let assessor = policy.assessor(&org_id(org), day);
            // The amounts of this test exceed what a call may send.
            let legal_fields = Fields {
                tokens: 1,
                ..fields.clone()
            };
            let mut call = reserve_call(org, &legal_fields, *id, *dry);
            call.fields.tokens = tokens(fields.tokens);
            let is_listed = policy.pool_of(&call.fields.model).is_some();
            let eligibility: Eligibility = assessor.eligibility(&call.fields);
            let recording = match (dry, assessor.knows_org()) {
                (true, _) => Recording::DryRun,
                (false, true) => Recording::Record,
                (false, false) => Recording::Stranger,
            };
            Operation::Reserve {
                request_id: call.request_id,
                fields: call.fields,
                eligibility,
                is_listed,
                recording,
                has_run: false,
            }
        }
        Step::Settle {
            id,
            tokens: it,
            outside,
            ..
        } => Operation::Settle {
            request_id: request_id(id),
            tokens: tokens(*it),
            outside_program: *outside,
        },
        Step::Release { id, .. } => Operation::Release {
            request_id: request_id(id),
        },
        Step::SetExternal {
            pool, tokens: it, ..
        } => Operation::SetExternalUsage {
            pool: PoolName::parse(*pool).unwrap(),
            source: ExternalSource::Manual,
            tokens: tokens(*it),
        },
        other => panic!("{other:?} is no operation"),
    }
}

/// Formats an outcome like the model.
fn outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Reserved {
            verdict,
            pool,
            replayed: again,
        } => format!(
            "{}{} {}",
            verdict_text(verdict),
            replayed(again),
            balance(pool)
        ),
        Outcome::Settled {
            verdict,
            reserved_as,
            pool,
            replayed: again,
        } => {
            let changed = verdict.is_free() != reserved_as.is_free();
            let (verdict, again) = (verdict_text(verdict), replayed(again));
            format!("{verdict} changed={changed}{again} {}", balance(pool))
        }
        Outcome::Released {
            tokens,
            pool,
            replayed: again,
        } => format!("released {tokens}{} {}", replayed(again), balance(pool)),
        Outcome::ExternalUsageSet { before, pool } => {
            format!("external {before} {}", balance(Some(pool)))
        }
        Outcome::NoticeConfirmed => panic!("no operation of these confirms"),
        Outcome::Refused(refusal) => {
            let name = format!("{refusal:?}");
            name.split(' ').next().unwrap().to_owned()
        }
        Outcome::CounterOverflow(_) => "Full".to_owned(),
    }
}

/// Splits operations into calls of the store, with each organization at most once per call. Also gives the index of
/// each operation.
fn calls(operations: &[Step], policy: &Policy, day: UtcDay) -> Vec<Vec<(Batch, Vec<usize>)>> {
    let mut by_org: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, step) in operations.iter().enumerate() {
        by_org.entry(org_of(step)).or_default().push(at);
    }
    let mut calls: Vec<Vec<(Batch, Vec<usize>)>> = Vec::new();
    // Of what a call can hold.
    let share = Batch::MAX_OPERATIONS / by_org.len().max(1);
    for (org, places) in by_org {
        for (call, places) in places.chunks(share).enumerate() {
            let its = places.iter().map(|at| &operations[*at]);
            let batch = Batch {
                org: org_id(org),
                day,
                terms: policy.assessor(&org_id(org), day).terms(),
                operations: its.map(|it| for_the_store(it, policy, day)).collect(),
            };
            if calls.len() == call {
                calls.push(Vec::new());
            }
            calls[call].push((batch, places.to_vec()));
        }
    }
    calls
}

/// The store's answers to the operations.
async fn decide(
    world: &World,
    operations: &[Step],
    day: UtcDay,
    day_is_wrong: bool,
    notices: &mut Vec<Noticed>,
) -> Vec<String> {
    let mut answers = vec![String::new(); operations.len()];
    for call in calls(operations, &world.ledger.policy(), day) {
        let (mut batches, mut places): (Vec<Batch>, Vec<_>) = call.into_iter().unzip();
        if day_is_wrong {
            let right = batches.clone();
            for (at, batch) in batches.iter_mut().enumerate().step_by(2) {
                batch.day = [day.yesterday(), day.plus_days(1)][at / 2 % 2];
            }
            let decided = world.store.decide(&batches).await;
            let mut places_decided = Vec::new();
            for (at, decided) in decided.into_iter().enumerate() {
                match decided.unwrap().answer {
                    Decision::DayChanged => assert_eq!(at % 2, 0),
                    Decision::Outcomes {
                        outcomes,
                        crossings,
                    } => {
                        assert_eq!(at % 2, 1);
                        let crossed = crossings.iter();
                        notices.extend(crossed.flat_map(|it| noticed(&right[at], it)));
                        places_decided.push((std::mem::take(&mut places[at]), outcomes));
                    }
                }
            }
            for (places, outcomes) in places_decided {
                put(&mut answers, &places, outcomes);
            }
            batches = right.into_iter().step_by(2).collect();
            places = places.into_iter().step_by(2).collect();
        }
        let decided = world.store.decide(&batches).await;
        for ((batch, decided), places) in batches.iter().zip(decided).zip(places) {
            match decided.unwrap().answer {
                Decision::DayChanged => panic!("it is {day}"),
                Decision::Outcomes {
                    outcomes,
                    crossings,
                } => {
                    put(&mut answers, &places, outcomes);
                    notices.extend(crossings.iter().flat_map(|it| noticed(batch, it)));
                }
            }
        }
    }
    answers
}

/// The notices of a crossing.
fn noticed(batch: &Batch, crossing: &ThresholdCrossing) -> Vec<Noticed> {
    let allowance = batch.terms.of_pool(&crossing.pool).allowance;
    let peak = crossing.used.get() + crossing.external.get();
    let is_new = |per_cent: &u8| {
        let reaches = |counted: u64| {
            u128::from(counted) * 100 >= u128::from(allowance.get()) * u128::from(*per_cent)
        };
        reaches(peak) && !reaches(crossing.before.get())
    };
    let (org, pool) = (batch.org.to_string(), crossing.pool.to_string());
    let day = (batch.day.start() - first_day().start()).num_days();
    let day = u32::try_from(day).unwrap();
    let new = [80, 95, 100].into_iter().filter(is_new);
    new.map(|per_cent| (org.clone(), pool.clone(), day, per_cent))
        .collect()
}

fn put(answers: &mut [String], places: &[usize], outcomes: Vec<Outcome>) {
    assert_eq!(places.len(), outcomes.len());
    for (at, it) in places.iter().zip(outcomes) {
        answers[*at] = outcome(it);
    }
}

type Answers<'a> = Pin<Box<dyn Future<Output = Vec<String>> + 'a>>;

/// The calls to the ledger, not yet polled.
fn ledger_calls<'a>(
    world: &'a World,
    operations: &'a [Step],
    model: &Model,
    as_stream: bool,
) -> Vec<Answers<'a>> {
    let resets_at = resets_at(model);
    let is_reserve = |step: &Step| matches!(step, Step::Reserve { .. });
    let runs = operations.chunk_by(|a, b| as_stream && is_reserve(a) && is_reserve(b));
    let calls = runs.map(|run| -> Answers<'a> {
        if run.len() == 1 {
            return Box::pin(async move { vec![operate(&run[0], world, resets_at).await] });
        }
        let calls = run.iter().map(|step| match step {
            Step::Reserve {
                org,
                fields,
                id,
                dry,
            } => reserve_call(org, fields, *id, *dry),
            other => panic!("{other:?} is no Reserve"),
        });
        let calls = calls.collect();
        Box::pin(async move {
            let answers = world.ledger.reserve_all(calls).await;
            answers
                .into_iter()
                .map(|it| reserved(it, resets_at))
                .collect()
        })
    });
    calls.collect()
}

/// Starts all calls in order while the first call to the store is held; then releases it.
async fn together(
    mut pending: Vec<Answers<'_>>,
    calls: &mut HeldCalls,
    midnight: impl FnOnce(),
) -> (Vec<String>, usize) {
    for answers in &mut pending {
        assert!(poll!(answers.as_mut()).is_pending());
    }
    midnight();
    let mut made = 0;
    let go_on = Box::pin(async {
        while let Some(call) = calls.any().await {
            made += 1;
            call.go();
        }
    });
    let answers = match select(join_all(pending), go_on).await {
        Either::Left((answers, _)) => answers,
        Either::Right(_) => panic!("the store is gone"),
    };
    (answers.concat(), made)
}

/// Without the operations that the ledger refuses before they wait for the store.
fn for_the_queue(mut operations: Vec<Step>, model: &Model) -> Vec<Step> {
    operations.retain(|step| match step {
        Step::SetExternal { org, pool, .. } => model.unknown(org, pool).is_none(),
        _ => true,
    });
    operations
}

async fn run_at_the_store(
    world: &World,
    closes: bool,
    rounds: Vec<Round>,
) -> Result<(), TestCaseError> {
    let (mut model, mut notices) = (begin(world, closes), Vec::new());
    for round in rounds.into_iter().chain(all_queries().map(Round::Alone)) {
        match round {
            Round::Together {
                operations,
                day_is_wrong,
                ..
            } => {
                let operations = for_the_queue(operations, &model);
                let day = first_day().plus_days(model.day);
                let answers = decide(world, &operations, day, day_is_wrong, &mut notices).await;
                for (at, (step, received)) in operations.iter().zip(answers).enumerate() {
                    prop_assert_eq!(
                        received,
                        model_answer(step, &mut model),
                        "{}: {:?}",
                        at,
                        step
                    );
                }
            }
            Round::Alone(step) => {
                let (received, wanted) = run_step(step.clone(), world, &mut model).await;
                prop_assert_eq!(received, wanted, "{:?}", step);
            }
        }
    }
    notices.extend(world.take_notices().into_iter().map(super::noticed));
    check_notices(&model, notices.into_iter())
}

async fn run_at_the_ledger(
    world: &mut World,
    closes: bool,
    rounds: Vec<Round>,
) -> Result<(), TestCaseError> {
    let (held, mut calls) = HeldStore::over(world.store.clone(), 1);
    world.ledger = Ledger::new(LedgerConfig::new(world.ledger.policy(), held));
    let mut model = begin(world, closes);
    // The ledger learns the store's day, which differs from this machine's.
    world.ledger.probe().await.unwrap();
    // Whether the ledger may still assume the previous day.
    let mut day_is_new = false;
    for round in rounds.into_iter().chain(all_queries().map(Round::Alone)) {
        match round {
            Round::Together {
                operations,
                day_is_wrong: day_ends,
                as_stream,
            } => {
                let operations = for_the_queue(operations, &model);
                // At midnight each caller sends its operation again. Here one task polls all callers, in order as long
                // as tokio's budget does not interrupt it.
                let many = operations.len() > MAX_ACROSS_MIDNIGHT;
                let day_ends = day_ends && !many && !as_stream;
                if many || as_stream {
                    world.ledger.probe().await.unwrap();
                    day_is_new = false;
                }
                model.day += u32::from(day_ends);
                day_is_new |= day_ends;
                let pending = ledger_calls(world, &operations, &model, as_stream);
                let midnight = || {
                    if day_ends {
                        world.clock.advance(chrono::TimeDelta::days(1));
                    }
                };
                let (answers, made) = together(pending, &mut calls, midnight).await;
                for (at, (step, received)) in operations.iter().zip(answers).enumerate() {
                    prop_assert_eq!(
                        received,
                        model_answer(step, &mut model),
                        "{}: {:?}",
                        at,
                        step
                    );
                }
                // The first call alone, and the others together, up to the size of a call.
                prop_assert!(day_is_new || made <= 2 + operations.len() / 512, "{}", made);
                // What is refused before it reaches the store shows no day.
                day_is_new &= made == 0;
            }
            Round::Alone(step) => {
                day_is_new |= matches!(step, Step::NextDay);
                let (received, wanted) = run_step(step.clone(), world, &mut model).await;
                prop_assert_eq!(received, wanted, "{:?}", step);
            }
        }
    }
    Ok(())
}

fn at_the_store(sequences: u32, new: fn(Policy) -> World) {
    let sequence = sequence(MAX_AMOUNT);
    compare_with_model(
        sequences,
        new,
        &sequence,
        async |world, (closes, rounds)| run_at_the_store(world, closes, rounds).await,
    );
}

fn at_the_ledger(sequences: u32, new: fn(Policy) -> World) {
    let sequence = sequence(1_000_000_000);
    compare_with_model(
        sequences,
        new,
        &sequence,
        async |world, (closes, rounds)| run_at_the_ledger(world, closes, rounds).await,
    );
}

#[test]
fn the_memory_store_decides_a_batch_as_the_model_does_one_by_one() {
    at_the_store(MEMORY_SEQUENCES, World::memory);
}

#[test]
fn the_file_store_decides_a_batch_as_the_model_does_one_by_one() {
    at_the_store(FILE_SEQUENCES, World::file);
}

#[test]
fn the_redis_store_decides_a_batch_as_the_model_does_one_by_one() {
    at_the_store(REDIS_SEQUENCES, World::redis);
}

#[test]
fn calls_that_wait_together_over_memory_are_answered_as_the_model_does_one_by_one() {
    at_the_ledger(MEMORY_SEQUENCES, World::memory);
}

#[test]
fn calls_that_wait_together_over_a_file_are_answered_as_the_model_does_one_by_one() {
    at_the_ledger(FILE_SEQUENCES, World::file);
}

#[test]
fn calls_that_wait_together_over_redis_are_answered_as_the_model_does_one_by_one() {
    at_the_ledger(REDIS_SEQUENCES, World::redis);
}
