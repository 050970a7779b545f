//! The relay of a busy connection allocates nothing: an application, two proxies' relays and
//! tunnels over real sockets, and an echo. What is counted are the turns of the relays and of the
//! tunnels, and nothing else in the process.
//!
//! Records are sealed and opened without any. For bulk, whose large buffers are traded between the
//! directions, one for each record is allowed.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is a test, also what the test functions call"
)]

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use carrier::budget::Budget;
use carrier::clock::Clock;
use carrier::relay::buffer::Buffers;
use carrier::relay::{Counts, End, Parts, Pulse, relay};
use carrier::signal::Signal;
use carrier::tunnel::stream::TunnelStream;
use carrier::tunnel::{Owner, Setting, Tunnel, driver};
use hbone::tls::{ClientTls, Credentials, ServerTls};
use hbone::{CloseReason, Config, ConnectRequest, ConnectResponse, Connection, Mono};
use mesh::Identity;
use netio::executor::{self, Scope};
use netio::{Backend, Choice};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::time_provider::DefaultTimeProvider;

/// Messages until every buffer and queue has found its size, and those that count.
const WARM: usize = 2_000;
const COUNTED: usize = 2_000;
/// The same for bulk, in bytes each way.
const WARM_BYTES: usize = 48 << 20;
const COUNTED_BYTES: usize = 48 << 20;
/// A request and its answer.
const MESSAGE_BYTES: usize = 1_000;

/// What the thousands of counted turns may make in all: a queue that finds its size only now.
const STRAY: u64 = 16;

/// Whether turns are counted now, and what was found.
#[derive(Default)]
struct Meter {
    on: AtomicBool,
    allocations: AtomicU64,
    /// Sealed by both tunnels so far.
    records: [AtomicU64; 2],
}

impl Meter {
    fn totals(&self) -> (u64, u64) {
        let records = self.records.each_ref().map(|r| r.load(Ordering::SeqCst));
        let allocations = self.allocations.load(Ordering::SeqCst);
        (allocations, records.iter().sum())
    }

    /// Fails when more was allocated than `allowed` says of so many records.
    fn assert_at_most(&self, allowed: impl FnOnce(u64) -> u64, what: impl FnOnce()) {
        let before = self.totals();
        self.on.store(true, Ordering::SeqCst);
        what();
        self.on.store(false, Ordering::SeqCst);
        let after = self.totals();
        let (allocations, records) = (after.0 - before.0, after.1 - before.1);
        println!("{allocations} allocations for {records} records");
        assert!(records > 0);
        assert!(
            allocations <= allowed(records),
            "{allocations} allocations for {records} records"
        );
    }

    /// `task`, whose turns are counted while the meter is on.
    async fn watch(self: Arc<Self>, task: impl Future<Output = ()>) {
        let mut task = pin!(task);
        poll_fn(|cx| {
            let mut poll = Poll::Pending;
            let made = allocation_counter::measure(|| poll = task.as_mut().poll(cx));
            if self.on.load(Ordering::SeqCst) {
                self.allocations
                    .fetch_add(made.count_total, Ordering::SeqCst);
            }
            poll
        })
        .await;
    }
}

/// What a tunnel's events mean here.
#[derive(Default)]
struct Events {
    established: Signal,
    asked: Signal,
    stream: RefCell<Option<Rc<TunnelStream>>>,
}

struct Listens(Rc<Events>);

impl Owner for Listens {
    fn established(&self, _: &Rc<Tunnel>) {
        self.0.established.set();
    }

    fn request(&self, stream: Rc<TunnelStream>, _: ConnectRequest) {
        stream.respond(&ConnectResponse::of(200)).unwrap();
        *self.0.stream.borrow_mut() = Some(stream);
        self.0.asked.set();
    }

    fn closed(&self, _: &Rc<Tunnel>, _: &CloseReason) {}
}

fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).unwrap()
}

/// Certificates of a client and a server under one root.
fn credentials() -> [Credentials; 2] {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    ["client", "server"].map(|name| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = identity(name).to_string();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let leaf = params.signed_by(&key, &issuer).unwrap();
        Credentials {
            chain: vec![leaf.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            roots: vec![root.der().clone()],
        }
    })
}

/// Both ends of a TCP connection.
fn pair() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    [near, far]
}

fn socket(stream: TcpStream) -> Rc<netio::TcpStream> {
    Rc::new(netio::TcpStream::from_std(stream).unwrap())
}

fn tunnel(connection: Connection, stream: TcpStream, events: &Rc<Events>) -> Rc<Tunnel> {
    let setting = Setting {
        clock: Clock::start(),
        idle_limit: Duration::from_secs(300),
        budget: Rc::new(Budget::new(64 << 20)),
    };
    let owner = Box::new(Listens(Rc::clone(events)));
    Tunnel::new(connection, socket(stream), setting, owner)
}

fn connections() -> [Connection; 2] {
    let [client, server] = credentials();
    let time = Arc::new(DefaultTimeProvider);
    let client = ClientTls::new(&client, time.clone()).unwrap();
    let server = ServerTls::new(&server, "cluster.local", time).unwrap();
    let (config, now) = (Config::default(), Mono::default());
    let expected = [identity("server")].into();
    [
        Connection::client(&client, expected, &config, now).unwrap(),
        Connection::server(&server, &config, now).unwrap(),
    ]
}

async fn carry(near: End, far: End, buffers: Rc<Buffers>) {
    let (pulse, up, down) = (Pulse::default(), Cell::new(0), Cell::new(0));
    let counts = Counts {
        pulse: &pulse,
        up_bytes: &up,
        down_bytes: &down,
    };
    // However it ends: the applications say what arrived.
    let parts = Parts {
        near: &near,
        far: &far,
        counts,
        buffers: &buffers,
    };
    let _ = relay(parts).await;
}

/// Both proxies on this thread, until both relays have ended.
async fn proxies(meter: Arc<Meter>, app: TcpStream, echo: TcpStream) {
    let scope = Scope::new(16);
    let buffers = Rc::new(Buffers::default());
    let watch = |task: std::pin::Pin<Box<dyn Future<Output = ()>>>| {
        scope.spawn(Arc::clone(&meter).watch(task)).unwrap();
    };
    let [near, far] = pair();
    let [client, server] = connections();
    let (asks, answers) = (Rc::<Events>::default(), Rc::<Events>::default());
    let client = tunnel(client, near, &asks);
    let server = tunnel(server, far, &answers);
    for (number, tunnel) in [&client, &server].into_iter().enumerate() {
        let (tunnel, buffers) = (Rc::clone(tunnel), Rc::clone(&buffers));
        let meter = Arc::clone(&meter);
        watch(Box::pin(async move {
            let mut driven = pin!(driver::drive(&tunnel, &buffers));
            poll_fn(|cx| {
                let poll = driven.as_mut().poll(cx);
                meter.records[number].store(tunnel.stats().records, Ordering::SeqCst);
                poll
            })
            .await;
        }));
    }
    asks.established.wait().await;
    let request = ConnectRequest {
        authority: "127.0.0.1:80".to_owned(),
        ..ConnectRequest::default()
    };
    let asked = client.open(&request).unwrap();
    answers.asked.wait().await;
    assert_eq!(asked.response().await.unwrap().status, 200);
    let answered = answers.stream.take().unwrap();
    let ends = [
        (End::Tcp(socket(app)), End::Stream(asked)),
        (End::Stream(answered), End::Tcp(socket(echo))),
    ];
    let over = Rc::new(Signal::default());
    for (near, far) in ends {
        let (over, buffers) = (Rc::clone(&over), Rc::clone(&buffers));
        watch(Box::pin(async move {
            carry(near, far, buffers).await;
            over.set();
        }));
    }
    over.wait().await;
    scope.abort_all();
    scope.join_all().await;
}

fn named(name: &str, body: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(body).unwrap()
}

fn ping_pong(app: &mut TcpStream, messages: usize) {
    let mut answer = [0; MESSAGE_BYTES];
    for number in 0..messages {
        app.write_all(&[number.to_le_bytes()[0]; MESSAGE_BYTES])
            .unwrap();
        app.read_exact(&mut answer).unwrap();
        assert!(answer.iter().all(|byte| *byte == number.to_le_bytes()[0]));
    }
}

/// Both ways at once.
fn bulk(app: &mut TcpStream, bytes: usize) {
    let mut writer = app.try_clone().unwrap();
    let sending = named("sends", move || {
        let block = vec![7; 256 << 10];
        (0..bytes / block.len()).for_each(|_| writer.write_all(&block).unwrap());
    });
    let mut block = vec![0; 256 << 10];
    for _ in 0..bytes / block.len() {
        app.read_exact(&mut block).unwrap();
    }
    sending.join().unwrap();
}

fn messages_allocate_nothing_and_bulk_little(backend: Backend) {
    let ([mut app, captured], [connected, mut echo]) = (pair(), pair());
    let meter = Arc::new(Meter::default());
    let counted = Arc::clone(&meter);
    let proxy = named("proxies", move || {
        executor::run(backend, proxies(counted, captured, connected)).unwrap();
    });
    let echoes = named("echo", move || {
        let mut block = vec![0; 256 << 10];
        while let Ok(count @ 1..) = echo.read(&mut block) {
            if echo.write_all(&block[..count]).is_err() {
                return;
            }
        }
    });
    ping_pong(&mut app, WARM);
    meter.assert_at_most(|_| STRAY, || ping_pong(&mut app, COUNTED));
    bulk(&mut app, WARM_BYTES);
    meter.assert_at_most(|records| STRAY + records, || bulk(&mut app, COUNTED_BYTES));
    drop(app);
    echoes.join().unwrap();
    proxy.join().unwrap();
}

#[test]
fn a_relayed_message_allocates_nothing_with_epoll() {
    messages_allocate_nothing_and_bulk_little(Backend::Epoll);
}

#[test]
fn a_relayed_message_allocates_nothing_with_io_uring() {
    // Where the kernel forbids a ring, the product runs on epoll alone.
    let backend = netio::probe(Choice::IoUring).map_or(Backend::Epoll, |(backend, _)| backend);
    messages_allocate_nothing_and_bulk_little(backend);
}
