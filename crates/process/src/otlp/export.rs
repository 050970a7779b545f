//! The exporter: takes spans from the queue, sends them in batches, tries again while that can
//! help, and drops what cannot be sent in time. One task; nobody waits for it.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::codec::Encoded;
use super::{
    Encode, FLUSHED_WITHIN, GATHERED_FOR, KeyValue, Lost, Queue, SPANS_PER_BATCH, Settings, Span,
    text,
};
use crate::retry::pauses;
use crate::tasks::Tasks;

/// The one call.
const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Attributes have the names of this version of the semantic conventions.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";
/// How often the queue is looked at while spans are gathered: at 20,000 spans a second 1,000 come
/// in between, half of what it holds.
const LOOK: Duration = Duration::from_millis(50);
/// The first step of the pauses before a batch is sent again, see [`pauses`].
const PAUSE_FIRST: Duration = Duration::from_millis(125);
/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// Time for TCP connect and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no span can be exported.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate file cannot be used.
    #[error("the collector's root certificate {path}: {reason}")]
    RootCert {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl<S: Encode> Queue<S> {
    /// Exports as a task of `tasks`, in the name of that resource, until every
    /// [`Spans`](super::Spans) is gone.
    ///
    /// # Errors
    /// See [`StartError`]. Whether the collector is there is not known yet.
    pub fn export(
        self,
        tasks: &Tasks,
        settings: &Settings,
        resource: Vec<KeyValue>,
    ) -> Result<(), StartError> {
        let exporter = Exporter {
            queue: self,
            client: Grpc::new(endpoint(settings)?.connect_lazy()),
            headers: settings.headers.clone(),
            timeout: settings.timeout,
            collector: settings.endpoint.to_string(),
            resource: Resource {
                attributes: resource,
                ..Resource::default()
            },
            stop: tasks.stop(),
            flush_until: None,
            is_down: false,
        };
        tasks.spawn("spans", exporter.run());
        Ok(())
    }
}

fn endpoint(settings: &Settings) -> Result<Endpoint, StartError> {
    let endpoint = Endpoint::from(settings.endpoint.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    let Some(path) = &settings.root_cert else {
        return Ok(endpoint);
    };
    let wrong = |reason: String| StartError::RootCert {
        path: path.display().to_string(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    endpoint
        .tls_config(tls)
        .map_err(|error| wrong(error.to_string()))
}

struct Exporter<S> {
    queue: Queue<S>,
    client: Grpc<Channel>,
    headers: MetadataMap,
    /// For one batch, with all its tries.
    timeout: Duration,
    /// For log lines.
    collector: String,
    resource: Resource,
    stop: CancellationToken,
    /// Set when the process stops.
    flush_until: Option<Instant>,
    /// Whether the last batch failed: said once.
    is_down: bool,
}

impl<S: Encode> Exporter<S> {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(SPANS_PER_BATCH);
        while self.next(&mut batch).await {
            self.gather(&mut batch).await;
            let spans: Vec<Span> = batch.drain(..).map(Encode::encode).collect();
            let count = spans.len() as u64;
            if self
                .flush_until
                .is_some_and(|until| Instant::now() >= until)
            {
                self.queue.metrics.drop_spans(Lost::Shutdown, count);
                continue;
            }
            let message = self.message(spans);
            self.send(message, count).await;
        }
    }

    /// Waits for spans; false behind the last one. After the stop none is taken any more: those who
    /// make them have ended.
    async fn next(&mut self, batch: &mut Vec<S>) -> bool {
        let queue = &mut self.queue.queue;
        if !self.stop.is_cancelled() {
            let received = queue.recv_many(batch, SPANS_PER_BATCH);
            if let Some(spans) = self.stop.run_until_cancelled(received).await {
                return spans > 0;
            }
        }
        queue.close();
        queue.recv_many(batch, SPANS_PER_BATCH).await > 0
    }

    /// Waits for a whole batch, for a while.
    async fn gather(&mut self, batch: &mut Vec<S>) {
        let until = Instant::now() + GATHERED_FOR;
        loop {
            let room = SPANS_PER_BATCH - batch.len();
            for _ in 0..room {
                let Some(span) = self.queue.take() else { break };
                batch.push(span);
            }
            let is_closed = self.queue.queue.is_closed();
            if batch.len() == SPANS_PER_BATCH || is_closed || Instant::now() >= until {
                return;
            }
            if self.stop.run_until_cancelled(sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    fn message(&self, spans: Vec<Span>) -> Bytes {
        let scope = InstrumentationScope {
            name: "culvert".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans,
                    schema_url: SCHEMA_URL.to_owned(),
                }],
                schema_url: SCHEMA_URL.to_owned(),
            }],
        };
        request.encode_to_vec().into()
    }

    async fn send(&mut self, message: Bytes, count: u64) {
        let stop = self.stop.clone();
        let until = Instant::now() + self.timeout;
        let mut flush = self.flush_until;
        let mut pauses = pauses(PAUSE_FIRST, PAUSE_MAX);
        let error = loop {
            let call = self.call(message.clone());
            let error = match within(call, until, (&stop, &mut flush)).await {
                Some(Ok(rejected)) => {
                    self.flush_until = flush;
                    return self.sent(count, rejected);
                }
                Some(Err(error)) => error,
                None => Status::deadline_exceeded("no answer in time"),
            };
            let pause = pauses.next().unwrap_or(PAUSE_MAX);
            let next = Instant::now() + pause;
            if !is_passing(&error) || next >= flush.unwrap_or(until) {
                break error;
            }
            // The stop ends the pause: what is left is flushed at once.
            let pausing = sleep(next.saturating_duration_since(Instant::now()));
            let _ = stop.run_until_cancelled(pausing).await;
        };
        self.flush_until = flush;
        self.queue.metrics.drop_spans(Lost::ExportFailed, count);
        if !std::mem::replace(&mut self.is_down, true) {
            let (collector, code) = (&self.collector, error.code());
            let error = error.message();
            tracing::warn!(
                collector,
                ?code,
                error,
                "spans cannot be exported and are dropped"
            );
        }
    }

    fn sent(&mut self, count: u64, rejected: u64) {
        let rejected = rejected.min(count);
        self.queue.metrics.exported.inc_by(count - rejected);
        self.queue.metrics.drop_spans(Lost::Rejected, rejected);
        if std::mem::replace(&mut self.is_down, false) {
            tracing::info!(collector = self.collector, "spans are exported again");
        }
    }

    /// Sends it once; how many spans the collector left out.
    async fn call(&mut self, message: Bytes) -> Result<u64, Status> {
        let ready = self.client.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        let path = http::uri::PathAndQuery::from_static(PATH);
        let answer = self.client.unary(request, path, Encoded).await?;
        let partial = answer.into_inner().partial_success;
        Ok(partial.map_or(0, |partial| {
            u64::try_from(partial.rejected_spans).unwrap_or(0)
        }))
    }
}

/// Waits for a call until then, or, once the process stops, until all that is left must be flushed;
/// that time is the same for all calls from there on.
async fn within<C: Future>(
    call: C,
    until: Instant,
    (stop, flush): (&CancellationToken, &mut Option<Instant>),
) -> Option<C::Output> {
    let mut call = std::pin::pin!(call);
    if !stop.is_cancelled() {
        let timely = timeout_at(until, &mut call);
        if let Some(outcome) = stop.run_until_cancelled(timely).await {
            return outcome.ok();
        }
    }
    let end = *flush.get_or_insert_with(|| Instant::now() + FLUSHED_WITHIN);
    timeout_at(end.min(until), call).await.ok()
}

/// Whether another try can help, as the protocol's specification lists them.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

impl Settings {
    /// What the spans' resource has: what the environment says, and of `own` what it does not. The
    /// service is called `name` unless the environment says otherwise.
    #[must_use]
    pub fn resource(&self, name: &str, own: Vec<KeyValue>) -> Vec<KeyValue> {
        let mut all: Vec<KeyValue> = self.resource.clone();
        let others = own.into_iter().chain([text("service.name", name)]);
        for one in others {
            if !all.iter().any(|said| said.key == one.key) {
                all.push(one);
            }
        }
        all
    }
}
