//! Runs a load: its connections, callers and progress.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use tokio::{task::JoinSet, time::interval};

use super::{
    args::BenchArgs, callers, report::Measurements, requests::Requests, schedule::Schedule,
};
use crate::client::connection::AuthorizedChannel;

/// Sends the load, waits for outstanding answers, and returns the measurements and the elapsed time.
///
/// # Errors
///
/// No call was answered.
pub(super) async fn run(bench: &BenchArgs) -> anyhow::Result<(Measurements, Duration)> {
    let connections = bench.connections.min(bench.callers);
    let channels = (0..connections).map(|_| bench.connection.open());
    let channels: Vec<AuthorizedChannel> = channels.collect::<Result<_, _>>()?;
    let requests = Arc::new(Requests::new(bench, run_name()));
    let schedule = Arc::new(Schedule::new(bench));
    let mut callers = JoinSet::new();
    if bench.stream {
        for (number, channel) in (0..).zip(channels) {
            let more = u32::from(number < bench.callers % connections);
            let share = bench.callers / connections + more;
            let (requests, schedule) = (Arc::clone(&requests), Arc::clone(&schedule));
            callers.spawn(callers::stream(channel, requests, schedule, share));
        }
    } else {
        for channel in channels.iter().cycle().take(bench.callers as usize) {
            let (requests, schedule) = (Arc::clone(&requests), Arc::clone(&schedule));
            callers.spawn(callers::call(channel.clone(), requests, schedule));
        }
    }
    let progress = tokio::spawn(print_progress(Arc::clone(&schedule)));
    let mut measured = Measurements::new();
    while let Some(caller) = callers.join_next().await {
        measured.add(&caller?);
    }
    progress.abort();
    let elapsed = schedule.started.elapsed();
    if measured.is_unavailable() {
        bail!("UNAVAILABLE: not one call was answered");
    }
    Ok((measured, elapsed))
}

/// A name unique to this run.
fn run_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = now.unwrap_or_default().as_micros();
    format!("bench-{:x}-{micros:x}", std::process::id())
}

/// Rewrites one line on a terminal every second.
async fn print_progress(schedule: Arc<Schedule>) {
    let mut ticks = interval(Duration::from_secs(1));
    // The first tick is immediate.
    ticks.tick().await;
    let mut before = 0;
    loop {
        ticks.tick().await;
        let now = schedule.answered.load(Ordering::Relaxed);
        let seconds = schedule.started.elapsed().as_secs();
        if stderr().is_terminal() {
            // A failed write is ignored.
            let _ = write!(stderr(), "\r{seconds} s: {} answers/s   ", now - before);
        }
        before = now;
    }
}
