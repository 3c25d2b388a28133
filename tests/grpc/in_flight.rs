//! Callers that cancel or time out: a call counts once or not at all, and its id shows which.

use std::{pin::pin, task::Poll, time::Duration};

use futures_util::{StreamExt as _, future, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tollgate::grpc::proto::{
    ReserveRequest, ReserveResponse, Verdict, quota_service_client::QuotaServiceClient,
};
use tonic::{Code, Request, Status, codegen::http, transport::Channel};

use super::{Service, new_reserve, over_every_store};
use crate::support::tollgate::Tollgate;

const CALLS: u64 = 1_000;

const CONCURRENT_CALLS: usize = 40;

/// How long the service may take to end a call, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

over_every_store!(
    a_thousand_calls_cancelled_in_flight_are_each_counted_once_or_not_at_all,
    a_call_whose_deadline_is_over_is_an_error_and_counts_at_most_once,
);

fn ask_as(id: &str, tokens: u64) -> ReserveRequest {
    ReserveRequest {
        request_id: id.to_owned(),
        ..new_reserve(tokens)
    }
}

/// Different tokens for each call, so that a sum shows which calls counted.
fn tokens(call: u64) -> u64 {
    1 + call * 7919 % 997
}

/// Polls a future at most this often, and then drops it.
async fn poll_at_most<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
        if let Poll::Ready(done) = polled.await {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

async fn a_thousand_calls_cancelled_in_flight_are_each_counted_once_or_not_at_all(
    service: Service,
) {
    let client = service.tollgate.client();
    let cancelled = stream::iter(0..CALLS).map(|call| {
        let mut client = client.clone();
        async move {
            // From one poll, before anything is sent, to more than an answer needs.
            let polls = 1 << (call * 31 % 13);
            let request = ask_as(&format!("call-{call}"), tokens(call));
            let answer = poll_at_most(polls, client.reserve(request)).await;
            u64::from(answer.is_none())
        }
    });
    let cancelled: Vec<u64> = cancelled.buffer_unordered(CONCURRENT_CALLS).collect().await;
    let cancelled: u64 = cancelled.iter().sum();
    assert!(cancelled >= CALLS / 13, "only {cancelled} were cancelled");
    let used_before = service.large().await.used;
    // A retry counts what was not counted before, and only that.
    let mut counted_before = 0;
    for call in 0..CALLS {
        let answer = retry(&client, &format!("call-{call}"), tokens(call)).await;
        assert_eq!(answer.verdict(), Verdict::Free);
        counted_before += if answer.replayed { tokens(call) } else { 0 };
    }
    // Writes whose callers left may have finished in between, but none was lost.
    assert!(
        used_before <= counted_before,
        "{used_before} {counted_before}"
    );
    let large = service.large().await;
    assert_eq!(large.used, (0..CALLS).map(tokens).sum::<u64>());
    assert_eq!(large.free_requests, CALLS);
}

async fn retry(client: &QuotaServiceClient<Channel>, id: &str, tokens: u64) -> ReserveResponse {
    let answer = client.clone().reserve(ask_as(id, tokens)).await;
    answer.unwrap().into_inner()
}

async fn a_call_whose_deadline_is_over_is_an_error_and_counts_at_most_once(service: Service) {
    let client = service.tollgate.client();
    // Connects to the store first, so that only the decision waits below.
    retry(&client, "first", 1).await;
    // The request arrives too late, so it counts nothing.
    assert_over(reserve_without_message(&service).await);
    assert_eq!(service.large().await.used, 1);
    // The store answers too late: the caller does not know the outcome.
    if let Some(redis) = &service.redis {
        redis.run(&["CLIENT", "PAUSE", "60000", "WRITE"]);
        let status = reserve_within(&client, "late", 20, "50m").await;
        assert_over_for_the_caller(status.unwrap_err().code());
        redis.run(&["CLIENT", "UNPAUSE"]);
        retry(&client, "late", 20).await;
        // What was sent before the pause came first, so all of it is counted.
        assert_eq!(service.large().await.used, 21);
    }
    // The shortest possible deadline may expire at any point of the call.
    let before = service.large().await.used;
    for call in 0..100 {
        let id = format!("least-{call}");
        if let Err(status) = reserve_within(&client, &id, 3, "1n").await {
            assert_over_for_the_caller(status.code());
        }
        retry(&client, &id, 3).await;
    }
    assert_eq!(service.large().await.used, before + 300);
}

fn assert_over(code: Code) {
    assert!(
        matches!(code, Code::Cancelled | Code::DeadlineExceeded),
        "{code}"
    );
}

/// The service answers shortly before the deadline, but the client's timer may expire first.
fn assert_over_for_the_caller(code: Code) {
    if code != Code::Unavailable {
        assert_over(code);
    }
}

async fn reserve_within(
    client: &QuotaServiceClient<Channel>,
    id: &str,
    tokens: u64,
    grpc_timeout: &'static str,
) -> Result<ReserveResponse, Status> {
    let mut request = Request::new(ask_as(id, tokens));
    let metadata = request.metadata_mut();
    metadata.insert("grpc-timeout", grpc_timeout.parse().unwrap());
    let answer = client.clone().reserve(request).await?;
    Ok(answer.into_inner())
}

/// The code of a call with a deadline whose message never arrives. Uses h2, because tonic's client would end the call
/// by its own timer.
async fn reserve_without_message(service: &Service) -> Code {
    let stream = TcpStream::connect(&service.tollgate.addr).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!(
        "http://{}/tollgate.v1.QuotaService/Reserve",
        service.tollgate.addr
    );
    let request = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "50m")
        .body(())
        .unwrap();
    // Keeps the request open until the answer.
    let (answer, _message) = sender
        .ready()
        .await
        .unwrap()
        .send_request(request, false)
        .unwrap();
    let answer = timeout(WAIT_TIMEOUT, answer).await.unwrap().unwrap();
    connection.abort();
    Code::from_bytes(answer.headers()["grpc-status"].as_bytes())
}

#[tokio::test]
async fn a_tunnel_is_refused_and_its_connection_goes_on() {
    let tollgate = Tollgate::start(&["--store", "memory:"]);
    let stream = TcpStream::connect(&tollgate.addr).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..2 {
        let request = http::Request::connect("example.com:443").body(()).unwrap();
        sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(request, false).unwrap();
        let answer = timeout(WAIT_TIMEOUT, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), http::StatusCode::METHOD_NOT_ALLOWED);
    }
    connection.abort();
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()];
    [&head.concat(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// The header block of a Reserve in HPACK, without tables: POST, http, path, content type, te.
fn reserve_head() -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let parts: [&[u8]; 7] = [
        &[0x83, 0x86, 0x04],
        &text("/tollgate.v1.QuotaService/Reserve"),
        &[0x0f, 0x10],
        &text("application/grpc"),
        &[0x00],
        &text("te"),
        &text("trailers"),
    ];
    parts.concat()
}

/// A gateway whose callers all cancel at once. Written as raw frames, so that all calls and cancellations arrive
/// together.
#[tokio::test]
async fn many_calls_cancelled_at_a_time_do_not_cost_the_connection_of_the_others() {
    let service = Service::memory();
    let head = reserve_head();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(SETTINGS, 0, 0, &[]));
    for call in 0..500 {
        let stream = 2 * call + 1;
        sent.extend(frame(HEADERS, END_HEADERS, stream, &head));
        sent.extend(frame(RST_STREAM, 0, stream, &CANCEL));
    }
    let (last, message) = (1_001, prost::Message::encode_to_vec(&new_reserve(7)));
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    sent.extend(frame(HEADERS, END_HEADERS, last, &head));
    let message = [&[0], &length[..], &message].concat();
    sent.extend(frame(DATA, END_STREAM, last, &message));
    let mut connection = TcpStream::connect(&service.tollgate.addr).await.unwrap();
    connection.write_all(&sent).await.unwrap();
    let answered = async {
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            connection.read_exact(&mut payload).await.unwrap();
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let text = String::from_utf8_lossy(&payload).into_owned();
            assert_ne!(head[3], GOAWAY, "{text}");
            if (head[3], stream) == (DATA, last) {
                break;
            }
        }
    };
    timeout(WAIT_TIMEOUT, answered).await.unwrap();
    assert_eq!(service.large().await.used, 7);
}
