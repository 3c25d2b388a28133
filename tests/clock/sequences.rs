//! Random steps of the wall clock between decisions, over the embedded stores: each day keeps its own counters.

use std::collections::BTreeMap;

use chrono::{NaiveDate, TimeDelta};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tollgate::ledger::Settle;

use super::steps::Embedded;
use crate::support::world::{ReserveExt as _, new_reserve, new_settle};

const ALLOWANCE: u64 = 1_000;
const IDS: [&str; 3] = ["a", "b", "c"];
/// Too few for the clock to be steady for ten minutes.
const MAX_ACTIONS: usize = 20;

#[derive(Debug, Clone)]
enum Action {
    Reserve {
        tokens: u64,
        id: Option<&'static str>,
    },
    Settle {
        tokens: u64,
        id: &'static str,
        outside: bool,
    },
    Step {
        hours: i64,
    },
    Pass {
        seconds: i64,
    },
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let id = || prop::sample::select(IDS.to_vec());
    let hours = prop::sample::select(vec![-9_600, -48, -25, -24, -6, 6, 24, 25, 48, 9_600]);
    prop_oneof![
        6 => (1..600_u64, prop::option::of(id()))
            .prop_map(|(tokens, id)| Action::Reserve { tokens, id }),
        2 => (0..900_u64, id(), prop::bool::weighted(0.2))
            .prop_map(|(tokens, id, outside)| Action::Settle { tokens, id, outside }),
        3 => hours.prop_map(|hours| Action::Step { hours }),
        1 => (1..20_i64).prop_map(|seconds| Action::Pass { seconds }),
        1 => Just(Action::Restart),
    ]
}

/// Per day: what is used, and the reservations by id.
#[derive(Default)]
struct Model {
    used: BTreeMap<NaiveDate, u64>,
    reservations: BTreeMap<(NaiveDate, &'static str), Reservation>,
}

#[derive(Clone, Copy)]
struct Reservation {
    tokens: u64,
    is_free: bool,
    settled: Option<Settlement>,
}

#[derive(Clone, Copy)]
struct Settlement {
    tokens: u64,
    outside: bool,
    is_free: bool,
}

impl Model {
    /// Today's first, then yesterday's, then tomorrow's.
    fn find(&self, today: NaiveDate, id: &'static str) -> Option<(NaiveDate, Reservation)> {
        let days = [Some(today), today.pred_opt(), today.succ_opt()];
        let mut days = days.into_iter().flatten();
        days.find_map(|day| Some((day, *self.reservations.get(&(day, id))?)))
    }

    fn reserve(&mut self, today: NaiveDate, tokens: u64, id: Option<&'static str>) -> String {
        if let Some((_, known)) = id.and_then(|id| self.find(today, id)) {
            return match known.tokens == tokens {
                true => format!("{} replayed", known.is_free),
                false => "refused".to_owned(),
            };
        }
        let used = self.used.entry(today).or_default();
        let is_free = *used + tokens <= ALLOWANCE;
        *used += if is_free { tokens } else { 0 };
        if let Some(id) = id {
            let settled = None;
            let reservation = Reservation {
                tokens,
                is_free,
                settled,
            };
            self.reservations.insert((today, id), reservation);
        }
        is_free.to_string()
    }

    fn settle(&mut self, today: NaiveDate, actual: u64, id: &'static str, outside: bool) -> String {
        let Some((day, known)) = self.find(today, id) else {
            return "refused".to_owned();
        };
        if let Some(settled) = known.settled {
            return match (settled.tokens, settled.outside) == (actual, outside) {
                true => format!("{} replayed", settled.is_free),
                false => "refused".to_owned(),
            };
        }
        let used = self.used.entry(day).or_default();
        let without = *used - if known.is_free { known.tokens } else { 0 };
        let fits = without + actual <= ALLOWANCE;
        let is_free = match (known.is_free, day < today) {
            _ if outside => false,
            (true, true) => actual <= known.tokens,
            (false, true) => false,
            (true, false) => actual <= known.tokens || fits,
            (false, false) => fits,
        };
        *used = without + if is_free { actual } else { 0 };
        let settled = Some(Settlement {
            tokens: actual,
            outside,
            is_free,
        });
        self.reservations
            .insert((day, id), Reservation { settled, ..known });
        is_free.to_string()
    }
}

fn verdict_text(is_free: bool, replayed: bool) -> String {
    format!("{is_free}{}", if replayed { " replayed" } else { "" })
}

/// The store's answer to an action; `None` if it is no call.
async fn take(it: &mut Embedded, action: &Action) -> Option<String> {
    let refused = || "refused".to_owned();
    match *action {
        Action::Reserve { tokens, id } => {
            let call = id.map_or(new_reserve(tokens), |id| new_reserve(tokens).id(id));
            let answer = it.ledger().reserve(call).await;
            Some(answer.map_or_else(
                |_| refused(),
                |it| verdict_text(it.verdict.is_free(), it.replayed),
            ))
        }
        Action::Settle {
            tokens,
            id,
            outside,
        } => {
            let call = Settle {
                outside_program: outside,
                ..new_settle(id, tokens)
            };
            let answer = it.ledger().settle(call).await;
            Some(answer.map_or_else(
                |_| refused(),
                |it| verdict_text(it.verdict.is_free(), it.replayed),
            ))
        }
        Action::Step { hours } => {
            it.clock.advance(TimeDelta::hours(hours));
            None
        }
        Action::Pass { seconds } => {
            it.clock.pass(TimeDelta::seconds(seconds));
            None
        }
        Action::Restart => {
            it.restart();
            None
        }
    }
}

fn compare_with_model(cases: u32, new: fn() -> Embedded) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let actions = prop::collection::vec(action(), 1..MAX_ACTIONS);
    let held = TestRunner::new(config).run(&actions, |actions| {
        runtime.block_on(async {
            let (mut it, mut model) = (new(), Model::default());
            for action in actions {
                let today = it.clock.now().date_naive();
                let answer = take(&mut it, &action).await;
                let expected = match action {
                    Action::Reserve { tokens, id } => Some(model.reserve(today, tokens, id)),
                    Action::Settle {
                        tokens,
                        id,
                        outside,
                    } => Some(model.settle(today, tokens, id, outside)),
                    _ => None,
                };
                prop_assert_eq!(answer, expected, "{:?}", action);
                let today = it.clock.now().date_naive();
                let used = model.used.get(&today).copied().unwrap_or_default();
                prop_assert_eq!(it.used().await, used, "{:?}", action);
            }
            Ok(())
        })
    });
    held.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn each_day_of_the_memory_store_keeps_its_own_counters_under_any_clock() {
    compare_with_model(2_000, Embedded::memory);
}

#[test]
fn each_day_of_the_file_store_keeps_its_own_counters_under_any_clock() {
    compare_with_model(60, Embedded::file);
}
