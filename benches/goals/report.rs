//! The measurements as tables.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{
    Measurements,
    fairness::Fairness,
    goals::{Goal, State, middle},
    load::LoadStats,
    median, rates,
};

/// The raw rows: medians over the rounds.
pub(crate) fn rows(measurements: &Measurements) -> String {
    let mut table = table([
        "ROW",
        "RATE / s",
        "p50 µs",
        "p99 µs",
        "SERVER CPU µs",
        "REDIS CPU µs",
        "CLIENT CPU µs",
    ]);
    let rounds = &measurements.rounds;
    for name in rates::names() {
        let of = |of: fn(&LoadStats) -> Option<f64>| middle(rounds, name, of);
        let Some(rate) = of(|stats| Some(stats.rate)) else {
            continue;
        };
        table.add_row([
            Cell::new(name),
            number(Some(rate), 0),
            number(of(|stats| Some(stats.p50)), 0),
            number(of(|stats| Some(stats.p99)), 0),
            number(of(|stats| stats.server_cpu), 2),
            number(of(|stats| stats.redis_cpu), 2),
            number(of(|stats| stats.client_cpu), 2),
        ]);
    }
    for (name, of) in quiet_callers() {
        let middle = |value: fn(&LoadStats) -> f64| {
            let stats = measurements.fairness.iter().map(of);
            median(stats.map(value))
        };
        if let Some(rate) = middle(|stats| stats.rate) {
            table.add_row([
                Cell::new(name),
                number(Some(rate), 0),
                number(middle(|stats| stats.p50), 0),
                number(middle(|stats| stats.p99), 0),
            ]);
        }
    }
    let mut text = table.trim_fmt();
    for reserves in &measurements.footprint.reserves {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        text += &format!(
            "\n{}: server memory {:.1} MiB after {} reserves, {:.1} MiB after {}",
            reserves.store,
            mebibytes(reserves.early_bytes),
            reserves.early_count,
            mebibytes(reserves.late_bytes),
            reserves.count,
        );
    }
    text
}

type StatsOf = fn(&Fairness) -> &LoadStats;

/// The rows of the single caller and of the floods.
fn quiet_callers() -> [(&'static str, StatsOf); 5] {
    [
        ("one caller alone", |round| &round.alone),
        ("one caller under a flood", |round| {
            &round.with_closed_loop.0
        }),
        ("  the flood", |round| &round.with_closed_loop.1),
        ("one caller under half a flood", |round| {
            &round.with_open_loop.0
        }),
        ("  half a flood", |round| &round.with_open_loop.1),
    ]
}

/// The goals, and whether they are met.
pub(crate) fn goals(goals: &[Goal]) -> String {
    let mut table = table(["GOAL", "IS TO BE", "IS", ""]);
    for goal in goals {
        let state = match goal.state {
            State::Met => "met",
            State::Missed => "missed",
        };
        table.add_row([&goal.name, &goal.goal, &goal.value, state]);
    }
    table.trim_fmt()
}

fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// A number in its column; empty without a value.
fn number(value: Option<f64>, decimals: usize) -> Cell {
    let text = value.map_or(String::new(), |value| format!("{value:.decimals$}"));
    Cell::new(text).set_alignment(CellAlignment::Right)
}
