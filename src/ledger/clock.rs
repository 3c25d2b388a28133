//! The ledger's prediction of the store's clock.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::UtcDay;

/// Predicts the store's clock: this machine's clock plus the last known difference.
#[derive(Default)]
pub(super) struct StoreClock {
    ahead_ms: AtomicI64,
}

impl StoreClock {
    /// Updates the difference with the store's time, and returns the store's day.
    pub(super) fn update(&self, now: DateTime<Utc>) -> UtcDay {
        let ahead = now
            .signed_duration_since(crate::wall_clock::now())
            .num_milliseconds();
        self.ahead_ms.store(ahead, Ordering::Relaxed);
        UtcDay::of(now)
    }

    /// The day on which the store probably is.
    pub(super) fn today(&self) -> UtcDay {
        let ahead = TimeDelta::milliseconds(self.ahead_ms.load(Ordering::Relaxed));
        let now = crate::wall_clock::now();
        UtcDay::of(now.checked_add_signed(ahead).unwrap_or(now))
    }
}
