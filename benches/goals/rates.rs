//! The rows: the same load on the floor and on the program, alternately.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::{
    Scale,
    fairness::{self, Fairness},
    goals,
    load::{self, LoadStats, Target},
    log_progress,
    processes::{PolicyFile, Redis, Service, file_store},
    redis_load::{Commands, RedisLoad},
};

/// The server of a row.
#[derive(Clone, Copy)]
enum Server {
    Floor,
    Memory,
    File,
    Redis,
}

/// What a row measures.
enum Load {
    /// The arguments of `tollgate bench`.
    Calls(Server, &'static str),
    /// Redis without a server before it.
    Redis(RedisLoad),
}

/// A load that is measured in each round.
struct Row {
    name: &'static str,
    load: Load,
}

const fn calls(name: &'static str, server: Server, words: &'static str) -> Row {
    let load = Load::Calls(server, words);
    Row { name, load }
}

const fn commands(name: &'static str, load: RedisLoad) -> Row {
    let load = Load::Redis(load);
    Row { name, load }
}

/// Rows that are compared are close together, because the machine's speed drifts.
const ROWS: [Row; 21] = [
    commands("PING C=1", RedisLoad::alone(Commands::Ping)),
    commands(
        "INCRBY+EXPIRE C=1",
        RedisLoad::alone(Commands::IncrbyAndExpire),
    ),
    calls("redis C=1", Server::Redis, "--callers 1"),
    calls("floor C=1", Server::Floor, "--callers 1"),
    calls("redis C=64", Server::Redis, "--callers 64"),
    calls("floor C=64", Server::Floor, "--callers 64"),
    calls("memory C=64", Server::Memory, "--callers 64"),
    calls("memory C=256", Server::Memory, "--callers 256"),
    calls("file C=256", Server::File, "--callers 256"),
    calls("floor C=256", Server::Floor, "--callers 256"),
    calls("redis C=256", Server::Redis, "--callers 256"),
    commands("INCRBY C=256", RedisLoad::pipelined_incrby(256)),
    calls("redis ids C=256", Server::Redis, "--callers 256 --ids"),
    calls(
        "redis stream C=256",
        Server::Redis,
        "--callers 256 --stream",
    ),
    calls(
        "redis stream 100 orgs C=256",
        Server::Redis,
        "--callers 256 --stream --orgs 100",
    ),
    calls(
        "redis 10000 orgs C=256",
        Server::Redis,
        "--callers 256 --orgs 10000",
    ),
    calls(
        "redis 100 orgs C=256",
        Server::Redis,
        "--callers 256 --orgs 100",
    ),
    commands(
        "INCRBY+EXPIRE 100 orgs C=256",
        RedisLoad::incrby_and_expire(100, None),
    ),
    calls(
        "redis 100 orgs 6500/s",
        Server::Redis,
        "--callers 256 --orgs 100 --rate 6500",
    ),
    commands(
        "INCRBY+EXPIRE 100 orgs 6500/s",
        RedisLoad::incrby_and_expire(100, Some(6500)),
    ),
    calls("floor 6500/s", Server::Floor, "--callers 256 --rate 6500"),
];

/// The organizations of the rows with many.
const ORGANIZATIONS: u32 = 10_000;

/// The measurements of one round, by the names of the rows.
pub(crate) type Round = BTreeMap<&'static str, LoadStats>;

/// The names of the rows, in order.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

/// Whether a row was selected, or is what a selected one is compared with.
fn is_wanted(row: &Row, scale: &Scale) -> bool {
    let compared = goals::compared_with(row.name);
    std::iter::once(row.name)
        .chain(compared)
        .any(|name| scale.wants(name))
}

pub(crate) async fn measure(scale: &Scale) -> anyhow::Result<(Vec<Round>, Vec<Fairness>)> {
    if !names()
        .chain([fairness::NAME])
        .any(|name| scale.wants(name))
    {
        return Ok(Default::default());
    }
    let organizations = (0..ORGANIZATIONS).map(|number| format!("bench-{number}"));
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
        let mut round = Round::new();
        for Row { name, load } in ROWS.iter().filter(|row| is_wanted(row, scale)) {
            log_progress(&format!("round {number} of {}: {name}", scale.rounds));
            let stats = match load {
                Load::Calls(server, words) => {
                    let words = format!("--org bench {words}");
                    load::run(target(*server), &words, scale.warm_up).await?;
                    load::run(target(*server), &words, scale.load).await
                }
                Load::Redis(load) => {
                    load.run(&redis, scale.warm_up)?;
                    load.run(&redis, scale.load)
                }
            };
            round.insert(name, stats.with_context(|| (*name).to_owned())?);
        }
        rounds.push(round);
        if scale.wants(fairness::NAME) {
            log_progress(&format!("round {number} of {}: fairness", scale.rounds));
            fairness.push(fairness::measure(scale, over_redis).await?);
        }
    }
    Ok((rounds, fairness))
}

fn alone(service: &Service) -> Target<'_> {
    let redis = None;
    Target { service, redis }
}
