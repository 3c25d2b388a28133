//! When a call must have its answer (docs/CONTRACT.md, "Errors").
//!
//! tonic ends a call at its caller's deadline by itself, and says nothing but CANCELLED then. So the answer
//! comes a little before: a tenth of the caller's time, at most 50 ms, is kept for its way back. Where a call
//! has not come whole by its deadline, it is ended ([`InTime`]).

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body, metadata::MetadataMap};
use tower_service::Service;

use super::heard::Heard;

/// The most that is kept for the way back.
const MOST_FOR_THE_WAY: Duration = Duration::from_millis(50);

/// No caller waits for longer. Far from what an `Instant` can't hold.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// By when a call that has just come is answered: the caller's deadline, else the default.
pub(super) fn answer_by(metadata: &MetadataMap, default: Duration) -> Instant {
    let wanted = metadata.get(GRPC_TIMEOUT);
    let wanted = wanted.and_then(|text| parse(text.as_bytes()));
    Instant::now() + wanted.map_or(default, before)
}

/// Services whose calls end at their callers' deadlines, whatever they do; and where there is none, those that
/// have not even come whole when twice the default is over. Streams, whose answers have begun, go on.
#[derive(Clone)]
pub struct InTime<S> {
    services: S,
    default: Duration,
}

impl<S> InTime<S> {
    /// `default` is how long a call whose caller has no deadline waits for the store.
    pub fn new(services: S, default: Duration) -> Self {
        Self { services, default }
    }
}

impl<S, B> Service<Request<B>> for InTime<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Ending<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let ends = Instant::now() + longest(request.headers(), self.default);
        Ending {
            heard: request.extensions().get().cloned(),
            answer: self.services.call(request),
            ends,
            timer: None,
        }
    }
}

pin_project! {
    /// A call that ends at its deadline.
    pub struct Ending<F> {
        #[pin]
        answer: F,
        heard: Option<Heard>,
        ends: Instant,
        // Most calls need none: their answer is there at once.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F, E> Future for Ending<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.answer.poll(cx) {
            return Poll::Ready(answer);
        }
        let ends = *this.ends;
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(ends)));
        timer.as_mut().poll(cx).map(|()| {
            if let Some(heard) = this.heard {
                heard.ends_late();
            }
            let late = Status::deadline_exceeded(
                "the call was not over at its deadline: its outcome is unknown, retry with the same request_id",
            );
            Ok(late.into_http())
        })
    }
}

const GRPC_TIMEOUT: &str = "grpc-timeout";

fn longest(headers: &HeaderMap, default: Duration) -> Duration {
    let wanted = headers.get(GRPC_TIMEOUT);
    let wanted = wanted.and_then(|text| parse(text.as_bytes()));
    wanted.map_or(default * 2, |timeout| timeout.min(LONGEST))
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
