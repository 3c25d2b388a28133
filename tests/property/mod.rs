//! Random sequences of all operations: each answer of every store must be the model's.
//!
//! `TOLLGATE_PROPERTY_CASES` multiplies the number of sequences.

mod batches;
mod model;
mod rounds;
mod rules;

use std::{cell::RefCell, collections::BTreeSet};

use chrono::{DateTime, Utc};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tollgate::{
    domain::{ExternalSource, PoolName, Tokens, UtcDay, Workload},
    ledger::{
        LedgerError, Notice, Reserve, Reserved, SetExternalUsage, Settle, UsageDays, UsagePage,
    },
    policy::Policy,
    store::PoolBalance,
};

use self::{
    model::{Fields, Model, Noticed},
    rules::{Change, HOSTILE_NAME, rules},
};
use crate::support::world::{
    ReserveExt as _, TODAY, World, new_reserve, new_settle, org_id, policy_text, verdict_text,
};

const MEMORY_SEQUENCES: u32 = 10_000;
const FILE_SEQUENCES: u32 = 150;
const REDIS_SEQUENCES: u32 = 500;
const MAX_SEQUENCE_LENGTH: usize = 40;

#[derive(Debug, Clone)]
enum Step {
    Reserve {
        org: &'static str,
        fields: Fields,
        id: Option<&'static str>,
        dry: bool,
    },
    Settle {
        org: &'static str,
        id: &'static str,
        tokens: u64,
        /// Whether the request ran outside the programme.
        outside: bool,
    },
    Release {
        org: &'static str,
        id: &'static str,
    },
    SetExternal {
        org: &'static str,
        pool: &'static str,
        tokens: u64,
    },
    Quota {
        org: &'static str,
    },
    Usage {
        org: &'static str,
        days_ago: u32,
    },
    NextDay,
    Change(Change),
}

fn step() -> impl Strategy<Value = Step> {
    let org = || {
        prop_oneof![
            8 => Just("acme"), 3 => Just("some"),
            1 => prop::sample::select(vec!["off", "zdr", "big", "stranger", HOSTILE_NAME]),
        ]
    };
    let id = || prop::sample::select(vec!["a", "b", "c", "d"]);
    let tokens = || {
        prop_oneof![
            prop::sample::select(vec![1, 100, 300, 500, 501, 999, 1_000, 1_001]),
            1_u64..1_200,
        ]
    };
    let model = prop_oneof![
        8 => prop::sample::select(vec!["gpt-4o", "o1", "gpt-4o-mini"]),
        1 => prop::sample::select(vec!["gpt-5", "ft:gpt-4o:x", "(other)"]),
    ];
    let fields = (
        prop::sample::select(vec!["p", "q", "(other)"]),
        model,
        tokens(),
        0..12_u8,
    )
        .prop_map(|(project, model, tokens, roll)| {
            let workload = if roll == 0 { "evaluation" } else { "inference" };
            Fields {
                project,
                model,
                tokens,
                workload,
            }
        });
    let change = prop::sample::select(Change::ALL.to_vec());
    let settled = prop_oneof![1 => Just(0), 5 => tokens()];
    prop_oneof![
        12 => (org(), fields, prop::option::weighted(0.7, id()), prop::bool::weighted(0.1))
            .prop_map(|(org, fields, id, dry)| Step::Reserve { org, fields, id, dry }),
        6 => (org(), id(), settled, prop::bool::weighted(0.25))
            .prop_map(|(org, id, tokens, outside)| Step::Settle { org, id, tokens, outside }),
        3 => (org(), id()).prop_map(|(org, id)| Step::Release { org, id }),
        2 => set_external(org()),
        2 => org().prop_map(|org| Step::Quota { org }),
        2 => (org(), 0..3_u32).prop_map(|(org, days_ago)| Step::Usage { org, days_ago }),
        1 => Just(Step::NextDay),
        2 => change.prop_map(Step::Change),
    ]
}

fn set_external(org: impl Strategy<Value = &'static str>) -> impl Strategy<Value = Step> {
    let pool = prop::sample::select(vec!["large", "large", "mini", "huge"]);
    let tokens = prop::sample::select(vec![0, 1, 50, 300, 400, 1_000, 1_001]);
    (org, pool, tokens).prop_map(|(org, pool, tokens)| Step::SetExternal { org, pool, tokens })
}

/// Formats a result like the model: the answer, or the name of the refusal.
fn text<T>(result: Result<T, LedgerError>, answer: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => answer(value),
        Err(LedgerError::Refused(refusal)) => {
            let name = format!("{refusal:?}");
            name.split(' ').next().unwrap().to_owned()
        }
        Err(LedgerError::UnknownOrganization) => "UnknownOrganization".to_owned(),
        Err(LedgerError::UnknownPool) => "UnknownPool".to_owned(),
        Err(LedgerError::DayNotKept { .. }) => "DayNotKept".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

fn balance(pool: Option<PoolBalance>) -> String {
    pool.map_or("-".to_owned(), |it| {
        format!(
            "{} {} {} {}",
            it.pool,
            it.allowance,
            it.used,
            it.remaining()
        )
    })
}

fn replayed(replayed: bool) -> &'static str {
    if replayed { " replayed" } else { "" }
}

/// A Reserve for the ledger.
fn reserve_call(org: &str, fields: &Fields, id: Option<&str>, dry: bool) -> Reserve {
    let named = Workload::ALL
        .into_iter()
        .find(|it| it.name() == fields.workload);
    let mut call = new_reserve(fields.tokens)
        .org(org)
        .project(fields.project)
        .model(fields.model)
        .workload(named.unwrap());
    call.dry_run = dry;
    // As over gRPC.
    let id = id.filter(|_| !dry);
    id.map_or(call.clone(), |id| call.id(id))
}

fn reserved(answer: Result<Reserved, LedgerError>, resets_at: DateTime<Utc>) -> String {
    text(answer, |it| {
        assert_eq!(it.resets_at, resets_at);
        let (verdict, replayed) = (verdict_text(it.verdict), replayed(it.replayed));
        format!("{verdict}{replayed} {}", balance(it.pool))
    })
}

/// The ledger's answer to an operation.
async fn operate(step: &Step, world: &World, resets_at: DateTime<Utc>) -> String {
    match step {
        Step::Reserve {
            org,
            fields,
            id,
            dry,
        } => {
            let call = reserve_call(org, fields, *id, *dry);
            reserved(world.ledger.reserve(call).await, resets_at)
        }
        Step::Settle {
            org,
            id,
            tokens,
            outside,
        } => {
            let call = Settle {
                org: org_id(org),
                outside_program: *outside,
                ..new_settle(id, *tokens)
            };
            text(world.ledger.settle(call).await, |it| {
                assert_eq!(it.resets_at, resets_at);
                let (verdict, changed) = (verdict_text(it.verdict), it.verdict_changed);
                let replayed = replayed(it.replayed);
                format!("{verdict} changed={changed}{replayed} {}", balance(it.pool))
            })
        }
        Step::Release { org, id } => text(world.try_release(org, id).await, |it| {
            let replayed = replayed(it.replayed);
            format!("released {}{replayed} {}", it.tokens, balance(it.pool))
        }),
        Step::SetExternal { org, pool, tokens } => {
            let call = SetExternalUsage {
                org: org_id(org),
                pool: PoolName::parse(*pool).unwrap(),
                source: ExternalSource::Manual,
                tokens: Tokens::new(*tokens).unwrap(),
                note: String::new(),
                caller: None,
            };
            text(world.ledger.set_external_usage(call).await, |it| {
                assert_eq!(it.resets_at, resets_at);
                format!("external {} {}", it.before, balance(Some(it.pool)))
            })
        }
        other => panic!("{other:?} is no operation"),
    }
}

/// The model's answer to an operation.
fn model_answer(step: &Step, model: &mut Model) -> String {
    let org = org_of(step);
    let before = model.counted(org);
    let answer = answer_of_model(step, model);
    model.add_notices(org, &before);
    answer
}

fn org_of(step: &Step) -> &'static str {
    match step {
        Step::Reserve { org, .. }
        | Step::Settle { org, .. }
        | Step::Release { org, .. }
        | Step::SetExternal { org, .. } => org,
        other => panic!("{other:?} is no operation"),
    }
}

fn answer_of_model(step: &Step, model: &mut Model) -> String {
    match step.clone() {
        Step::Reserve {
            org,
            fields,
            id,
            dry,
        } => model.reserve(org, fields, id, dry),
        Step::Settle {
            org,
            id,
            tokens,
            outside,
        } => model.settle(org, id, tokens, outside),
        Step::Release { org, id } => model.release(org, id),
        Step::SetExternal { org, pool, tokens } => model.set_external(org, pool, tokens),
        other => panic!("{other:?} is no operation"),
    }
}

fn resets_at(model: &Model) -> DateTime<Utc> {
    first_day().plus_days(model.day).end()
}

fn first_day() -> UtcDay {
    UtcDay::parse(TODAY).unwrap()
}

/// Applies a step to both, and gives both answers.
async fn run_step(step: Step, world: &World, model: &mut Model) -> (String, String) {
    match step {
        Step::Quota { org } => (quota(world, org).await, model.quota(org)),
        Step::Usage { org, days_ago } => {
            let day = model.day.saturating_sub(days_ago);
            (
                usage(world, org, first_day().plus_days(day)).await,
                model.usage(org, day),
            )
        }
        Step::NextDay => {
            model.day += 1;
            world.clock.advance(chrono::TimeDelta::days(1));
            (String::new(), String::new())
        }
        Step::Change(change) => {
            model.rules = rules(model.rules.closes, change, model.day);
            model.changed_on = Some(model.day);
            let text = model.rules.text(first_day());
            world.ledger.set_policy(policy_text(&text).into());
            (String::new(), String::new())
        }
        operation => {
            let answered = operate(&operation, world, resets_at(model)).await;
            (answered, model_answer(&operation, model))
        }
    }
}

async fn quota(world: &World, org: &str) -> String {
    text(world.ledger.quota(&org_id(org)).await, |it| {
        let mut lines = vec![format!(
            "{:?}",
            it.enrollment.not_enrolled.map(|it| format!("{it:?}"))
        )];
        lines.extend(it.pools.into_iter().map(|(pool, counters)| {
            let (free, billed) = (counters.free_requests, counters.billed_requests);
            let (held, closed) = (counters.held, pool.is_closed);
            format!(
                "{} {free} {} {billed} held={held} closed={closed}",
                balance(Some(pool)),
                counters.billed_tokens
            )
        }));
        lines.extend(
            it.shares
                .into_iter()
                .map(|(id, it)| format!("{} of {} {} {}", id.project, id.pool, it.share, it.used)),
        );
        lines[1..].sort();
        lines.join("; ")
    })
}

async fn usage(world: &World, org: &str, day: UtcDay) -> String {
    let page = UsagePage {
        days: UsageDays::Day(day),
        start: None,
        size: 1_000,
    };
    text(world.ledger.usage(&org_id(org), page).await, |it| {
        let rows = it.rows.into_iter().map(|row| {
            let pool = row.pool.map_or("-".to_owned(), |it| it.to_string());
            let c = row.counters;
            let tokens = [c.free_tokens, c.billed_tokens].map(Tokens::get);
            let [free, billed] = tokens;
            let (frees, billeds) = (c.free_requests, c.billed_requests);
            format!(
                "{} {} {pool} {free} {billed} {frees} {billeds}",
                row.project, row.model
            )
        });
        rows.collect::<Vec<_>>().join("; ")
    })
}

/// All queries, so that every number is compared at the end of a sequence.
fn all_queries() -> impl Iterator<Item = Step> {
    let orgs = [
        "acme",
        HOSTILE_NAME,
        "some",
        "off",
        "zdr",
        "big",
        "stranger",
    ];
    orgs.into_iter().flat_map(|org| {
        let usage = (0..3).map(move |days_ago| Step::Usage { org, days_ago });
        usage.chain([Step::Quota { org }])
    })
}

/// Begins a sequence: the model, and the world with its policy.
fn begin(world: &World, closes: bool) -> Model {
    let max_rows = usize::try_from(world.limits.max_rows).unwrap();
    let model = Model::new(rules(closes, Change::Nothing, 0), max_rows);
    let text = model.rules.text(first_day());
    world.ledger.set_policy(policy_text(&text).into());
    model
}

/// Runs a sequence on an empty store.
async fn run(world: &World, closes: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut model = begin(world, closes);
    for step in steps.into_iter().chain(all_queries()) {
        let (received, wanted) = run_step(step.clone(), world, &mut model).await;
        prop_assert_eq!(received, wanted, "{:?}", step);
    }
    check_notices(&model, world.take_notices().into_iter().map(noticed))
}

fn noticed(it: Notice) -> Noticed {
    let days = (it.day.start() - first_day().start()).num_days();
    let day = u32::try_from(days).unwrap();
    (
        it.org.to_string(),
        it.pool.to_string(),
        day,
        it.threshold.per_cent(),
    )
}

/// Each threshold that was reached gave a notice, and no other did.
fn check_notices(model: &Model, given: impl Iterator<Item = Noticed>) -> Result<(), TestCaseError> {
    let given: BTreeSet<Noticed> = given.collect();
    let missing: Vec<_> = model.due.difference(&given).collect();
    let surplus: Vec<_> = given.difference(&model.possible).collect();
    prop_assert!(
        missing.is_empty() && surplus.is_empty(),
        "{missing:?} {surplus:?}"
    );
    Ok(())
}

/// Runs random sequences, each in an emptied world.
fn compare_with_model<S: Strategy>(
    sequences: u32,
    new: fn(Policy) -> World,
    sequence: &S,
    run: impl AsyncFn(&mut World, S::Value) -> Result<(), TestCaseError>,
) {
    let factor = std::env::var("TOLLGATE_PROPERTY_CASES").map_or(1, |text| text.parse().unwrap());
    let config = Config {
        cases: sequences * factor,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let any_policy = rules(false, Change::Nothing, 0).text(first_day());
    let mut world = runtime.block_on(async { new(policy_text(&any_policy)) });
    let world = RefCell::new(&mut world);
    // Small limits, so that some requests count in the row `(other)`.
    let max_rows = prop::sample::select(vec![2, 3, 5, 10_000]);
    let held = TestRunner::new(config).run(&(max_rows, sequence), |(max_rows, sequence)| {
        let world: &mut World = &mut world.borrow_mut();
        world.limits.max_rows = max_rows;
        world.empty();
        runtime.block_on(run(world, sequence))
    });
    held.unwrap_or_else(|failure| panic!("{failure}"));
}

fn one_by_one(sequences: u32, new: fn(Policy) -> World) {
    let sequence = (
        any::<bool>(),
        prop::collection::vec(step(), 1..MAX_SEQUENCE_LENGTH),
    );
    compare_with_model(sequences, new, &sequence, async |world, (closes, steps)| {
        run(world, closes, steps).await
    });
}

#[test]
fn the_memory_store_answers_as_the_model_does() {
    one_by_one(MEMORY_SEQUENCES, World::memory);
}

#[test]
fn the_file_store_answers_as_the_model_does() {
    one_by_one(FILE_SEQUENCES, World::file);
}

#[test]
fn the_redis_store_answers_as_the_model_does() {
    one_by_one(REDIS_SEQUENCES, World::redis);
}
