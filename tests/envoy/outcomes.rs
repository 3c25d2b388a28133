//! Each verdict leads to its upstream, and each end of a request to what becomes of its reservation.

use serde_json::{Value, json};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    PATH, SETTINGS, Setup,
    gateway::{chat, chat_stream, example},
};
use crate::support::calls::usage;

type Headers<'h> = &'h [(&'h str, &'h str)];

/// More than the tests use.
const ALLOWANCE: u64 = 1_000_000;

/// A request that Tollgate reserves for at most 400 tokens, and what becomes of it.
struct Case {
    name: &'static str,
    body: fn(&str, u64, &str) -> Value,
    then: &'static str,
    status: u16,
    outcome: &'static str,
    /// The tokens that stay counted; none: those that were reserved.
    counted: Option<u64>,
}

const CASES: [Case; 9] = [
    Case {
        name: "json",
        body: chat,
        then: "",
        status: 200,
        outcome: "settled",
        counted: Some(60),
    },
    Case {
        name: "events",
        body: chat_stream,
        then: "",
        status: 200,
        outcome: "settled",
        counted: Some(60),
    },
    Case {
        name: "without usage",
        body: chat,
        then: "no usage",
        status: 200,
        outcome: "kept_no_usage",
        counted: None,
    },
    Case {
        name: "events without usage",
        body: chat_stream,
        then: "no usage",
        status: 200,
        outcome: "kept_no_usage",
        counted: None,
    },
    Case {
        name: "cut",
        body: chat_stream,
        then: "cut",
        status: 200,
        outcome: "kept_upstream_failed",
        counted: None,
    },
    Case {
        name: "refused",
        body: chat,
        then: "400",
        status: 400,
        outcome: "released",
        counted: Some(0),
    },
    Case {
        name: "throttled",
        body: chat,
        then: "429",
        status: 429,
        outcome: "released",
        counted: Some(0),
    },
    Case {
        name: "conflict",
        body: chat,
        then: "409",
        status: 409,
        outcome: "kept_no_usage",
        counted: None,
    },
    Case {
        name: "failed",
        body: chat,
        then: "500",
        status: 500,
        outcome: "kept_upstream_failed",
        counted: None,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_free_request_runs_in_the_program_and_its_reservation_ends_as_the_request_did() {
    let setup = Setup::start(ALLOWANCE, "").await;
    let mut client = setup.client().await;
    let mut ended = std::collections::HashMap::new();
    for case in CASES {
        let before = setup.large().await;
        let body = (case.body)(case.name, 60, case.then);
        let answer = client.post(PATH, &[], body.to_string()).await;
        assert_eq!(answer.status, case.status, "{}: {answer:?}", case.name);
        let count = ended.entry(case.outcome).or_insert(0);
        *count += 1;
        setup.wait_for_outcome(case.outcome, *count).await;
        let [seen] = &setup.provider.seen(case.name)[..] else {
            panic!("{}", case.name);
        };
        assert_eq!(
            (&seen.project[..], &seen.verdict),
            ("shared", &None),
            "{}",
            case.name
        );
        let after = setup.large().await;
        let counted = after.used - before.used;
        match case.counted {
            Some(tokens) => assert_eq!(
                (counted, after.held_tokens),
                (tokens, before.held_tokens),
                "{}",
                case.name
            ),
            None => {
                assert!((200..500).contains(&counted), "{}: {counted}", case.name);
                assert_eq!(
                    after.held_tokens - before.held_tokens,
                    counted,
                    "{}",
                    case.name
                );
            }
        }
    }
}

/// The example's routes for them, and the usage in their own shapes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_and_embeddings_are_settled_with_their_usage() {
    let setup = Setup::start(400, "").await;
    let mut client = setup.client().await;
    let responses = |tag: &str, stream: bool| {
        json!({
            "model": "gpt-4o", "max_output_tokens": 20, "stream": stream, "input": "Is it?",
            "metadata": { "tag": tag, "used": "20" },
        })
    };
    let embeddings = json!({ "model": "gpt-4o", "input": "Is it?", "metadata": { "tag": "vector", "used": "20" } });
    for (at, (path, body)) in (1..).zip([
        ("/v1/responses", responses("whole", false)),
        ("/v1/responses", responses("events", true)),
        ("/v1/embeddings", embeddings.clone()),
    ]) {
        let answer = client.post(path, &[], body.to_string()).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        setup.wait_for_outcome("settled", at).await;
        let tag = body["metadata"]["tag"].as_str().unwrap();
        assert_eq!(setup.provider.seen(tag)[0].project, "shared", "{body}");
        assert_eq!(setup.large().await.used, u64::from(at) * 20, "{body}");
    }
    // Then what does not fit, to the other cluster.
    let mut body = responses("billed", false);
    body["max_output_tokens"] = json!(400);
    client.post("/v1/responses", &[], body.to_string()).await;
    setup.wait_for_outcome("settled_outside_program", 1).await;
    assert_eq!(setup.provider.seen("billed")[0].project, "private");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_billed_request_runs_elsewhere_and_stays_in_the_books() {
    let setup = Setup::start(100, "").await;
    let mut client = setup.client().await;
    // No client can choose its verdict, or repeat another request's id.
    let spoofed = [
        ("x-tollgate-verdict", "free"),
        ("x-tollgate-billed-reason", "none"),
        ("x-request-id", "1"),
    ];
    for tag in ["first", "second"] {
        let answer = client
            .post(PATH, &spoofed, chat(tag, 60, "").to_string())
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(setup.provider.seen(tag)[0].project, "private");
    }
    setup.wait_for_outcome("settled_outside_program", 2).await;
    let large = setup.large().await;
    assert_eq!(
        (large.used, large.billed_tokens, large.held_tokens),
        (0, 0, 0)
    );
    let [row] = &usage(&setup.tollgate.client(), "").await[..] else {
        panic!("one row");
    };
    assert_eq!(
        (row.free_tokens, row.billed_tokens, row.billed_requests),
        (0, 120, 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_estimated_passes_as_billed_and_counts_nothing() {
    let setup = Setup::start(ALLOWANCE, "").await;
    let mut client = setup.client().await;
    let body = chat("x", 60, "").to_string();
    let cut_before_its_model = format!("{{\"messages\": \"{}\"", "x".repeat(2 << 20));
    let none: Headers<'_> = &[];
    let gzip: Headers<'_> = &[("content-encoding", "gzip")];
    let calls = [
        ("/v1/files", none, body.clone()),
        (PATH, gzip, body.clone()),
        (PATH, none, body[1..].to_owned()),
        (PATH, none, cut_before_its_model),
    ];
    for (at, (path, headers, body)) in calls.into_iter().enumerate() {
        let answer = client.post(path, headers, body).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let label = "answer=\"unreadable\"";
        let count = f64::from(u32::try_from(at).unwrap() + 1);
        crate::metrics::wait_for(
            &setup.tollgate,
            "tollgate_envoy_checks_total",
            &[label],
            count,
        )
        .await;
    }
    let large = setup.large().await;
    assert_eq!((large.used, large.billed_requests), (0, 0));
    assert!(usage(&setup.tollgate.client(), "").await.is_empty());
}

/// Envoy sends the beginning of a body that is longer than its bound. What follows may ask for tools.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_the_bound_is_billed_and_stays_in_the_books() {
    let setup = Setup::start(ALLOWANCE, "").await;
    // Of a body that is a little longer, Envoy may send the beginning without saying so.
    let lengths = [2 << 20, (1 << 20) + 1, (1 << 20) + 20_000];
    for (settled, length) in (1..).zip(lengths) {
        let tag = length.to_string();
        let mut body = chat(&tag, 60, "");
        body["messages"][0]["content"] = json!("x".repeat(length));
        body["tools"] = json!([{ "type": "function", "function": { "name": "f" } }]);
        body.as_object_mut().unwrap().remove("model");
        // The model comes first, as clients write it.
        let text = format!("{{\"model\":\"gpt-4o\",{}", &body.to_string()[1..]);
        post_in_two_steps(&setup, &text).await;
        setup
            .wait_for_outcome("settled_outside_program", settled)
            .await;
        assert_eq!(setup.provider.seen(&tag)[0].project, "private");
        assert_eq!(setup.large().await.used, 0);
        let billed = usage(&setup.tollgate.client(), "").await[0].billed_tokens;
        assert_eq!(billed, 60 * u64::from(settled));
    }
}

/// Sends the body once Envoy has asked for it, as curl does.
async fn post_in_two_steps(setup: &Setup, body: &str) {
    let mut stream = TcpStream::connect(setup.gateway.addr()).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-length: {length}\r\n\
         expect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_the_settings_do_not_name_is_warned_of() {
    let setup = Setup::start_with_settings(
        example(),
        ALLOWANCE,
        &SETTINGS.replace("openai_shared", "typo"),
    )
    .await;
    let mut client = setup.client().await;
    let answer = client
        .post(PATH, &[], chat("typo", 60, "").to_string())
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    setup.wait_for_outcome("settled_outside_program", 1).await;
    let warned = |line: &Value| line["level"] == "WARN" && line["cluster"] == "openai_shared";
    assert!(setup.tollgate.log().iter().any(warned));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_billed_is_denied_the_client_gets_429_and_nothing_is_counted() {
    let setup = Setup::start(600, "on_billed = \"deny\"\n").await;
    let mut client = setup.client().await;
    let answer = client
        .post(PATH, &[], chat("free", 500, "").to_string())
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    setup.wait_for_outcome("settled", 1).await;
    let answer = client
        .post(PATH, &[], chat("denied", 60, "").to_string())
        .await;
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(answer.headers["x-should-retry"], "false");
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["error"]["type"], "insufficient_quota");
    assert_eq!(body["error"]["code"], "allowance_exceeded");
    assert!(setup.provider.seen("denied").is_empty());
    let large = setup.large().await;
    assert_eq!(
        (large.used, large.billed_requests, large.held_tokens),
        (500, 0, 0)
    );
}

/// With a retry policy that retries requests that may have run.
async fn start_retrying(allowance: u64) -> Setup {
    let mut config = example();
    let manager = &mut config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    let hosts = &mut manager["typed_config"]["route_config"]["virtual_hosts"];
    for route in hosts[0]["routes"].as_array_mut().unwrap() {
        route["route"]["retry_policy"] = json!({ "retry_on": "5xx", "num_retries": 1 });
    }
    Setup::start_with(config, allowance, "").await
}

/// One Check, and two requests at the provider, of which only the last one has usage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_before_the_last_stays_counted_with_what_it_may_have_used() {
    let setup = start_retrying(ALLOWANCE).await;
    let mut client = setup.client().await;
    let kept = chat("fails", 60, "500").to_string();
    assert_eq!(client.post(PATH, &[], kept).await.status, 500);
    setup.wait_for_outcome("kept_upstream_failed", 1).await;
    let both = setup.large().await;
    assert_eq!(both.held_tokens, both.used);
    // A body of the same length.
    let retried = chat("twice", 60, "500 once").to_string();
    assert_eq!(client.post(PATH, &[], retried).await.status, 200);
    setup.wait_for_outcome("settled", 1).await;
    assert_eq!(setup.provider.seen("twice").len(), 2);
    let more = " once".len() as u64;
    let earlier = both.used / 2 + more;
    let large = setup.large().await;
    assert_eq!(
        (large.used, large.held_tokens),
        (both.used + earlier + 60, both.used + earlier)
    );
}

/// The provider may have counted both attempts, and so be past the allowance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_attempts_do_not_fit_nothing_more_is_free() {
    let setup = start_retrying(300).await;
    let mut client = setup.client().await;
    let retried = chat("twice", 120, "500 once").to_string();
    assert_eq!(client.post(PATH, &[], retried).await.status, 200);
    setup.wait_for_outcome("kept_earlier_attempts", 1).await;
    assert_eq!(setup.provider.seen("twice")[1].project, "shared");
    let large = setup.large().await;
    assert_eq!((large.used, large.held_tokens), (300, 300), "{large:?}");
}
