//! Structured logs, on standard error: for people on a terminal, as JSON elsewhere or on request.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, Settings};

/// Starts logging. Once a process.
///
/// # Errors
///
/// The filter is none, or logging was started before.
pub fn start(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(&settings.log)
        .map_err(|error| anyhow::anyhow!("log: {:?} is no filter: {error}", settings.log))?;
    let json = match settings.log_format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !stderr().is_terminal(),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    let started = if json {
        logs.json().flatten_event(true).try_init()
    } else {
        logs.with_ansi(stderr().is_terminal())
            .with_target(false)
            .try_init()
    };
    started.map_err(|error| anyhow::anyhow!("logging can't be started: {error}"))
}
