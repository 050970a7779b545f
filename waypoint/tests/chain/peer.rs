//! The proxies at both ends: one makes a tunnel to the waypoint and asks in it, the others take the
//! waypoint's tunnels.

use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use carrier::budget::Budget;
use carrier::clock::Clock;
use carrier::limits::Limits;
use carrier::relay::buffer::Buffers;
use carrier::relay::{Counts, End, Parts, Pulse, relay};
use carrier::tunnel::stream::TunnelStream;
use carrier::tunnel::{Owner, Setting, Tunnel, driver};
use hbone::forwarded::Forwarded;
use hbone::tls::{ClientTls, ServerTls};
use hbone::{CloseReason, ConnectRequest, ConnectResponse, ErrorCode};
use mesh::Identity;
use netio::executor::{self, Scope};
use netio::netns::Netns;
use netio::socket::{Source, Upstream, connect};
use netio::{Backend, TcpListener, TcpStream};
use rustls::time_provider::DefaultTimeProvider;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::ca::Ca;
use crate::net::{PATIENCE, ip, listen};
use crate::world::identity;

/// Tasks of one proxy.
const TASKS: usize = 1_024;

fn thread(run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let builder = Builder::new().name("peer".to_owned());
    builder.spawn(run).unwrap()
}

fn setting() -> Setting {
    Setting {
        clock: Clock::start(),
        idle_limit: PATIENCE * 10,
        budget: Rc::new(Budget::new(Limits::default().buffered_per_worker)),
    }
}

async fn carry(near: End, far: End) {
    let (pulse, up, down) = (Pulse::default(), 0.into(), 0.into());
    let counts = Counts {
        pulse: &pulse,
        up_bytes: &up,
        down_bytes: &down,
    };
    // How it ended, the applications say.
    let parts = Parts {
        near: &near,
        far: &far,
        counts,
        buffers: &Buffers::default(),
    };
    let _ = relay(parts).await;
}

/// What an endpoint's proxy was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub authority: String,
    pub client: Option<SocketAddr>,
    pub peer: Identity,
}

/// The proxy of an endpoint.
pub struct Server {
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Any other status than 200 is an answer of its own.
    pub status: Arc<AtomicU16>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(backend: Backend, netns: &Netns, ca: &Ca, (name, host): (&str, u8)) -> Self {
        let tls = {
            let credentials = ca.credentials(&identity(name).to_string(), |_| {});
            let time = Arc::new(DefaultTimeProvider);
            ServerTls::new(&credentials, "cluster.local", time).unwrap()
        };
        let listener = listen(netns, SocketAddr::new(ip(host), 15008));
        let (seen, status) = (Arc::default(), Arc::new(AtomicU16::new(200)));
        let stop = CancellationToken::new();
        let site = (netns.clone(), Arc::clone(&seen), Arc::clone(&status));
        let stopped = stop.clone();
        let thread = thread(move || {
            let serve = stopped.run_until_cancelled_owned(accept(listener, tls, site));
            executor::run(backend, serve).unwrap();
        });
        Self {
            seen,
            status,
            stop,
            thread: Some(thread),
        }
    }

    pub fn asked(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn refuse(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

type SiteOf = (Netns, Arc<Mutex<Vec<Seen>>>, Arc<AtomicU16>);

async fn accept(listener: StdListener, tls: ServerTls, site: SiteOf) {
    let listener = TcpListener::from_std(listener).unwrap();
    let scope = Rc::new(Scope::new(TASKS));
    loop {
        let socket = Rc::new(listener.accept().await.unwrap());
        let setting = setting();
        let config = hbone::Config::default();
        let connection = hbone::Connection::server(&tls, &config, setting.clock.now()).unwrap();
        let owner = Taker {
            site: site.clone(),
            scope: Rc::clone(&scope),
        };
        let tunnel = Tunnel::new(connection, socket, setting, Box::new(owner));
        let drive = async move { driver::drive(&tunnel, &Buffers::default()).await };
        scope.spawn(drive).unwrap();
    }
}

struct Taker {
    site: SiteOf,
    scope: Rc<Scope>,
}

impl Owner for Taker {
    fn established(&self, _: &Rc<Tunnel>) {}

    fn request(&self, stream: Rc<TunnelStream>, request: ConnectRequest) {
        let (netns, seen, status) = self.site.clone();
        let forwarded = request.headers.get("forwarded").map(Forwarded::parse);
        let client = forwarded.and_then(|forwarded| forwarded.client);
        seen.lock().unwrap().push(Seen {
            authority: request.authority.clone(),
            client: client.map(|client| SocketAddr::new(client.ip, client.port.unwrap())),
            peer: stream.tunnel().peer().unwrap(),
        });
        let status = status.load(Ordering::SeqCst);
        let serve = async move {
            let upstream = Upstream {
                netns: &netns,
                destination: request.authority.parse().unwrap(),
                mark: 0,
                source: Source::Own,
            };
            let app = connect(&upstream, PATIENCE).await;
            let status = if app.is_err() { 503 } else { status };
            stream.respond(&ConnectResponse::of(status)).unwrap();
            if let (Ok(app), 200) = (app, status) {
                carry(End::Stream(stream), End::Tcp(Rc::new(app))).await;
            }
        };
        self.scope.spawn(serve).unwrap();
    }

    fn closed(&self, _: &Rc<Tunnel>, _: &CloseReason) {}
}

/// A CONNECT that was refused: its status and the reason beside it.
pub type Refused = (u16, String);

struct Order {
    authority: String,
    socket: StdStream,
    outcome: SyncSender<Result<(), Refused>>,
}

/// The client's proxy, with one tunnel to the waypoint.
pub struct Client {
    netns: Netns,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Of that name, at that address.
    pub fn start(backend: Backend, netns: &Netns, ca: &Ca, name: &str) -> Self {
        let credentials = ca.credentials(&identity(name).to_string(), |_| {});
        let tls = ClientTls::new(&credentials, Arc::new(DefaultTimeProvider)).unwrap();
        let (orders, taken) = mpsc::channel(TASKS);
        let site = netns.clone();
        let thread = thread(move || {
            executor::run(backend, ask(site, tls, taken)).unwrap();
        });
        Self {
            netns: netns.clone(),
            orders: Some(orders),
            thread: Some(thread),
        }
    }

    /// What the application gets that connects to `authority`.
    pub fn connect(&self, authority: &str) -> Result<StdStream, Refused> {
        let listener = listen(&self.netns, SocketAddr::new(ip(1), 0));
        let address = listener.local_addr().unwrap();
        let app = self.netns.enter(|| StdStream::connect(address));
        let app = app.unwrap().unwrap();
        app.set_read_timeout(Some(PATIENCE)).unwrap();
        app.set_write_timeout(Some(PATIENCE)).unwrap();
        // One order, one answer.
        let (outcome, answer) = sync_channel(1);
        let order = Order {
            authority: authority.to_owned(),
            socket: listener.accept().unwrap().0,
            outcome,
        };
        self.orders.as_ref().unwrap().blocking_send(order).unwrap();
        let answer = answer
            .recv_timeout(PATIENCE)
            .expect("the CONNECT is answered");
        answer.map(|()| app)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The address that the client says it has; its pod has none of it.
pub const CLIENT: &str = "10.98.0.1:4711";

async fn ask(netns: Netns, tls: ClientTls, mut orders: mpsc::Receiver<Order>) {
    let scope = Scope::new(TASKS);
    let mut tunnel: Option<Rc<Tunnel>> = None;
    while let Some(order) = orders.recv().await {
        let usable = tunnel.take().filter(|tunnel| tunnel.has_room());
        let made = match usable {
            Some(tunnel) => tunnel,
            None => dial(&netns, &tls, &scope).await,
        };
        tunnel = Some(Rc::clone(&made));
        let forwarded = format!("for=\"{CLIENT}\"");
        let request = ConnectRequest {
            authority: order.authority,
            headers: hbone::Headers::new().with("forwarded", forwarded),
        };
        let stream = made.open(&request).unwrap();
        let serve = async move {
            let response = stream.response().await;
            match response {
                Ok(response) if response.status == 200 => {
                    order.outcome.send(Ok(())).unwrap();
                    let app = TcpStream::from_std(order.socket).unwrap();
                    carry(End::Tcp(Rc::new(app)), End::Stream(stream)).await;
                }
                Ok(response) => {
                    let why = response.headers.get("x-culvert-reason");
                    let why = why.unwrap_or_default().to_owned();
                    order.outcome.send(Err((response.status, why))).unwrap();
                }
                Err(error) => order.outcome.send(Err((0, error.to_string()))).unwrap(),
            }
        };
        scope.spawn(serve).unwrap();
    }
}

async fn dial(netns: &Netns, tls: &ClientTls, scope: &Scope) -> Rc<Tunnel> {
    let upstream = Upstream {
        netns,
        destination: SocketAddr::new(ip(9), 15008),
        mark: 0,
        source: Source::Own,
    };
    let socket = Rc::new(connect(&upstream, PATIENCE).await.unwrap());
    let setting = setting();
    let config = hbone::Config::default();
    let waypoint = [identity("waypoint")].into();
    let connection =
        hbone::Connection::client(tls, waypoint, &config, setting.clock.now()).unwrap();
    let (ready, mut made) = mpsc::channel(1);
    let tunnel = Tunnel::new(connection, socket, setting, Box::new(Asker(ready)));
    let driven = Rc::clone(&tunnel);
    let drive = async move { driver::drive(&driven, &Buffers::default()).await };
    scope.spawn(drive).unwrap();
    made.recv().await.expect("a tunnel to the waypoint");
    tunnel
}

struct Asker(mpsc::Sender<()>);

impl Owner for Asker {
    fn established(&self, _: &Rc<Tunnel>) {
        self.0.try_send(()).unwrap();
    }

    fn request(&self, stream: Rc<TunnelStream>, _: ConnectRequest) {
        stream.reset(ErrorCode::REFUSED_STREAM);
    }

    fn closed(&self, _: &Rc<Tunnel>, _: &CloseReason) {}
}
