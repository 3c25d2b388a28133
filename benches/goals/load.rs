//! Load on a server by `tollgate bench`.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde::Deserialize;
use tokio::{process::Command, time::timeout};

use super::processes::{Redis, Service, program};

/// How long a client may run in addition to its load.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a load runs against.
#[derive(Clone, Copy)]
pub(crate) struct Target<'p> {
    pub(crate) service: &'p Service,
    /// The Redis of the service, if any.
    pub(crate) redis: Option<&'p Redis>,
}

/// The measurements of one load; times in microseconds, CPU times per request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadStats {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// The maximum.
    pub(crate) max: f64,
    pub(crate) server_cpu: Option<f64>,
    pub(crate) redis_cpu: Option<f64>,
    /// The CPU time of all clients that ran meanwhile.
    pub(crate) client_cpu: Option<f64>,
}

/// What `tollgate bench --json` prints.
#[derive(Deserialize)]
struct BenchReport {
    requests: u64,
    requests_per_second: f64,
    latency_us: Latency,
    verdicts: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    cpu_us_per_request: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Latency {
    p50: u64,
    p99: u64,
    max: u64,
}

/// Runs a load with these arguments of `tollgate bench`.
///
/// # Errors
///
/// The load could not be run, or not all of its requests were answered FREE.
pub(crate) async fn run(
    target: Target<'_>,
    words: &str,
    duration: Duration,
) -> anyhow::Result<LoadStats> {
    run_by(program(), target, words, duration).await
}

/// Runs a load with a lower priority, as if the client were on another machine. The server keeps its priority.
///
/// # Errors
///
/// Those of [`run`].
pub(crate) async fn run_giving_way(
    target: Target<'_>,
    words: &str,
    duration: Duration,
) -> anyhow::Result<LoadStats> {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"])
        .arg(program().as_std().get_program());
    run_by(nice, target, words, duration).await
}

async fn run_by(
    mut command: Command,
    target: Target<'_>,
    words: &str,
    duration: Duration,
) -> anyhow::Result<LoadStats> {
    let Service { addr, ca_file, .. } = target.service;
    match ca_file {
        None => command.args(["bench", "--json", "--addr", addr]),
        Some(ca) => {
            let addr = format!("https://{addr}");
            command.args(["bench", "--json", "--addr", &addr, "--ca-file", ca])
        }
    };
    command
        .args(["--duration", &format!("{}ms", duration.as_millis())])
        .args(["--pid", &format!("server={}", target.service.pid())])
        .args(words.split_whitespace());
    if let Some(redis) = target.redis {
        command.args(["--pid", &format!("redis={}", redis.pid())]);
    }
    let command = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let before = cpu_of_clients()?;
    let ran = timeout(duration + CLIENT_TIMEOUT, command.output())
        .await
        .with_context(|| format!("a load does not end: {words}"))??;
    let client_cpu = cpu_of_clients()?.saturating_sub(before);
    ensure!(ran.status.success(), "a load failed: {words}");
    let printed: BenchReport =
        serde_json::from_slice(&ran.stdout).context("the report of a load")?;
    let free = printed.verdicts.get("FREE").copied().unwrap_or(0);
    ensure!(
        free > 0 && free == printed.requests,
        "not all of {} requests were answered FREE ({words}): {:?} {:?}",
        printed.requests,
        printed.verdicts,
        printed.errors,
    );
    let cpu = |name| printed.cpu_us_per_request.get(name).copied();
    Ok(LoadStats {
        rate: printed.requests_per_second,
        p50: printed.latency_us.p50 as f64,
        p99: printed.latency_us.p99 as f64,
        max: printed.latency_us.max as f64,
        server_cpu: cpu("server"),
        redis_cpu: cpu("redis"),
        client_cpu: Some(client_cpu.as_secs_f64() * 1e6 / printed.requests as f64),
    })
}

/// The CPU time of all ended child processes. Servers end only after the measurements.
fn cpu_of_clients() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}
