//! The wall clock, which may say anything: an operator or a dead battery sets it.

use chrono::{DateTime, Utc};
use rustix::time::{ClockId, clock_gettime};

/// What the wall clock says. Never panics, as chrono's own does before 1970: what no date can say is the first or
/// the last that one can.
#[must_use]
pub fn now() -> DateTime<Utc> {
    let now = clock_gettime(ClockId::Realtime);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    DateTime::from_timestamp(now.tv_sec, nanos).unwrap_or(match now.tv_sec {
        ..0 => DateTime::<Utc>::MIN_UTC,
        _ => DateTime::<Utc>::MAX_UTC,
    })
}
