//! The rows: the same load on the floor and on the program, alternately.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    Scale,
    fairness::{self, Fairness},
    load::{self, LoadStats, Target},
    log_progress,
    processes::{PolicyFile, Redis, Service, file_store},
};

/// The server of a row.
#[derive(Clone, Copy)]
enum Server {
    Floor,
    Memory,
    File,
    Redis,
}

/// A load that is measured in each round.
struct Row {
    name: &'static str,
    server: Server,
    words: &'static str,
}

const fn row(name: &'static str, server: Server, words: &'static str) -> Row {
    Row {
        name,
        server,
        words,
    }
}

/// Rows that are compared are close together, because the machine's speed drifts.
const ROWS: [Row; 19] = [
    row("floor C=1", Server::Floor, "--callers 1"),
    row("memory C=1", Server::Memory, "--callers 1"),
    row("file C=1", Server::File, "--callers 1"),
    row("redis C=1", Server::Redis, "--callers 1"),
    row("floor C=64", Server::Floor, "--callers 64"),
    row("memory C=64", Server::Memory, "--callers 64"),
    row("redis C=64", Server::Redis, "--callers 64"),
    row("memory C=256", Server::Memory, "--callers 256"),
    row("file ids C=256", Server::File, "--callers 256 --ids"),
    row("file C=256", Server::File, "--callers 256"),
    row("floor C=256", Server::Floor, "--callers 256"),
    row("redis C=256", Server::Redis, "--callers 256"),
    row("redis ids C=256", Server::Redis, "--callers 256 --ids"),
    row(
        "redis 100 orgs C=256",
        Server::Redis,
        "--callers 256 --orgs 100",
    ),
    row("floor stream C=64", Server::Floor, "--stream --callers 64"),
    row("redis stream C=64", Server::Redis, "--stream --callers 64"),
    row(
        "floor stream C=256",
        Server::Floor,
        "--stream --callers 256",
    ),
    row(
        "memory stream C=256",
        Server::Memory,
        "--stream --callers 256",
    ),
    row(
        "redis stream C=256",
        Server::Redis,
        "--stream --callers 256",
    ),
];

/// The round trip of Redis alone.
const ROUND_TRIP: &str = "redis round trip C=1";

/// The measurements of one round.
pub(crate) struct Round {
    /// By the names of the rows.
    pub(crate) rows: BTreeMap<&'static str, LoadStats>,
    pub(crate) round_trip: Option<RoundTrip>,
}

/// A bare round trip to Redis, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoundTrip {
    /// The median.
    pub(crate) took: f64,
    /// Of Redis, on average.
    pub(crate) redis_cpu: f64,
}

/// The names of the rows, in order.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

/// Whether a row was selected, or is the floor of a selected one.
fn is_wanted(row: &Row, scale: &Scale) -> bool {
    let of = |name: &'static str| {
        let callers = name.split(' ').next_back().unwrap_or_default();
        (name.contains("stream"), callers)
    };
    let its_own = |other: &Row| of(other.name) == of(row.name);
    let others = ROWS
        .iter()
        .filter(|other| matches!(row.server, Server::Floor) && its_own(other));
    std::iter::once(row)
        .chain(others)
        .any(|row| scale.wants(row.name))
}

pub(crate) async fn measure(scale: &Scale) -> anyhow::Result<(Vec<Round>, Vec<Fairness>)> {
    let mut wanted = names().chain([ROUND_TRIP, fairness::NAME]);
    if !wanted.any(|name| scale.wants(name)) {
        return Ok(Default::default());
    }
    let organizations = (0..100).map(|number| format!("bench-{number}"));
    let others = ["bench", "flood", "quiet"].map(str::to_owned);
    let policy = PolicyFile::of(organizations.chain(others))?;
    let redis = Redis::start().await?;
    let floor = Service::floor().await?;
    let memory = Service::tollgate("memory:", Some(&policy)).await?;
    let (_dir, store) = file_store()?;
    let file = Service::tollgate(&store, Some(&policy)).await?;
    let service = Service::tollgate(&redis.url(), Some(&policy)).await?;
    let over_redis = Target {
        service: &service,
        redis: Some(&redis),
    };
    let target = |server| match server {
        Server::Floor => alone(&floor),
        Server::Memory => alone(&memory),
        Server::File => alone(&file),
        Server::Redis => over_redis,
    };
    let (mut rounds, mut fairness) = (Vec::new(), Vec::new());
    for number in 1..=scale.rounds {
        let mut round = Round {
            rows: BTreeMap::new(),
            round_trip: None,
        };
        if scale.wants(ROUND_TRIP) {
            round.round_trip = Some(round_trip(&redis, scale.load / 3)?);
        }
        for Row {
            name,
            server,
            words,
        } in ROWS.iter().filter(|row| is_wanted(row, scale))
        {
            log_progress(&format!("round {number} of {}: {name}", scale.rounds));
            let words = format!("--org bench {words}");
            redis.clear()?;
            load::run(target(*server), &words, scale.warm_up).await?;
            let stats = load::run(target(*server), &words, scale.load).await;
            round
                .rows
                .insert(name, stats.with_context(|| (*name).to_owned())?);
        }
        rounds.push(round);
        if scale.wants(fairness::NAME) {
            log_progress(&format!("round {number} of {}: fairness", scale.rounds));
            redis.clear()?;
            fairness.push(fairness::measure(scale, over_redis).await?);
        }
    }
    Ok((rounds, fairness))
}

fn alone(service: &Service) -> Target<'_> {
    let redis = None;
    Target { service, redis }
}

/// Sequential PINGs on one connection: a lower limit for any call over Redis.
fn round_trip(redis: &Redis, duration: Duration) -> anyhow::Result<RoundTrip> {
    let mut connection = redis.connection()?;
    let ping = redis::cmd("PING");
    let mut took = Vec::new();
    let before = cpu_seconds(&mut connection)?;
    let ends = Instant::now() + duration;
    while Instant::now() < ends {
        let sent = Instant::now();
        ping.query::<()>(&mut connection)?;
        took.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    let cpu = cpu_seconds(&mut connection)? - before;
    let count = took.len() as f64;
    Ok(RoundTrip {
        took: super::median(took).context("no PING was answered")?,
        redis_cpu: cpu * 1e6 / count,
    })
}

/// What Redis has used of the processors.
fn cpu_seconds(connection: &mut redis::Connection) -> anyhow::Result<f64> {
    let info: redis::InfoDict = redis::cmd("INFO").arg("cpu").query(connection)?;
    let used = |name| info.get::<f64>(name).with_context(|| format!("no {name}"));
    Ok(used("used_cpu_user")? + used("used_cpu_sys")?)
}
