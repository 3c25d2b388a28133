//! `ReserveStream`: exactly one answer per request, in order, equal to that of Reserve.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{StreamExt as _, future::join_all, stream};
use tokio::sync::mpsc;
use tollgate::grpc::proto::{ItemError, ReleaseRequest, ReserveRequest, Verdict};
use tonic::{Code, transport::Endpoint};

use super::{MORE_ORGS, Service, new_reserve, over_every_store};
use crate::support::{
    calls::Client,
    streams::{StreamItem, code, next, stream_all},
};

over_every_store!(
    each_request_has_the_answer_that_reserve_gives_in_its_place,
    a_request_that_reserve_refuses_gets_its_error_and_the_stream_goes_on,
    one_burst_may_be_of_many_organizations,
    a_request_is_answered_before_the_next_one_comes,
    a_caller_who_does_not_read_is_not_listened_to_and_loses_nothing,
    a_caller_who_goes_away_has_each_request_counted_once_or_not_at_all,
    a_message_that_is_too_large_ends_the_stream_behind_the_answers_to_those_before,
);

fn named(tokens: u64, request_id: &str) -> ReserveRequest {
    ReserveRequest {
        request_id: request_id.to_owned(),
        ..new_reserve(tokens)
    }
}

/// Reserve's answers to the requests one by one; errors as a stream would send them.
async fn one_by_one(client: &Client, requests: Vec<ReserveRequest>) -> Vec<StreamItem> {
    let mut received = Vec::new();
    for request in requests {
        let answer = client.clone().reserve(request).await;
        received.push(
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| ItemError {
                    code: status.code().into(),
                    message: status.message().to_owned(),
                }),
        );
    }
    received
}

async fn each_request_has_the_answer_that_reserve_gives_in_its_place(service: Service) {
    let mut requests = vec![
        named(400_000, "a"),
        named(400_000, "b"),
        // Does not fit; the next, smaller one does.
        named(200_001, "c"),
        named(200_000, ""),
        // Duplicates within a burst.
        named(400_000, "a"),
        named(200_001, "c"),
        ReserveRequest {
            dry_run: true,
            ..named(1, "d")
        },
        ReserveRequest {
            model: "gpt-4o-mini".to_owned(),
            dry_run: true,
            ..new_reserve(1)
        },
        ReserveRequest {
            model: "gpt-4o-mini".to_owned(),
            ..new_reserve(7)
        },
        ReserveRequest {
            model: "o1-pro".to_owned(),
            ..new_reserve(7)
        },
        ReserveRequest {
            workload: 4,
            ..new_reserve(7)
        },
        ReserveRequest {
            org: "stranger".to_owned(),
            ..named(7, "a")
        },
        // The dry run did not use the id.
        named(1, "d"),
    ];
    // More than the service reads at once.
    requests.extend((0..1_000).map(|at| ReserveRequest {
        model: ["gpt-4o", "gpt-4o-mini", "o3"][at % 3].to_owned(),
        ..named(1 + at as u64, &format!("id {}", at % 700))
    }));
    let reference = Service::memory();
    let wanted = one_by_one(&reference.tollgate.client(), requests.clone()).await;
    let received = stream_all(&service.tollgate.client(), requests).await;
    assert_eq!(received.len(), wanted.len());
    for (at, (received, wanted)) in received.iter().zip(&wanted).enumerate() {
        assert_eq!(received, wanted, "{at}");
    }
    assert_eq!(service.large().await, reference.large().await);
}

async fn a_request_that_reserve_refuses_gets_its_error_and_the_stream_goes_on(service: Service) {
    let requests = || {
        let long = "x".repeat(257);
        vec![
            named(10, "kept"),
            named(10, "gone"),
            ReserveRequest {
                org: String::new(),
                ..new_reserve(1)
            },
            ReserveRequest {
                project: "a\nb".to_owned(),
                ..new_reserve(1)
            },
            ReserveRequest {
                model: long.clone(),
                ..new_reserve(1)
            },
            named(1, &long),
            new_reserve(0),
            ReserveRequest {
                workload: 99,
                ..new_reserve(1)
            },
            named(11, "kept"),
            named(10, "gone"),
            named(10, "kept"),
            new_reserve(1),
        ]
    };
    let reference = Service::memory();
    let mut received = Vec::new();
    for service in [&service, &reference] {
        let mut client = service.tollgate.client();
        stream_all(&client, vec![named(10, "gone")]).await;
        let (org, request_id) = ("org-demo".to_owned(), "gone".to_owned());
        client
            .release(ReleaseRequest { org, request_id })
            .await
            .unwrap();
    }
    received.push(stream_all(&service.tollgate.client(), requests()).await);
    received.push(one_by_one(&reference.tollgate.client(), requests()).await);
    assert_eq!(received[0], received[1]);
    let codes: Vec<Code> = received[0].iter().map(code).collect();
    let (ok, bad) = (Code::Ok, Code::InvalidArgument);
    let (other, released) = (Code::AlreadyExists, Code::FailedPrecondition);
    let wanted = [
        ok, released, bad, bad, bad, bad, bad, bad, other, released, ok, ok,
    ];
    assert_eq!(codes, wanted);
    for (at, field) in [
        "org",
        "project",
        "model",
        "request_id",
        "tokens",
        "workload",
    ]
    .into_iter()
    .enumerate()
    {
        let error = received[0][at + 2].as_ref().unwrap_err();
        assert!(
            error.message.starts_with(&format!("{field}: ")),
            "{error:?}"
        );
    }
}

async fn one_burst_may_be_of_many_organizations(service: Service) {
    let requests = (0..2_000).map(|at| ReserveRequest {
        org: format!("org-{}", at * 7 % MORE_ORGS),
        ..named(1 + (at % 5) as u64, "")
    });
    let requests: Vec<ReserveRequest> = requests.collect();
    let received = stream_all(&service.tollgate.client(), requests.clone()).await;
    assert_eq!(received.len(), requests.len());
    let mut used = [0; MORE_ORGS];
    for (request, received) in requests.iter().zip(received) {
        let org: usize = request.org[4..].parse().unwrap();
        used[org] += request.tokens;
        assert_eq!(received.unwrap().used, used[org]);
    }
}

async fn a_request_is_answered_before_the_next_one_comes(service: Service) {
    let (sender, receiver) = mpsc::channel(1);
    let requests = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
        Some((receiver.recv().await?, receiver))
    });
    let answers = service.tollgate.client().reserve_stream(requests).await;
    let mut answers = answers.unwrap().into_inner();
    for used in 1..=50 {
        sender.send(new_reserve(1)).await.unwrap();
        assert_eq!(next(&mut answers).await.unwrap().unwrap().used, used);
    }
    drop(sender);
    assert!(next(&mut answers).await.is_none());
}

/// The names are so long that the requests fill HTTP/2's windows long before all are sent.
async fn a_caller_who_does_not_read_is_not_listened_to_and_loses_nothing(service: Service) {
    const REQUESTS: usize = 10_000;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let requests = stream::iter(0..REQUESTS).map(move |at| {
        counted.fetch_add(1, Ordering::Relaxed);
        ReserveRequest {
            project: "p".repeat(250),
            ..named(1, &format!("{at:0100}"))
        }
    });
    let channel = Endpoint::from_shared(format!("http://{}", service.tollgate.addr))
        .unwrap()
        .initial_stream_window_size(16 * 1024)
        .connect_lazy();
    let answers = Client::new(channel).reserve_stream(requests).await;
    let mut answers = answers.unwrap().into_inner();
    // Until nothing more is counted for a while.
    let (mut still, mut before) = (0, 0);
    while still < 20 {
        let now = service.large().await.free_requests;
        still = if now == before && now > 0 {
            still + 1
        } else {
            0
        };
        before = now;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let sent_unread = sent.load(Ordering::Relaxed);
    assert!(
        sent_unread < REQUESTS && before < REQUESTS as u64 / 2,
        "{sent_unread} {before}"
    );
    for used in 1..=REQUESTS as u64 {
        let answer = next(&mut answers).await.unwrap().unwrap();
        assert_eq!((answer.used, answer.replayed), (used, false));
    }
    assert!(next(&mut answers).await.is_none());
    assert_eq!(service.large().await.free_requests, REQUESTS as u64);
}

async fn a_caller_who_goes_away_has_each_request_counted_once_or_not_at_all(service: Service) {
    const STREAMS: usize = 12;
    const REQUESTS: usize = 300;
    let id = |stream: usize, at: usize| format!("{stream} {at}");
    let leave = (0..STREAMS).map(|stream| {
        let client = service.tollgate.client();
        async move {
            let requests = (0..REQUESTS).map(move |at| named(1, &format!("{stream} {at}")));
            let answers = client.clone().reserve_stream(stream::iter(requests)).await;
            let mut answers = answers.unwrap().into_inner();
            // Reads none, or some, of the answers.
            for _ in 0..stream * 20 {
                assert!(!next(&mut answers).await.unwrap().unwrap().replayed);
            }
        }
    });
    join_all(leave).await;
    let client = service.tollgate.client();
    let again =
        (0..STREAMS).flat_map(|stream| (0..REQUESTS).map(move |at| named(1, &id(stream, at))));
    let again = stream_all(&client, again.collect()).await;
    for (stream, answers) in again.chunks(REQUESTS).enumerate() {
        for (at, answer) in answers.iter().enumerate() {
            let answer = answer.as_ref().unwrap();
            assert_eq!(answer.verdict(), Verdict::Free);
            assert!(
                answer.replayed || at >= stream * 20,
                "an answer was given for {stream} {at}"
            );
        }
    }
    let large = service.large().await;
    assert_eq!((large.used, large.free_requests), (3_600, 3_600));
}

async fn a_message_that_is_too_large_ends_the_stream_behind_the_answers_to_those_before(
    service: Service,
) {
    let large = ReserveRequest {
        project: "x".repeat(65 * 1024),
        ..new_reserve(1)
    };
    let requests = stream::iter([new_reserve(1), new_reserve(1), large, new_reserve(1)]);
    let answers = service.tollgate.client().reserve_stream(requests).await;
    let mut answers = answers.unwrap().into_inner();
    for used in 1..=2 {
        assert_eq!(next(&mut answers).await.unwrap().unwrap().used, used);
    }
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_eq!(service.large().await.free_requests, 2);
}
