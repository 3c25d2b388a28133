//! What was measured, as tables.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{
    Measured,
    fairness::Fairness,
    goals::{Goal, State, middle},
    load::Figures,
    median, rates,
};

/// The raw rows, medians over the rounds.
pub(crate) fn rows(measured: &Measured) -> String {
    let mut table = table([
        "ROW",
        "RATE / s",
        "p50 µs",
        "p99 µs",
        "SERVER CPU µs",
        "REDIS CPU µs",
        "CLIENT CPU µs",
    ]);
    let rounds = &measured.rounds;
    for name in rates::names() {
        let of = |of: fn(&Figures) -> Option<f64>| middle(rounds, name, of);
        let Some(rate) = of(|figures| Some(figures.rate)) else {
            continue;
        };
        table.add_row([
            Cell::new(name),
            number(Some(rate), 0),
            number(of(|figures| Some(figures.p50)), 0),
            number(of(|figures| Some(figures.p99)), 0),
            number(of(|figures| Some(figures.server_cpu)), 2),
            number(of(|figures| figures.redis_cpu), 2),
            number(of(|figures| Some(figures.client_cpu)), 2),
        ]);
    }
    let round_trips = rounds.iter().filter_map(|round| round.round_trip);
    if let Some(round_trip) = median(round_trips) {
        table.add_row([
            Cell::new("redis PING C=1"),
            Cell::new(""),
            number(Some(round_trip), 0),
        ]);
    }
    for (name, of) in quiet_callers() {
        let middle = |figure: fn(&Figures) -> f64| {
            let figures = measured.fairness.iter().map(of);
            median(figures.map(figure))
        };
        if let Some(rate) = middle(|figures| figures.rate) {
            table.add_row([
                Cell::new(name),
                number(Some(rate), 0),
                number(middle(|figures| figures.p50), 0),
                number(middle(|figures| figures.p99), 0),
            ]);
        }
    }
    let mut text = table.trim_fmt();
    for reserves in &measured.footprint.reserves {
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

type Of = fn(&Fairness) -> &Figures;

/// The rows of the single caller and of what ran beside it.
fn quiet_callers() -> [(&'static str, Of); 5] {
    [
        ("one caller alone", |round| &round.alone),
        ("one caller beside a flood", |round| {
            &round.beside_closed_loop.0
        }),
        ("  the flood", |round| &round.beside_closed_loop.1),
        ("one caller beside half a flood", |round| {
            &round.beside_open_loop.0
        }),
        ("  half a flood", |round| &round.beside_open_loop.1),
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
        table.add_row([&goal.name, &goal.goal, &goal.figure, state]);
    }
    table.trim_fmt()
}

fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// A number in its column; an empty place where there is none.
fn number(value: Option<f64>, decimals: usize) -> Cell {
    let text = value.map_or(String::new(), |value| format!("{value:.decimals$}"));
    Cell::new(text).set_alignment(CellAlignment::Right)
}
