//! The deadline of a call (docs/CONTRACT.md, "Errors").
//!
//! The answer is sent before the caller's deadline: a tenth of the time, at most 50 ms, is reserved for its way to
//! the caller.

use std::time::Duration;

use tokio::time::Instant;
use tonic::codegen::http::HeaderMap;

/// The most time that is reserved for sending the answer.
const MAX_RETURN_TIME: Duration = Duration::from_millis(50);

/// A longer timeout counts as this. Far less than overflows an `Instant`.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// When a call ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallDeadline {
    /// When the answer must be ready, if the caller has a deadline.
    pub(super) answer_by: Option<Instant>,
    /// When the call is ended in any case, even if its message has not arrived completely.
    pub(super) ends_at: Instant,
}

impl CallDeadline {
    /// The deadline of a new call, by its `grpc-timeout`. Without one the call ends after twice `call_timeout`.
    pub(super) fn of(headers: &HeaderMap, call_timeout: Duration) -> Self {
        let now = Instant::now();
        let timeout = headers.get("grpc-timeout");
        let timeout = timeout.and_then(|text| parse(text.as_bytes()));
        let timeout = timeout.map(|timeout| timeout.min(MAX_TIMEOUT));
        Self {
            answer_by: timeout.map(|timeout| now + answer_time(timeout)),
            ends_at: now + timeout.unwrap_or(call_timeout * 2),
        }
    }
}

/// How long the answer may take, if the caller waits for `timeout`.
fn answer_time(timeout: Duration) -> Duration {
    timeout - (timeout / 10).min(MAX_RETURN_TIME)
}

/// Parses `grpc-timeout`: one to eight digits and a unit. Anything else is ignored, as tonic does.
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
    fn a_tenth_of_the_time_is_reserved_for_sending_the_answer_and_at_most_50_ms() {
        let millis = Duration::from_millis;
        assert_eq!(answer_time(millis(0)), millis(0));
        assert_eq!(answer_time(millis(50)), millis(45));
        assert_eq!(answer_time(millis(10_000)), millis(9_950));
    }

    #[test]
    fn a_call_is_answered_before_its_deadline_and_ends_within_a_day() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", "99999999H".parse().expect("a header"));
        let now = Instant::now();
        let CallDeadline { answer_by, ends_at } = CallDeadline::of(&headers, Duration::ZERO);
        assert!(ends_at >= now + MAX_TIMEOUT && ends_at <= Instant::now() + MAX_TIMEOUT);
        assert_eq!(answer_by, Some(ends_at - MAX_RETURN_TIME));
    }

    #[test]
    fn a_call_without_a_timeout_ends_after_twice_the_call_timeout() {
        let (now, time) = (Instant::now(), Duration::from_secs(1));
        let CallDeadline { answer_by, ends_at } = CallDeadline::of(&HeaderMap::new(), time);
        assert_eq!(answer_by, None);
        assert!(ends_at >= now + 2 * time && ends_at <= Instant::now() + 2 * time);
    }
}
