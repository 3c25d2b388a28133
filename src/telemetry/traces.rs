//! Traces, exported by OTLP if an endpoint is set: a span for each call in its caller's trace, with a child span for
//! the call to the store.
//!
//! Spans use OpenTelemetry's interface instead of `tracing`'s, so that the log filter does not affect them. Many calls
//! share a call to the store: when it ends, each of their traces gets a span of it. Without an endpoint there is no
//! [`Traces`], and no span is created.
//!
//! A thread exports spans from a bounded queue. Spans are dropped if the queue is full or the export fails, so a
//! collector that is down or hangs delays no call.

use std::{
    future::Future,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, ContextGuard, Key, KeyValue, Value,
    propagation::TextMapPropagator as _,
    trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};

use crate::telemetry::log_limited;

const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of a collector that accepts OTLP over gRPC: `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

/// Creates and exports spans. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: Arc<SdkTracer>,
}

/// The span of a call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Span(Context);

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri = text.parse::<http::Uri>().ok();
        let of_http = uri.filter(|uri| uri.scheme_str() == Some("http"));
        let good = of_http.filter(|uri| uri.port().is_some() && uri.path() == "/");
        good.map(|_| Self(text.to_owned())).ok_or_else(|| {
            format!(
                "{text:?} is not http://HOST:PORT, of a collector that takes OTLP over gRPC; one beside \
                 the service sends on over TLS"
            )
        })
    }
}

impl Traces {
    /// Exports to a collector, which may be down. A call with a caller's trace is sampled as that trace says; of the
    /// others, `ratio` (0 to 1) are sampled. Must be called within the runtime.
    ///
    /// # Errors
    ///
    /// The exporter can't be created.
    pub fn to(endpoint: &OtlpEndpoint, ratio: f64) -> anyhow::Result<Self> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&endpoint.0)
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let mut resource = Resource::builder().with_attribute(version);
        // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override the name.
        let name = Resource::builder().build().get(&Key::new("service.name"));
        if name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
            resource = resource.with_service_name("tollgate");
        }
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(LoggingExporter(exporter))
            .with_sampler(sampler)
            .with_resource(resource.build())
            .build();
        let tracer = Arc::new(provider.tracer("tollgate"));
        Ok(Self { provider, tracer })
    }

    /// Starts the span of a call. Its parent is the caller's span in the headers `traceparent` and `tracestate` (W3C).
    pub fn call(
        &self,
        service: &'static str,
        method: &'static str,
        headers: &http::HeaderMap,
    ) -> Span {
        let parent = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let span = self
            .tracer
            .span_builder(format!("{service}/{method}"))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service),
                KeyValue::new("rpc.method", method),
            ])
            .start_with_context(&*self.tracer, &parent);
        let context = parent.with_span(span);
        Span(context.with_value(Arc::clone(&self.tracer)))
    }

    /// Exports the remaining spans, within the timeout.
    pub async fn end(self, timeout: Duration) {
        let shutdown =
            tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(timeout));
        let ended = tokio::time::timeout(timeout, shutdown).await;
        if !matches!(ended, Ok(Ok(Ok(())))) {
            tracing::warn!("the last traces could not be sent in time");
        }
    }
}

impl Span {
    /// Makes this the [`current`] span of the thread until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> ContextGuard {
        self.0.clone().attach()
    }

    /// Sets an attribute.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        self.0.span().set_attribute(KeyValue::new(key, value));
    }

    /// Sets the gRPC status code of the call, and an error if the service is at fault.
    pub fn answered(&self, code: i32, is_fault: bool) {
        self.set("rpc.grpc.status_code", i64::from(code));
        if is_fault {
            self.0.span().set_status(Status::error(""));
        }
    }

    /// Ends the span. A call to the store that ends later can still be added.
    pub fn end(&self) {
        self.0.span().end();
    }

    /// Adds the span of a call to the store that has ended, with the decisions and the organizations of all callers in
    /// it. `failed`: this caller's decision failed.
    pub fn store_called(
        &self,
        began: SystemTime,
        decisions: usize,
        organizations: usize,
        failed: bool,
    ) {
        let Some(tracer) = self.0.get::<Arc<SdkTracer>>() else {
            return;
        };
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let span = tracer
            .span_builder("tollgate.store.decide")
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_attributes([
                KeyValue::new("tollgate.batch.decisions", number(decisions)),
                KeyValue::new("tollgate.batch.organizations", number(organizations)),
            ]);
        let mut span = span.start_with_context(&**tracer, &self.0);
        if failed {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// The span of the current call, if it is sampled.
#[must_use]
pub fn current() -> Option<Span> {
    Context::map_current(|context| {
        let sampled = context.has_active_span() && context.span().is_recording();
        sampled.then(|| Span(context.clone()))
    })
}

/// The trace id of the current call, for its log lines.
#[must_use]
pub fn trace_id() -> Option<String> {
    Context::map_current(|context| {
        let span = context.has_active_span().then(|| context.span())?;
        Some(span.span_context().trace_id().to_string())
    })
}

/// Logs the failures of an exporter that has nothing to flush or to shut down, at most one line a second.
#[derive(Debug)]
struct LoggingExporter<E>(E);

impl<E: SpanExporter> SpanExporter for LoggingExporter<E> {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let spans = batch.len();
        let export = self.0.export(batch);
        async move {
            let exported = export.await;
            if let Err(error) = &exported {
                log_limited!(warn, %error, spans, "traces can't be sent, and are dropped");
            }
            exported
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port_over_http() {
        for (text, is_endpoint) in [
            ("http://127.0.0.1:4317", true),
            ("http://collector.svc:4317/", true),
            ("http://[::1]:1", true),
            ("", false),
            ("collector:4317", false),
            ("https://c:4317", false),
            ("http://c", false),
            ("http://c:1/v1/traces", false),
        ] {
            assert_eq!(text.parse::<OtlpEndpoint>().is_ok(), is_endpoint, "{text}");
        }
    }
}
