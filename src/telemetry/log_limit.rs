//! Rate limit for log lines that an outage would repeat for every call.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Admits one log line a second and counts the others, so that an outage does not log a line for each failed call.
#[derive(Debug, Default)]
pub struct LogLimit {
    last: Mutex<(Option<Instant>, u64)>,
}

impl LogLimit {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// A limit that admits the next line.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            last: Mutex::new((None, 0)),
        }
    }

    /// Admits a line: returns how many were left out since the previous one. None if the line must be left out.
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

/// Logs a line at this level, at most once a second, with the number of lines that were left out.
macro_rules! log_limited {
    ($level:ident, $($line:tt)+) => {{
        static LIMIT: $crate::telemetry::LogLimit = $crate::telemetry::LogLimit::new();
        if let Some(left_out) = LIMIT.admit(std::time::Instant::now()) {
            tracing::$level!(left_out, $($line)+);
        }
    }};
}

pub(crate) use log_limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_is_admitted_and_the_others_are_counted() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        let admit = |millis| limit.admit(start + Duration::from_millis(millis));
        assert_eq!(admit(0), Some(0));
        assert_eq!([admit(1), admit(999)], [None, None]);
        assert_eq!(admit(1_000), Some(2));
        assert_eq!(admit(5_000), Some(0));
    }
}
