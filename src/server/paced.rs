//! How fast a caller is listened to: in turns with the others, and slower where it cancels calls by the thousand.
//!
//! To begin a call and to cancel it at once costs its caller next to nothing, and us a task. So a connection is
//! read a piece at a time, between which everyone else's tasks run; and whoever cancels more calls than it may is
//! not read for as long as that takes to even out. Calls that are answered cost nothing of that.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop::poll_proceed,
    time::{Instant, Sleep, sleep_until},
};

use super::activity::Activity;

/// Of what a task may do in its turn, this many bytes that are read take one part. The runtime gives it 128: it
/// reads 8 KiB, some 80 calls, or 250 that are cancelled at once.
const BYTES_OF_A_PART: usize = 64;

/// A connection begins with so much of what it may cancel in a second.
const AT_FIRST: f64 = 0.1;

/// Who was kept waiting for so long is asked to leave: the answers to what waits in front of its new calls are
/// not wanted any more, and over a new connection these come at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection over which calls come.
pub(super) struct Paced<IO> {
    io: IO,
    allowance: Allowance,
    /// Parts of a turn that were read and not yet taken off.
    owes: usize,
}

impl<IO> Paced<IO> {
    /// One whose caller may cancel so many calls each second.
    pub(super) fn new(io: IO, cancelled_per_second: u32, activity: Arc<Activity>) -> Self {
        Self {
            io,
            allowance: Allowance::new(cancelled_per_second, activity),
            owes: 0,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Paced<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            io,
            allowance,
            owes,
        } = &mut *self;
        while *owes > 0 {
            ready!(poll_proceed(cx)).made_progress();
            *owes -= 1;
        }
        ready!(allowance.poll(cx));
        let before = buffer.filled().len();
        let read = ready!(Pin::new(io).poll_read(cx, buffer));
        *owes = (buffer.filled().len() - before).div_ceil(BYTES_OF_A_PART);
        Poll::Ready(read)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Paced<IO> {
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
struct Allowance {
    activity: Arc<Activity>,
    per_second: f64,
    left: f64,
    /// When that was so.
    at: Instant,
    /// How many were cancelled by then.
    cancelled: u64,
    pause: Option<Pin<Box<Sleep>>>,
    /// How long it was paused since it was full.
    paused: Duration,
}

impl Allowance {
    fn new(per_second: u32, activity: Arc<Activity>) -> Self {
        let per_second = f64::from(per_second);
        Self {
            activity,
            per_second,
            left: AT_FIRST * per_second,
            at: Instant::now(),
            cancelled: 0,
            pause: None,
            paused: Duration::ZERO,
        }
    }

    /// Ready as soon as the caller may be listened to.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let cancelled = self.activity.cancelled();
        if cancelled == self.cancelled {
            return Poll::Ready(());
        }
        let Some(pause) = self.take(cancelled) else {
            return Poll::Ready(());
        };
        self.paused += pause;
        if self.paused > PATIENCE {
            self.activity.cancels_too_much();
        }
        let pause = self.pause.insert(Box::pin(sleep_until(self.at + pause)));
        pause.as_mut().poll(cx)
    }

    /// Takes off what was cancelled by now, and tells how long that takes to come again.
    fn take(&mut self, cancelled: u64) -> Option<Duration> {
        let now = Instant::now();
        let came = (now - self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + came).min(self.per_second);
        if self.left >= self.per_second {
            self.paused = Duration::ZERO;
        }
        let new = u32::try_from(cancelled - self.cancelled).unwrap_or(u32::MAX);
        self.left -= f64::from(new);
        (self.at, self.cancelled) = (now, cancelled);
        (self.left < 0.0).then(|| Duration::from_secs_f64(-self.left / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::AsyncReadExt as _,
        task::yield_now,
        time::{advance, timeout},
    };

    use super::{super::activity::Open, *};

    const PER_SECOND: u32 = 1_000;

    struct Caller {
        activity: Arc<Activity>,
        allowance: Allowance,
    }

    impl Caller {
        fn new() -> Self {
            let activity = Arc::new(Activity::new());
            let allowance = Allowance::new(PER_SECOND, Arc::clone(&activity));
            Self {
                activity,
                allowance,
            }
        }

        /// How long it is not listened to once it has cancelled so many calls.
        async fn cancels(&mut self, calls: usize) -> Duration {
            self.end(calls, false);
            self.waits().await
        }

        fn end(&self, calls: usize, is_answered: bool) {
            for _ in 0..calls {
                Open::of(&self.activity).is_answered = is_answered;
            }
        }

        async fn waits(&mut self) -> Duration {
            let begun = Instant::now();
            std::future::poll_fn(|cx| self.allowance.poll(cx)).await;
            begun.elapsed()
        }

        async fn is_asked_to_leave(&self) -> bool {
            let asked = self.activity.too_much_is_cancelled();
            timeout(Duration::ZERO, asked).await.is_ok()
        }
    }

    /// The timer's unit.
    fn is_about(is: Duration, millis: u64) -> bool {
        is.abs_diff(Duration::from_millis(millis)) <= Duration::from_millis(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_begins_with_a_tenth_of_a_second_and_waits_for_what_is_more() {
        let mut caller = Caller::new();
        assert_eq!(caller.cancels(100).await, Duration::ZERO);
        assert!(is_about(caller.cancels(50).await, 50));
        assert!(is_about(caller.cancels(200).await, 200));
        advance(Duration::from_secs(100)).await;
        assert_eq!(caller.cancels(1_000).await, Duration::ZERO);
        assert!(is_about(caller.cancels(10).await, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_answered_costs_nothing() {
        let mut caller = Caller::new();
        caller.end(100_000, true);
        assert_eq!(caller.waits().await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_for_a_second_in_all_is_asked_to_leave() {
        let mut caller = Caller::new();
        caller.cancels(1_000).await;
        assert!(!caller.is_asked_to_leave().await);
        caller.cancels(200).await;
        assert!(caller.is_asked_to_leave().await);
        // Unless it cancelled little for a while.
        let mut caller = Caller::new();
        for _ in 0..10 {
            advance(Duration::from_secs(2)).await;
            caller.cancels(1_900).await;
        }
        assert!(!caller.is_asked_to_leave().await);
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
            let mut paced = Paced::new(&SENT[..], PER_SECOND, Arc::new(Activity::new()));
            let mut buffer = [0; 8 * 1024];
            while paced.read(&mut buffer).await.unwrap() > 0 {}
        });
        reader.await.unwrap();
        other.abort();
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns >= 120, "{turns}");
    }
}
