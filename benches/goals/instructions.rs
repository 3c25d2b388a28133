//! The instructions of a Reserve in user space, counted by callgrind. Neither the machine's speed nor its load changes
//! them, so each has a budget that CI holds.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::process::Command;
use tollgate::grpc::proto::ReserveRequest;

use super::{
    fixed_load::send_by_callers,
    goals::{Bound::AtMost, Goal, State, goal},
    log_progress,
    processes::{
        PROGRAM, PolicyFile, Redis, Service, free_address, redis_server, serve, serve_floor,
    },
    report,
};

/// What the budgets were counted with. Another compiler or profile generates other code, for which they say nothing:
/// then the counts are printed, and not checked.
const BUILT_WITH: &str = "rustc 1.95.0 (59807616e 2026-04-14), profile instructions";

/// The process whose instructions are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Floor,
    Memory,
    /// The service over Redis.
    Redis,
    /// The Redis of a service.
    RedisServer,
}

/// A load, and the budget of a Reserve under it.
struct Row {
    name: &'static str,
    counted: Counted,
    callers: usize,
    organizations: u64,
    reserves: u64,
    budget: f64,
}

const fn row(
    name: &'static str,
    counted: Counted,
    callers: usize,
    organizations: u64,
    budget: f64,
) -> Row {
    // A call of one caller costs Redis many times as much as its share in a batch.
    let reserves = if callers == 1 { 2_000 } else { 10_000 };
    Row {
        name,
        counted,
        callers,
        organizations,
        reserves,
        budget,
    }
}

/// The server is slow under callgrind, so that all of its callers wait for it, on any machine.
const ROWS: [Row; 5] = [
    row("floor C=64", Counted::Floor, 64, 1, 52_300.0),
    row("memory C=64", Counted::Memory, 64, 1, 59_000.0),
    row("redis C=64", Counted::Redis, 64, 1, 66_300.0),
    row("redis-server C=1", Counted::RedisServer, 1, 1, 100_000.0),
    row(
        "redis-server 100 orgs C=64",
        Counted::RedisServer,
        64,
        100,
        50_000.0,
    ),
];

/// The goals beside the first row's count.
const OF_FLOOR: [(&str, f64); 2] = [("memory C=64", 1.0), ("redis C=64", 1.1)];

/// How far a count may be from its budget. A lower one needs a lower budget, so that the next increase is seen.
const TOLERANCE: f64 = 0.03;

/// Counts, prints, and compares with the budgets.
///
/// # Errors
///
/// valgrind is missing, or a count is not within its budget.
pub(crate) async fn run() -> anyhow::Result<()> {
    let callgrind = Callgrind::new().await?;
    let (mut counts, mut goals) = (BTreeMap::new(), Vec::new());
    for row in ROWS {
        let Row { name, budget, .. } = row;
        log_progress(&format!("instructions, {name}"));
        let count = callgrind.count(&row).await.context(name)?;
        counts.insert(name, count);
        let difference = count / budget - 1.0;
        goals.push(Goal {
            name: format!("{name}: instructions"),
            goal: format!("{budget} ± {} %", TOLERANCE * 100.0),
            value: format!("{count:.0} ({:+.1} %)", difference * 100.0),
            state: State::of(difference.abs() <= TOLERANCE),
        });
    }
    let is_held = goals.iter().all(|goal| goal.state == State::Met);
    for (name, times) in OF_FLOOR {
        let of_floor = counts[name] / counts[ROWS[0].name];
        let name = format!("{name}: instructions");
        goals.extend(goal(&name, Some(of_floor), AtMost(times), 2, "× floor"));
    }
    println!("{}", report::goals(&goals));
    let here = built_with().await?;
    if here != BUILT_WITH {
        println!("\nNot checked: the budgets are for {BUILT_WITH}, and this is {here}");
        return Ok(());
    }
    ensure!(is_held, "not every count is within its budget");
    Ok(())
}

/// The compiler, and the profile, which is the name of the program's folder.
async fn built_with() -> anyhow::Result<String> {
    let version = Command::new("rustc").arg("--version").output().await;
    let version = String::from_utf8(version.context("rustc")?.stdout)?;
    let folder = Path::new(PROGRAM).parent().and_then(Path::file_name);
    let folder = folder.context("a program in no folder")?;
    Ok(format!("{}, profile {}", version.trim(), folder.display()))
}

/// Runs servers under callgrind.
struct Callgrind {
    dir: TempDir,
}

impl Callgrind {
    async fn new() -> anyhow::Result<Self> {
        let version = Command::new("valgrind").arg("--version").output().await;
        version
            .context("valgrind can't be started: install it, of Debian's package of this name")?;
        let dir = tempfile::tempdir()?;
        Ok(Self { dir })
    }

    /// Counts the instructions of a Reserve.
    async fn count(&self, row: &Row) -> anyhow::Result<f64> {
        let organizations = (0..row.organizations).map(|number| format!("bench-{number}"));
        let policy = PolicyFile::of(organizations)?;
        let redis = match row.counted {
            Counted::Floor | Counted::Memory => None,
            Counted::Redis => Some(Redis::start().await?),
            Counted::RedisServer => {
                // Its timers are as rare as can be.
                let command = self.wrap(redis_server().args(["--hz", "1"]));
                Some(Redis::start_by(command).await?)
            }
        };
        let addr = free_address()?;
        let store = redis.as_ref().map_or("memory:".to_owned(), Redis::url);
        let command = match row.counted {
            Counted::Floor => self.wrap(&serve_floor(&addr)?),
            Counted::Memory | Counted::Redis => self.wrap(&serve(&addr, &store, Some(&policy))),
            Counted::RedisServer => serve(&addr, &store, Some(&policy)),
        };
        let mut service = Service::listening(command, addr).await?;
        if row.counted != Counted::Floor {
            service.wait_until_serving().await?;
        }
        let pid = match &redis {
            Some(redis) if row.counted == Counted::RedisServer => redis.pid(),
            _ => service.pid(),
        };
        let organizations = row.organizations;
        let request = move |number| request(number % organizations);
        send_by_callers(row.callers, &service, 0..row.reserves / 5, request).await?;
        control(pid, "zero").await?;
        send_by_callers(row.callers, &service, 0..row.reserves, request).await?;
        control(pid, "dump").await?;
        Ok(self.take_total()? as f64 / row.reserves as f64)
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

/// A request as those of `tollgate bench`.
fn request(organization: u64) -> ReserveRequest {
    ReserveRequest {
        org: format!("bench-{organization}"),
        project: "bench".to_owned(),
        model: "gpt-4o".to_owned(),
        tokens: 1,
        ..ReserveRequest::default()
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
