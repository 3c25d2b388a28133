//! The short calls of an HTTP/2 connection, which run in the connection's own task.
//!
//! With a task for each call, the run queue of a thread has an entry for everything that a busy connection has read,
//! and a new caller waits behind all of it. So a connection has one entry for all its short calls, and gives way to
//! other tasks after [`MAX_TURN_CALLS`] of them. A call that may be long, or occupy a thread for long, has a task of
//! its own: it would hold up the others.

use std::{
    mem,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::{FutureExt as _, StreamExt as _, future::CatchUnwind, stream::FuturesUnordered};
use hyper::rt::Executor;

/// A connection gives way to other tasks after it has ended so many calls.
const MAX_TURN_CALLS: usize = 8;

/// A call whose panic ends it alone.
type ShortCall = CatchUnwind<AssertUnwindSafe<Pin<Box<dyn Future<Output = ()> + Send>>>>;

/// The short calls of a connection. Dropping them cancels them.
#[derive(Default)]
pub(crate) struct Calls {
    executor: CallExecutor,
    open: FuturesUnordered<ShortCall>,
}

/// Takes the calls that a connection begins.
#[derive(Clone, Default)]
pub(crate) struct CallExecutor(Arc<Mutex<BegunCalls>>);

#[derive(Default)]
struct BegunCalls {
    short: Vec<ShortCall>,
    next_is_long: bool,
}

impl CallExecutor {
    /// The next call has a task of its own.
    pub(crate) fn set_next_is_long(&self) {
        self.begun().next_is_long = true;
    }

    fn begun(&self) -> MutexGuard<'_, BegunCalls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Executor<F> for CallExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let mut begun = self.begun();
        if mem::take(&mut begun.next_is_long) {
            drop(begun);
            tokio::spawn(call);
            return;
        }
        let call: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(call);
        begun.short.push(AssertUnwindSafe(call).catch_unwind());
    }
}

impl Calls {
    pub(crate) fn executor(&self) -> CallExecutor {
        self.executor.clone()
    }

    /// Whether the connection has begun calls that were not polled yet.
    pub(crate) fn have_begun(&self) -> bool {
        !self.executor.begun().short.is_empty()
    }

    /// Polls the calls that are ready. False if some are left for the next turn.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> bool {
        let mut begun = self.executor.begun();
        let turn = begun.short.len().min(MAX_TURN_CALLS);
        self.open.extend(begun.short.drain(..turn));
        drop(begun);
        let mut ended = (0..MAX_TURN_CALLS).map(|_| self.open.poll_next_unpin(cx));
        ended.any(|polled| !matches!(polled, Poll::Ready(Some(_)))) && !self.have_begun()
    }
}

impl Drop for Calls {
    /// A call that was not polled yet has the executor, which has the call.
    fn drop(&mut self) {
        let short = mem::take(&mut self.executor.begun().short);
        // Not under the lock, which a call may take.
        drop(short);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures_util::task::noop_waker_ref;

    use super::*;

    fn poll_turn(calls: &mut Calls) -> bool {
        calls.poll_turn(&mut Context::from_waker(noop_waker_ref()))
    }

    #[test]
    fn a_panic_in_a_call_ends_it_alone() {
        let (mut calls, ended) = (Calls::default(), Arc::new(AtomicUsize::new(0)));
        let executor = calls.executor();
        executor.execute(async { panic!("as a handler might") });
        let count = Arc::clone(&ended);
        executor.execute(async move {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert!(poll_turn(&mut calls));
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_turn_is_bounded_in_new_calls_and_in_calls_that_end() {
        let mut calls = Calls::default();
        for _ in 0..MAX_TURN_CALLS {
            calls.executor().execute(pending());
            calls.executor().execute(ready(()));
        }
        assert!(!poll_turn(&mut calls), "half of them are new");
        assert!(calls.have_begun());
        let waiting = calls.open.len();
        assert!(poll_turn(&mut calls));
        assert_eq!(
            (waiting, calls.open.len()),
            (MAX_TURN_CALLS / 2, MAX_TURN_CALLS)
        );
    }

    #[test]
    fn calls_end_with_their_connection_whether_they_were_polled_or_not() {
        let (mut calls, held) = (Calls::default(), Arc::new(()));
        for _ in 0..=MAX_TURN_CALLS {
            let (held, executor) = (Arc::clone(&held), calls.executor());
            calls.executor().execute(async move {
                let _held = (held, executor);
                pending().await
            });
        }
        assert!(!poll_turn(&mut calls));
        drop(calls);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn a_long_call_has_a_task_of_its_own() {
        let mut calls = Calls::default();
        let executor = calls.executor();
        executor.set_next_is_long();
        executor.execute(ready(()));
        assert!(!calls.have_begun());
        executor.execute(ready(()));
        assert!(calls.have_begun(), "only the next one has one");
        assert!(poll_turn(&mut calls));
    }
}
