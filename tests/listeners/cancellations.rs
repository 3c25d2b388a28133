//! A connection that cancels many calls before the service has accepted them is closed, and no other one. Accepted calls
//! may be cancelled in any number.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use h2::Reason;
use tonic::{Code, Status};

use super::{WAIT_TIMEOUT, ended, start, until};
use crate::{
    server::http_get,
    support::{
        calls::{large, reserve},
        floods::{PREFACE, Sender, head, raw_http2},
    },
};

const RESERVE: &str = "/tollgate.v1.QuotaService/Reserve";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The HEADERS of a call; its message would follow.
fn headers(stream: u32, path: &str) -> Vec<u8> {
    // Method and scheme, then literals without indexing.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    frame(1, 4, stream, &block)
}

/// Sends calls in one write, each cancelled at once, and waits until the service closes the connection. Returns the
/// reason in its GOAWAY.
fn cancel_at_once(addr: &str, path: &str, reason: Reason) -> Option<Reason> {
    let mut bytes = PREFACE.to_vec();
    for stream in (1..2_000).step_by(2) {
        bytes.extend(headers(stream, path));
        bytes.extend(frame(3, 0, stream, &u32::from(reason).to_be_bytes()));
    }
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let mut rest = answer.as_slice();
    while let [high, middle, low, kind, _, _, _, _, _, frames @ ..] = rest {
        let length = u32::from_be_bytes([0, *high, *middle, *low]);
        let (payload, frames) = frames.split_at(usize::try_from(length).unwrap());
        if *kind == 7 {
            let reason: [u8; 4] = payload[4..8].try_into().unwrap();
            return Some(Reason::from(u32::from_be_bytes(reason)));
        }
        rest = frames;
    }
    None
}

/// Makes a call on the connection, which is answered.
async fn answered(mut sender: Sender, addr: &str) -> Sender {
    sender = sender.ready().await.unwrap();
    let (answer, _) = sender
        .send_request(head(addr, RESERVE, None), true)
        .unwrap();
    let answer = tokio::time::timeout(WAIT_TIMEOUT, answer).await.unwrap();
    // It has no message.
    let status = Status::from_header_map(answer.unwrap().headers()).unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("malformed"), "{status:?}");
    sender
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_cancels_many_calls_at_once_loses_its_connection_and_others_keep_theirs() {
    let tollgate = start("");
    let client = tollgate.client();
    let mut other = raw_http2(&tollgate.addr).await.unwrap();
    // The reason of the cancellation does not matter, nor whether the call would be refused.
    let modes = [
        (RESERVE, Reason::CANCEL),
        (RESERVE, Reason::NO_ERROR),
        ("/tollgate.v1.QuotaService/Nothing", Reason::CANCEL),
        ("/", Reason::CANCEL),
    ];
    for (count, (path, reason)) in (1..).zip(modes) {
        let addr = tollgate.addr.clone();
        let flood = tokio::task::spawn_blocking(move || cancel_at_once(&addr, path, reason));
        other = answered(other, &tollgate.addr).await;
        reserve(&client, 1, "").await;
        let closed_with = flood.await.unwrap();
        assert_eq!(closed_with, Some(Reason::ENHANCE_YOUR_CALM), "{path}");
        until("it is still there", || ended(&tollgate, "Error") == count).await;
    }
    answered(other, &tollgate.addr).await;
    assert_eq!(large(&client).await.used, 4);
    assert_eq!(ended(&tollgate, "Error"), 4);
    // A flood of such connections does not fill the log.
    let log = tollgate.log();
    let of_h2 = log
        .iter()
        .find(|line| line["target"].as_str().unwrap().starts_with("h2"));
    assert_eq!(of_h2, None);
}

#[tokio::test]
async fn a_caller_that_cancels_accepted_calls_keeps_its_connection() {
    let tollgate = start("");
    let mut sender = raw_http2(&tollgate.addr).await.unwrap();
    for _ in 0..20 {
        let mut begun = Vec::new();
        for _ in 0..200 {
            sender = sender.ready().await.unwrap();
            let request = head(&tollgate.addr, RESERVE, None);
            let (_, body) = sender.send_request(request, false).unwrap();
            begun.push(body);
        }
        // Calls are accepted in order: once this one is answered, the earlier ones are accepted.
        sender = answered(sender, &tollgate.addr).await;
        for mut body in begun {
            body.send_reset(Reason::CANCEL);
        }
    }
    answered(sender, &tollgate.addr).await;
    assert_eq!(large(&tollgate.client()).await.used, 0);
    assert_eq!(ended(&tollgate, "Error"), 0);
    // Counted as the caller's cancellations, not as errors of the service.
    let counted = || {
        let (_, metrics) = http_get(&tollgate.http_addr, "/metrics");
        let line =
            "tollgate_requests_total{rpc=\"Reserve\",code=\"CANCELLED\",verdict=\"\",reason=\"\"} ";
        metrics
            .lines()
            .any(|it| it.strip_prefix(line) == Some("4000"))
    };
    until("not all are counted", counted).await;
}
