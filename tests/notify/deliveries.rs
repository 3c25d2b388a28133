//! The task that delivers: repetitions, pauses, confirmations, its bounds and its end.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tollgate::{
    ledger::{Notice, NoticeOrigin},
    notify::{Deliveries, NoticeMarks, Webhook, WebhookUrl, notification},
    telemetry::metrics::{Metrics, MetricsSnapshot, PoolGauges},
};
use tracing::subscriber::DefaultGuard;

use super::{
    notice_of,
    receiver::{Answer, Receiver},
};
use crate::support::free_port;

/// Longer than anything takes, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Marks in memory.
#[derive(Clone, Default)]
struct TestMarks(Arc<MarkState>);

#[derive(Default)]
struct MarkState {
    confirmed: Mutex<HashSet<String>>,
    fails: AtomicBool,
    /// Whether the next confirmation panics.
    panics: AtomicBool,
    checks: AtomicUsize,
    /// Attempts to confirm.
    attempts: AtomicUsize,
}

impl TestMarks {
    fn is_confirmed(&self, org: &str) -> bool {
        let id = notification::id(&notice_of(org, 95));
        self.0.confirmed.lock().unwrap().contains(&id)
    }

    /// As another replica confirms it.
    fn set_confirmed(&self, notice: &Notice) {
        self.0
            .confirmed
            .lock()
            .unwrap()
            .insert(notification::id(notice));
    }

    fn checks(&self) -> usize {
        self.0.checks.load(Ordering::Relaxed)
    }

    async fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while self.0.confirmed.lock().unwrap().len() < count {
            assert!(Instant::now() < deadline, "{count} are not confirmed");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl NoticeMarks for TestMarks {
    type Error = &'static str;

    async fn is_confirmed(&self, notice: &Notice) -> Result<bool, &'static str> {
        self.0.checks.fetch_add(1, Ordering::Relaxed);
        match self.0.fails.load(Ordering::Relaxed) {
            true => Err("the store is down"),
            false => Ok(self
                .0
                .confirmed
                .lock()
                .unwrap()
                .contains(&notification::id(notice))),
        }
    }

    async fn confirm(&self, notice: &Notice) -> Result<(), &'static str> {
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
        assert!(!self.0.panics.swap(false, Ordering::Relaxed), "a panic");
        match self.0.fails.load(Ordering::Relaxed) {
            true => Err("the store is down"),
            false => {
                self.set_confirmed(notice);
                Ok(())
            }
        }
    }
}

/// The text of a log.
#[derive(Clone, Default)]
struct LogText(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A task that delivers to a receiver, or to the log alone.
struct Replica {
    deliveries: Deliveries,
    marks: TestMarks,
    metrics: Metrics,
    stopping: CancellationToken,
    task: JoinHandle<()>,
    log: LogText,
    _logging: DefaultGuard,
}

impl Replica {
    fn start(url: Option<&str>) -> Self {
        let log = LogText::default();
        let writer = log.clone();
        let writer = tracing_subscriber::fmt()
            .json()
            .with_writer(move || writer.clone());
        let logging = tracing::subscriber::set_default(writer.finish());
        let metrics = Metrics::default();
        let deliveries = Deliveries::new(metrics.clone());
        let (marks, stopping) = (TestMarks::default(), CancellationToken::new());
        let webhook = url.map(|url| {
            let url = WebhookUrl::parse(url).unwrap();
            Webhook::new(&url, Webhook::TIMEOUT).unwrap()
        });
        let run = (deliveries.clone(), marks.clone(), stopping.clone());
        let task = tokio::spawn(async move {
            let (deliveries, marks, stopping) = run;
            deliveries.run(webhook, marks, stopping).await;
        });
        Self {
            deliveries,
            marks,
            metrics,
            stopping,
            task,
            log,
            _logging: logging,
        }
    }

    fn decide(&self, org: &str) {
        self.deliveries
            .add(notice_of(org, 95), NoticeOrigin::Decided);
    }

    fn find(&self, org: &str) {
        self.deliveries.add(notice_of(org, 95), NoticeOrigin::Found);
    }

    fn metric(&self, series: &str) -> u64 {
        let snapshot = MetricsSnapshot {
            ready: true,
            store_up: true,
            store_losses: 0,
            clock_steps: 0,
            store_calls: 0,
            waiting: 0,
        };
        let text = self.metrics.text(snapshot, PoolGauges::default());
        let value = text
            .lines()
            .find_map(|it| it.strip_prefix(series)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("{series}: {text}"))
            .parse()
            .unwrap()
    }

    fn results(&self, result: &str) -> u64 {
        self.metric(&format!(
            "tollgate_notifications_total{{result=\"{result}\"}}"
        ))
    }

    /// The log lines of a target.
    fn logged(&self, target: &str) -> Vec<Value> {
        let log = self.log.0.lock().unwrap();
        let lines = log.split(|byte| *byte == b'\n').filter(|it| !it.is_empty());
        let lines = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == target).collect()
    }

    async fn stop(self) -> Duration {
        let began = Instant::now();
        self.stopping.cancel();
        timeout(WAIT_TIMEOUT, self.task).await.unwrap().unwrap();
        began.elapsed()
    }
}

#[tokio::test]
async fn a_notice_is_logged_posted_and_confirmed_once() {
    let receiver = Receiver::start(&[Answer::Slow(Duration::from_millis(100))]).await;
    let replica = Replica::start(Some(&receiver.url()));
    for _ in 0..3 {
        replica.decide("org-acme");
        replica.find("org-acme");
        sleep(Duration::from_millis(10)).await;
    }
    replica.marks.wait_for(1).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(
        replica.marks.checks(),
        0,
        "nobody else could have delivered it"
    );
    let counts = (replica.results("delivered"), replica.results("failed"));
    assert_eq!(counts, (1, 0));
    assert_eq!(replica.metric("tollgate_notifications_waiting"), 0);
    let [line] = &replica.logged("notify")[..] else {
        panic!("one line: {:?}", replica.logged("notify"));
    };
    let fields = &line["fields"];
    assert_eq!(line["level"], "INFO");
    assert_eq!(fields["message"], "a pool has reached a threshold");
    let names = [&fields["org"], &fields["pool"], &fields["day"]];
    assert_eq!(names, ["org-acme", "large", "2026-11-30"]);
    let numbers = ["threshold", "used", "external", "allowance"].map(|it| &fields[it]);
    assert_eq!(numbers, [95, 951_000, 2_000, 1_000_000]);
}

#[tokio::test]
async fn without_a_receiver_the_log_line_is_the_delivery() {
    let replica = Replica::start(None);
    replica.decide("a");
    replica
        .deliveries
        .add(notice_of("a", 100), NoticeOrigin::Decided);
    replica.marks.wait_for(2).await;
    let lines = replica.logged("notify").into_iter();
    let levels = lines.map(|it| (it["fields"]["threshold"].clone(), it["level"].clone()));
    let levels: Vec<_> = levels.collect();
    assert_eq!(
        levels,
        [(95.into(), "INFO".into()), (100.into(), "WARN".into())]
    );
    assert_eq!(replica.results("delivered"), 2);
}

#[tokio::test]
async fn a_failed_notice_is_repeated_with_its_id_after_a_pause() {
    let answers = [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Status(200),
    ];
    let receiver = Receiver::start(&answers).await;
    let replica = Replica::start(Some(&receiver.url()));
    replica.decide("org-acme");
    replica.marks.wait_for(1).await;
    let received = receiver.received();
    let ids: HashSet<String> = received
        .iter()
        .map(|it| it.body["id"].to_string())
        .collect();
    assert_eq!((received.len(), ids.len()), (3, 1));
    assert_eq!(
        replica.marks.checks(),
        2,
        "before each attempt but the first one"
    );
    for (pair, pause) in received.windows(2).zip([1, 2]) {
        let waited = pair[1].at - pair[0].at;
        assert!(waited >= Duration::from_secs(pause), "{waited:?}");
    }
    assert_eq!(replica.logged("notify").len(), 1, "it is logged once");
    assert_eq!(
        (replica.results("delivered"), replica.results("failed")),
        (1, 2)
    );
    let log = String::from_utf8(replica.log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("the receiver answers 500 Internal Server Error"),
        "{log}"
    );
    assert!(log.contains(&format!("http://{}", receiver.addr)), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[tokio::test]
async fn what_another_replica_has_confirmed_is_not_posted() {
    let receiver = Receiver::start(&[Answer::Status(500)]).await;
    let replica = Replica::start(Some(&receiver.url()));
    replica.marks.set_confirmed(&notice_of("found", 95));
    replica.find("found");
    replica.decide("decided");
    receiver.wait_for(1).await;
    replica.marks.set_confirmed(&notice_of("decided", 95));
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while replica.metric("tollgate_notifications_waiting") > 0 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(10)).await;
    }
    let received = receiver.received();
    assert_eq!(received.len(), 1, "{received:?}");
    assert_eq!(received[0].body["org"], "decided");
    let logged = replica.logged("notify");
    assert_eq!(logged.len(), 1, "{logged:?}");
}

#[tokio::test]
async fn while_marks_cant_be_read_what_was_found_waits_and_what_was_decided_does_not() {
    let receiver = Receiver::start(&[Answer::Status(200)]).await;
    let replica = Replica::start(Some(&receiver.url()));
    replica.marks.0.fails.store(true, Ordering::Relaxed);
    replica.find("found");
    replica.decide("decided");
    receiver.wait_for(1).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.received()[0].body["org"], "decided");
    assert_eq!(receiver.received().len(), 1);
    replica.marks.0.fails.store(false, Ordering::Relaxed);
    replica.marks.wait_for(2).await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn a_confirmation_that_fails_is_repeated_without_a_second_post() {
    let receiver = Receiver::start(&[Answer::Status(200)]).await;
    let replica = Replica::start(Some(&receiver.url()));
    replica.marks.0.fails.store(true, Ordering::Relaxed);
    replica.decide("org-acme");
    receiver.wait_for(1).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(replica.metric("tollgate_notifications_waiting"), 1);
    replica.marks.0.fails.store(false, Ordering::Relaxed);
    replica.marks.wait_for(1).await;
    assert!(replica.marks.is_confirmed("org-acme"));
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(replica.marks.0.attempts.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_failing_receiver_gets_few_posts_however_many_wait() {
    for answer in [Answer::Status(503), Answer::Close, Answer::Hang] {
        let receiver = Receiver::start(&[answer]).await;
        let replica = Replica::start(Some(&receiver.url()));
        for org in 0..500 {
            replica.decide(&format!("org-{org}"));
        }
        receiver.wait_for(4).await;
        sleep(Duration::from_millis(800)).await;
        assert_eq!(receiver.received().len(), 4, "{answer:?}");
        assert_eq!(replica.metric("tollgate_notifications_waiting"), 500);
        replica.task.abort();
    }
}

#[tokio::test]
async fn retry_after_delays_all_posts() {
    let receiver = Receiver::start(&[Answer::RetryAfter("4"), Answer::Status(200)]).await;
    let replica = Replica::start(Some(&receiver.url()));
    replica.decide("a");
    receiver.wait_for(1).await;
    sleep(Duration::from_millis(100)).await;
    replica.decide("b");
    replica.marks.wait_for(2).await;
    let received = receiver.received();
    let waited = received[1].at - received[0].at;
    assert!(waited >= Duration::from_millis(3_900), "{waited:?}");
    assert_eq!(received.len(), 3);
}

#[tokio::test]
async fn a_receiver_that_comes_up_later_gets_everything() {
    let addr = format!("127.0.0.1:{}", free_port());
    let replica = Replica::start(Some(&format!("http://{addr}/")));
    for org in 0..50 {
        replica.decide(&format!("org-{org}"));
    }
    sleep(Duration::from_millis(500)).await;
    let receiver = Receiver::start_at(&addr, &[Answer::Status(200)]).await;
    replica.marks.wait_for(50).await;
    let received = receiver.received();
    let orgs: HashSet<String> = received
        .iter()
        .map(|it| it.body["org"].to_string())
        .collect();
    assert_eq!((received.len(), orgs.len()), (50, 50));
}

#[tokio::test]
async fn adding_never_waits_and_what_does_not_fit_is_left_out() {
    let receiver = Receiver::start(&[Answer::Hang]).await;
    let replica = Replica::start(Some(&receiver.url()));
    let began = Instant::now();
    for org in 0..10_003 {
        replica.decide(&format!("org-{org}"));
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(replica.metric("tollgate_notifications_waiting"), 10_000);
    assert_eq!(replica.results("left_out"), 3);
    let logged = replica.logged("tollgate::notify::deliveries");
    assert_eq!(logged.len(), 1, "{logged:?}");
    let logged = replica.logged("notify");
    assert_eq!(logged.len(), 10_003, "each is logged at once");
    replica.task.abort();
}

#[tokio::test]
async fn what_was_found_is_logged_after_its_check_while_the_receiver_has_a_pause() {
    let receiver = Receiver::start(&[Answer::RetryAfter("300")]).await;
    let replica = Replica::start(Some(&receiver.url()));
    replica.decide("decided");
    receiver.wait_for(1).await;
    replica.find("found");
    let deadline = Instant::now() + 2 * WAIT_TIMEOUT;
    while replica.logged("notify").len() < 2 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(50)).await;
    }
    let logged = replica.logged("notify");
    assert_eq!(logged[1]["fields"]["org"], "found");
    assert_eq!(replica.marks.checks(), 1);
    assert_eq!(receiver.received().len(), 1);
    replica.task.abort();
}

#[tokio::test]
async fn after_a_panic_delivery_goes_on_with_what_was_queued() {
    let receiver = Receiver::start(&[Answer::Status(200)]).await;
    let replica = Replica::start(Some(&receiver.url()));
    replica.marks.0.panics.store(true, Ordering::Relaxed);
    for org in 0..20 {
        replica.decide(&format!("org-{org}"));
    }
    replica.marks.wait_for(20).await;
    assert_eq!(replica.results("failed"), 1);
    let logged = replica.logged("tollgate::notify::deliveries");
    let panics = logged.iter().filter(|it| it["level"] == "ERROR");
    assert_eq!(panics.count(), 1, "{logged:?}");
    assert_eq!(replica.logged("notify").len(), 20);
    replica.decide("later");
    replica.marks.wait_for(21).await;
}

#[tokio::test]
async fn the_end_delivers_what_is_due_and_is_bounded() {
    let receiver = Receiver::start(&[Answer::Slow(Duration::from_millis(100))]).await;
    let replica = Replica::start(Some(&receiver.url()));
    let marks = replica.marks.clone();
    for org in 0..10 {
        replica.decide(&format!("org-{org}"));
    }
    assert!(replica.stop().await < Duration::from_secs(5));
    assert_eq!(receiver.received().len(), 10);
    marks.wait_for(10).await;

    let hanging = Receiver::start(&[Answer::Hang]).await;
    let replica = Replica::start(Some(&hanging.url()));
    replica.decide("org-acme");
    hanging.wait_for(1).await;
    let took = replica.stop().await;
    assert!(
        took >= Duration::from_secs(4) && took < Duration::from_secs(9),
        "{took:?}"
    );

    let failing = Receiver::start(&[Answer::Status(500)]).await;
    let replica = Replica::start(Some(&failing.url()));
    replica.decide("org-acme");
    failing.wait_for(1).await;
    sleep(Duration::from_millis(100)).await;
    let took = replica.stop().await;
    assert!(took < Duration::from_millis(900), "it is not due: {took:?}");
}
