//! The schedule of a load.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

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
    /// Claims the next request's number.
    pub(super) fn claim(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// When a request is due; none in a closed loop.
    pub(super) fn due(&self, number: u64) -> Option<Instant> {
        let since_start = |interval: Duration| interval.as_secs_f64() * number as f64;
        self.interval
            .map(|interval| self.started + Duration::from_secs_f64(since_start(interval)))
    }

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
}
