//! The goals, and whether the measurements meet them.

use super::{
    Measurements,
    checks::CheckCost,
    estimates,
    fairness::Fairness,
    floods::{FloodLatency, KINDS},
    load::LoadStats,
    median,
    rates::Round,
};

/// Whether a goal is met.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Met,
    Missed,
}

/// A goal and its value.
pub(crate) struct Goal {
    pub(crate) name: String,
    pub(crate) goal: String,
    pub(crate) value: String,
    pub(crate) state: State,
}

/// The bound of a goal.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

/// The goals of these measurements. A goal whose rows were not measured is left out.
pub(crate) fn of(measurements: &Measurements) -> Vec<Goal> {
    let mut goals = speed(&measurements.rounds);
    goals.extend(fairness(&measurements.fairness));
    goals.extend(floods(&measurements.floods));
    goals.extend(checks(&measurements.checks));
    goals.extend(slowest_estimate(measurements.estimate));
    goals.extend(footprint(measurements));
    goals
}

/// A goal with its value, rounded; `None` without a value.
fn goal(name: &str, value: Option<f64>, bound: Bound, decimals: usize, unit: &str) -> Option<Goal> {
    let value = value?;
    let (sign, limit, met) = match bound {
        AtLeast(limit) => ("≥", limit, value >= limit),
        AtMost(limit) => ("≤", limit, value <= limit),
    };
    Some(Goal {
        name: name.to_owned(),
        goal: format!("{sign} {limit} {unit}"),
        value: format!("{value:.decimals$} {unit}"),
        state: if met { State::Met } else { State::Missed },
    })
}

fn speed(rounds: &[Round]) -> Vec<Goal> {
    let floor = "floor C=256";
    let rate = |row| ratio(rounds, row, floor, |stats| stats.rate);
    let stream = "redis stream C=256";
    let stream_rate = middle(rounds, stream, |stats| Some(stats.rate));
    let of_floor = "× floor";
    let goals = [
        goal(
            "redis C=256: rate",
            rate("redis C=256"),
            AtLeast(0.8),
            2,
            of_floor,
        ),
        goal(
            "redis ids C=256: rate",
            rate("redis ids C=256"),
            AtLeast(0.65),
            2,
            of_floor,
        ),
        goal(
            "redis 100 orgs C=256: rate",
            rate("redis 100 orgs C=256"),
            AtLeast(0.7),
            2,
            of_floor,
        ),
        goal(
            "redis C=1: p50",
            single(rounds),
            AtMost(1.6),
            2,
            "× (floor + round trip)",
        ),
        goal(
            "redis stream C=256: rate",
            stream_rate,
            AtLeast(400_000.0),
            0,
            "/ s",
        ),
        goal(
            "memory C=256: rate",
            rate("memory C=256"),
            AtLeast(0.95),
            2,
            of_floor,
        ),
        goal(
            "file C=256: rate, each grant on disk",
            rate("file C=256"),
            AtLeast(0.5),
            2,
            of_floor,
        ),
    ];
    goals.into_iter().flatten().chain(cpu(rounds)).collect()
}

/// CPU time of the service and of Redis.
fn cpu(rounds: &[Round]) -> impl Iterator<Item = Goal> {
    let server = |row| middle(rounds, row, |stats| Some(stats.server_cpu));
    let redis = |row| middle(rounds, row, |stats| stats.redis_cpu);
    let (unary, ids, stream) = ("redis C=256", "redis ids C=256", "redis stream C=256");
    let of_floor = ratio(rounds, unary, "floor C=256", |stats| stats.server_cpu);
    let goals = [
        goal(
            "redis C=256: server CPU",
            of_floor,
            AtMost(1.3),
            2,
            "× floor",
        ),
        goal(
            "redis C=1: Redis CPU",
            bare_reserve(rounds),
            AtMost(8.5),
            2,
            "× round trip",
        ),
        goal("redis C=256: Redis CPU", redis(unary), AtMost(2.0), 2, "µs"),
        goal(
            "redis ids C=256: Redis CPU",
            redis(ids),
            AtMost(3.5),
            2,
            "µs",
        ),
        goal(
            "redis stream C=256: server CPU",
            server(stream),
            AtMost(2.5),
            2,
            "µs",
        ),
        goal(
            "redis stream C=256: Redis CPU",
            redis(stream),
            AtMost(0.8),
            2,
            "µs",
        ),
    ];
    goals.into_iter().flatten()
}

/// The single caller's median latency, divided by its lower limit.
fn single(rounds: &[Round]) -> Option<f64> {
    median(rounds.iter().filter_map(|round| {
        let p50 = |row| Some(round.rows.get(row)?.p50);
        Some(p50("redis C=1")? / (p50("floor C=1")? + round.round_trip?.took))
    }))
}

/// Redis' CPU time of a bare Reserve that is decided alone, divided by that of a bare round trip.
fn bare_reserve(rounds: &[Round]) -> Option<f64> {
    median(rounds.iter().filter_map(|round| {
        let reserve = round.rows.get("redis C=1")?.redis_cpu?;
        Some(reserve / round.round_trip?.redis_cpu)
    }))
}

/// The median over the rounds of the ratio within each round.
fn ratio(rounds: &[Round], row: &str, floor: &str, of: fn(&LoadStats) -> f64) -> Option<f64> {
    median(rounds.iter().filter_map(|round| {
        let value = |row| round.rows.get(row).map(of);
        Some(value(row)? / value(floor)?)
    }))
}

/// The median over the rounds.
pub(crate) fn middle(
    rounds: &[Round],
    row: &str,
    of: impl Fn(&LoadStats) -> Option<f64>,
) -> Option<f64> {
    median(rounds.iter().filter_map(|round| of(round.rows.get(row)?)))
}

fn fairness(rounds: &[Fairness]) -> Vec<Goal> {
    let slower = |flooded: fn(&Fairness) -> &LoadStats| {
        let times = |round| Fairness::p99_ratio(round, flooded);
        median(rounds.iter().map(times))
    };
    let (closed, open) = (
        slower(|round| &round.with_closed_loop.0),
        slower(|round| &round.with_open_loop.0),
    );
    let unit = "× alone";
    let goals = [
        goal(
            "one caller's p99 under a flood",
            closed,
            AtMost(3.0),
            2,
            unit,
        ),
        goal(
            "one caller's p99 under half a flood",
            open,
            AtMost(3.0),
            2,
            unit,
        ),
    ];
    goals.into_iter().flatten().collect()
}

fn floods(measurements: &[FloodLatency]) -> Vec<Goal> {
    let goals = KINDS.iter().map(|kind| {
        let rounds = measurements.iter().filter(|round| round.kind == *kind);
        let slower = median(rounds.map(|round| round.flooded / round.baseline));
        let name = format!("one caller's p99 under {kind}");
        goal(&name, slower, AtMost(3.0), 2, "× alone")
    });
    goals.flatten().collect()
}

fn checks(rounds: &[CheckCost]) -> Option<Goal> {
    let cost = median(rounds.iter().map(|round| round.check / round.reserve));
    goal(
        "envoy check of 2 KB: server CPU",
        cost,
        AtMost(1.5),
        2,
        "× Reserve with an id",
    )
}

fn slowest_estimate(millis: Option<f64>) -> Option<Goal> {
    let name = format!("{}, the slowest body", estimates::NAME);
    goal(&name, millis, AtMost(10.0), 1, "ms")
}

impl Fairness {
    fn p99_ratio(&self, flooded: fn(&Self) -> &LoadStats) -> f64 {
        flooded(self).p99 / self.alone.p99
    }
}

fn footprint(measurements: &Measurements) -> Vec<Goal> {
    let mut goals = Vec::new();
    for reserves in &measurements.footprint.reserves {
        let (store, count) = (reserves.store, reserves.count);
        let name = format!("{store}: server memory after {count} reserves");
        let unit = format!("× after {}", reserves.early_count);
        let growth = reserves.late_bytes as f64 / reserves.early_bytes as f64;
        // Constant, except for the allocator.
        goals.push(goal(&name, Some(growth), AtMost(1.1), 2, &unit));
    }
    if let Some(ids) = &measurements.footprint.ids {
        let name = format!("Redis memory per id of {}", ids.count);
        goals.push(goal(&name, Some(ids.bytes_each), AtMost(130.0), 0, "bytes"));
    }
    if let Some(policy) = &measurements.footprint.policy {
        let of = format!("of {}", policy.organizations);
        let (each, millis) = (policy.bytes_each, policy.parsed_in.as_secs_f64() * 1e3);
        let name = format!("memory per organization {of}");
        goals.push(goal(&name, Some(each), AtMost(1024.0), 0, "bytes"));
        let name = format!("a policy {of}: parsed");
        goals.push(goal(&name, Some(millis), AtMost(1000.0), 0, "ms"));
        let name = "a call's delay by its reload";
        let millis = policy.reload_delay / 1e3;
        goals.push(goal(name, Some(millis), AtMost(5.0), 1, "ms"));
    }
    if let Some(start) = &measurements.start {
        let megabytes = start.program_bytes as f64 / 1e6;
        let name = "exec to SERVING, embedded store";
        goals.push(goal(name, Some(start.millis), AtMost(100.0), 0, "ms"));
        goals.push(goal("the program", Some(megabytes), AtMost(16.0), 1, "MB"));
    }
    goals.into_iter().flatten().collect()
}
