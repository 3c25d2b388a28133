//! The ledger's guess at the store's clock.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::UtcDay;

/// The store's clock as it was last seen: this machine's, put right by the difference.
#[derive(Default)]
pub(super) struct StoreClock {
    ahead_ms: AtomicI64,
}

impl StoreClock {
    /// Takes in what the store's clock said, and gives its day.
    pub(super) fn learn(&self, now: DateTime<Utc>) -> UtcDay {
        let ahead = now
            .signed_duration_since(crate::wall_clock::now())
            .num_milliseconds();
        self.ahead_ms.store(ahead, Ordering::Relaxed);
        UtcDay::of(now)
    }

    /// Which day it probably is for the store.
    pub(super) fn today(&self) -> UtcDay {
        let ahead = TimeDelta::milliseconds(self.ahead_ms.load(Ordering::Relaxed));
        let now = crate::wall_clock::now();
        UtcDay::of(now.checked_add_signed(ahead).unwrap_or(now))
    }
}
