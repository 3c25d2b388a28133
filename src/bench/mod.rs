//! `tollgate bench`: a load generator.
//!
//! Closed loop by default: each caller sends its next request when it has the previous answer. With `--rate`, open
//! loop: requests are due at fixed times, and latency is measured from the due time, so that a stall counts for each
//! request that it delays.

mod args;
mod codec;
mod cpu;
mod load;
mod measurements;
mod report;
mod schedule;
mod stream;
mod unary;

use anyhow::Context as _;

pub use self::args::BenchArgs;
use crate::client::output::print;

/// Runs the load and prints the measurements.
///
/// # Errors
///
/// The service can't be reached, or a process does not exist.
pub(super) async fn run(bench: BenchArgs) -> anyhow::Result<()> {
    let before = cpu::times(&bench.processes)?;
    let (measured, elapsed) = load::run(&bench).await?;
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
