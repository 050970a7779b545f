//! A worker of the test: a fake site, endpoints behind in-memory streams, clients that write bytes.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh::route::{Route, RouteKey, RouteKind, Rule, Table, Target};
use mesh::service::{AppProtocol, ServiceKey};
use mesh::workload::{Common, Health, Locality, NetworkMode, TunnelProtocol, Workload};
use mesh::workload::{WorkloadKind, WorkloadUid};
use process::otlp::{Sampler, SpanMetrics, queue};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use waypoint::http::Proxy;
use waypoint::http::site::{
    Asked, Choose, ChooseError, Chosen, ConnectError, Io, Limits, Reason, RequestRecord, Site,
    Upstream,
};
use waypoint::trace::{Span, Tracing};

/// Bytes that an in-memory stream holds.
const PIPE: usize = 16 * 1024;

/// What an endpoint does with a connection.
pub type Handler = Rc<dyn Fn(DuplexStream) -> LocalBoxFuture<'static, ()>>;

/// A request as an endpoint saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub endpoint: &'static str,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
    pub is_http2: bool,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// What the site was told of a request.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub status: Option<StatusCode>,
    pub grpc_status: Option<u16>,
    pub reason: Option<Reason>,
    pub tries: u32,
    pub endpoint: Option<String>,
    pub backend: Option<String>,
    pub route: Option<String>,
    pub bytes: (u64, u64),
    pub authority: String,
    pub duration: Duration,
}

struct Endpoint {
    upstream: Rc<Upstream>,
    protocol: AppProtocol,
    handler: Option<Handler>,
}

pub struct FakeSite {
    local: Rc<LocalSet>,
    routes: RefCell<Option<Arc<Table>>>,
    /// By name of the service; "" is what clients address.
    services: RefCell<HashMap<String, Vec<Endpoint>>>,
    pub records: RefCell<Vec<Recorded>>,
    pub opened: Cell<usize>,
    /// How many tasks may start from now on.
    pub tasks_left: Cell<usize>,
    /// How long it takes to connect.
    pub open_takes: Cell<Duration>,
    pub limits: Limits,
    random: Cell<u64>,
    draining: tokio::sync::watch::Sender<bool>,
    tracing: OnceCell<Tracing>,
}

impl Site for FakeSite {
    fn routes(&self, _: &Asked) -> Option<Arc<Table>> {
        self.routes.borrow().clone()
    }

    fn choose(&self, _: &Asked, choose: Choose<'_>) -> Result<Chosen, ChooseError> {
        let name = choose.backend.map_or("", |(service, _)| &*service.hostname);
        let services = self.services.borrow();
        let endpoints = services.get(name);
        let endpoints = endpoints.ok_or_else(|| ChooseError::Unknown(name.into()))?;
        let is_tried = |one: &&Endpoint| {
            choose
                .tried
                .iter()
                .any(|tried| Rc::ptr_eq(tried, &one.upstream))
        };
        let preferred = endpoints
            .iter()
            .find(|one| Some(one.upstream.token()) == choose.prefer);
        let fresh = endpoints
            .iter()
            .filter(|one| !is_tried(one))
            .min_by_key(|one| one.upstream.load());
        let chosen = preferred.filter(|one| !is_tried(one)).or(fresh);
        let chosen = chosen.ok_or_else(|| ChooseError::NoEndpoint(name.into()))?;
        Ok(Chosen {
            upstream: chosen.upstream.clone(),
            protocol: chosen.protocol,
        })
    }

    fn open(
        &self,
        _: &Rc<Asked>,
        upstream: &Rc<Upstream>,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Io>, ConnectError>> {
        self.opened.set(self.opened.get() + 1);
        let services = self.services.borrow();
        let mut all = services.values().flatten();
        let endpoint = all.find(|one| Rc::ptr_eq(&one.upstream, upstream)).unwrap();
        let Some(handler) = endpoint.handler.clone() else {
            return Box::pin(async {
                Err(ConnectError {
                    moves_on: true,
                    is_limit: false,
                    why: "refused".into(),
                })
            });
        };
        let (ours, theirs) = tokio::io::duplex(PIPE);
        self.local.spawn_local(handler(theirs));
        let takes = self.open_takes.get();
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            Ok(Box::new(TokioIo::new(ours)) as Box<dyn Io>)
        })
    }

    fn tracing(&self) -> Option<&Tracing> {
        self.tracing.get()
    }

    fn record(&self, record: &RequestRecord<'_>) {
        self.records.borrow_mut().push(Recorded {
            status: record.status,
            grpc_status: record.grpc_status,
            reason: record.reason,
            tries: record.tries,
            endpoint: record.endpoint.map(|endpoint| endpoint.name.to_string()),
            backend: record
                .backend
                .map(|(service, _)| service.hostname.to_string()),
            route: record
                .route
                .map(|(key, rule)| format!("{} {rule}", key.name)),
            bytes: record.bytes,
            authority: record.authority.to_owned(),
            duration: record.duration,
        });
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) -> bool {
        let Some(left) = self.tasks_left.get().checked_sub(1) else {
            return false;
        };
        self.tasks_left.set(left);
        self.local.spawn_local(task);
        true
    }

    fn sleep_until(&self, at: Instant) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(at.into()))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn random(&self) -> u64 {
        // SplitMix64: uniform, and the same in every run.
        let seed = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(seed);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn draining(&self) -> LocalBoxFuture<'static, ()> {
        let mut draining = self.draining.subscribe();
        Box::pin(async move {
            if draining.wait_for(|is| *is).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    fn closing(&self) -> LocalBoxFuture<'static, ()> {
        let draining = self.draining();
        Box::pin(async move {
            draining.await;
            tokio::time::sleep(Duration::from_secs(10)).await;
        })
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }
}

pub struct World {
    /// What clients ask for.
    pub asked: Rc<Asked>,
    pub site: Rc<FakeSite>,
    pub proxy: Rc<Proxy>,
    local: Rc<LocalSet>,
    pub seen: Rc<RefCell<Vec<Seen>>>,
}

/// Runs a test on one thread, with time that passes only when all wait for it.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<World>) -> F) {
    run_with(Limits::default(), test);
}

pub fn run_with<F: Future<Output = ()>>(limits: Limits, test: impl FnOnce(Rc<World>) -> F) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let local = Rc::new(LocalSet::new());
    runtime.block_on(async {
        let site = Rc::new(FakeSite {
            local: local.clone(),
            routes: RefCell::default(),
            services: RefCell::default(),
            records: RefCell::default(),
            opened: Cell::default(),
            tasks_left: Cell::new(usize::MAX),
            open_takes: Cell::default(),
            limits,
            random: Cell::new(7),
            draining: tokio::sync::watch::Sender::new(false),
            tracing: OnceCell::new(),
        });
        let world = Rc::new(World {
            asked: asked(),
            proxy: Proxy::new(site.clone()),
            site,
            local: local.clone(),
            seen: Rc::default(),
        });
        // Virtual time: a test that waits for ever ends at once.
        let ended = local.run_until(tokio::time::timeout(
            Duration::from_secs(100_000),
            test(world),
        ));
        ended.await.expect("the test waits for what never comes");
    });
}

impl World {
    /// An endpoint of a service ("": the addressed one); None: it refuses connections.
    pub fn endpoint(
        &self,
        service: &str,
        name: &'static str,
        handler: Option<Handler>,
    ) -> Rc<Upstream> {
        self.endpoint_speaking(service, name, AppProtocol::Unknown, handler)
    }

    pub fn endpoint_speaking(
        &self,
        service: &str,
        name: &'static str,
        protocol: AppProtocol,
        handler: Option<Handler>,
    ) -> Rc<Upstream> {
        let upstream = Upstream::new(workload(name), 8080);
        let mut services = self.site.services.borrow_mut();
        services
            .entry(service.to_owned())
            .or_default()
            .push(Endpoint {
                upstream: upstream.clone(),
                protocol,
                handler,
            });
        upstream
    }

    /// A service that has no endpoint.
    pub fn empty_service(&self, service: &str) {
        let mut services = self.site.services.borrow_mut();
        services.entry(service.to_owned()).or_default();
    }

    pub fn route(&self, rules: Vec<Rule>) {
        let route = Route {
            key: RouteKey {
                kind: RouteKind::Http,
                namespace: "shop".into(),
                name: "web".into(),
            },
            created: None,
            hostnames: Vec::new(),
            rules,
        };
        *self.site.routes.borrow_mut() = Some(Arc::new(Table::new([Arc::new(route)])));
    }

    /// Traces from now on; where the spans come out.
    pub fn trace(&self, sampler: Sampler) -> process::otlp::Queue<Box<Span>> {
        let (spans, queue) = queue(&SpanMetrics::default());
        let is_first = self.site.tracing.set(Tracing { sampler, spans }).is_ok();
        assert!(is_first, "it traces already");
        queue
    }

    pub fn drain(&self) {
        self.site.draining.send_replace(true);
    }

    /// Answers with 200, the name of the endpoint and what it saw; HTTP/1.
    pub fn echo(&self, name: &'static str) -> Option<Handler> {
        self.http1(name, |seen| {
            let text = format!("{} {}", seen.endpoint, seen.uri);
            Response::new(Full::new(text.into()))
        })
    }

    /// Answers as told; HTTP/1.
    pub fn http1(
        &self,
        name: &'static str,
        answer: impl Fn(&Seen) -> Response<Full<Bytes>> + 'static,
    ) -> Option<Handler> {
        let (seen, answer) = (self.seen.clone(), Rc::new(answer));
        Some(Rc::new(move |stream| {
            let (seen, answer) = (seen.clone(), answer.clone());
            Box::pin(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (seen.clone(), answer.clone());
                    async move {
                        let one = look(name, request).await;
                        let answer = answer(&one);
                        seen.borrow_mut().push(one);
                        Ok::<_, Infallible>(answer)
                    }
                });
                let builder = hyper::server::conn::http1::Builder::new();
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            })
        }))
    }

    /// As [`Self::echo`], HTTP/2.
    pub fn echo_http2(&self, name: &'static str) -> Option<Handler> {
        let (seen, local) = (self.seen.clone(), self.local.clone());
        Some(Rc::new(move |stream| {
            let (seen, local) = (seen.clone(), local.clone());
            Box::pin(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let seen = seen.clone();
                    async move {
                        let one = look(name, request).await;
                        let text = format!("{} {}", one.endpoint, one.uri.path());
                        seen.borrow_mut().push(one);
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(LocalExec(local));
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            })
        }))
    }

    /// Reads a head, then writes these bytes, for each connection; then waits for its end.
    pub fn raw(&self, answer: &'static [u8]) -> Option<Handler> {
        Some(Rc::new(move |mut stream| {
            Box::pin(async move {
                let _ = read_head(&mut stream).await;
                let _ = stream.write_all(answer).await;
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            })
        }))
    }

    /// A client's connection.
    pub fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let served = self
            .proxy
            .clone()
            .serve(TokioIo::new(theirs), self.asked.clone());
        self.local.spawn_local(served);
        ours
    }

    /// A client's connection of HTTP/2.
    pub async fn connect_http2<B>(&self) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: hyper::body::Body + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = TokioIo::new(self.connect());
        let exec = LocalExec(self.local.clone());
        let shaken = hyper::client::conn::http2::handshake(exec, io).await;
        let (sender, connection) = shaken.unwrap();
        self.spawn(async move {
            let _ = connection.await;
        });
        sender
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.local.spawn_local(task);
    }

    pub fn exec(&self) -> LocalExec {
        LocalExec(self.local.clone())
    }

    /// One request on a connection of its own: what came back, whole.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_ref()).await.unwrap();
        read_answer(&mut stream).await
    }

    /// GET of a path.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n"))
            .await
    }

    pub fn endpoints_seen(&self) -> Vec<&'static str> {
        self.seen.borrow().iter().map(|one| one.endpoint).collect()
    }

    /// The only record, once there is one.
    pub async fn record(&self) -> Recorded {
        for _ in 0..100 {
            if !self.site.records.borrow().is_empty() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let records = self.site.records.borrow();
        assert_eq!(records.len(), 1, "{records:?}");
        records[0].clone()
    }
}

#[derive(Clone)]
pub struct LocalExec(Rc<LocalSet>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, task: F) {
        self.0.spawn_local(task);
    }
}

async fn look(endpoint: &'static str, request: Request<Incoming>) -> Seen {
    let (head, body) = request.into_parts();
    let body = body.collect().await;
    let (trailers, body) = match body {
        Ok(body) => (body.trailers().cloned(), body.to_bytes()),
        Err(_) => (None, Bytes::from_static(b"broken off")),
    };
    Seen {
        endpoint,
        is_http2: head.version == http::Version::HTTP_2,
        uri: head.uri,
        headers: head.headers,
        body,
        trailers,
    }
}

fn asked() -> Rc<Asked> {
    Rc::new(Asked {
        client: "10.0.0.7:4321".parse().unwrap(),
        client_identity: None,
        client_workload: None,
        service: Some(service("web")),
        workload: None,
        address: None,
        port: 80,
        protocol: AppProtocol::Unknown,
        audits: Default::default(),
        revoked: CancellationToken::new(),
    })
}

pub fn service(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "shop".into(),
        hostname: name.into(),
    }
}

pub fn target(name: &str) -> Target {
    Target::Service {
        service: service(name),
        port: 80,
    }
}

fn workload(name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        uid: WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into()),
        name: name.into(),
        addresses: Default::default(),
        node: "".into(),
        health: Health::Healthy,
        common: Arc::new(Common {
            namespace: "shop".into(),
            hostname: "".into(),
            network: "".into(),
            tunnel: TunnelProtocol::Hbone,
            trust_domain: "cluster.local".into(),
            service_account: "default".into(),
            waypoint: None,
            network_gateway: None,
            canonical_name: name.into(),
            canonical_revision: "latest".into(),
            kind: WorkloadKind::Pod,
            workload_name: name.into(),
            native_tunnel: false,
            application_tunnel: None,
            services: Default::default(),
            policies: Vec::new(),
            cluster: "Kubernetes".into(),
            locality: Locality::default(),
            network_mode: NetworkMode::Standard,
            capacity: 1,
            derived: Default::default(),
        }),
    })
}

/// An answer of HTTP/1.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// With its empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Up to the empty line; what ends before it is what there is.
pub async fn read_head(stream: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// One answer: its head, and its body by its length, its chunks (as they came), or its end.
pub async fn read_answer(stream: &mut DuplexStream) -> Answer {
    let head = read_head(stream).await;
    let status = head.get(9..12).and_then(|text| text.parse().ok());
    let mut answer = Answer {
        status: status.unwrap_or_else(|| panic!("no answer: {head:?}")),
        head,
        body: Vec::new(),
    };
    if let Some(length) = answer.header("content-length") {
        answer.body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut answer.body).await.unwrap();
    } else if answer.header("transfer-encoding").is_some() {
        while !answer.body.ends_with(b"0\r\n\r\n") {
            let mut byte = [0];
            stream
                .read_exact(&mut byte)
                .await
                .expect("the chunks broke off");
            answer.body.push(byte[0]);
        }
    }
    answer
}
