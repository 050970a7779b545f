//! The exporter and a collector: a server of OTLP on a port of the test's own.
#![allow(
    clippy::unwrap_used,
    reason = "clippy takes helpers of a test binary for product code"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use process::otlp::{
    Encode, SPANS_QUEUED, Settings, Span, SpanMetrics, Spans, TracingFlags, queue, text,
};
use process::tasks::Tasks;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// How long what must happen is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// What it answers.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// Messages that it answers with UNAVAILABLE first.
    busy: usize,
    /// Spans of each message that it leaves out.
    rejects: i64,
    /// Whether it never answers.
    is_silent: bool,
    /// Whether it answers with INVALID_ARGUMENT.
    refuses: bool,
}

/// A message, and the header that the tests ask for.
type Got = (ExportTraceServiceRequest, Option<String>);

#[derive(Clone, Default)]
struct Collector {
    manner: Manner,
    got: Arc<Mutex<Vec<Got>>>,
    asked: Arc<Mutex<usize>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let asked = {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            *asked
        };
        if self.manner.is_silent {
            std::future::pending::<()>().await;
        }
        if asked <= self.manner.busy {
            return Err(Status::unavailable("busy"));
        }
        if self.manner.refuses {
            return Err(Status::invalid_argument("no"));
        }
        let key = request.metadata().get("api-key");
        let key = key.map(|key| key.to_str().unwrap().to_owned());
        self.got.lock().unwrap().push((request.into_inner(), key));
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans: self.manner.rejects,
                error_message: String::new(),
            }),
        }))
    }
}

impl Collector {
    fn of(manner: Manner) -> Self {
        Self {
            manner,
            ..Self::default()
        }
    }

    async fn serve(&self, tasks: &Tasks, on: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(on).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tasks.spawn("collector", async move {
            let _ = server.await;
        });
        address
    }

    fn names(&self) -> Vec<String> {
        let got = self.got.lock().unwrap();
        let resources = got.iter().flat_map(|(request, _)| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        let spans = scopes.flat_map(|scope| &scope.spans);
        spans.map(|span| span.name.clone()).collect()
    }
}

/// A span of the tests: its name.
struct Named(String);

impl Encode for Named {
    fn encode(self) -> Span {
        Span {
            name: self.0,
            ..Span::default()
        }
    }
}

struct Export {
    spans: Spans<Named>,
    registry: Registry,
    tasks: Tasks,
}

impl Export {
    fn to(address: SocketAddr, variables: &[(&str, &str)]) -> Self {
        let flags = TracingFlags {
            tracing_endpoint: Some(format!("http://{address}")),
            ..TracingFlags::default()
        };
        let settings = flags.settings(&|name| {
            let mut found = variables.iter().filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| (*value).to_owned())
        });
        let settings: Settings = settings.unwrap().unwrap();
        let (metrics, mut registry) = (SpanMetrics::default(), Registry::default());
        metrics.register(&mut registry);
        let (spans, queue) = queue(&metrics);
        let tasks = Tasks::new();
        let resource = settings.resource("waypoint.shop", vec![text("k8s.pod.name", "w-0")]);
        queue.export(&tasks, &settings, resource).unwrap();
        Self {
            spans,
            registry,
            tasks,
        }
    }

    fn put(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            self.spans.put(Named(name));
        }
    }

    /// Waits until a counter has this value.
    async fn counts(&self, line: &str) {
        let has_come = async {
            let mut text = String::new();
            while !text.lines().any(|one| one == line) {
                text.clear();
                prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let come = tokio::time::timeout(PATIENCE, has_come).await;
        come.unwrap_or_else(|_| panic!("no `{line}` came"));
    }

    /// Stops it as a program does, those who make spans first.
    async fn stop(self) -> Registry {
        drop(self.spans);
        let drained = self.tasks.shutdown(Duration::from_secs(60)).await;
        assert_eq!(drained.forced, [] as [&str; 0]);
        self.registry
    }
}

fn count(registry: &Registry, name: &str) -> usize {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.unwrap().trim().parse().unwrap()
}

fn some(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn numbered(spans: usize) -> impl Iterator<Item = String> {
    (0..spans).map(|number| format!("span {number}"))
}

#[tokio::test]
async fn spans_come_to_the_collector_in_order_with_resource_and_headers() {
    let (collector, tasks) = (Collector::default(), Tasks::new());
    let address = collector.serve(&tasks, some(0)).await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s%20x"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
    ];
    let export = Export::to(address, &variables);
    export.put(numbered(700));
    export.counts("culvert_spans_exported_total 700").await;
    assert_eq!(collector.names(), numbered(700).collect::<Vec<_>>());
    let got = collector.got.lock().unwrap().clone();
    for (request, key) in &got {
        assert_eq!(key.as_deref(), Some("s x"));
        let resource = request.resource_spans[0].resource.as_ref().unwrap();
        let said = [
            text("deployment.environment.name", "test"),
            text("k8s.pod.name", "w-0"),
            text("service.name", "waypoint.shop"),
        ];
        assert_eq!(resource.attributes, said);
        assert!(request.resource_spans[0].scope_spans[0].spans.len() <= 512);
    }
    export.stop().await;
    tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn what_waits_is_flushed_when_the_process_stops() {
    let (collector, tasks) = (Collector::default(), Tasks::new());
    let address = collector.serve(&tasks, some(0)).await;
    let export = Export::to(address, &[]);
    export.put(numbered(3));
    let registry = export.stop().await;
    let lost = r#"culvert_spans_dropped_total{reason="shutdown"}"#;
    let failed = r#"culvert_spans_dropped_total{reason="export_failed"}"#;
    let exported = count(&registry, "culvert_spans_exported_total");
    // A machine that is slower than the flush's bound drops them, and counts that.
    let all = exported + count(&registry, lost) + count(&registry, failed);
    assert_eq!(all, 3);
    assert!(exported == 0 || collector.names().len() == 3);
    tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_collector_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
    let tasks = Tasks::new();
    let collector = Collector::of(Manner {
        busy: 2,
        rejects: 1,
        ..Manner::default()
    });
    let address = collector.serve(&tasks, some(0)).await;
    let slow = [("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")];
    let export = Export::to(address, &slow);
    export.put(numbered(5));
    export.counts("culvert_spans_exported_total 4").await;
    export
        .counts(r#"culvert_spans_dropped_total{reason="rejected"} 1"#)
        .await;
    assert_eq!(collector.names().len(), 5, "sent whole, once more");
    export.stop().await;
    let collector = Collector::of(Manner {
        refuses: true,
        ..Manner::default()
    });
    let address = collector.serve(&tasks, some(0)).await;
    let export = Export::to(address, &slow);
    export.put(numbered(2));
    export
        .counts(r#"culvert_spans_dropped_total{reason="export_failed"} 2"#)
        .await;
    assert_eq!(*collector.asked.lock().unwrap(), 1);
    export.stop().await;
    tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_makes_nobody_wait_and_costs_a_bounded_queue() {
    let tasks = Tasks::new();
    let silent = Collector::of(Manner {
        is_silent: true,
        ..Manner::default()
    });
    let hanging = silent.serve(&tasks, some(0)).await;
    // Bound and closed again: nobody hears there.
    let away = TcpListener::bind(some(0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    for address in [hanging, away] {
        let export = Export::to(address, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")]);
        // Until the exporter has its hands full, then past all that the queue holds.
        let lost = r#"culvert_spans_dropped_total{reason="queue_full"}"#;
        for _ in 0..4 {
            export.put(numbered(SPANS_QUEUED));
            tokio::task::yield_now().await;
        }
        let dropped = count(&export.registry, lost);
        assert!(
            (SPANS_QUEUED..4 * SPANS_QUEUED).contains(&dropped),
            "{dropped}"
        );
        let registry = export.stop().await;
        let late = r#"culvert_spans_dropped_total{reason="shutdown"}"#;
        let failed = r#"culvert_spans_dropped_total{reason="export_failed"}"#;
        let all = [lost, late, failed].map(|name| count(&registry, name));
        assert_eq!(all.iter().sum::<usize>(), 4 * SPANS_QUEUED, "{all:?}");
    }
    tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_collector_that_comes_back_gets_what_is_put_from_then_on() {
    let tasks = Tasks::new();
    let listener = TcpListener::bind(some(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let export = Export::to(address, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "200")]);
    export.put(numbered(1));
    export
        .counts(r#"culvert_spans_dropped_total{reason="export_failed"} 1"#)
        .await;
    let collector = Collector::default();
    collector.serve(&tasks, address).await;
    let come = async {
        while collector.names().is_empty() {
            export.put(["late".to_owned()]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, come).await.unwrap();
    assert_eq!(collector.names()[0], "late");
    export.stop().await;
    tasks.shutdown(Duration::ZERO).await;
}
