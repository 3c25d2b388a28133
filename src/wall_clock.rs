//! The wall clock, which may say anything: an operator or a dead battery sets it.

use std::time::SystemTime;

use chrono::{DateTime, TimeDelta, Utc};

/// What the wall clock says. Never panics, as chrono's own does before 1970: what no date can say is the first or
/// the last that one can.
#[must_use]
pub fn now() -> DateTime<Utc> {
    of(SystemTime::now())
}

fn of(time: SystemTime) -> DateTime<Utc> {
    let epoch = DateTime::UNIX_EPOCH;
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => TimeDelta::from_std(after)
            .ok()
            .and_then(|after| epoch.checked_add_signed(after))
            .unwrap_or(DateTime::<Utc>::MAX_UTC),
        Err(before) => TimeDelta::from_std(before.duration())
            .ok()
            .and_then(|before| epoch.checked_sub_signed(before))
            .unwrap_or(DateTime::<Utc>::MIN_UTC),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn any_time_that_a_machine_can_say_is_a_date() {
        let second = Duration::from_secs(1);
        let years = Duration::from_secs(400_000 * 366 * 86_400);
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(of(epoch + second).to_rfc3339(), "1970-01-01T00:00:01+00:00");
        assert_eq!(of(epoch - second).to_rfc3339(), "1969-12-31T23:59:59+00:00");
        assert_eq!(of(epoch + years), DateTime::<Utc>::MAX_UTC);
        assert_eq!(of(epoch - years), DateTime::<Utc>::MIN_UTC);
    }
}
