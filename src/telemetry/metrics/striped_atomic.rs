//! An atomic number without contention: each thread adds to its own stripe, and a read sums the stripes.
//!
//! If two cores add to one atomic, its cache line moves between them, which costs more than the addition.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus_client::metrics::counter::{self, Atomic};

/// Threads beyond this many share a stripe.
const STRIPES: usize = 8;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// A counter of what each request adds to.
pub(super) type Counter = counter::Counter<u64, StripedAtomic>;

/// One number, in stripes.
#[derive(Debug, Default)]
pub(super) struct StripedAtomic([Stripe; STRIPES]);

/// In two cache lines of its own, since the CPU fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl Atomic<u64> for StripedAtomic {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    fn inc_by(&self, value: u64) -> u64 {
        // The thread-local of an ending thread may be gone.
        let stripe = STRIPE.try_with(|stripe| *stripe).unwrap_or(0);
        self.0[stripe].0.fetch_add(value, Ordering::Relaxed)
    }

    fn get(&self) -> u64 {
        let stripes = self.0.iter().map(|Stripe(value)| value);
        stripes.fold(0, |sum, value| {
            sum.wrapping_add(value.load(Ordering::Relaxed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_has_the_additions_of_all_threads() {
        let counter = Counter::default();
        std::thread::scope(|threads| {
            for _ in 0..2 * STRIPES {
                threads.spawn(|| (0..100).for_each(|_| _ = counter.inc_by(3)));
            }
        });
        assert_eq!(counter.get(), 4_800);
    }
}
