//! Structured logs on standard error: text on a terminal, otherwise JSON.

use std::io::{IsTerminal as _, stderr};

use clap::ValueEnum;
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging. Call it once in a process.
///
/// # Errors
///
/// The filter is invalid, or logging was started before.
pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter: Targets = filter
        .parse()
        .map_err(|error| anyhow::anyhow!("log: {filter:?} is no filter: {error}"))?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let logs = tracing_subscriber::registry().with(filter);
    let started = if json {
        logs.with(lines.json().flatten_event(true)).try_init()
    } else {
        let lines = lines.with_ansi(stderr().is_terminal());
        logs.with(lines.with_target(false)).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("logging can't be started: {error}"))
}
