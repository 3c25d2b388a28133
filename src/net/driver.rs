//! Drives a connection and its short calls in one task.
//!
//! Each of the two has a waker of its own, so a turn polls only what is ready: a response wakes the connection within
//! the turn, and not the task once more, for which the runtime would wake another thread.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use hyper_util::server::graceful::GracefulConnection;
use tokio::task::yield_now;

use super::calls::Calls;

/// The responses of so many turns are written together.
const TURNS_TOGETHER: usize = 8;

/// A connection and its short calls.
pub(crate) struct ConnectionDriver<C> {
    connection: Pin<Box<C>>,
    calls: Calls,
    task: Arc<DriverTask>,
    connection_waker: PartWaker,
    calls_waker: PartWaker,
    /// How many turns have left calls to the next one, since the last that did not.
    cut_turns: usize,
}

/// The task in which the connection is driven.
#[derive(Default)]
struct DriverTask {
    waker: AtomicWaker,
    /// A turn finds out itself what woke meanwhile.
    is_in_turn: AtomicBool,
}

/// The waker of the connection, or of its calls.
struct PartWaker {
    part: Arc<DrivenPart>,
    waker: Waker,
}

struct DrivenPart {
    is_woken: AtomicBool,
    task: Arc<DriverTask>,
}

impl Wake for DrivenPart {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        if !self.task.is_in_turn.load(Ordering::SeqCst) {
            self.task.waker.wake();
        }
    }
}

impl PartWaker {
    /// Woken, for its first turn.
    fn new(task: &Arc<DriverTask>) -> Self {
        let part = Arc::new(DrivenPart {
            is_woken: AtomicBool::new(true),
            task: Arc::clone(task),
        });
        let waker = Waker::from(Arc::clone(&part));
        Self { part, waker }
    }

    fn take(&self) -> bool {
        self.part.is_woken.swap(false, Ordering::SeqCst)
    }

    fn is_woken(&self) -> bool {
        self.part.is_woken.load(Ordering::SeqCst)
    }
}

impl<C: GracefulConnection> ConnectionDriver<C> {
    pub(crate) fn new(connection: C, calls: Calls) -> Self {
        let task = Arc::default();
        Self {
            connection: Box::pin(connection),
            calls,
            connection_waker: PartWaker::new(&task),
            calls_waker: PartWaker::new(&task),
            task,
            cut_turns: 0,
        }
    }

    /// Takes no new calls from now on. The open ones continue.
    pub(crate) fn graceful_shutdown(&mut self) {
        self.connection.as_mut().graceful_shutdown();
        self.connection_waker.part.wake_by_ref();
    }

    fn poll_connection(&mut self) -> Poll<Result<(), C::Error>> {
        // The responses of all calls that are ready are written together, if they are not too many.
        let waits = !self.cut_turns.is_multiple_of(TURNS_TOGETHER);
        if waits || !self.connection_waker.take() {
            return Poll::Pending;
        }
        let mut cx = Context::from_waker(&self.connection_waker.waker);
        self.connection.as_mut().poll(&mut cx)
    }

    fn poll_calls(&mut self) {
        // Twice: FuturesUnordered wakes its task once all its futures were polled, ready or not.
        for _ in 0..2 {
            if !(self.calls_waker.take() || self.cut_turns > 0 || self.calls.have_begun()) {
                return;
            }
            let mut cx = Context::from_waker(&self.calls_waker.waker);
            if !self.calls.poll_turn(&mut cx) {
                self.cut_turns += 1;
                return;
            }
            self.cut_turns = 0;
        }
    }
}

impl<C: GracefulConnection> Future for ConnectionDriver<C> {
    type Output = Result<(), C::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.task.waker.register(cx.waker());
        this.task.is_in_turn.store(true, Ordering::SeqCst);
        let mut polled = this.poll_connection();
        if polled.is_pending() {
            this.poll_calls();
            // Writes the responses.
            polled = this.poll_connection();
        }
        this.task.is_in_turn.store(false, Ordering::SeqCst);
        let is_ready = this.connection_waker.is_woken() || this.calls_waker.is_woken();
        if polled.is_pending() && (is_ready || this.cut_turns > 0 || this.calls.have_begun()) {
            // Wakes this task after all that are ready now, and after those of new events.
            let _ = pin!(yield_now()).poll(cx);
        }
        polled
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
