//! `tollgate bench`: a load generator.
//!
//! Closed loop by default: each caller sends its next request when it has the answer to the last. With
//! `--rate`, open loop: requests are due at fixed moments, and a latency counts from when its request was due, so that
//! a stall is not hidden by the requests that it delayed.

mod codec;
mod cpu;
mod measurements;
mod report;
mod schedule;
mod stream;
mod unary;

use std::time::Duration;

use anyhow::Context as _;

use self::cpu::Process;
use crate::client::{connection::ConnectionArgs, output::print};

/// The load.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// How many requests are under way at most, over all connections: each caller has one, and sends the
    /// next when it has the answer. With --stream, each connection's stream has its share of the callers as
    /// the number of requests that it sends ahead of their answers
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    callers: u32,
    /// How many HTTP/2 connections the callers share
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Send the requests over ReserveStream, one stream a connection, instead of a Reserve each
    #[arg(long)]
    stream: bool,
    /// The organization; with --orgs, the first part of their names
    #[arg(long, default_value = "org-demo")]
    org: String,
    /// How many organizations: ORG-0, ORG-1, …; the policy has to know them
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    orgs: Option<u32>,
    /// The model
    #[arg(long, default_value = "gpt-4o")]
    model: String,
    /// The tokens of each request
    #[arg(long, default_value_t = 1)]
    tokens: u64,
    /// Give every request an id of its own
    #[arg(long)]
    ids: bool,
    /// Requests a second, evenly spaced (open loop); without it each caller goes as fast as it can
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
    /// How long, such as 10s
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// A process whose CPU time is told per request, such as server=1234; may be given again
    #[arg(long = "pid", value_name = "NAME=PID")]
    processes: Vec<Process>,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

/// Runs the load and prints the measurements.
///
/// # Errors
///
/// The service can't be reached at all, or a process is not there.
pub(super) async fn run(bench: BenchArgs) -> anyhow::Result<()> {
    let before = cpu::times(&bench.processes)?;
    let (measured, elapsed) = schedule::run(&bench).await?;
    let after = cpu::times(&bench.processes)?;
    let used = bench.processes.iter().zip(before.iter().zip(after));
    let used =
        used.map(|(process, (before, after))| (process.name(), after.saturating_sub(*before)));
    let report = report::Report::new(&measured, elapsed, used);
    if bench.connection.json {
        print(&serde_json::to_string_pretty(&report).context("the report as JSON")?)
    } else {
        print(&report.table())
    }
}
