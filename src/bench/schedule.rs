//! The schedule of a load.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

use super::args::BenchArgs;

/// When each request is due, and the progress so far.
pub(super) struct Schedule {
    /// The number of the next request, of all callers.
    next: AtomicU64,
    pub(super) answered: AtomicU64,
    /// Open loop only: the time between two requests.
    interval: Option<Duration>,
    pub(super) started: Instant,
    pub(super) ends: Instant,
}

impl Schedule {
    /// A load that starts now.
    pub(super) fn new(bench: &BenchArgs) -> Self {
        let started = Instant::now();
        Self {
            next: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            interval: bench.rate.map(|rate| Duration::from_secs(1) / rate),
            started,
            ends: started + bench.duration,
        }
    }

    /// Waits until the next request is due. Returns its number and when it was due; none after the load's end.
    pub(super) async fn next(&self) -> Option<(u64, Instant)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let due = self.interval.map_or(now, |interval| {
            self.started + interval.mul_f64(number as f64)
        });
        if due > now {
            sleep_until(due.min(self.ends).into()).await;
        }
        (due < self.ends).then_some((number, due))
    }
}
