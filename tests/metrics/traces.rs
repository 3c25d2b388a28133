//! Traces by OTLP: a call's span is in its caller's trace, and a faulty collector harms no call.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};
use tonic_health::pb::health_check_response::ServingStatus;

use super::WAIT_TIMEOUT;
use crate::{
    http_api::post,
    support::{
        calls::{Client, TextFile, new_reserve, policy_file},
        redis::RedisServer,
        tollgate::Tollgate,
    },
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that stores the received spans.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    resources: Arc<Mutex<Vec<KeyValue>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            *self.resources.lock().unwrap() = attributes;
            let spans = resource.scope_spans.into_iter();
            let mut received = self.spans.lock().unwrap();
            received.extend(spans.flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// A serving collector, and its endpoint.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        (collector, endpoint)
    }

    /// Waits for so many spans, and returns them by name.
    async fn wait_for(&self, spans: usize) -> Vec<Span> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let received = self.spans.lock().unwrap().clone();
            if received.len() >= spans {
                assert_eq!(received.len(), spans, "{received:#?}");
                return received;
            }
            assert!(Instant::now() < deadline, "{received:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => panic!("{other:?}"),
    }
}

/// An attribute of a span as text; empty without such an attribute.
fn attribute(span: &Span, key: &str) -> String {
    let attributes = span.attributes.iter();
    let found = attributes.filter(|attribute| attribute.key == key);
    found
        .map(|attribute| text(attribute.value.clone()))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request with a trace context.
fn in_a_trace<T>(message: T, sampled: bool) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled));
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().unwrap());
    request
}

async fn start(args: &[&str]) -> (Tollgate, Client, TextFile) {
    let policy = policy_file(1_000);
    let args = [args, &["--policy", policy.path()]].concat();
    let tollgate = Tollgate::start(&args);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let client = tollgate.client();
    (tollgate, client, policy)
}

#[tokio::test]
async fn a_call_has_a_span_in_its_callers_trace_and_one_for_the_store() {
    for redis in [None, Some(RedisServer::start())] {
        let store = redis
            .as_ref()
            .map_or("memory:".to_owned(), RedisServer::url);
        let (collector, endpoint) = Collector::start().await;
        let args = ["--store", &store, "--otlp-endpoint", &endpoint];
        let (_tollgate, mut client, _policy) = start(&args).await;
        client
            .reserve(in_a_trace(new_reserve(10, "a"), true))
            .await
            .unwrap();
        let spans = collector.wait_for(2).await;
        let call = spans
            .iter()
            .find(|span| span.kind == 2)
            .expect("of a server");
        let store = spans
            .iter()
            .find(|span| span.kind == 3)
            .expect("of a client");
        assert_eq!(call.name, "tollgate.v1.QuotaService/Reserve");
        assert_eq!(
            (hex(&call.trace_id), hex(&call.parent_span_id)),
            (TRACE.into(), PARENT.into())
        );
        for (key, value) in [
            ("rpc.system", "grpc"),
            ("rpc.service", "tollgate.v1.QuotaService"),
            ("rpc.method", "Reserve"),
            ("rpc.grpc.status_code", "0"),
            ("tollgate.verdict", "FREE"),
            ("tollgate.reason", ""),
            ("tollgate.pool", "large"),
            ("tollgate.replayed", "false"),
        ] {
            assert_eq!(attribute(call, key), value, "{key}: {call:#?}");
        }
        assert_eq!(store.name, "tollgate.store.decide");
        assert_eq!(
            (&store.trace_id, &store.parent_span_id),
            (&call.trace_id, &call.span_id)
        );
        assert_eq!(attribute(store, "tollgate.batch.decisions"), "1");
        assert!(store.start_time_unix_nano >= call.start_time_unix_nano);
        assert!(store.end_time_unix_nano >= store.start_time_unix_nano);
        let resources = collector.resources.lock().unwrap().clone();
        let name = resources.into_iter().find(|it| it.key == "service.name");
        assert_eq!(text(name.unwrap().value), "tollgate");
        for span in spans {
            let text = format!("{span:?}");
            assert!(!text.contains("acme") && !text.contains("gpt-4o"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_failed_call_and_a_stream_have_one_span_each() {
    let (collector, endpoint) = Collector::start().await;
    let args = ["--store", "memory:", "--otlp-endpoint", &endpoint];
    let (_tollgate, mut client, _policy) = start(&args).await;
    client
        .reserve(in_a_trace(new_reserve(0, ""), true))
        .await
        .unwrap_err();
    let failed = collector.wait_for(1).await.remove(0);
    assert_eq!(attribute(&failed, "rpc.grpc.status_code"), "3");
    assert_eq!(attribute(&failed, "tollgate.verdict"), "");
    let requests = stream::iter([
        new_reserve(900, ""),
        new_reserve(900, ""),
        new_reserve(0, ""),
    ]);
    let answers = client
        .reserve_stream(in_a_trace(requests, true))
        .await
        .unwrap();
    assert_eq!(answers.into_inner().count().await, 3);
    let streamed = collector.wait_for(2).await.remove(1);
    assert_eq!(streamed.name, "tollgate.v1.QuotaService/ReserveStream");
    for answer in ["free", "billed", "failed"] {
        assert_eq!(
            attribute(&streamed, &format!("tollgate.answers.{answer}")),
            "1"
        );
    }
}

#[tokio::test]
async fn a_call_over_http_has_its_span_in_its_callers_trace() {
    let (collector, endpoint) = Collector::start().await;
    let settings = TextFile::new("http_api = true\n");
    let args = ["--store", "memory:", "--otlp-endpoint", &endpoint];
    let args = [&args[..], &["--config", settings.path()]].concat();
    let (tollgate, _client, _policy) = start(&args).await;
    let parent = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let answer = post(&tollgate.http_addr, "Reserve", "{}", &["--header", &parent]);
    assert_eq!(answer.status, 400, "{answer:?}");
    let call = collector.wait_for(1).await.remove(0);
    assert_eq!(call.name, "tollgate.v1.QuotaService/Reserve");
    let parent = (hex(&call.trace_id), hex(&call.parent_span_id));
    assert_eq!(parent, (TRACE.into(), PARENT.into()));
    assert_eq!(attribute(&call, "rpc.grpc.status_code"), "3");
}

// The collector must answer while the test waits for the service's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_decides_whether_it_is_traced_and_the_ratio_for_those_without_a_trace() {
    for (settings, spans) in [("", 1), ("trace_ratio = 1.0\n", 2)] {
        let (collector, endpoint) = Collector::start().await;
        let file = TextFile::new(&format!("otlp_endpoint = \"{endpoint}\"\n{settings}"));
        let args = ["--store", "memory:", "--config", file.path()];
        let (mut tollgate, mut client, _policy) = start(&args).await;
        client
            .reserve(in_a_trace(new_reserve(1, ""), false))
            .await
            .unwrap();
        client.reserve(new_reserve(1, "")).await.unwrap();
        let mut broken = Request::new(new_reserve(1, ""));
        broken
            .metadata_mut()
            .insert("traceparent", "00-zz-zz-01".parse().unwrap());
        client.get_quota(in_a_trace(quota(), true)).await.unwrap();
        if spans == 1 {
            client.reserve(broken).await.unwrap();
        }
        // Queued spans are sent at the end.
        tollgate.signal(Signal::SIGINT);
        assert!(tollgate.wait(WAIT_TIMEOUT).success());
        let received = collector.wait_for(2 * spans - 1).await;
        let own = received.iter().filter(|span| hex(&span.trace_id) == TRACE);
        assert_eq!(own.count(), 1, "{received:#?}");
    }
}

fn quota() -> tollgate::grpc::proto::GetQuotaRequest {
    tollgate::grpc::proto::GetQuotaRequest {
        org: "acme".to_owned(),
    }
}

/// A collector that is unreachable, and one that accepts connections and never answers.
#[tokio::test]
async fn a_faulty_collector_harms_no_call() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = format!("http://{}", silent.local_addr().unwrap());
    let gone = format!("http://127.0.0.1:{}", crate::support::free_port());
    for endpoint in [hangs, gone] {
        let args = ["--store", "memory:", "--otlp-endpoint", &endpoint];
        let (mut tollgate, client, _policy) = start(&args).await;
        // More spans than the queue holds.
        let calls = stream::iter(0..6_000).map(|_| {
            let mut client = client.clone();
            async move {
                let mut call = in_a_trace(new_reserve(1, ""), true);
                call.set_timeout(Duration::from_secs(10));
                client.reserve(call).await.map(|_| ())
            }
        });
        let answers: Vec<_> = calls.buffer_unordered(32).collect().await;
        for answer in answers {
            answer.unwrap();
        }
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let failures = |tollgate: &Tollgate| {
            let lines = tollgate.log().into_iter();
            let of_traces = lines.filter(|line| line["target"] == "tollgate::telemetry::traces");
            of_traces.count()
        };
        while failures(&tollgate) == 0 {
            assert!(Instant::now() < deadline, "{endpoint} {:?}", tollgate.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tollgate.signal(Signal::SIGINT);
        assert!(tollgate.wait(WAIT_TIMEOUT).success());
        assert!(failures(&tollgate) < 30, "{:?}", tollgate.log());
    }
}

/// The log line of a failure names its caller's trace. The line of each call is off by default.
#[tokio::test]
async fn log_lines_have_what_operators_filter_by_and_no_request_id() {
    let redis = RedisServer::start();
    let (_collector, endpoint) = Collector::start().await;
    let url = redis.url();
    let fast = TextFile::new("call_timeout = \"100ms\"\n[redis]\nresponse_timeout = \"300ms\"\n");
    let mut args = vec![
        "--store",
        &url,
        "--otlp-endpoint",
        &endpoint,
        "--config",
        fast.path(),
    ];
    for logs_calls in [false, true] {
        if logs_calls {
            args.extend(["--log", "info,tollgate::calls=debug"]);
        }
        let (tollgate, mut client, _policy) = start(&args).await;
        client
            .reserve(in_a_trace(new_reserve(10, "zqx7"), true))
            .await
            .unwrap();
        redis.run(&["CLIENT", "PAUSE", "500", "ALL"]);
        let lost = client
            .reserve(in_a_trace(new_reserve(11, "zqx8"), true))
            .await;
        lost.unwrap_err();
        let log = tollgate.log();
        let failed = log
            .iter()
            .find(|line| line["message"] == "calls fail for the store");
        let failed = failed.unwrap_or_else(|| panic!("{log:?}"));
        assert_eq!(
            (&failed["trace_id"], &failed["level"]),
            (&TRACE.into(), &"WARN".into())
        );
        let calls: Vec<_> = log
            .iter()
            .filter(|line| line["target"] == "tollgate::calls")
            .collect();
        assert_eq!(calls.len(), usize::from(logs_calls), "{log:?}");
        for call in calls {
            for (key, value) in [
                ("level", "DEBUG"),
                ("operation", "reserve"),
                ("org", "acme"),
                ("project", "p"),
                ("model", "gpt-4o"),
                ("pool", "large"),
                ("verdict", "FREE"),
                ("reason", ""),
                ("trace_id", TRACE),
            ] {
                assert_eq!(call[key], value, "{call}");
            }
            assert_eq!(call["tokens"], 10, "{call}");
            assert!(call["duration_ms"].as_f64().unwrap() > 0.0, "{call}");
        }
        assert!(!format!("{log:?}").contains("zqx"), "{log:?}");
        // Resets the error, for the next service.
        redis.run(&["PING"]);
    }
}
