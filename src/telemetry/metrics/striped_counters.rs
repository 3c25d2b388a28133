//! Counters without contention: each thread adds to its own stripe, and a read sums the stripes.
//!
//! If two cores add to one atomic, its cache line moves between them, which costs more than the addition.

use std::{
    iter,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Threads beyond this many share a stripe.
const STRIPES: usize = 16;

/// The minimum distance of two stripes, in counters: two cache lines, since the CPU fetches them in pairs.
const STRIPE_DISTANCE: usize = 16;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// A fixed number of counters.
#[derive(Debug)]
pub(super) struct StripedCounters {
    cells: Box<[AtomicU64]>,
    /// Counters of one stripe.
    width: usize,
}

impl StripedCounters {
    pub(super) fn new(counters: usize) -> Self {
        let width = counters.next_multiple_of(STRIPE_DISTANCE) + STRIPE_DISTANCE;
        let cells = iter::repeat_with(|| AtomicU64::new(0));
        Self {
            cells: cells.take(width * STRIPES).collect(),
            width,
        }
    }

    pub(super) fn add(&self, index: usize, value: u64) {
        // The thread-local of an ending thread may be gone.
        let stripe = STRIPE.try_with(|stripe| *stripe).unwrap_or(0);
        self.cells[stripe * self.width + index].fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn sum(&self, index: usize) -> u64 {
        let stripes = self.cells.chunks(self.width);
        stripes.fold(0, |sum, stripe| {
            sum.wrapping_add(stripe[index].load(Ordering::Relaxed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_has_the_additions_of_all_threads() {
        let cells = StripedCounters::new(3);
        std::thread::scope(|threads| {
            for _ in 0..2 * STRIPES {
                threads.spawn(|| (0..100).for_each(|_| cells.add(1, 3)));
            }
        });
        cells.add(2, 5);
        assert_eq!([0, 1, 2].map(|index| cells.sum(index)), [0, 9_600, 5]);
    }
}
