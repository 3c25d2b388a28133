//! When a call must have its answer (docs/CONTRACT.md, "Errors").
//!
//! tonic ends a call at its caller's deadline by itself, and says nothing but CANCELLED then. So the answer
//! comes a little before: a tenth of the caller's time, at most 50 ms, is kept for its way back.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// The most that is kept for the way back.
const MOST_FOR_THE_WAY: Duration = Duration::from_millis(50);

/// No caller waits for longer. Far from what an `Instant` can't hold.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// By when a call that has just come is answered: the caller's deadline, else the default.
pub(super) fn answer_by(metadata: &MetadataMap, default: Duration) -> Instant {
    let wanted = metadata.get("grpc-timeout");
    let wanted = wanted.and_then(|text| parse(text.as_bytes()));
    Instant::now() + wanted.map_or(default, before)
}

/// A little less than what the caller waits.
fn before(timeout: Duration) -> Duration {
    let timeout = timeout.min(LONGEST);
    timeout - (timeout / 10).min(MOST_FOR_THE_WAY)
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
        assert_eq!(before(Duration::MAX), LONGEST - MOST_FOR_THE_WAY);
    }
}
