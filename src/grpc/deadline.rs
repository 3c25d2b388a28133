//! The deadline of a call (docs/CONTRACT.md, "Errors").
//!
//! The answer comes a little before the caller's deadline: a tenth of its time, at most 50 ms, is kept for the way
//! back.

use std::time::Duration;

use tokio::time::Instant;
use tonic::codegen::http::HeaderMap;

/// The most time that is kept for the way back.
const MAX_WAY_BACK: Duration = Duration::from_millis(50);

/// No caller waits for longer. Far from what an `Instant` can't hold.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// When a call ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallDeadline {
    /// When the answer must be there, where the caller has a deadline.
    pub(super) answer_by: Option<Instant>,
    /// When the call is ended, whatever it does: it may not even have come whole.
    pub(super) ends: Instant,
}

impl CallDeadline {
    /// Of a call that has just come, by its `grpc-timeout`. Without one it ends after twice the time that it may
    /// wait for the store.
    pub(super) fn of(headers: &HeaderMap, call_timeout: Duration) -> Self {
        let now = Instant::now();
        let timeout = headers.get("grpc-timeout");
        let timeout = timeout.and_then(|text| parse(text.as_bytes()));
        let timeout = timeout.map(|timeout| timeout.min(MAX_TIMEOUT));
        Self {
            answer_by: timeout.map(|timeout| now + before(timeout)),
            ends: now + timeout.unwrap_or(call_timeout * 2),
        }
    }
}

/// A little less than what the caller waits.
fn before(timeout: Duration) -> Duration {
    timeout - (timeout / 10).min(MAX_WAY_BACK)
}

/// `grpc-timeout`: one to eight digits and a unit. Anything else is as if there were none, as for tonic.
fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits
        .iter()
        .fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 60 * 60),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        for (text, wanted) in [
            ("1n", Duration::from_nanos(1)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("250m", Duration::from_millis(250)),
            ("3S", Duration::from_secs(3)),
            ("2M", Duration::from_secs(120)),
            ("99999999H", Duration::from_secs(99_999_999 * 3_600)),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(wanted), "{text}");
        }
        for text in [
            "",
            "S",
            "5",
            "1s",
            "-1S",
            "1.5S",
            "123456789S",
            " 1S",
            "1 S",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_tenth_of_the_time_is_kept_for_the_way_back_but_no_more_than_needed() {
        let millis = Duration::from_millis;
        assert_eq!(before(millis(0)), millis(0));
        assert_eq!(before(millis(50)), millis(45));
        assert_eq!(before(millis(10_000)), millis(9_950));
    }

    #[test]
    fn a_call_has_its_answer_a_little_before_its_deadline_and_no_caller_waits_for_ever() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", "99999999H".parse().expect("a header"));
        let now = Instant::now();
        let CallDeadline { answer_by, ends } = CallDeadline::of(&headers, Duration::ZERO);
        assert!(ends >= now + MAX_TIMEOUT && ends <= Instant::now() + MAX_TIMEOUT);
        assert_eq!(answer_by, Some(ends - MAX_WAY_BACK));
    }

    #[test]
    fn a_call_without_a_timeout_has_twice_the_time_for_the_store_to_come_whole() {
        let (now, time) = (Instant::now(), Duration::from_secs(1));
        let CallDeadline { answer_by, ends } = CallDeadline::of(&HeaderMap::new(), time);
        assert_eq!(answer_by, None);
        assert!(ends >= now + 2 * time && ends <= Instant::now() + 2 * time);
    }
}
