//! How fast a caller is listened to: in turns with the others, and slower where it cancels calls by the thousand.
//!
//! To begin a call and to cancel it at once costs its caller next to nothing, and us a task. So a connection is
//! read a piece at a time, between which everyone else's tasks run; and whoever cancels more calls than it may is
//! not read for as long as that takes to even out. Calls that are not cancelled cost nothing of that.

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

use super::{connection_state::ConnectionState, reset_counter::ResetCounter};
use crate::telemetry::metrics::CloseReason;

/// So much is read in a turn, at least: some 80 calls, or 250 that are cancelled at once.
const MAX_TURN_BYTES: usize = 8 * 1024;

/// A connection begins with so much of what it may cancel in a second.
const INITIAL_SHARE: f64 = 0.1;

/// Who was kept waiting for so long, since it last had its whole bucket, is asked to leave: the answers to what
/// waits in front of its new calls are not wanted any more, and over a new connection these come at once.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// A connection over which calls come by HTTP/2.
pub(crate) struct ResetGuard<IO> {
    io: IO,
    state: Arc<ConnectionState>,
    resets: ResetCounter,
    bucket: TokenBucket,
    /// Which turn it was read in last, and how much.
    turn: u64,
    read: usize,
}

impl<IO> ResetGuard<IO> {
    /// One whose caller may cancel so many calls each second.
    pub(crate) fn new(io: IO, cancelled_per_second: u32, state: Arc<ConnectionState>) -> Self {
        Self {
            io,
            state,
            resets: ResetCounter::default(),
            bucket: TokenBucket::new(cancelled_per_second),
            turn: 0,
            read: 0,
        }
    }

    /// Ready as soon as it is this connection's turn.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let turn = self.state.polls();
        if self.turn != turn {
            (self.turn, self.read) = (turn, 0);
        }
        if self.read < MAX_TURN_BYTES {
            return Poll::Ready(());
        }
        // Behind everyone who waits already, and who is heard of now.
        pin!(yield_now()).poll(cx)
    }

    /// Ready as soon as it may be listened to.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.bucket.poll(cx));
        if self.bucket.waited > MAX_DELAY {
            self.state.request_close(CloseReason::Cancelling);
        }
        Poll::Ready(())
    }

    /// Takes in what was read.
    fn take_in(&mut self, bytes: &[u8]) {
        self.read += bytes.len();
        let resets = self.resets.count(bytes);
        if self.resets.has_begun() && !self.state.has_begun() {
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
        ready!(self.poll_allowance(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.take_in(&buffer.filled()[before..]);
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

/// How many calls a caller may cancel: so many at once, and it fills up again within a second.
struct TokenBucket {
    per_second: f64,
    left: f64,
    /// When that was so.
    at: Instant,
    /// Until what was taken too much has come again.
    pause: Option<Pin<Box<Sleep>>>,
    /// How long the caller waited since it was full.
    waited: Duration,
}

impl TokenBucket {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: INITIAL_SHARE * per_second,
            at: Instant::now(),
            pause: None,
            waited: Duration::ZERO,
        }
    }

    /// Takes so many off. Where they are too many, there is a pause from now on.
    fn take(&mut self, cancelled: u32) {
        let now = Instant::now();
        let came = (now - self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + came).min(self.per_second);
        if self.left >= self.per_second {
            self.waited = Duration::ZERO;
        }
        self.left -= f64::from(cancelled);
        self.at = now;
        if self.left < 0.0 {
            let pause = Duration::from_secs_f64(-self.left / self.per_second);
            self.pause = Some(Box::pin(sleep_until(now + pause)));
        }
    }

    /// Ready as soon as the caller may be listened to.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.waited += pause.deadline() - self.at;
            self.pause = None;
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

    /// How long the caller is not listened to once it has cancelled so many calls.
    async fn cancels(bucket: &mut TokenBucket, calls: u32) -> Duration {
        bucket.take(calls);
        let begun = Instant::now();
        std::future::poll_fn(|cx| bucket.poll(cx)).await;
        begun.elapsed()
    }

    /// The timer's unit.
    fn is_about(is: Duration, millis: u64) -> bool {
        is.abs_diff(Duration::from_millis(millis)) <= Duration::from_millis(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_begins_with_a_tenth_of_a_second_and_waits_for_what_is_more() {
        let mut bucket = TokenBucket::new(PER_SECOND);
        assert_eq!(cancels(&mut bucket, 100).await, Duration::ZERO);
        assert!(is_about(cancels(&mut bucket, 50).await, 50));
        assert!(is_about(cancels(&mut bucket, 200).await, 200));
        advance(Duration::from_secs(100)).await;
        assert_eq!(cancels(&mut bucket, 1_000).await, Duration::ZERO);
        assert!(is_about(cancels(&mut bucket, 10).await, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_for_a_second_in_all_is_asked_to_leave() {
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
        let cancelled = |calls: usize| {
            let mut bytes = ResetCounter::PREFACE.to_vec();
            bytes.extend(reset.repeat(calls));
            bytes
        };
        let is_asked_after = async |reset_guard: &mut ResetGuard<()>, bytes: &[u8]| {
            reset_guard.take_in(bytes);
            std::future::poll_fn(|cx| reset_guard.poll_allowance(cx)).await;
            let asked = reset_guard.state.close_requested();
            timeout(Duration::ZERO, asked).await == Ok(CloseReason::Cancelling)
        };
        let mut reset_guard = ResetGuard::new((), PER_SECOND, Arc::new(ConnectionState::new()));
        assert!(!is_asked_after(&mut reset_guard, &cancelled(1_000)).await);
        assert!(is_asked_after(&mut reset_guard, &reset.repeat(200)).await);
        // Unless it cancelled little for a while.
        let mut reset_guard = ResetGuard::new((), PER_SECOND, Arc::new(ConnectionState::new()));
        reset_guard.take_in(&cancelled(0));
        for _ in 0..10 {
            advance(Duration::from_secs(2)).await;
            assert!(!is_asked_after(&mut reset_guard, &reset.repeat(1_900)).await);
        }
    }

    #[tokio::test]
    async fn who_sends_without_a_pause_leaves_others_their_turns() {
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
            let mut reset_guard = ResetGuard::new(&SENT[..], PER_SECOND, Arc::clone(&state));
            let mut buffer = [0; MAX_TURN_BYTES];
            let mut reading =
                std::pin::pin!(async { while reset_guard.read(&mut buffer).await.unwrap() > 0 {} });
            std::future::poll_fn(|cx| {
                state.count_poll();
                reading.as_mut().poll(cx)
            })
            .await;
        });
        reader.await.unwrap();
        other.abort();
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns >= SENT.len() / MAX_TURN_BYTES - 1, "{turns}");
    }
}
