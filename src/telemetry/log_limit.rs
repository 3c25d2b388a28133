//! Log lines that an outage would repeat for every call.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets one log line a second through and counts the others: an outage is told, and does not fill the
/// log with a line for each call that it fails.
#[derive(Debug, Default)]
pub struct LogLimit {
    last: Mutex<(Option<Instant>, u64)>,
}

impl LogLimit {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// One that has let nothing through yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            last: Mutex::new((None, 0)),
        }
    }

    /// Whether a line may be logged now: then, how many were left out since the one before.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (logged_at, left_out) = &mut *last;
        if logged_at.is_some_and(|at| now.duration_since(at) < Self::INTERVAL) {
            *left_out += 1;
            return None;
        }
        *logged_at = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_is_let_through_and_the_others_are_counted() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        let admit = |millis| limit.admit(start + Duration::from_millis(millis));
        assert_eq!(admit(0), Some(0));
        assert_eq!([admit(1), admit(999)], [None, None]);
        assert_eq!(admit(1_000), Some(2));
        assert_eq!(admit(5_000), Some(0));
    }
}
