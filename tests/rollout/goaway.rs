//! How a stopping replica closes its connections, so that the fate of each call is certain: GOAWAY twice, the second
//! time with the last processed stream id, after a ping that proves that the client received the first one.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tonic_health::pb::health_check_response::ServingStatus;

use super::frames::{Connection, Event};
use crate::support::{
    calls::{TextFile, large, new_reserve, policy_file, reserve, verdict_text},
    redis::RedisServer,
    tollgate::Tollgate,
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The last stream id in the first GOAWAY: calls in flight are still processed.
const MAX_STREAM_ID: u32 = 0x7fff_ffff;
const NO_ERROR: u32 = 0;

fn start(redis: &RedisServer, drain_delay: &str) -> Tollgate {
    let settings = TextFile::new(&format!(
        "drain_delay = \"{drain_delay}\"\ncall_timeout = \"60s\"\n\
         [redis]\nresponse_timeout = \"60s\"\n"
    ));
    let (policy, url) = (policy_file(1_000), redis.url());
    let args = ["--config", settings.path(), "--policy", policy.path()];
    Tollgate::start(&[&args[..], &["--store", &url]].concat())
}

/// Waits until a write is blocked in the paused Redis.
async fn wait_for_blocked_write(redis: &RedisServer) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !redis.info("clients").contains("blocked_clients:1") {
        assert!(Instant::now() < deadline, "no call reaches Redis");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Connection {
    /// Makes a call, and reads its answer, which is FREE.
    async fn call_and_read(&mut self, stream: u32, id: &str) {
        self.call(stream, &new_reserve(1, id)).await;
        match self.next_event().await {
            Event::Answer(of, answer) => {
                assert_eq!((of, verdict_text(&answer).as_str()), (stream, "FREE"))
            }
            event => panic!("call {stream} is not answered: {event:?}"),
        }
    }

    /// Reads the first GOAWAY and the ping. Gives the ping's payload.
    async fn read_first_goaway(&mut self) -> Vec<u8> {
        let event = [self.next_event().await, self.next_event().await];
        let goaway = Event::GoAway {
            last: MAX_STREAM_ID,
            reason: NO_ERROR,
        };
        match event {
            [first, Event::Ping(ping)] | [Event::Ping(ping), first] if first == goaway => ping,
            event => panic!("no GOAWAY: {event:?}"),
        }
    }

    /// Reads until the connection is closed. Gives the answered calls, all FREE.
    async fn read_until_close(&mut self) -> Vec<u32> {
        let mut answered = Vec::new();
        loop {
            match self.next_event().await {
                Event::Answer(stream, answer) => {
                    assert_eq!(verdict_text(&answer), "FREE");
                    answered.push(stream);
                }
                Event::Closed => {
                    answered.sort_unstable();
                    return answered;
                }
                event => panic!("{event:?} after {answered:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_drain_delay_goaway_names_what_is_answered_and_nothing_else_is_counted() {
    let redis = RedisServer::start();
    let mut tollgate = start(&redis, "3s");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let mut connections = Vec::new();
    for at in 0..3 {
        let mut connection = Connection::open(&tollgate.addr).await;
        connection.call_and_read(1, &format!("{at} before")).await;
        connections.push(connection);
    }
    tollgate.signal(Signal::SIGTERM);
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    for (at, connection) in connections.iter_mut().enumerate() {
        connection
            .call_and_read(3, &format!("{at} meanwhile"))
            .await;
    }

    redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    for (at, connection) in connections.iter_mut().enumerate() {
        connection
            .call(5, &new_reserve(1, &format!("{at} open")))
            .await;
        // The service has only the head of this call when it stops.
        connection.begin(7).await;
    }
    for (at, connection) in connections.iter_mut().enumerate() {
        let ping = connection.read_first_goaway().await;
        // Sent before this client received GOAWAY.
        connection
            .call(9, &new_reserve(1, &format!("{at} crossed")))
            .await;
        connection.answer_ping(&ping).await;
        let goaway = Event::GoAway {
            last: 9,
            reason: NO_ERROR,
        };
        assert_eq!(connection.next_event().await, goaway);
        // No client sends this. It shows that calls above 9 are not processed, so they may be retried elsewhere.
        connection
            .call(11, &new_reserve(1, &format!("{at} late")))
            .await;
        connection
            .finish(7, &new_reserve(1, &format!("{at} half-sent")))
            .await;
    }
    wait_for_blocked_write(&redis).await;
    assert!(!tollgate.has_ended());
    redis.run(&["CLIENT", "UNPAUSE"]);
    for connection in &mut connections {
        assert_eq!(connection.read_until_close().await, [5, 7, 9]);
    }
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));

    let next = start(&redis, "0s");
    let client = next.client();
    assert_eq!(large(&client).await.free_requests, 3 * 5);
    for at in 0..3 {
        let known = reserve(&client, 1, &format!("{at} crossed")).await;
        let late = reserve(&client, 1, &format!("{at} late")).await;
        assert_eq!((known.replayed, late.replayed), (true, false));
    }
}

/// A distant client receives GOAWAY late. Until then there may be no open call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_crosses_the_first_goaway_is_waited_for_like_an_open_one() {
    let redis = RedisServer::start();
    let mut tollgate = start(&redis, "0s");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let mut connection = Connection::open(&tollgate.addr).await;
    connection.call_and_read(1, "before").await;
    redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    tollgate.signal(Signal::SIGTERM);
    let ping = connection.read_first_goaway().await;
    connection.call(3, &new_reserve(1, "crossed")).await;
    wait_for_blocked_write(&redis).await;
    connection.answer_ping(&ping).await;
    // Longer than idle connections may take.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!tollgate.has_ended(), "the call is cut off");
    redis.run(&["CLIENT", "UNPAUSE"]);
    let mut goaway = connection.next_event().await;
    if let Event::GoAway { last: 3, .. } = goaway {
        goaway = connection.next_event().await;
    }
    assert!(matches!(goaway, Event::Answer(3, _)), "{goaway:?}");
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
}
