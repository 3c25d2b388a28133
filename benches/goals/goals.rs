//! The goals, and whether the measurements meet them.

use super::{
    Measurements,
    checks::CheckCost,
    estimates,
    fairness::Fairness,
    floods::{FloodLatency, KINDS},
    footprint::Footprint,
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

impl State {
    pub(crate) fn of(is_met: bool) -> Self {
        match is_met {
            true => Self::Met,
            false => Self::Missed,
        }
    }
}

/// The bound of a goal.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
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
pub(crate) fn goal(
    name: &str,
    value: Option<f64>,
    bound: Bound,
    decimals: usize,
    unit: &str,
) -> Option<Goal> {
    let value = value?;
    let (sign, limit, met) = match bound {
        AtLeast(limit) => ("≥", limit, value >= limit),
        AtMost(limit) => ("≤", limit, value <= limit),
    };
    Some(Goal {
        name: name.to_owned(),
        goal: format!("{sign} {limit} {unit}"),
        value: format!("{value:.decimals$} {unit}"),
        state: State::of(met),
    })
}

/// A figure of a row.
#[derive(Clone, Copy)]
enum Figure {
    Rate,
    P99,
    ServerCpu,
    RedisCpu,
}

use Figure::{P99, Rate, RedisCpu, ServerCpu};

impl Figure {
    const fn name(self) -> &'static str {
        match self {
            Rate => "rate",
            P99 => "p99",
            ServerCpu => "server CPU",
            RedisCpu => "Redis CPU",
        }
    }

    fn of(self, stats: &LoadStats) -> Option<f64> {
        match self {
            Rate => Some(stats.rate),
            P99 => Some(stats.p99),
            ServerCpu => stats.server_cpu,
            RedisCpu => stats.redis_cpu,
        }
    }
}

/// A row's figure, the row that it is divided by, and the quotient's bound.
type Ratio = (&'static str, Figure, &'static str, Bound);

/// The p99 of a peer's memory store was 0.79 times the floor's, side by side.
const RATIOS: [Ratio; 16] = [
    ("redis C=256", Rate, "floor C=256", AtLeast(1.0)),
    ("redis C=256", ServerCpu, "floor C=256", AtMost(1.05)),
    ("redis C=256", P99, "floor C=256", AtMost(0.8)),
    ("redis C=256", RedisCpu, "INCRBY C=256", AtMost(3.0)),
    ("redis ids C=256", Rate, "floor C=256", AtLeast(0.85)),
    ("redis ids C=256", RedisCpu, "INCRBY C=256", AtMost(6.0)),
    ("redis 100 orgs C=256", Rate, "floor C=256", AtLeast(0.8)),
    (
        "redis 100 orgs C=256",
        RedisCpu,
        "INCRBY+EXPIRE 100 orgs C=256",
        AtMost(0.9),
    ),
    (
        "redis 10000 orgs C=256",
        RedisCpu,
        "redis 100 orgs C=256",
        AtMost(1.2),
    ),
    (
        "redis 100 orgs 6500/s",
        RedisCpu,
        "INCRBY+EXPIRE 100 orgs 6500/s",
        AtMost(1.5),
    ),
    ("redis C=1", RedisCpu, "INCRBY+EXPIRE C=1", AtMost(2.0)),
    ("redis stream C=256", Rate, "floor C=256", AtLeast(10.0)),
    (
        "redis stream 100 orgs C=256",
        Rate,
        "floor C=256",
        AtLeast(4.0),
    ),
    ("memory C=256", Rate, "floor C=256", AtLeast(1.0)),
    ("memory C=64", P99, "floor C=64", AtMost(0.79)),
    ("file C=256", Rate, "floor C=256", AtLeast(0.75)),
];

/// A single caller's parts: its latency is compared with their sum.
const SINGLE: &str = "redis C=1";
const SINGLE_LIMIT: [&str; 2] = ["floor C=1", "PING C=1"];

/// The rows that are compared with this one.
pub(crate) fn compared_with(row: &str) -> impl Iterator<Item = &'static str> {
    let ratios = RATIOS.iter().filter(move |(.., to, _)| *to == row);
    let single = SINGLE_LIMIT.contains(&row).then_some(SINGLE);
    ratios.map(|(name, ..)| *name).chain(single)
}

fn speed(rounds: &[Round]) -> Vec<Goal> {
    let ratios = RATIOS.iter().map(|(row, figure, to, bound)| {
        let name = format!("{row}: {}", figure.name());
        let unit = format!("× {to}");
        goal(&name, ratio(rounds, row, to, *figure), *bound, 2, &unit)
    });
    let unit = format!("× ({})", SINGLE_LIMIT.join(" + "));
    let single = goal("redis C=1: p50", single(rounds), AtMost(1.25), 2, &unit);
    let open_loop = "redis 100 orgs 6500/s";
    let p99 = middle(rounds, open_loop, |stats| Some(stats.p99 / 1e3));
    // A tenth of what envoyproxy/ratelimit had, side by side.
    let open_loop = goal(&format!("{open_loop}: p99"), p99, AtMost(2.2), 1, "ms");
    ratios.chain([single, open_loop]).flatten().collect()
}

/// The single caller's median latency, divided by its lower limit.
fn single(rounds: &[Round]) -> Option<f64> {
    median(rounds.iter().filter_map(|round| {
        let p50 = |row| Some(round.get(row)?.p50);
        let [floor, round_trip] = SINGLE_LIMIT.map(p50);
        Some(p50(SINGLE)? / (floor? + round_trip?))
    }))
}

/// The median over the rounds of the ratio within each round.
fn ratio(rounds: &[Round], row: &str, to: &str, figure: Figure) -> Option<f64> {
    median(rounds.iter().filter_map(|round| {
        let value = |row| figure.of(round.get(row)?);
        Some(value(row)? / value(to)?)
    }))
}

/// The median over the rounds.
pub(crate) fn middle(
    rounds: &[Round],
    row: &str,
    of: impl Fn(&LoadStats) -> Option<f64>,
) -> Option<f64> {
    median(rounds.iter().filter_map(|round| of(round.get(row)?)))
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
    let Footprint {
        ids, organizations, ..
    } = &measurements.footprint;
    for (of, redis, most) in [("id", ids, 110.0), ("organization", organizations, 250.0)] {
        if let Some(redis) = redis {
            let name = format!("Redis memory for an {of}, of {}", redis.count);
            goals.push(goal(
                &name,
                Some(redis.bytes_each),
                AtMost(most),
                0,
                "bytes",
            ));
        }
    }
    if let Some(policy) = &measurements.footprint.policy {
        let name = format!("memory per organization of {}", policy.organizations);
        let each = policy.bytes_each;
        goals.push(goal(&name, Some(each), AtMost(300.0), 0, "bytes"));
        let name = "a call's delay by its reload";
        let millis = policy.reload_delay / 1e3;
        goals.push(goal(name, Some(millis), AtMost(5.0), 1, "ms"));
    }
    if let Some(start) = &measurements.start {
        let megabytes = start.program_bytes as f64 / 1e6;
        let name = "exec to SERVING, embedded store";
        goals.push(goal(name, Some(start.millis), AtMost(50.0), 0, "ms"));
        goals.push(goal("the program", Some(megabytes), AtMost(18.0), 1, "MB"));
    }
    goals.into_iter().flatten().collect()
}
