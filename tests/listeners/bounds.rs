//! The section `[bounds]`: connections that are too many, too slow or too old are closed, and others are not affected.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use prost::Message as _;
use tollgate::grpc::proto::quota_service_client::QuotaServiceClient;
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Endpoint};

use super::{WAIT_TIMEOUT, ended, start, until};
use crate::{
    server::http_get,
    support::{
        calls::{large, new_reserve, reserve},
        floods::{PREFACE, closed, head, held_streams, raw_http2, silent_connections},
        tollgate::Tollgate,
    },
};

#[tokio::test]
async fn idle_connections_make_room_when_there_are_too_many() {
    let tollgate = start("[bounds]\nconnections = 16\n");
    let mut idle = silent_connections(&tollgate.addr, 60, PREFACE);
    for _ in 0..20 {
        reserve(&tollgate.client(), 1, "").await;
    }
    assert_eq!(large(&tollgate.client()).await.used, 20);
    until("too many are still open", || closed(&mut idle) >= 60 - 16).await;
    assert!(ended(&tollgate, "MadeRoom") > 0);
    // Each port has its own limit.
    assert!(http_get(&tollgate.http_addr, "/livez").0.contains("200"));
}

#[tokio::test]
async fn a_part_of_the_idle_ones_makes_room_and_the_longest_idle_first() {
    let tollgate = start("[bounds]\nconnections = 64\n");
    let mut idle = silent_connections(&tollgate.addr, 64, PREFACE);
    // Once this call on another connection is answered, all have been accepted.
    reserve(&tollgate.client(), 1, "").await;
    until("none made room", || closed(&mut idle) > 0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(closed(&mut idle) <= 8, "{}", closed(&mut idle));
    assert_eq!(closed(&mut idle[32..]), 0);
}

#[tokio::test]
async fn a_connection_with_an_open_call_makes_no_room_and_new_ones_are_refused() {
    let tollgate = start("[bounds]\nconnections = 16\n");
    let held = held_streams(&tollgate.addr, 16, 1).await;
    let refused = async || {
        let answer = tollgate.client().reserve(new_reserve(1, "")).await;
        answer.is_err()
    };
    let deadline = Instant::now() + WAIT_TIMEOUT;
    // The last streams may still be on their way.
    while !refused().await {
        assert!(Instant::now() < deadline, "a seventeenth is served");
    }
    assert!(refused().await && refused().await);
    drop(held);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while refused().await {
        assert!(Instant::now() < deadline, "still refused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_connection_that_ignores_goaway_makes_room_too() {
    let tollgate = start("[bounds]\nconnections = 16\nconnection_age = \"1s\"\n");
    // They don't read, so they don't answer either.
    let mut deaf = silent_connections(&tollgate.addr, 16, PREFACE);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..20 {
        reserve(&tollgate.client(), 1, "").await;
    }
    until("none made room", || closed(&mut deaf) > 0).await;
}

#[tokio::test]
async fn an_http_connection_between_two_requests_is_idle_and_not_broken() {
    let tollgate = start("[bounds]\nhandshake_time = \"1s\"\n");
    let request = b"GET /livez HTTP/1.1\r\nHost: tollgate.test\r\n\r\n";
    let _kept = silent_connections(&tollgate.http_addr, 1, request);
    until("it is still open", || ended(&tollgate, "Idle") == 1).await;
    assert_eq!(ended(&tollgate, "Error"), 0);
}

#[tokio::test]
async fn a_connection_that_does_not_begin_in_time_is_closed() {
    let tollgate = start("[bounds]\nhandshake_time = \"1s\"\n");
    let mut silent = silent_connections(&tollgate.addr, 3, b"");
    silent.extend(silent_connections(&tollgate.addr, 3, &PREFACE[..30]));
    silent.extend(silent_connections(&tollgate.http_addr, 3, b"GET / HT"));
    let mut begun = silent_connections(&tollgate.addr, 3, PREFACE);
    until("they are still open", || closed(&mut silent) == 9).await;
    assert_eq!(closed(&mut begun), 0);
    assert_eq!(ended(&tollgate, "HandshakeTimeout"), 9);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_its_callers_next_call_succeeds() {
    let tollgate = start("[bounds]\nidle_time = \"1s\"\n");
    let client = tollgate.client();
    // A connection with an open call.
    let _held = held_streams(&tollgate.addr, 1, 1).await;
    for round in 1..=2 {
        reserve(&client, 1, "").await;
        until("it is not closed", || ended(&tollgate, "Idle") == round).await;
    }
    reserve(&client, 1, "").await;
    assert_eq!(large(&client).await.used, 3);
}

/// tonic's error for a call that was not sent when its connection ended: it was still queued, or already had a stream
/// id. gRPC's own clients retry such a call.
fn was_not_sent(status: &Status) -> bool {
    let received = format!("{status:?}");
    match status.code() {
        Code::Cancelled => {
            received.contains("connection closed") || received.contains("connection was not ready")
        }
        Code::Internal => received.contains("GoAway(b\"\", NO_ERROR, Remote)"),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_takes_no_new_calls_and_answers_those_that_were_sent() {
    let tollgate = start("[bounds]\nconnection_age = \"1s\"\n");
    let client = tollgate.client();
    let (mut answered, mut unsent) = (0, 0);
    while ended(&tollgate, "Age") < 3 {
        let callers = (0..8).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.reserve(new_reserve(1, "")).await })
        });
        let callers: Vec<_> = callers.collect();
        for caller in callers {
            match caller.await.unwrap() {
                Ok(_) => answered += 1,
                Err(status) => {
                    assert!(was_not_sent(&status), "{status:?}");
                    unsent += 1;
                }
            }
        }
        assert!(answered < 900_000, "no connection grows old");
    }
    assert!(
        unsent < answered / 10,
        "{unsent} unsent, {answered} answered"
    );
    assert_eq!(large(&client).await.free_requests, answered);
}

#[tokio::test]
async fn messages_and_headers_have_bounds_and_other_calls_of_the_connection_go_on() {
    let tollgate = start("[bounds]\nmessage_bytes = 4096\nheader_list_bytes = 4096\n");
    let client = tollgate.client();
    let mut too_long = new_reserve(1, "");
    too_long.project = "p".repeat(5_000);
    let refused = client.clone().reserve(too_long).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    let mut headed = Request::new(new_reserve(1, ""));
    let value = MetadataValue::try_from("v".repeat(5_000)).unwrap();
    headed.metadata_mut().insert("x-long", value);
    assert!(client.clone().reserve(headed).await.is_err());
    reserve(&client, 1, "").await;
    assert_eq!(large(&client).await.used, 1);
}

#[tokio::test]
async fn a_caller_with_too_many_open_calls_delays_only_itself() {
    let tollgate = start("[bounds]\nstreams_per_connection = 4\n");
    let _held = held_streams(&tollgate.addr, 1, 4).await;
    let mut other = QuotaServiceClient::new(
        Endpoint::from_shared(format!("http://{}", tollgate.addr))
            .unwrap()
            .connect()
            .await
            .unwrap(),
    );
    assert_eq!(
        other
            .reserve(new_reserve(1, ""))
            .await
            .unwrap()
            .into_inner()
            .used,
        1
    );
}

#[tokio::test]
async fn a_call_whose_body_does_not_come_ends_at_its_deadline() {
    let tollgate = start("call_timeout = \"500ms\"\n");
    let path = "/tollgate.v1.QuotaService/Reserve";
    for timeout in [Some("300m"), None] {
        let mut sender = raw_http2(&tollgate.addr).await.unwrap();
        let request = head(&tollgate.addr, path, timeout);
        let begun = Instant::now();
        let (answer, _body) = sender.send_request(request, false).unwrap();
        let answer = tokio::time::timeout(WAIT_TIMEOUT, answer)
            .await
            .unwrap()
            .unwrap();
        let code = Code::DeadlineExceeded as i32;
        assert_eq!(
            answer.headers()["grpc-status"],
            code.to_string(),
            "{timeout:?}"
        );
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }
    let late = || counted(&tollgate, Code::DeadlineExceeded) == 2;
    until("they are counted as something else", late).await;
    assert_eq!(large(&tollgate.client()).await.used, 0);
}

/// How many Reserves were answered with this code.
fn counted(tollgate: &Tollgate, code: Code) -> u64 {
    let name = match code {
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        other => panic!("{other}"),
    };
    let line = format!(
        "tollgate_requests_total{{rpc=\"Reserve\",code=\"{name}\",verdict=\"\",reason=\"\"}} "
    );
    let (_, metrics) = http_get(&tollgate.http_addr, "/metrics");
    let count = metrics.lines().find_map(|it| it.strip_prefix(&line));
    count.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_malformed_call_is_its_callers_fault() {
    let tollgate = start("");
    // An empty body; a head without a message; an invalid flag; half a message.
    let bodies: [&[u8]; 4] = [b"", b"\0\0\0\0", b"\x07\0\0\0\0", b"\0\0\0\0\x09org"];
    for body in bodies {
        let mut sender = raw_http2(&tollgate.addr).await.unwrap();
        let request = head(&tollgate.addr, "/tollgate.v1.QuotaService/Reserve", None);
        let (answer, mut sends) = sender.send_request(request, false).unwrap();
        sends.send_data(body.into(), true).unwrap();
        let answer = tokio::time::timeout(WAIT_TIMEOUT, answer).await.unwrap();
        let status = Status::from_header_map(answer.unwrap().headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{body:?}: {status:?}");
        assert!(status.message().contains("malformed"), "{status:?}");
    }
    assert_eq!(counted(&tollgate, Code::InvalidArgument), 4);
}

#[tokio::test]
async fn a_call_whose_body_is_on_its_way_when_the_service_stops_is_answered() {
    let mut tollgate = start("drain_delay = \"0s\"\n");
    let mut sender = raw_http2(&tollgate.addr).await.unwrap();
    let path = "/tollgate.v1.QuotaService/Reserve";
    let request = head(&tollgate.addr, path, Some("9S"));
    let (answer, mut body) = sender.send_request(request, false).unwrap();
    // So the open call arrived before the signal.
    reserve(&tollgate.client(), 1, "").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    tollgate.signal(Signal::SIGTERM);
    // Longer than connections without an open call may take.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let mut message = vec![0; 5];
    new_reserve(1, "").encode(&mut message).unwrap();
    message[4] = u8::try_from(message.len() - 5).unwrap();
    body.send_data(message.into(), true).unwrap();
    let answer = tokio::time::timeout(WAIT_TIMEOUT, answer).await.unwrap();
    let answer = answer.unwrap();
    assert!(!answer.headers().contains_key("grpc-status"), "{answer:?}");
    drop((answer, sender));
    assert!(tollgate.wait(WAIT_TIMEOUT).success());
}
