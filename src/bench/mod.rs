//! `tollgate bench`: a load generator.
//!
//! Closed loop by default: each caller sends its next request when it has the previous answer. With `--rate`, open
//! loop: requests are due at fixed times, and latency is measured from the due time, so that a stall counts for each
//! request that it delays.

mod args;
mod callers;
mod cpu;
mod load;
mod report;
mod requests;
mod schedule;

use anyhow::Context as _;

pub use self::args::BenchArgs;
use self::{cpu::Process, report::Report};
use crate::client::output::print;

/// Runs the load and prints the measurements.
///
/// # Errors
///
/// The service can't be reached, or a process does not exist.
pub(super) async fn run(bench: BenchArgs) -> anyhow::Result<()> {
    let times = || bench.processes.iter().map(Process::cpu_time);
    let before = times().collect::<anyhow::Result<Vec<_>>>()?;
    let (measured, elapsed) = load::run(&bench).await?;
    let after = times().collect::<anyhow::Result<Vec<_>>>()?;
    let used = before.iter().zip(after);
    let used = used.map(|(before, after)| after.saturating_sub(*before));
    let report = Report::new(&measured, elapsed, bench.processes.iter().zip(used));
    if bench.connection.json {
        print(&serde_json::to_string_pretty(&report).context("the report as JSON")?)
    } else {
        print(&report.table())
    }
}
