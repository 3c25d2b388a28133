//! Limits how fast a connection is read, against floods of calls that are cancelled immediately (rapid reset).
//!
//! Such a call is almost free for its caller, and costs the service the work of a call. So a connection yields to other
//! tasks after each [`MAX_TURN_BYTES`], and a token bucket delays reading from a caller that cancels too many calls. h2's
//! own limit of pending resets would end the connection and all its calls.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
    time::{Instant, Sleep, sleep_until},
};

use super::{connection::ConnectionState, reset_counter::ResetCounter};
use crate::telemetry::metrics::CloseReason;

/// A connection yields after it has read this much: about 80 calls, or 250 that are cancelled immediately.
const MAX_TURN_BYTES: usize = 8 * 1024;

/// The token bucket of a new connection is filled to this share.
const INITIAL_SHARE: f64 = 0.1;

/// A connection closes when it was delayed for longer since its bucket was last full: a new connection has no backlog
/// of cancelled calls.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// An HTTP/2 connection whose reading is limited.
pub(crate) struct ResetGuard<IO> {
    io: IO,
    state: Arc<ConnectionState>,
    resets: ResetCounter,
    bucket: TokenBucket,
    /// Bytes that it has read since it last yielded.
    read: usize,
}

impl<IO> ResetGuard<IO> {
    pub(crate) fn new(io: IO, cancelled_per_second: u32, state: Arc<ConnectionState>) -> Self {
        Self {
            io,
            state,
            resets: ResetCounter::default(),
            bucket: TokenBucket::new(cancelled_per_second),
            read: 0,
        }
    }

    /// Yields once it has read [`MAX_TURN_BYTES`].
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.read < MAX_TURN_BYTES {
            return Poll::Ready(());
        }
        self.read = 0;
        // Wakes this task after all tasks that are ready now.
        pin!(yield_now()).poll(cx)
    }

    /// Ready once the bucket is not overdrawn. Closes the connection if it was delayed for too long.
    fn poll_bucket(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.bucket.poll(cx));
        if self.bucket.delayed > MAX_DELAY {
            self.state.request_close(CloseReason::Cancelling);
        }
        Poll::Ready(())
    }

    /// Counts what was read.
    fn record_read(&mut self, bytes: &[u8]) {
        self.read += bytes.len();
        let resets = self.resets.count(bytes);
        if self.resets.has_begun() {
            self.state.set_begun();
        }
        if resets > 0 {
            self.bucket.take(resets);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ResetGuard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(cx));
        ready!(self.poll_bucket(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.record_read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ResetGuard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A token bucket of cancelled calls. It refills within a second.
struct TokenBucket {
    per_second: f64,
    left: f64,
    /// When `left` was computed.
    at: Instant,
    /// Runs until the bucket is no longer overdrawn.
    delay: Option<Pin<Box<Sleep>>>,
    /// The total delay since the bucket was last full.
    delayed: Duration,
}

impl TokenBucket {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: INITIAL_SHARE * per_second,
            at: Instant::now(),
            delay: None,
            delayed: Duration::ZERO,
        }
    }

    /// Takes tokens. An overdrawn bucket delays the caller from now on.
    fn take(&mut self, cancelled: u32) {
        let now = Instant::now();
        let refill = (now - self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + refill).min(self.per_second);
        if self.left >= self.per_second {
            self.delayed = Duration::ZERO;
        }
        self.left -= f64::from(cancelled);
        self.at = now;
        if self.left < 0.0 {
            let delay = Duration::from_secs_f64(-self.left / self.per_second);
            self.delay = Some(Box::pin(sleep_until(now + delay)));
        }
    }

    /// Ready once the bucket is not overdrawn.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(delay) = &mut self.delay {
            ready!(delay.as_mut().poll(cx));
            self.delayed += delay.deadline() - self.at;
            self.delay = None;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::AsyncReadExt as _,
        time::{advance, timeout},
    };

    use super::*;

    const PER_SECOND: u32 = 1_000;

    /// How long reading is delayed after so many cancelled calls.
    async fn delay_after(bucket: &mut TokenBucket, calls: u32) -> Duration {
        bucket.take(calls);
        let begun = Instant::now();
        std::future::poll_fn(|cx| bucket.poll(cx)).await;
        begun.elapsed()
    }

    /// Within the timer's resolution.
    fn is_about(is: Duration, millis: u64) -> bool {
        is.abs_diff(Duration::from_millis(millis)) <= Duration::from_millis(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_may_cancel_a_tenth_of_its_rate_before_it_is_delayed() {
        let mut bucket = TokenBucket::new(PER_SECOND);
        assert_eq!(delay_after(&mut bucket, 100).await, Duration::ZERO);
        assert!(is_about(delay_after(&mut bucket, 50).await, 50));
        assert!(is_about(delay_after(&mut bucket, 200).await, 200));
        advance(Duration::from_secs(100)).await;
        assert_eq!(delay_after(&mut bucket, 1_000).await, Duration::ZERO);
        assert!(is_about(delay_after(&mut bucket, 10).await, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_delayed_for_a_second_in_total_closes() {
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
        let cancelled = |calls: usize| {
            let mut bytes = ResetCounter::PREFACE.to_vec();
            bytes.extend(reset.repeat(calls));
            bytes
        };
        let closes_after = async |reset_guard: &mut ResetGuard<()>, bytes: &[u8]| {
            reset_guard.record_read(bytes);
            std::future::poll_fn(|cx| reset_guard.poll_bucket(cx)).await;
            let reason = reset_guard.state.close_requested();
            timeout(Duration::ZERO, reason).await == Ok(CloseReason::Cancelling)
        };
        let mut reset_guard = ResetGuard::new((), PER_SECOND, Arc::new(ConnectionState::new()));
        assert!(!closes_after(&mut reset_guard, &cancelled(1_000)).await);
        assert!(closes_after(&mut reset_guard, &reset.repeat(200)).await);
        // Not if its bucket was full in between.
        let mut reset_guard = ResetGuard::new((), PER_SECOND, Arc::new(ConnectionState::new()));
        reset_guard.record_read(&cancelled(0));
        for _ in 0..10 {
            advance(Duration::from_secs(2)).await;
            assert!(!closes_after(&mut reset_guard, &reset.repeat(1_900)).await);
        }
    }

    #[tokio::test]
    async fn a_caller_that_sends_without_a_pause_does_not_starve_other_tasks() {
        static SENT: [u8; 1 << 20] = [0; 1 << 20];
        let turns = Arc::new(AtomicUsize::new(0));
        let other = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move {
                loop {
                    turns.fetch_add(1, Ordering::Relaxed);
                    yield_now().await;
                }
            }
        });
        let reader = tokio::spawn(async {
            let state = Arc::new(ConnectionState::new());
            let mut reset_guard = ResetGuard::new(&SENT[..], PER_SECOND, state);
            let mut buffer = [0; MAX_TURN_BYTES];
            while reset_guard.read(&mut buffer).await.unwrap() > 0 {}
        });
        reader.await.unwrap();
        other.abort();
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns >= SENT.len() / MAX_TURN_BYTES - 1, "{turns}");
    }
}
