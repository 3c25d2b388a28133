//! Traces, sent by OTLP where the operator says so: a span for each call, in its caller's trace, and one in
//! it for the call to the store.
//!
//! Spans are made with OpenTelemetry's own interface rather than the log's: what is traced is then a matter
//! of sampling alone, whatever is logged, and a call to the store, which many callers share, has a span in
//! each one's trace, made when it is over. Without an endpoint there is no [`Traces`], and no span is made.
//!
//! Sending is a thread's work behind a bounded queue. What finds no room is dropped, and what can't be sent
//! is too: a collector that is gone or hangs delays no call.

use std::{
    future::Future,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    Context, ContextGuard, Key, KeyValue, Value,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};

use crate::telemetry::LogLimit;

/// How long an export may take before it is given up.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where traces are sent: `http://HOST:PORT` of a collector that takes OTLP over gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

/// Makes spans and sends them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: Arc<SdkTracer>,
}

/// The span of a call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Span {
    context: Context,
}

/// A call to the store, as its spans tell it.
#[derive(Debug, Clone, Copy)]
pub struct StoreCallSpan {
    /// When it began.
    pub began: SystemTime,
    /// Decisions in it, of all callers.
    pub decisions: usize,
    /// Organizations in it.
    pub organizations: usize,
    /// Whether this caller's part of it failed.
    pub failed: bool,
}

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri = text.parse::<axum::http::Uri>().ok();
        let of_http = uri.filter(|uri| uri.scheme_str() == Some("http"));
        let good = of_http.filter(|uri| uri.port().is_some() && uri.path() == "/");
        if good.is_none() {
            return Err(format!(
                "{text:?} is not http://HOST:PORT, of a collector that takes OTLP over gRPC; one beside \
                 the service sends on over TLS"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Traces {
    /// Sends to a collector, which need not be there. A call whose caller has a trace is in it, and sampled
    /// as that says; of the others this share is sampled, 0 to 1. Must be called within the runtime.
    ///
    /// # Errors
    ///
    /// The exporter can't be made.
    pub fn to(endpoint: &OtlpEndpoint, ratio: f64) -> anyhow::Result<Self> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&endpoint.0)
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let mut resource = Resource::builder().with_attribute(version);
        // Another name is given in the environment, as OpenTelemetry has it.
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

    /// Begins the span of a call, in the trace that `header` gives of its caller, by W3C's `traceparent`
    /// and `tracestate`.
    pub fn call<'h>(
        &self,
        service: &'static str,
        method: &'static str,
        header: impl Fn(&str) -> Option<&'h str>,
    ) -> Span {
        let parent = TraceContextPropagator::new().extract_with_context(
            &Context::new(),
            &HeaderExtractor {
                header: &|name| header(name),
            },
        );
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
        Span {
            context: context.with_value(Arc::clone(&self.tracer)),
        }
    }

    /// Sends what is still to be sent, as far as there is time.
    pub async fn end(self, patience: Duration) {
        let ending =
            tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(patience));
        match tokio::time::timeout(patience, ending).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("the last traces could not be sent in time"),
        }
    }
}

impl Span {
    /// Makes it the one that [`current`] gives on this thread, until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> ContextGuard {
        self.context.clone().attach()
    }

    /// Says something of it.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        self.context.span().set_attribute(KeyValue::new(key, value));
    }

    /// Says how the call was answered, by its status' number in gRPC, and whether that is the service's
    /// fault.
    pub fn answered(&self, code: i32, is_fault: bool) {
        self.set("rpc.grpc.status_code", i64::from(code));
        if is_fault {
            self.context.span().set_status(Status::error(""));
        }
    }

    /// Ends it. A call to the store that goes on, its caller gone, may still be added.
    pub fn end(&self) {
        self.context.span().end();
    }

    /// Adds the span of a call to the store that is over.
    pub fn store_called(&self, call: StoreCallSpan) {
        let Some(tracer) = self.context.get::<Arc<SdkTracer>>() else {
            return;
        };
        let StoreCallSpan {
            began,
            decisions,
            organizations,
            failed,
        } = call;
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let span = tracer
            .span_builder("tollgate.store.decide")
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_attributes([
                KeyValue::new("tollgate.batch.decisions", number(decisions)),
                KeyValue::new("tollgate.batch.organizations", number(organizations)),
            ]);
        let mut span = span.start_with_context(&**tracer, &self.context);
        if failed {
            opentelemetry::trace::Span::set_status(&mut span, Status::error(""));
        }
        opentelemetry::trace::Span::end(&mut span);
    }
}

/// The span of the call that is just worked on here, where it is sampled.
#[must_use]
pub fn current() -> Option<Span> {
    Context::map_current(|context| {
        let sampled = context.has_active_span() && context.span().is_recording();
        sampled.then(|| Span {
            context: context.clone(),
        })
    })
}

/// The trace of the call that is just worked on here, for its log lines.
#[must_use]
pub fn trace_id() -> Option<String> {
    Context::map_current(|context| {
        let span = context.has_active_span().then(|| context.span())?;
        Some(span.span_context().trace_id().to_string())
    })
}

/// A caller's headers, as the propagator wants them.
struct HeaderExtractor<'h, 'f> {
    header: &'f dyn Fn(&str) -> Option<&'h str>,
}

impl Extractor for HeaderExtractor<'_, '_> {
    fn get(&self, key: &str) -> Option<&str> {
        (self.header)(key)
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// An exporter whose failures are told, one line a second at most.
#[derive(Debug)]
struct LoggingExporter<E>(E);

static EXPORT_FAILURES: LogLimit = LogLimit::new();

impl<E: SpanExporter> SpanExporter for LoggingExporter<E> {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let spans = batch.len();
        let export = self.0.export(batch);
        async move {
            let exported = export.await;
            if let Err(error) = &exported
                && let Some(left_out) = EXPORT_FAILURES.admit(Instant::now())
            {
                tracing::warn!(%error, spans, left_out, "traces can't be sent, and are dropped");
            }
            exported
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
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
        for good in [
            "http://127.0.0.1:4317",
            "http://collector.svc:4317/",
            "http://[::1]:1",
        ] {
            assert!(good.parse::<OtlpEndpoint>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "collector:4317",
            "https://c:4317",
            "http://c",
            "http://c:1/v1/traces",
        ] {
            assert!(bad.parse::<OtlpEndpoint>().is_err(), "{bad}");
        }
    }
}
