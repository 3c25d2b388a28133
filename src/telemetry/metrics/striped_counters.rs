//! Numbers that many threads add to without getting in each other's way.
//!
//! Two cores that add to one number take it from each other, time and again, and that costs more than all
//! the rest of counting. So each thread adds to numbers of its own, and whoever reads adds them up.

use std::{
    iter,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// More threads than this share.
const STRIPES: usize = 16;

/// Numbers of different stripes are so far apart, or more: two of the cache's lines, which are fetched
/// together.
const APART: usize = 16;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// So many sums, all of them 0 at first.
#[derive(Debug)]
pub(super) struct StripedCounters {
    cells: Box<[AtomicU64]>,
    /// StripedCounters of one stripe.
    width: usize,
}

impl StripedCounters {
    pub(super) fn new(sums: usize) -> Self {
        let width = sums.next_multiple_of(APART) + APART;
        let cells = iter::repeat_with(|| AtomicU64::new(0));
        Self {
            cells: cells.take(width * STRIPES).collect(),
            width,
        }
    }

    pub(super) fn add(&self, place: usize, value: u64) {
        // While a thread ends it may have none any more.
        let stripe = STRIPE.try_with(|stripe| *stripe).unwrap_or(0);
        self.cells[stripe * self.width + place].fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn sum(&self, place: usize) -> u64 {
        let stripes = self.cells.chunks(self.width);
        stripes.fold(0, |sum, stripe| {
            sum.wrapping_add(stripe[place].load(Ordering::Relaxed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_adds_all_of_it_is_in_the_sum_of_its_place() {
        let cells = StripedCounters::new(3);
        std::thread::scope(|threads| {
            for _ in 0..2 * STRIPES {
                threads.spawn(|| (0..100).for_each(|_| cells.add(1, 3)));
            }
        });
        cells.add(2, 5);
        assert_eq!([0, 1, 2].map(|place| cells.sum(place)), [0, 9_600, 5]);
    }
}
