//! The course of a load, and who runs it.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use tokio::{task::JoinSet, time::interval};

use super::{Bench, stream, tally::Tally, unary, wire::Requests};
use crate::cli::connection::Caller;

/// Which request is due when, and how far it has come.
pub(super) struct Course {
    /// The number of the next request, of all callers.
    next: AtomicU64,
    pub(super) answered: AtomicU64,
    /// Open loop: a request is due every so often.
    every: Option<Duration>,
    pub(super) started: Instant,
    pub(super) ends: Instant,
}

impl Course {
    /// Takes the number of a request, which is then the taker's to send.
    pub(super) fn claim(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// When the request is due; none where it is as soon as its caller is free.
    pub(super) fn due(&self, number: u64) -> Option<Instant> {
        let since_start = |every: Duration| every.as_secs_f64() * number as f64;
        self.every
            .map(|every| self.started + Duration::from_secs_f64(since_start(every)))
    }
}

/// Sends the load until its time is over, and waits for the answers that are still due. Tells what was
/// measured, and how long that took.
///
/// # Errors
///
/// Nobody was there to answer.
pub(super) async fn run(bench: &Bench) -> anyhow::Result<(Tally, Duration)> {
    let connections = bench.connections.min(bench.callers);
    let channels = (0..connections).map(|_| bench.connection.open());
    let channels: Vec<Caller> = channels.collect::<Result<_, _>>()?;
    let requests = Arc::new(Requests::new(bench, run_name()));
    let started = Instant::now();
    let course = Arc::new(Course {
        next: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        every: bench.rate.map(|rate| Duration::from_secs(1) / rate),
        started,
        ends: started + bench.duration,
    });
    let mut callers = JoinSet::new();
    if bench.stream {
        for (number, channel) in (0..).zip(channels) {
            let more = u32::from(number < bench.callers % connections);
            let share = bench.callers / connections + more;
            let (requests, course) = (Arc::clone(&requests), Arc::clone(&course));
            callers.spawn(stream::call(channel, requests, course, share));
        }
    } else {
        for channel in channels.iter().cycle().take(bench.callers as usize) {
            let (requests, course) = (Arc::clone(&requests), Arc::clone(&course));
            callers.spawn(unary::call(channel.clone(), requests, course));
        }
    }
    let progress = tokio::spawn(tell_progress(Arc::clone(&course)));
    let mut measured = Tally::new();
    while let Some(caller) = callers.join_next().await {
        measured.add(&caller?);
    }
    progress.abort();
    let elapsed = started.elapsed();
    if measured.nobody_answered() {
        bail!("UNAVAILABLE: not one call was answered");
    }
    Ok((measured, elapsed))
}

/// A name that no other run has.
fn run_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = now.unwrap_or_default().as_micros();
    format!("bench-{:x}-{micros:x}", std::process::id())
}

/// One line on a terminal, renewed every second.
async fn tell_progress(course: Arc<Course>) {
    let mut ticks = interval(Duration::from_secs(1));
    // The first tick is the start's.
    ticks.tick().await;
    let mut before = 0;
    loop {
        ticks.tick().await;
        let now = course.answered.load(Ordering::Relaxed);
        let seconds = course.started.elapsed().as_secs();
        if stderr().is_terminal() {
            // Whether anybody reads it makes no difference.
            let _ = write!(stderr(), "\r{seconds} s: {} answers/s   ", now - before);
        }
        before = now;
    }
}
