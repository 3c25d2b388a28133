//! Random sequences of all operations: every store must answer, step by step, what the model answers.
//!
//! `TOLLGATE_PROPERTY_CASES` multiplies the number of sequences.

mod model;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tollgate::{
    domain::{Tokens, UtcDay, Workload},
    ledger::{LedgerError, UsagePage},
    store::PoolFigures,
};

use self::model::{Fields, Model, Rules, Sharing};
use crate::support::world::{TODAY, With as _, World, ask, org_id, policy_text, said};

const MEMORY_SEQUENCES: u32 = 10_000;
const REDIS_SEQUENCES: u32 = 500;
const LONGEST_SEQUENCE: usize = 40;

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
    },
    Release {
        org: &'static str,
        id: &'static str,
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

/// What a policy change changes; each is made to the first policy, not to the last.
#[derive(Debug, Clone, Copy)]
enum Change {
    Nothing,
    Cut,
    Raise,
    OptOut,
    OrgLeaves,
    SharingOff,
    PoolLeaves,
    ModelMoves,
    OtherOverflow,
    End,
}

fn rules(closes: bool, change: Change, day: u32) -> Rules {
    let mut rules = Rules {
        closes,
        pools: [
            ("large", (vec!["gpt-4o", "o1"], 1_000)),
            ("mini", (vec!["gpt-4o-mini"], 400)),
        ]
        .into(),
        orgs: [
            ("acme", Sharing::All),
            ("some", Sharing::Selected("p")),
            ("off", Sharing::Off),
            ("zdr", Sharing::ZeroDataRetention),
            ("big", Sharing::Enterprise),
        ]
        .into(),
        ends_after: None,
    };
    let large = |allowance| (vec!["gpt-4o", "o1"], allowance);
    match change {
        Change::Nothing => {}
        Change::Cut => drop(rules.pools.insert("large", large(350))),
        Change::Raise => drop(rules.pools.insert("large", large(2_500))),
        Change::OptOut => drop(rules.orgs.insert("acme", Sharing::Selected("q"))),
        Change::OrgLeaves => drop(rules.orgs.remove("acme")),
        Change::SharingOff => drop(rules.orgs.insert("acme", Sharing::Off)),
        Change::PoolLeaves => drop(rules.pools.remove("large")),
        Change::ModelMoves => {
            rules.pools.insert("large", (vec!["gpt-4o"], 1_000));
            rules.pools.insert("mini", (vec!["gpt-4o-mini", "o1"], 400));
        }
        Change::OtherOverflow => rules.closes = !closes,
        Change::End => rules.ends_after = Some(day),
    }
    rules
}

fn step() -> impl Strategy<Value = Step> {
    let org = || {
        prop_oneof![
            8 => Just("acme"), 3 => Just("some"),
            1 => prop::sample::select(vec!["off", "zdr", "big", "stranger"]),
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
        1 => prop::sample::select(vec!["gpt-5", "ft:gpt-4o:x"]),
    ];
    let fields = (
        prop::sample::select(vec!["p", "q"]),
        model,
        tokens(),
        0..12_u8,
    )
        .prop_map(|(project, model, tokens, odd)| {
            let workload = if odd == 0 { "evaluation" } else { "inference" };
            Fields {
                project,
                model,
                tokens,
                workload,
            }
        });
    let change = prop::sample::select(vec![
        Change::Nothing,
        Change::Cut,
        Change::Raise,
        Change::OptOut,
        Change::OrgLeaves,
        Change::SharingOff,
        Change::PoolLeaves,
        Change::ModelMoves,
        Change::OtherOverflow,
        Change::End,
    ]);
    let settled = prop_oneof![1 => Just(0), 5 => tokens()];
    prop_oneof![
        12 => (org(), fields, prop::option::weighted(0.7, id()), prop::bool::weighted(0.1))
            .prop_map(|(org, fields, id, dry)| Step::Reserve { org, fields, id, dry }),
        6 => (org(), id(), settled).prop_map(|(org, id, tokens)| Step::Settle { org, id, tokens }),
        3 => (org(), id()).prop_map(|(org, id)| Step::Release { org, id }),
        2 => org().prop_map(|org| Step::Quota { org }),
        2 => (org(), 0..3_u32).prop_map(|(org, days_ago)| Step::Usage { org, days_ago }),
        1 => Just(Step::NextDay),
        2 => change.prop_map(Step::Change),
    ]
}

/// Says a result as the model does: the answer, or the name of the refusal.
fn text<T>(result: Result<T, LedgerError>, answer: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => answer(value),
        Err(LedgerError::Refused(refusal)) => {
            let name = format!("{refusal:?}");
            name.split(' ').next().unwrap().to_owned()
        }
        Err(LedgerError::UnknownOrganization) => "UnknownOrganization".to_owned(),
        Err(LedgerError::DayNotKept { .. }) => "DayNotKept".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

fn figures(pool: Option<PoolFigures>) -> String {
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

/// Takes a step in both, and gives what each said.
async fn take(step: Step, world: &World, model: &mut Model) -> (String, String) {
    let first_day = UtcDay::parse(TODAY).unwrap();
    let resets_at = first_day.plus_days(model.day).end();
    match step {
        Step::Reserve {
            org,
            fields,
            id,
            dry,
        } => {
            let mut call = ask(fields.tokens)
                .org(org)
                .project(fields.project)
                .model(fields.model);
            let named = Workload::ALL
                .into_iter()
                .find(|it| it.name() == fields.workload);
            call = call.workload(named.unwrap());
            call.dry_run = dry;
            call = id.map_or(call.clone(), |id| call.id(id));
            let answered = text(world.ledger.reserve(call).await, |it| {
                assert_eq!(it.resets_at, resets_at);
                format!(
                    "{}{} {}",
                    said(it.verdict),
                    replayed(it.replayed),
                    figures(it.pool)
                )
            });
            (answered, model.reserve(org, fields, id, dry))
        }
        Step::Settle { org, id, tokens } => {
            let answered = text(world.try_settle(org, id, tokens).await, |it| {
                assert_eq!(it.resets_at, resets_at);
                let (verdict, changed) = (said(it.verdict), it.verdict_changed);
                let replayed = replayed(it.replayed);
                format!("{verdict} changed={changed}{replayed} {}", figures(it.pool))
            });
            (answered, model.settle(org, id, tokens))
        }
        Step::Release { org, id } => {
            let answered = text(world.try_release(org, id).await, |it| {
                let replayed = replayed(it.replayed);
                format!("released {}{replayed} {}", it.tokens, figures(it.pool))
            });
            (answered, model.release(org, id))
        }
        Step::Quota { org } => (quota(world, org).await, model.quota(org)),
        Step::Usage { org, days_ago } => {
            let day = model.day.saturating_sub(days_ago);
            (
                usage(world, org, first_day.plus_days(day)).await,
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
            world
                .ledger
                .set_policy(policy_text(&model.rules.text(first_day)).into());
            (String::new(), String::new())
        }
    }
}

async fn quota(world: &World, org: &str) -> String {
    text(world.ledger.quota(&org_id(org)).await, |it| {
        let mut lines = vec![format!(
            "{:?}",
            it.standing.not_enrolled.map(|it| format!("{it:?}"))
        )];
        lines.extend(it.pools.into_iter().map(|(pool, counters)| {
            let (free, billed) = (counters.free_requests, counters.billed_requests);
            format!(
                "{} {free} {} {billed}",
                figures(Some(pool)),
                counters.billed_tokens
            )
        }));
        lines.join("; ")
    })
}

async fn usage(world: &World, org: &str, day: UtcDay) -> String {
    let page = UsagePage {
        day: Some(day),
        after: None,
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

/// Runs a sequence from an empty store on, and at its end compares every figure there is.
async fn run(world: &World, closes: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut model = Model::new(rules(closes, Change::Nothing, 0));
    let text = model.rules.text(UtcDay::parse(TODAY).unwrap());
    world.ledger.set_policy(policy_text(&text).into());
    let orgs = ["acme", "some", "off", "zdr", "big", "stranger"];
    let ends = orgs.into_iter().flat_map(|org| {
        let usage = (0..3).map(move |days_ago| Step::Usage { org, days_ago });
        usage.chain([Step::Quota { org }])
    });
    for step in steps.into_iter().chain(ends) {
        let (said, wanted) = take(step.clone(), world, &mut model).await;
        prop_assert_eq!(said, wanted, "{:?}", step);
    }
    Ok(())
}

fn hold_to_the_model(sequences: u32, new: fn(tollgate::policy::Policy) -> World) {
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
    let any_policy = rules(false, Change::Nothing, 0).text(UtcDay::parse(TODAY).unwrap());
    let mut world = runtime.block_on(async { new(policy_text(&any_policy)) });
    let world = std::cell::RefCell::new(&mut world);
    let sequence = (
        any::<bool>(),
        prop::collection::vec(step(), 1..LONGEST_SEQUENCE),
    );
    let held = TestRunner::new(config).run(&sequence, |(closes, steps)| {
        let world: &mut World = &mut world.borrow_mut();
        world.empty();
        runtime.block_on(run(world, closes, steps))
    });
    held.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn the_memory_store_answers_as_the_model_does() {
    hold_to_the_model(MEMORY_SEQUENCES, World::memory);
}

#[test]
fn the_redis_store_answers_as_the_model_does() {
    hold_to_the_model(REDIS_SEQUENCES, World::redis);
}
