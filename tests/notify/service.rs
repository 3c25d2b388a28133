//! Notices of a real service: from the decision to the receiver, and by another replica after a crash.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{task::block_in_place, time::sleep};

use super::receiver::{Answer, Receiver};
use crate::{
    metrics::wait_for,
    support::{
        calls::{TextFile, new_reserve, policy_file, reserve, verdict_text},
        redis::RedisServer,
        tollgate::Tollgate,
    },
};

/// Longer than a replica takes to find a notice.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A service whose pool `large` has 1,000 tokens, and which posts to this receiver.
fn start(store: &str, receiver: &Receiver) -> (Tollgate, [TextFile; 2]) {
    let settings = format!("[notify]\nurl = \"{}\"\n", receiver.url());
    let files = [policy_file(1_000), TextFile::new(&settings)];
    let [policy, settings] = &files;
    let args = [
        "--store",
        store,
        "--policy",
        policy.path(),
        "--config",
        settings.path(),
    ];
    (Tollgate::start(&args), files)
}

fn ids(receiver: &Receiver) -> Vec<String> {
    let received = receiver.received().into_iter();
    let ids = received.map(|it| it.body["id"].as_str().unwrap().to_owned());
    ids.collect()
}

#[tokio::test]
async fn each_threshold_that_a_decision_reaches_is_posted_logged_and_counted_once() {
    let receiver = Receiver::start(&[Answer::Status(204)]).await;
    let (tollgate, _files) = start("memory:", &receiver);
    let client = tollgate.client();
    for (tokens, id) in [(700, "a"), (100, "b"), (199, "c"), (2, "d"), (1, "e")] {
        reserve(&client, tokens, id).await;
    }
    let delivered = "result=\"delivered\"";
    wait_for(&tollgate, "tollgate_notifications_total", &[delivered], 3.0).await;
    wait_for(&tollgate, "tollgate_notifications_waiting", &[], 0.0).await;
    for threshold in ["80", "95", "100"] {
        let labels = ["pool=\"large\"", &format!("threshold=\"{threshold}\"")];
        wait_for(&tollgate, "tollgate_pools_above", &labels, 1.0).await;
    }
    let received = receiver.received();
    let figures = received.iter().map(|it| {
        let of = |field: &str| it.body[field].as_u64().unwrap();
        (of("threshold"), of("used"), of("external"), of("allowance"))
    });
    let figures: BTreeSet<_> = figures.collect();
    let wanted = [
        (80, 800, 0, 1_000),
        (95, 999, 0, 1_000),
        (100, 1_000, 0, 1_000),
    ];
    assert_eq!(figures, BTreeSet::from(wanted));
    assert_eq!(received.len(), 3);
    let log = tollgate.log();
    let lines: Vec<_> = log.iter().filter(|it| it["target"] == "notify").collect();
    let levels: Vec<_> = lines
        .iter()
        .map(|it| it["level"].as_str().unwrap())
        .collect();
    assert_eq!(levels, ["INFO", "INFO", "WARN"], "{lines:?}");
    assert!(!log.iter().any(|it| it.to_string().contains("s3cret")));
}

#[tokio::test]
async fn another_replica_delivers_what_a_crashed_one_could_not_with_the_same_id_and_once() {
    let redis = RedisServer::start();
    let failing = Receiver::start(&[Answer::Status(500)]).await;
    let (crashed, _files) = start(&redis.url(), &failing);
    reserve(&crashed.client(), 850, "a").await;
    failing.wait_for(1).await;
    crashed.signal(Signal::SIGKILL);

    let receiver = Receiver::start(&[Answer::Status(200)]).await;
    let (one, _files) = start(&redis.url(), &receiver);
    let (other, _more) = start(&redis.url(), &receiver);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while receiver.received().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", one.log());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ids(&receiver)[0], ids(&failing)[0]);
    for replica in [&one, &other] {
        wait_for(replica, "tollgate_notifications_waiting", &[], 0.0).await;
    }
    // Two replicas may find it at the same moment, and no one after it is confirmed.
    let posts = receiver.received().len();
    assert!(posts <= 2, "{posts}");
    sleep(Duration::from_secs(7)).await;
    assert_eq!(receiver.received().len(), posts);
}

/// Shorter than one attempt, which takes at most 10 s.
const DECIDED_WITHIN: Duration = Duration::from_secs(8);

#[tokio::test]
async fn no_decision_waits_for_a_slow_a_failing_or_a_hanging_receiver() {
    for how in [
        Answer::Slow(Duration::from_secs(9)),
        Answer::Status(500),
        Answer::Hang,
    ] {
        let receiver = Receiver::start(&[how]).await;
        let (tollgate, _files) = start("memory:", &receiver);
        let client = tollgate.client();
        reserve(&client, 800, "80").await;
        receiver.wait_for(1).await;
        let began = Instant::now();
        let steps = [
            (150, "95", "FREE"),
            (50, "100", "FREE"),
            (1, "more", "AllowanceExceeded"),
        ];
        for (tokens, id, verdict) in steps {
            let answer = reserve(&client, tokens, id).await;
            assert_eq!(verdict_text(&answer), verdict, "{answer:?}");
        }
        assert!(began.elapsed() < DECIDED_WITHIN, "{how:?}");
        wait_for(&tollgate, "tollgate_notifications_waiting", &[], 3.0).await;
        let logged = tollgate.log().into_iter();
        assert_eq!(logged.filter(|it| it["target"] == "notify").count(), 3);
    }
}

// `wait` blocks, and the receiver must go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stops_delivers_what_was_decided_before() {
    let receiver = Receiver::start(&[Answer::Slow(Duration::from_millis(500))]).await;
    let (mut tollgate, _files) = start("memory:", &receiver);
    let mut client = tollgate.client();
    client.reserve(new_reserve(1_000, "a")).await.unwrap();
    tollgate.signal(Signal::SIGINT);
    let status = block_in_place(|| tollgate.wait(Duration::from_secs(20)));
    assert_eq!(status.code(), Some(0));
    assert_eq!(receiver.received().len(), 3);
    let left = tollgate.log().into_iter();
    let left: Vec<_> = left.filter(|it| it["left"].is_number()).collect();
    assert!(left.is_empty(), "{left:?}");
}
