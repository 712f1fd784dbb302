//! Traces: what a call waited for, from the client to the disks of a majority, for a collector that speaks OTLP.
//!
//! ```text
//!   traceparent of a call --> call --+-- view                   until the state is as new as the read asks
//!                                    +-- search queue, search   until a thread is free; finding
//!                                    +-- queue                  until the shard makes an entry of what waits
//!                                    +-- replicate              until a majority has the entry
//!                                    |     '-- log              until it is synced here
//!                                    +-- apply                  on the node that leads, and on each that follows
//!                                    '-- forward --> call ...   at the node that leads, if another was asked
//! ```
//!
//! A call's span is what a write's entry carries as its trace, so that members which only see the entry add to the same
//! trace. Whether a call is traced is decided once: by whoever began the trace, else by chance (`--trace-sample`).
//!
//! Off unless a collector is given: then everything here ends at [`is_on`], one load and a branch. Spans that the collector
//! does not take in time are dropped; no call waits for one.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan,
};
use tokio::runtime::Runtime;
use tonic::metadata::MetadataMap;

/// The header of a W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// How long spans are gathered, unless there are many.
const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the collector may take for one batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node that stops waits for its last spans to be taken.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

static EXPORT: OnceLock<Export> = OnceLock::new();

struct Export {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Has the exporter's sockets, so that it works whatever else is busy or has ended.
    _runtime: Runtime,
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Not an address of a collector.
    #[error("--otlp: {0}")]
    Collector(#[from] opentelemetry_otlp::ExporterBuildError),
    /// No thread.
    #[error("cannot start a thread for traces: {0}")]
    Thread(#[from] std::io::Error),
}

/// A place in a trace that is recorded.
#[derive(Debug, Clone)]
pub struct Spot(SpanContext);

/// A span that has begun; ends when it is dropped.
#[derive(Debug)]
pub struct Step {
    span: SdkSpan,
    spot: Spot,
}

/// What a call knows of the trace that it is part of.
#[derive(Debug, Clone)]
struct Here {
    /// As the caller gave it, if that.
    traceparent: Option<Arc<str>>,
    spot: Option<Spot>,
}

tokio::task_local! {
    static HERE: Here;
}

/// Begins to export; for the process, so the first node in it decides. `sample`: the share of calls that are traced for which
/// nobody has decided yet.
pub fn start(collector: &str, sample: f64, node: &str) -> Result<(), TraceError> {
    if is_on() {
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("loci-trace").enable_all().build()?;
    let provider = {
        let _inside = runtime.enter();
        let exporter =
            SpanExporter::builder().with_tonic().with_endpoint(collector).with_timeout(EXPORT_TIMEOUT).build()?;
        let resource = Resource::builder_empty()
            .with_service_name("loci")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", node.to_owned()),
            ])
            .build();
        let often = BatchConfigBuilder::default().with_scheduled_delay(EXPORT_EVERY).build();
        SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample))))
            .with_resource(resource)
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(often).build())
            .build()
    };
    let tracer = provider.tracer("loci");
    // Another node of this process may have been faster; then this one's is dropped.
    let _ = EXPORT.set(Export { provider, tracer, _runtime: runtime });
    Ok(())
}

/// Hands what is left to the collector; waits for that a moment. Blocks.
pub fn stop() {
    if let Some(export) = EXPORT.get()
        && let Err(error) = export.provider.shutdown_with_timeout(STOP_TIMEOUT)
    {
        tracing::warn!(%error, "the last spans were not taken");
    }
}

/// Whether anything is exported.
pub fn is_on() -> bool {
    EXPORT.get().is_some()
}

/// The traceparent that came with a call.
pub fn given(metadata: &MetadataMap) -> Option<&str> {
    metadata.get(TRACEPARENT)?.to_str().ok()
}

/// Runs a call within the trace that it is part of, if it is, and ends its span with how it ended: `code` says so, zero for
/// well. The call stays where it is pinned: futures of calls are large, and moving them costs more than everything else here.
pub async fn call<F: Future>(
    method: &'static str,
    traceparent: Option<&str>,
    call: Pin<&mut F>,
    code: impl FnOnce(&F::Output) -> i32,
) -> F::Output {
    if traceparent.is_none() && !is_on() {
        return call.await;
    }
    let step = begin_call(method, traceparent);
    let here = Here { traceparent: traceparent.map(Arc::from), spot: step.as_ref().map(|step| step.spot.clone()) };
    let answer = HERE.scope(here, call).await;
    if let Some(mut step) = step {
        let code = code(&answer);
        step.span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(code)));
        if code != 0 {
            step.span.set_status(Status::error(""));
        }
    }
    answer
}

fn begin_call(method: &'static str, traceparent: Option<&str>) -> Option<Step> {
    let Export { tracer, .. } = EXPORT.get()?;
    let parent = match traceparent.and_then(parse) {
        Some(parent) => Context::new().with_remote_span_context(parent),
        None => Context::new(),
    };
    let attributes = [KeyValue::new("rpc.system", "grpc"), KeyValue::new("rpc.method", method)];
    let builder = tracer.span_builder(method).with_kind(SpanKind::Server).with_attributes(attributes);
    Step::of(builder.start_with_context(tracer, &parent))
}

/// Where the call is that this task works on, if it is recorded.
pub fn here() -> Option<Spot> {
    if !is_on() {
        return None;
    }
    HERE.try_with(|here| here.spot.clone()).ok().flatten()
}

/// What the entry of a write carries that is part of the call here, given what the caller put into it.
pub fn for_entry(own: String) -> String {
    let Ok(here) = HERE.try_with(Here::clone) else { return own };
    match (&here.spot, here.traceparent) {
        // Whoever gave another trace than the call's wants that one in the log.
        (Some(spot), _) if own.is_empty() || parse(&own).is_some_and(|own| own.trace_id() == spot.0.trace_id()) => {
            spot.traceparent()
        }
        (None, Some(given)) if own.is_empty() && parse(&given).is_some() => given.to_string(),
        _ => own,
    }
}

/// The place that an entry's trace says, if it is recorded.
pub fn of_entry(trace: &str) -> Option<Spot> {
    parse(trace).filter(SpanContext::is_sampled).map(Spot)
}

impl Spot {
    /// As a header says it.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.0.trace_id(), self.0.span_id(), self.0.trace_flags().to_u8())
    }

    /// Begins a step of what is going on here.
    pub fn begin(&self, name: &'static str) -> Option<Step> {
        let Export { tracer, .. } = EXPORT.get()?;
        let parent = Context::new().with_remote_span_context(self.0.clone());
        Step::of(tracer.span_builder(name).with_kind(SpanKind::Internal).start_with_context(tracer, &parent))
    }

    /// Records a step that has ended, and says where it was.
    pub fn step(
        &self,
        name: impl Into<Cow<'static, str>>,
        from: Instant,
        to: Instant,
        attributes: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Option<Spot> {
        let Export { tracer, .. } = EXPORT.get()?;
        let parent = Context::new().with_remote_span_context(self.0.clone());
        let attributes = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value as i64));
        let builder = tracer.span_builder(name).with_kind(SpanKind::Internal).with_start_time(wall(from));
        let mut span = builder.with_attributes(attributes).start_with_context(tracer, &parent);
        span.end_with_timestamp(wall(to.max(from)));
        Some(Spot(span.span_context().clone()))
    }
}

impl Step {
    fn of(span: SdkSpan) -> Option<Step> {
        let spot = Spot(span.span_context().clone());
        spot.0.is_sampled().then_some(Step { span, spot })
    }

    /// Where it is.
    pub fn spot(&self) -> &Spot {
        &self.spot
    }
}

/// The clock of the world at a moment of ours.
fn wall(at: Instant) -> SystemTime {
    let (now, clock) = (Instant::now(), SystemTime::now());
    clock - now.saturating_duration_since(at) + at.saturating_duration_since(now)
}

/// A traceparent as W3C has it: version 00, or a later one that begins as 00 does.
fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hexadecimal = |part: &str, digits| {
        part.len() == digits && part.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    let whole = hexadecimal(version, 2) && hexadecimal(trace, 32) && hexadecimal(span, 16) && hexadecimal(flags, 2);
    if !whole || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1);
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_as_w3c_says() {
        let read = parse(SAMPLED).unwrap();
        assert!(read.is_sampled());
        assert_eq!(Spot(read).traceparent(), SAMPLED);
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-what-the-future-brings";
        assert!(parse(later).unwrap().is_sampled());
        for wrong in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\u{e9}-01",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
        let unsampled = SAMPLED.replace("-01", "-00");
        assert!(parse(&unsampled).is_some() && of_entry(&unsampled).is_none() && of_entry(SAMPLED).is_some());
    }

    #[tokio::test]
    async fn without_a_collector_a_write_carries_what_its_caller_gave() {
        let entry = async |own: &str, header: Option<&str>| {
            let write = pin!(async { (for_entry(own.to_owned()), here().is_some()) });
            call("put", header, write, |_| 0).await
        };
        assert_eq!(entry("", None).await, (String::new(), false));
        assert_eq!(entry("", Some(SAMPLED)).await, (SAMPLED.to_owned(), false));
        assert_eq!(entry("mine", Some(SAMPLED)).await, ("mine".to_owned(), false));
        assert_eq!(entry("", Some("nonsense")).await, (String::new(), false));
    }
}
