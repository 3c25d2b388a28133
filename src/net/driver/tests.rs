use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    hint::spin_loop,
    io,
    sync::{Mutex, OnceLock, atomic::AtomicUsize},
    thread,
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{body::Incoming, rt::Executor as _, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, ReadBuf, join, sink},
    sync::{SetOnce, mpsc},
};

use super::*;
use crate::net::calls::CallExecutor;

/// Many turns, and a last one that is not cut.
const BUSY_CALLS: usize = 130;

/// How long a thread looks for a wake that is lost.
const STRESS_TIME: Duration = Duration::from_millis(40);

/// A wake that takes this long is lost, also on a busy machine.
const LOST_WAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection reads in a poll. Nothing is its end.
type Input = Poll<&'static [u8]>;

/// The socket of an HTTP/1 connection, which reads from it once in each poll.
struct TestSocket<F>(F);

impl<F: FnMut(&mut Context<'_>) -> Input + Unpin> AsyncRead for TestSocket<F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        (self.0)(cx).map(|input| {
            buffer.put_slice(input);
            Ok(())
        })
    }
}

/// A driver whose connection does this in each poll. It is hyper's: [`GracefulConnection`] is sealed.
fn driver(
    mut on_poll: impl FnMut(&mut Context<'_>, &CallExecutor) -> Input + Send + Unpin + 'static,
) -> ConnectionDriver<impl GracefulConnection<Error = hyper::Error> + Send> {
    let calls = Calls::default();
    let executor = calls.executor();
    let socket = TestSocket(move |cx: &mut Context<'_>| on_poll(cx, &executor));
    let service =
        service_fn(|_: Request<Incoming>| pending::<Result<Response<String>, Infallible>>());
    let socket = TokioIo::new(join(socket, sink()));
    let connection = http1::Builder::new().serve_connection(socket, service);
    ConnectionDriver::new(connection, calls)
}

/// The wake-ups of a task since its last poll.
struct TaskWakes(AtomicUsize);

impl Wake for TaskWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct TestTask<C> {
    driver: ConnectionDriver<C>,
    wakes: Arc<TaskWakes>,
}

impl<C: GracefulConnection> TestTask<C> {
    /// Woken, for its first poll.
    fn new(driver: ConnectionDriver<C>) -> Self {
        let wakes = Arc::new(TaskWakes(AtomicUsize::new(1)));
        Self { driver, wakes }
    }

    fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }

    fn poll(&mut self) -> Poll<Result<(), C::Error>> {
        self.wakes.0.store(0, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&self.wakes));
        Pin::new(&mut self.driver).poll(&mut Context::from_waker(&waker))
    }

    /// Polls until nothing wakes the task. Returns the number of polls.
    fn run(&mut self) -> usize {
        let mut polls = 0;
        while self.wakes() > 0 {
            assert_eq!(self.wakes(), 1, "after poll {polls}");
            assert!(polls < BUSY_CALLS, "it never sleeps");
            assert!(self.poll().is_pending());
            polls += 1;
        }
        polls
    }
}

/// A connection or a call, as a test sees it.
#[derive(Default)]
struct TestPart {
    waker: OnceLock<Waker>,
    polls: AtomicUsize,
    sent_events: AtomicUsize,
    seen_events: AtomicUsize,
}

impl TestPart {
    /// Returns the number of this poll.
    fn poll(&self, cx: &Context<'_>) -> usize {
        self.waker.get_or_init(|| cx.waker().clone());
        let sent = self.sent_events.load(Ordering::SeqCst);
        self.seen_events.store(sent, Ordering::SeqCst);
        self.polls.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn wake(&self) {
        self.waker.get().unwrap().wake_by_ref();
    }

    fn send_event(&self) {
        self.sent_events.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    fn has_seen_all(&self) -> bool {
        let sent = self.sent_events.load(Ordering::SeqCst);
        self.seen_events.load(Ordering::SeqCst) == sent
    }
}

/// A connection, and the call that its first poll begins.
#[derive(Default)]
struct Parts {
    connection: TestPart,
    call: TestPart,
}

impl Parts {
    fn both(&self) -> [&TestPart; 2] {
        [&self.connection, &self.call]
    }

    fn polls(&self) -> [usize; 2] {
        self.both().map(|part| part.polls.load(Ordering::SeqCst))
    }
}

/// A task with one call. Each part calls its function in each of its polls, with the number of the poll.
fn task_with_call(
    on_connection: impl Fn(&Parts, usize) -> Input + Send + Unpin + 'static,
    on_call: impl Fn(&Parts, usize) -> Poll<()> + Send + Sync + 'static,
) -> (
    TestTask<impl GracefulConnection<Error = hyper::Error>>,
    Arc<Parts>,
) {
    let parts = Arc::<Parts>::default();
    let (shared, on_call) = (Arc::clone(&parts), Arc::new(on_call));
    let driver = driver(move |cx, executor| {
        let polls = shared.connection.poll(cx);
        if polls == 1 {
            let (parts, on_call) = (Arc::clone(&shared), Arc::clone(&on_call));
            executor.execute(poll_fn(move |cx| on_call(&parts, parts.call.poll(cx))));
        }
        on_connection(&shared, polls)
    });
    (TestTask::new(driver), parts)
}

/// Both parts wait, and so the task does.
fn sleeping_task() -> (TestTask<impl GracefulConnection>, Arc<Parts>) {
    let (mut task, parts) = task_with_call(|_, _| Poll::Pending, |_, _| Poll::Pending);
    assert_eq!(task.run(), 1);
    assert_eq!(parts.polls(), [1, 1]);
    (task, parts)
}

/// The calls of a busy connection, which wake it at their end.
#[derive(Default)]
struct BusyCalls {
    is_released: SetOnce<()>,
    ended: AtomicUsize,
    connection: TestPart,
    /// How many calls had ended at each poll of the connection.
    written: Mutex<Vec<usize>>,
}

impl BusyCalls {
    fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// The first poll of the connection begins all.
    fn task(self: Arc<Self>) -> TestTask<impl GracefulConnection<Error = hyper::Error>> {
        TestTask::new(driver(move |cx, executor| {
            self.written.lock().unwrap().push(self.ended());
            if self.connection.poll(cx) == 1 {
                for _ in 0..BUSY_CALLS {
                    let calls = Arc::clone(&self);
                    executor.execute(async move {
                        calls.is_released.wait().await;
                        calls.ended.fetch_add(1, Ordering::SeqCst);
                        calls.connection.wake();
                    });
                }
            }
            Poll::Pending
        }))
    }

    /// Runs the task, in which all calls are ready.
    fn assert_cut_turns(&self, mut task: TestTask<impl GracefulConnection>) {
        assert_eq!(task.wakes(), 1);
        assert!(task.poll().is_pending());
        let turn = self.ended();
        assert!((1..BUSY_CALLS).contains(&turn), "{turn} calls in a turn");
        assert_eq!(1 + task.run(), BUSY_CALLS.div_ceil(turn));
        assert_eq!(self.ended(), BUSY_CALLS);
        let written = (0..BUSY_CALLS).step_by(turn * TURNS_TOGETHER);
        let written: Vec<_> = written.chain([BUSY_CALLS]).collect();
        assert_eq!(*self.written.lock().unwrap(), written);
    }
}

#[test]
fn a_turn_leaves_new_calls_to_the_next_and_responses_of_some_turns_are_written_together() {
    let calls = Arc::<BusyCalls>::default();
    calls.is_released.set(()).unwrap();
    calls.assert_cut_turns(Arc::clone(&calls).task());
}

#[test]
fn a_turn_leaves_woken_calls_to_the_next_and_responses_of_some_turns_are_written_together() {
    let calls = Arc::<BusyCalls>::default();
    let mut task = Arc::clone(&calls).task();
    task.run();
    assert_eq!(calls.ended(), 0);
    calls.is_released.set(()).unwrap();
    calls.assert_cut_turns(task);
}

#[tokio::test]
async fn a_cut_turn_gives_way_to_tasks_that_become_ready_meanwhile() {
    let calls = Arc::<BusyCalls>::default();
    calls.is_released.set(()).unwrap();
    let (ended_calls, mut ended_calls_seen) = mpsc::unbounded_channel();
    tokio::spawn(Arc::clone(&calls).task().driver);
    // Each is ready only once the one before has run.
    tokio::spawn(async move {
        ended_calls.send(calls.ended()).unwrap();
        tokio::spawn(async move { ended_calls.send(calls.ended()) });
    });
    let first = ended_calls_seen.recv().await.unwrap();
    assert!((1..BUSY_CALLS).contains(&first), "after one turn");
    assert_eq!(ended_calls_seen.recv().await, Some(first));
}

#[test]
fn a_call_that_begins_at_the_end_of_a_turn_is_polled_in_the_next() {
    let parts = Arc::<Parts>::default();
    let shared = Arc::clone(&parts);
    let mut task = TestTask::new(driver(move |cx, executor| {
        if shared.connection.poll(cx) <= 2 {
            let parts = Arc::clone(&shared);
            executor.execute(poll_fn(move |cx| {
                parts.call.poll(cx);
                parts.connection.wake();
                Poll::Ready(())
            }));
        }
        Poll::Pending
    }));
    assert!(task.poll().is_pending());
    assert_eq!(parts.polls(), [2, 1]);
    assert_eq!(task.run(), 1);
    assert_eq!(parts.polls(), [3, 2]);
}

#[test]
fn a_response_is_written_in_the_turn_of_its_call() {
    let on_call = |parts: &Parts, _| {
        parts.connection.wake();
        Poll::Ready(())
    };
    let (mut task, parts) = task_with_call(|_, _| Poll::Pending, on_call);
    assert_eq!(task.run(), 1);
    assert_eq!(parts.polls(), [2, 1]);
}

/// Each can be polled twice in a turn.
#[test]
fn a_part_that_wakes_itself_is_polled_again() {
    let on_connection = |parts: &Parts, polls| {
        if polls <= 2 {
            parts.connection.wake();
        }
        Poll::Pending
    };
    let (mut task, parts) = task_with_call(on_connection, |_, _| Poll::Pending);
    assert_eq!(task.run(), 2);
    assert_eq!(parts.polls(), [3, 1]);

    let on_call = |parts: &Parts, polls| {
        if polls <= 2 {
            parts.call.wake();
        }
        Poll::Pending
    };
    let (mut task, parts) = task_with_call(|_, _| Poll::Pending, on_call);
    assert_eq!(task.run(), 2);
    assert_eq!(parts.polls(), [1, 3]);
}

#[test]
fn a_wake_by_another_thread_during_a_turn_is_not_lost() {
    for (woken, polls) in [(0, [3, 1]), (1, [3, 2])] {
        // The second poll of the connection is the last of the turn.
        let on_connection = move |parts: &Parts, polls| {
            if polls == 2 {
                thread::scope(|scope| {
                    scope.spawn(|| parts.both()[woken].wake());
                });
            }
            Poll::Pending
        };
        let on_call = |parts: &Parts, _| {
            parts.connection.wake();
            Poll::Pending
        };
        let (mut task, parts) = task_with_call(on_connection, on_call);
        assert_eq!(task.run(), 2);
        assert_eq!(parts.polls(), polls);
    }
}

#[test]
fn a_wake_after_a_turn_wakes_the_task_to_poll_what_is_woken() {
    let (mut task, parts) = sleeping_task();
    parts.connection.wake();
    assert_eq!(task.run(), 1);
    assert_eq!(parts.polls(), [2, 1]);
    parts.call.wake();
    assert_eq!(task.run(), 1);
    assert_eq!(parts.polls(), [2, 2]);
    // Another task drives it from now on.
    let mut task = TestTask::new(task.driver);
    assert_eq!(task.run(), 1);
    assert_eq!(parts.polls(), [2, 2], "none was woken");
    parts.connection.wake();
    assert_eq!(task.run(), 1);
}

#[test]
fn a_graceful_shutdown_wakes_the_task_and_is_polled() {
    let (mut task, parts) = sleeping_task();
    task.driver.graceful_shutdown();
    assert_eq!(task.wakes(), 1);
    // It ends, as it has no request, and reads no more.
    assert!(matches!(task.poll(), Poll::Ready(Ok(()))));
    assert_eq!(parts.polls(), [1, 1]);
}

#[test]
fn the_driver_ends_with_its_connection_and_polls_no_more_calls() {
    let (mut task, parts) = task_with_call(|_, _| Poll::Ready(b""), |_, _| Poll::Ready(()));
    assert!(matches!(task.poll(), Poll::Ready(Ok(()))));
    assert_eq!((task.wakes(), parts.polls()), (0, [1, 0]));
}

#[test]
fn the_driver_ends_with_the_error_of_its_connection() {
    // Ends within a request, at the end of the turn.
    let on_connection = |_: &Parts, polls| match polls {
        1 => Poll::Pending,
        2 => Poll::Ready(&b"GET"[..]),
        _ => Poll::Ready(&b""[..]),
    };
    let on_call = |parts: &Parts, _| {
        parts.connection.wake();
        Poll::Pending
    };
    let (mut task, _) = task_with_call(on_connection, on_call);
    assert!(matches!(task.poll(), Poll::Ready(Err(error)) if error.is_incomplete_message()));
    assert_eq!(task.wakes(), 0);
}

/// False after [`LOST_WAKE_TIMEOUT`]. Seldom gives way, so that two threads run at the same time.
fn spin_until(mut is_met: impl FnMut() -> bool) -> bool {
    let (started, mut tries) = (Instant::now(), 0_usize);
    while !is_met() {
        if started.elapsed() > LOST_WAKE_TIMEOUT {
            return false;
        }
        tries += 1;
        if tries.is_multiple_of(300) {
            thread::yield_now();
        }
    }
    true
}

/// Sends an event to one part during the turn of the other, again and again. False if one is not seen.
fn are_events_seen(parts: &Parts) -> bool {
    let started = Instant::now();
    let both = parts.both().into_iter().cycle();
    let events = both.take_while(|_| started.elapsed() < STRESS_TIME);
    events.enumerate().all(|(round, part)| {
        part.send_event();
        let is_seen = spin_until(|| part.has_seen_all());
        // The next event meets another point of this turn.
        (0..round % 101).for_each(|_| spin_loop());
        is_seen
    })
}

#[test]
fn no_wake_is_lost_between_threads() {
    // A new thread mostly starts on another processor; two that share one hardly meet.
    for _ in 0..20 {
        let (mut task, parts) = sleeping_task();
        thread::scope(|scope| {
            let events = scope.spawn(|| are_events_seen(&parts));
            spin_until(|| {
                if task.wakes() > 0 {
                    assert!(task.poll().is_pending());
                }
                events.is_finished()
            });
            assert!(events.join().unwrap());
        });
    }
}
