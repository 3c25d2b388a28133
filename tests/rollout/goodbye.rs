//! What a connection is told when its replica stops, so that no client has to guess what became of a call:
//! GOAWAY twice, the second time with the last call that is looked at, behind a ping that shows that the client
//! has heard the first.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tonic_health::pb::health_check_response::ServingStatus;

use super::frames::{Connection, Heard};
use crate::support::{
    calls::{TextFile, ask, large, policy_file, reserve, said},
    redis::RedisServer,
    tollgate::Tollgate,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The first GOAWAY: calls that are on their way are looked at.
const ANY: u32 = 0x7fff_ffff;
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

/// Waits until a write hangs in the paused Redis.
async fn until_it_hangs(redis: &RedisServer) {
    let patience = Instant::now() + PATIENCE;
    while !redis.info("clients").contains("blocked_clients:1") {
        assert!(Instant::now() < patience, "no call reaches Redis");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Connection {
    /// Calls, and has its answer, which is FREE.
    async fn is_answered(&mut self, stream: u32, id: &str) {
        self.call(stream, &ask(1, id)).await;
        match self.hear().await {
            Heard::Answer(of, answer) => assert_eq!((of, said(&answer).as_str()), (stream, "FREE")),
            heard => panic!("call {stream} is not answered: {heard:?}"),
        }
    }

    /// Hears the first goodbye, and the ping with it; gives what the ping wants to hear again.
    async fn hears_the_first_goodbye(&mut self) -> Vec<u8> {
        let heard = [self.hear().await, self.hear().await];
        let goodbye = Heard::Goodbye {
            last: ANY,
            reason: NO_ERROR,
        };
        match heard {
            [first, Heard::Ping(ping)] | [Heard::Ping(ping), first] if first == goodbye => ping,
            heard => panic!("no goodbye: {heard:?}"),
        }
    }

    /// Hears the rest, to the close: which calls were answered, all with FREE.
    async fn hears_to_the_close(&mut self) -> Vec<u32> {
        let mut answered = Vec::new();
        loop {
            match self.hear().await {
                Heard::Answer(stream, answer) => {
                    assert_eq!(said(&answer), "FREE");
                    answered.push(stream);
                }
                Heard::Closed => {
                    answered.sort_unstable();
                    return answered;
                }
                heard => panic!("{heard:?} after {answered:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_drain_delay_each_connection_is_told_what_is_answered_and_nothing_else_is_counted()
 {
    let redis = RedisServer::start();
    let mut tollgate = start(&redis, "3s");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let mut connections = Vec::new();
    for at in 0..3 {
        let mut connection = Connection::open(&tollgate.addr).await;
        connection.is_answered(1, &format!("{at} before")).await;
        connections.push(connection);
    }
    tollgate.signal(Signal::SIGTERM);
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    for (at, connection) in connections.iter_mut().enumerate() {
        connection.is_answered(3, &format!("{at} meanwhile")).await;
    }

    redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    for (at, connection) in connections.iter_mut().enumerate() {
        connection.call(5, &ask(1, &format!("{at} open"))).await;
        // Of this one the service has only the head when it stops.
        connection.begin(7).await;
    }
    for (at, connection) in connections.iter_mut().enumerate() {
        let ping = connection.hears_the_first_goodbye().await;
        // Sent before this client could know.
        connection.call(9, &ask(1, &format!("{at} crossed"))).await;
        connection.answer_ping(&ping).await;
        let goodbye = Heard::Goodbye {
            last: 9,
            reason: NO_ERROR,
        };
        assert_eq!(connection.hear().await, goodbye);
        // No client does this. It shows that the word is kept: a call above 9 may be tried elsewhere.
        connection.call(11, &ask(1, &format!("{at} late"))).await;
        connection
            .finish(7, &ask(1, &format!("{at} half-sent")))
            .await;
    }
    until_it_hangs(&redis).await;
    assert!(!tollgate.has_ended());
    redis.run(&["CLIENT", "UNPAUSE"]);
    for connection in &mut connections {
        assert_eq!(connection.hears_to_the_close().await, [5, 7, 9]);
    }
    assert_eq!(tollgate.wait(PATIENCE).code(), Some(0));

    let next = start(&redis, "0s");
    let client = next.client();
    assert_eq!(large(&client).await.free_requests, 3 * 5);
    for at in 0..3 {
        let known = reserve(&client, 1, &format!("{at} crossed")).await;
        let late = reserve(&client, 1, &format!("{at} late")).await;
        assert_eq!((known.replayed, late.replayed), (true, false));
    }
}

/// A client far away hears late that the replica stops. Until then there may be no open call at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_crosses_the_first_goodbye_is_waited_for_like_one_that_was_open() {
    let redis = RedisServer::start();
    let mut tollgate = start(&redis, "0s");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let mut connection = Connection::open(&tollgate.addr).await;
    connection.is_answered(1, "before").await;
    redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    tollgate.signal(Signal::SIGTERM);
    let ping = connection.hears_the_first_goodbye().await;
    connection.call(3, &ask(1, "crossed")).await;
    until_it_hangs(&redis).await;
    connection.answer_ping(&ping).await;
    // Longer than connections without a call are waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!tollgate.has_ended(), "the call is cut off");
    redis.run(&["CLIENT", "UNPAUSE"]);
    let mut goodbye = connection.hear().await;
    if let Heard::Goodbye { last: 3, .. } = goodbye {
        goodbye = connection.hear().await;
    }
    assert!(matches!(goodbye, Heard::Answer(3, _)), "{goodbye:?}");
    assert_eq!(tollgate.wait(PATIENCE).code(), Some(0));
}
