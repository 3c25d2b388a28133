//! The rounds of the random batches.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::{
    Step,
    model::Fields,
    rules::{Change, HOSTILE_NAME},
    set_external,
};

const MAX_ROUNDS: usize = 10;

/// A part of a sequence, after which every operation has its answer.
#[derive(Debug, Clone)]
pub enum Round {
    Together {
        operations: Vec<Step>,
        /// For the store: some batches name another day first. For the ledger: the day ends while the operations wait.
        day_is_wrong: bool,
        /// For the ledger: consecutive Reserves are sent as one call, like those of a stream.
        as_stream: bool,
    },
    Alone(Step),
}

/// The names in operations: few, so that they recur, or many.
#[derive(Debug, Clone, Copy)]
struct Names {
    ids: &'static [&'static str],
    projects: &'static [&'static str],
}

const FEW: Names = Names {
    ids: &["a", "b", "c", "d", HOSTILE_NAME, "1"],
    projects: &["p", "q", "(other)", HOSTILE_NAME],
};

/// More ids than a batch has operations, and so many projects that a batch has hundreds of rows.
fn many() -> Names {
    static MANY: OnceLock<Names> = OnceLock::new();
    let leaked = |count: usize, name: &str| -> &'static [&'static str] {
        let names = (0..count).map(|at| format!("{name}{}{at}", ["", ":", "%", "é{"][at % 4]));
        let names: Vec<&str> = names.map(|it| &*it.leak()).collect();
        names.leak()
    };
    *MANY.get_or_init(|| Names {
        ids: leaked(900, "id"),
        projects: leaked(250, "p"),
    })
}

fn org() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => Just("acme"), 3 => Just("some"), 2 => Just(HOSTILE_NAME),
        1 => prop::sample::select(vec!["off", "zdr", "big", "stranger"]),
    ]
}

/// Tokens up to `most`, which is so large that few requests fill a counter.
fn tokens(most: u64) -> impl Strategy<Value = u64> {
    let rare = prop::sample::select(vec![most, most - 1, most - 1_000, most / 2]);
    prop_oneof![
        12 => prop::sample::select(vec![1, 100, 300, 500, 501, 999, 1_000, 1_001]),
        12 => 1_u64..1_200,
        12 => 1_u64..30,
        1 => rare,
    ]
}

fn operation(names: Names, most: u64) -> impl Strategy<Value = Step> {
    let id = move || prop::sample::select(names.ids);
    let model = prop_oneof![
        8 => prop::sample::select(vec!["gpt-4o", "o1", "gpt-4o-mini", HOSTILE_NAME]),
        1 => prop::sample::select(vec!["gpt-5", "ft:gpt-4o:x", "(other)"]),
    ];
    let project = prop::sample::select(names.projects);
    let fields =
        (project, model, tokens(most), 0..12_u8).prop_map(|(project, model, tokens, roll)| {
            Fields {
                project,
                model,
                tokens,
                workload: if roll == 0 { "evaluation" } else { "inference" },
            }
        });
    let settled = prop_oneof![1 => Just(0), 5 => tokens(most)];
    prop_oneof![
        12 => (org(), fields, prop::option::weighted(0.7, id()), prop::bool::weighted(0.1))
            .prop_map(|(org, fields, id, dry)| Step::Reserve { org, fields, id, dry }),
        6 => (org(), id(), settled, prop::bool::weighted(0.25))
            .prop_map(|(org, id, tokens, outside)| Step::Settle { org, id, tokens, outside }),
        3 => (org(), id()).prop_map(|(org, id)| Step::Release { org, id }),
        2 => set_external(org()),
    ]
}

fn round(most: u64) -> impl Strategy<Value = Round> {
    let together = prop_oneof![
        30 => prop::collection::vec(operation(FEW, most), 1..40),
        // So many that an organization has more than a batch holds.
        1 => prop::collection::vec(operation(many(), most), 300..1_000),
    ];
    let together = (together, prop::bool::weighted(0.1), any::<bool>()).prop_map(
        |(operations, day_is_wrong, as_stream)| Round::Together {
            operations,
            day_is_wrong,
            as_stream,
        },
    );
    let change = prop::sample::select(Change::ALL.to_vec()).prop_map(Step::Change);
    prop_oneof![
        6 => together,
        1 => Just(Round::Alone(Step::NextDay)),
        1 => change.prop_map(Round::Alone),
        1 => org().prop_map(|org| Round::Alone(Step::Quota { org })),
    ]
}

pub fn sequence(most: u64) -> impl Strategy<Value = (bool, Vec<Round>)> {
    (
        any::<bool>(),
        prop::collection::vec(round(most), 1..MAX_ROUNDS),
    )
}
