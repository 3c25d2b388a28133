//! A caller that cancels thousands of calls is slowed down, and finally gets GOAWAY; other callers are not affected.

use std::time::{Duration, Instant};

use h2::Reason;
use tonic::{Code, Status};

use super::{WAIT_TIMEOUT, ended, start, until};
use crate::{
    server::http_get,
    support::{
        calls::{large, reserve},
        floods::{Sender, head, rapid_reset, raw_http2},
    },
};

const RESERVE: &str = "/tollgate.v1.QuotaService/Reserve";

/// How calls are begun and cancelled.
#[derive(Clone, Copy)]
struct CancelMode {
    path: &'static str,
    reason: Reason,
}

const RESET_RESERVE: CancelMode = CancelMode {
    path: RESERVE,
    reason: Reason::CANCEL,
};

/// Begins so many calls on a connection, and cancels each at once.
async fn cancel(mut sender: Sender, addr: &str, calls: usize, mode: CancelMode) -> Sender {
    for _ in 0..calls {
        sender = sender.ready().await.unwrap();
        let request = head(addr, mode.path, None);
        let (_, mut body) = sender.send_request(request, false).unwrap();
        body.send_reset(mode.reason);
    }
    sender
}

/// Makes a call on the connection, which is answered.
async fn answered(mut sender: Sender, addr: String) -> Sender {
    sender = sender.ready().await.unwrap();
    let request = head(&addr, RESERVE, None);
    let (answer, _) = sender.send_request(request, true).unwrap();
    let answer = tokio::time::timeout(WAIT_TIMEOUT, answer).await.unwrap();
    // It has no message. Only the time of its answer matters.
    let status = Status::from_header_map(answer.unwrap().headers()).unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("malformed"), "{status:?}");
    sender
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_too_many_cancellations_is_slowed_and_others_are_not() {
    let tollgate = start("");
    let sender = raw_http2(&tollgate.addr).await.unwrap();
    let begun = Instant::now();
    let sender = cancel(sender, &tollgate.addr, 1_800, RESET_RESERVE).await;
    let slow = tokio::spawn(answered(sender, tollgate.addr.clone()));
    let client = tollgate.client();
    let mut others = 0;
    while !slow.is_finished() {
        reserve(&client, 1, "").await;
        others += 1;
    }
    // 1,600 more than the initial budget, which refills by 2,000 a second.
    slow.await.unwrap();
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(200), "{took:?}");
    assert!(others > 20, "{others}");
    assert_eq!(large(&client).await.used, others);
    assert_eq!(ended(&tollgate, "Cancelling"), 0);
    // Counted as the caller's cancellations, not as errors of the service.
    let counted = || {
        let (_, metrics) = http_get(&tollgate.http_addr, "/metrics");
        let line =
            "tollgate_requests_total{rpc=\"Reserve\",code=\"CANCELLED\",verdict=\"\",reason=\"\"} ";
        metrics
            .lines()
            .any(|it| it.strip_prefix(line) == Some("1800"))
    };
    until("not all are counted", counted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_does_not_stop_gets_goaway() {
    let tollgate = start("[bounds]\ncancelled_per_second = 100\n");
    rapid_reset(&tollgate.addr, Duration::from_secs(4)).await;
    until("it is still there", || ended(&tollgate, "Cancelling") > 0).await;
    let (_, metrics) = http_get(&tollgate.http_addr, "/metrics");
    let line = "tollgate_connections_closed_total{port=\"grpc\",why=\"cancelling\"} ";
    let closed = metrics.lines().find_map(|it| it.strip_prefix(line));
    assert!(closed.unwrap().parse::<u64>().unwrap() > 0);
    reserve(&tollgate.client(), 1, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_cancelling_all_open_calls_the_next_call_is_answered() {
    let tollgate = start("[bounds]\ncancelled_per_second = 100000\n");
    let mut sender = raw_http2(&tollgate.addr).await.unwrap();
    for _ in 0..3 {
        sender = cancel(sender, &tollgate.addr, 1_000, RESET_RESERVE).await;
        sender = answered(sender, tollgate.addr.clone()).await;
    }
    drop(sender);
    assert_eq!(large(&tollgate.client()).await.used, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_cancelled_call_counts_and_so_does_one_that_would_be_refused() {
    let tollgate = start("");
    for mode in [
        CancelMode {
            reason: Reason::NO_ERROR,
            ..RESET_RESERVE
        },
        CancelMode {
            path: "/tollgate.v1.QuotaService/Nothing",
            ..RESET_RESERVE
        },
        CancelMode {
            path: "/",
            ..RESET_RESERVE
        },
    ] {
        let sender = raw_http2(&tollgate.addr).await.unwrap();
        let begun = Instant::now();
        let sender = cancel(sender, &tollgate.addr, 1_800, mode).await;
        answered(sender, tollgate.addr.clone()).await;
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(200), "{took:?}");
    }
}
