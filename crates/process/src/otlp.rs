//! Spans on their way to a collector: OTLP over gRPC, in batches, from a bounded queue that never
//! makes anyone wait.
//!
//! Knows what OpenTelemetry's environment says and how spans are sent; knows nothing of what a span
//! tells: a program's own spans become OTLP's here, outside of its data path.

mod codec;
mod export;
mod settings;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

pub use export::StartError;
pub use opentelemetry_proto::tonic::common::v1::any_value::Value;
pub use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
pub use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
pub use opentelemetry_proto::tonic::trace::v1::{Span, Status};
pub use settings::{Sampler, Settings, SettingsError, TracingFlags, VARIABLES};

/// Spans that wait for the exporter, as many as OpenTelemetry's SDKs keep: each holds 3 KiB at
/// most. Past it new ones are dropped and counted.
pub const SPANS_QUEUED: usize = 2_048;
/// Spans of one message to the collector, as with the SDKs.
pub const SPANS_PER_BATCH: usize = 512;
/// How long spans are gathered when there are few: a message to the collector a second.
pub const GATHERED_FOR: Duration = Duration::from_secs(1);
/// What the last spans may take after the process was told to stop; below the grace of its tasks.
pub const FLUSHED_WITHIN: Duration = Duration::from_millis(1_500);

/// What becomes one span of OTLP.
pub trait Encode: Send + 'static {
    /// As OTLP has it.
    fn encode(self) -> Span;
}

/// An attribute that is a text.
pub fn text(key: &'static str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// An attribute that is a number.
pub fn number(key: &'static str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

/// Any attribute.
pub fn attribute(key: impl Into<String>, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Why spans did not get to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lost {
    /// The queue was full.
    QueueFull,
    /// The collector was not there, or would not have them.
    ExportFailed,
    /// It took the message and said that it left these out.
    Rejected,
    /// The process ended first.
    Shutdown,
}

impl Lost {
    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::ExportFailed => "export_failed",
            Self::Rejected => "rejected",
            Self::Shutdown => "shutdown",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LostLabels {
    reason: &'static str,
}

/// How the export goes. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct SpanMetrics {
    exported: Counter,
    dropped: Family<LostLabels, Counter>,
}

impl SpanMetrics {
    /// Registers `culvert_spans_exported_total` and `culvert_spans_dropped_total{reason}`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "culvert_spans_exported",
            "Spans that the collector took",
            self.exported.clone(),
        );
        registry.register(
            "culvert_spans_dropped",
            "Spans that did not get to the collector",
            self.dropped.clone(),
        );
        for lost in [
            Lost::QueueFull,
            Lost::ExportFailed,
            Lost::Rejected,
            Lost::Shutdown,
        ] {
            self.drop_spans(lost, 0);
        }
    }

    fn drop_spans(&self, lost: Lost, spans: u64) {
        let labels = LostLabels {
            reason: lost.as_str(),
        };
        self.dropped.get_or_create(&labels).inc_by(spans);
    }
}

/// Where finished spans are handed over. Clones share the queue.
pub struct Spans<S> {
    queue: mpsc::Sender<S>,
    metrics: SpanMetrics,
}

impl<S> Clone for Spans<S> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

impl<S> Spans<S> {
    /// Hands one over; with a full queue it is dropped and counted.
    pub fn put(&self, span: S) {
        if self.queue.try_send(span).is_err() {
            self.metrics.drop_spans(Lost::QueueFull, 1);
        }
    }
}

/// The exporter's end of the queue.
pub struct Queue<S> {
    queue: mpsc::Receiver<S>,
    metrics: SpanMetrics,
}

impl<S> Queue<S> {
    /// The next one, without waiting.
    pub fn take(&mut self) -> Option<S> {
        self.queue.try_recv().ok()
    }
}

/// A queue of [`SPANS_QUEUED`] spans.
pub fn queue<S>(metrics: &SpanMetrics) -> (Spans<S>, Queue<S>) {
    let (sender, receiver) = mpsc::channel(SPANS_QUEUED);
    let spans = Spans {
        queue: sender,
        metrics: metrics.clone(),
    };
    (
        spans,
        Queue {
            queue: receiver,
            metrics: metrics.clone(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_the_queue_is_dropped_and_counted() {
        let metrics = SpanMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let (spans, mut queue) = queue(&metrics);
        for number in 0..SPANS_QUEUED + 3 {
            spans.put(number);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"culvert_spans_dropped_total{reason="queue_full"} 3"#,
            r#"culvert_spans_dropped_total{reason="shutdown"} 0"#,
            "culvert_spans_exported_total 0",
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
        assert_eq!(queue.take(), Some(0), "the oldest stay");
    }
}
