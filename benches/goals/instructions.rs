//! The instructions of a Reserve in user space, counted by callgrind. Neither the machine's speed nor its load changes
//! them, so each has a budget that CI holds.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::process::Command;
use tollgate::grpc::proto::ReserveRequest;

use super::{
    Scale,
    fixed_load::{of_organization, send_by_callers},
    goals::{Bound::AtMost, Goal, State, goal},
    log_progress,
    processes::{
        PROGRAM, PolicyFile, Redis, Service, free_address, redis_server, serve, serve_floor,
    },
    report,
};

/// What the budgets were counted with. Another compiler, profile or build of Redis has other code, for which a budget
/// says nothing: then the count is printed, and not checked.
const RUSTC: &str = "rustc 1.95.0 (59807616e 2026-04-14)";
const PROFILE: &str = "instructions";
const REDIS: &str =
    "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0";

/// The process whose instructions are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CountedProcess {
    Floor,
    Memory,
    /// The service over Redis.
    Redis,
    /// The Redis of a service.
    RedisServer,
    /// The same, where each Reserve has an id.
    RedisServerWithIds,
}

impl CountedProcess {
    fn is_redis_server(self) -> bool {
        matches!(self, Self::RedisServer | Self::RedisServerWithIds)
    }
}

/// A load, and the budget of a Reserve under it.
struct Row {
    name: &'static str,
    counted: CountedProcess,
    callers: usize,
    budget: f64,
}

const fn row(name: &'static str, counted: CountedProcess, callers: usize, budget: f64) -> Row {
    Row {
        name,
        counted,
        callers,
        budget,
    }
}

const FLOOR: &str = "floor C=64";

/// A server under callgrind is slow, so that all callers wait for it on any machine. Redis decides for one caller,
/// because with more its count depends on how they fall into batches.
const ROWS: [Row; 5] = [
    row(FLOOR, CountedProcess::Floor, 64, 63_000.0),
    row("memory C=64", CountedProcess::Memory, 64, 72_900.0),
    row("redis C=64", CountedProcess::Redis, 64, 72_600.0),
    row(
        "redis-server C=1",
        CountedProcess::RedisServer,
        1,
        133_500.0,
    ),
    row(
        "redis-server ids C=1",
        CountedProcess::RedisServerWithIds,
        1,
        186_500.0,
    ),
];

/// The goals beside the floor's count.
const OF_FLOOR: [(&str, f64); 2] = [("memory C=64", 1.0), ("redis C=64", 1.1)];

const WARM_UP: u64 = 2_000;
const RESERVES: u64 = 8_000;

/// How far a count may be from its budget. A lower one needs a lower budget, so that the next increase is seen.
const TOLERANCE: f64 = 0.03;

/// Counts, prints, and compares with the budgets.
///
/// # Errors
///
/// valgrind is missing, or a count is not within its budget.
pub(crate) async fn run(scale: &Scale) -> anyhow::Result<()> {
    let callgrind = Callgrind::new().await?;
    let profile = Path::new(PROGRAM).parent().and_then(Path::file_name);
    let is_same_program = profile.is_some_and(|it| it == PROFILE)
        && version(&mut Command::new("rustc")).await? == RUSTC;
    let is_same_redis = version(&mut redis_server()).await? == REDIS;
    let (mut counts, mut goals) = (BTreeMap::new(), Vec::new());
    let mut is_held = true;
    for row in ROWS.iter().filter(|row| scale.wants(row.name)) {
        let &Row { name, budget, .. } = row;
        log_progress(&format!("instructions, {name}"));
        let count = callgrind.count(row).await.context(name)?;
        counts.insert(name, count);
        let is_checked = match row.counted.is_redis_server() {
            true => is_same_redis,
            false => is_same_program,
        };
        if !is_checked {
            log_progress(&format!(
                "{count:.0}, not checked: not what the budget is for"
            ));
            continue;
        }
        let difference = count / budget - 1.0;
        let is_within = difference.abs() <= TOLERANCE;
        is_held &= is_within;
        goals.push(Goal {
            name: format!("{name}: instructions"),
            goal: format!("{budget} ± {} %", TOLERANCE * 100.0),
            value: format!("{count:.0} ({:+.1} %)", difference * 100.0),
            state: State::of(is_within),
        });
    }
    for (name, times) in OF_FLOOR {
        let count = counts.get(name).zip(counts.get(FLOOR));
        let of_floor = count.map(|(count, floor)| count / floor);
        let name = format!("{name}: instructions");
        goals.extend(goal(&name, of_floor, AtMost(times), 2, "× floor"));
    }
    println!("{}", report::goals(&goals));
    ensure!(is_held, "not every count is within its budget");
    Ok(())
}

async fn version(program: &mut Command) -> anyhow::Result<String> {
    let printed = program.arg("--version").output().await;
    let printed = printed.with_context(|| format!("can't start {:?}", program.as_std()))?;
    Ok(String::from_utf8(printed.stdout)?.trim().to_owned())
}

/// Runs servers under callgrind.
struct Callgrind {
    dir: TempDir,
}

impl Callgrind {
    async fn new() -> anyhow::Result<Self> {
        let installed = version(&mut Command::new("valgrind")).await;
        installed.context("install Debian's package valgrind")?;
        let dir = tempfile::tempdir()?;
        Ok(Self { dir })
    }

    /// Counts the instructions of a Reserve.
    async fn count(&self, row: &Row) -> anyhow::Result<f64> {
        let policy = PolicyFile::of(["bench-0".to_owned()])?;
        let redis = match row.counted {
            CountedProcess::Floor | CountedProcess::Memory => None,
            CountedProcess::Redis => Some(Redis::start().await?),
            CountedProcess::RedisServer | CountedProcess::RedisServerWithIds => {
                // Its timers are as rare as can be.
                let command = self.wrap(redis_server().args(["--hz", "1"]));
                Some(Redis::start_by(command).await?)
            }
        };
        let addr = free_address()?;
        let store = redis.as_ref().map_or("memory:".to_owned(), Redis::url);
        let command = match row.counted {
            CountedProcess::Floor => self.wrap(&serve_floor(&addr)?),
            CountedProcess::Memory | CountedProcess::Redis => {
                self.wrap(&serve(&addr, &store, Some(&policy))?)
            }
            CountedProcess::RedisServer | CountedProcess::RedisServerWithIds => {
                serve(&addr, &store, Some(&policy))?
            }
        };
        let mut service = Service::listening(command, addr).await?;
        if row.counted != CountedProcess::Floor {
            service.wait_until_serving().await?;
        }
        let pid = match &redis {
            Some(redis) if row.counted.is_redis_server() => redis.pid(),
            _ => service.pid(),
        };
        let has_ids = row.counted == CountedProcess::RedisServerWithIds;
        let request = move |number: u64| ReserveRequest {
            request_id: if has_ids {
                number.to_string()
            } else {
                String::new()
            },
            ..of_organization(0)
        };
        let counted = WARM_UP..WARM_UP + RESERVES;
        send_by_callers(row.callers, &service, 0..WARM_UP, request).await?;
        control(pid, "zero").await?;
        send_by_callers(row.callers, &service, counted, request).await?;
        control(pid, "dump").await?;
        Ok(self.take_total()? as f64 / RESERVES as f64)
    }

    /// This command, under callgrind.
    fn wrap(&self, command: &Command) -> Command {
        let command = command.as_std();
        let mut wrapped = Command::new("taskset");
        wrapped
            // As many threads on every machine.
            .args(["--cpu-list", "0,1", "valgrind"])
            .args(["--tool=callgrind", "--quiet", "--fair-sched=yes"])
            .arg(format!(
                "--callgrind-out-file={}",
                self.dir.path().join("counts").display()
            ))
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped
    }

    /// The total of the only dump, which is removed.
    fn take_total(&self) -> anyhow::Result<u64> {
        let dump = self.dir.path().join("counts.1");
        let text = fs::read_to_string(&dump)?;
        fs::remove_file(&dump)?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        Ok(total.context("a dump without its total")?.trim().parse()?)
    }
}

/// Sends a process under callgrind a command.
async fn control(pid: u32, command: &str) -> anyhow::Result<()> {
    let mut vgdb = Command::new("vgdb");
    vgdb.arg(format!("--pid={pid}"))
        .arg(command)
        .stdin(Stdio::null());
    let done = vgdb.output().await.context("vgdb can't be started")?;
    ensure!(
        done.status.success(),
        "vgdb {command}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
