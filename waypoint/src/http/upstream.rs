//! One endpoint on one worker: how busy it is, and the connections to it that are kept.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use http::Request;
use hyper::client::conn::{http1, http2};
use mesh::workload::Workload;
use tokio::sync::{Semaphore, oneshot};

use super::exec::Exec;
use super::limits::{
    CONNECTION_WINDOW_BYTES, IDLE_MAX, READ_BUFFER_BYTES, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES,
};
use super::linger::Lingering;
use super::sent::SentBody;
use super::site::{Asked, ConnectError, Io, Site};

/// One endpoint and target port on one worker. Dropping the last one closes its idle connections.
pub struct Upstream {
    workload: Arc<Workload>,
    port: u16,
    token: u64,
    load: Cell<u32>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Shared>>,
    /// One HTTP/2 connection is opened at a time: it will carry those that wait, too.
    opening: Semaphore,
    /// How the last of them failed, and how many have: those that waited for it share it.
    failed: RefCell<(u64, Option<ConnectError>)>,
    is_swept: Cell<bool>,
}

/// An HTTP/1 connection between two requests.
struct Idle {
    sender: http1::SendRequest<SentBody>,
    since: Instant,
}

/// An HTTP/2 connection.
struct Shared {
    sender: http2::SendRequest<SentBody>,
    streams: Rc<Cell<usize>>,
    used: Instant,
}

/// What is spoken with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speak {
    Http1,
    Http2,
}

/// A connection for one request.
pub(super) struct Lease {
    sender: Sender,
    upstream: Rc<Upstream>,
    /// Whether it carried requests before: it may be closing just now.
    pub(super) is_reused: bool,
}

enum Sender {
    Http1(http1::SendRequest<SentBody>),
    Http2(
        http2::SendRequest<SentBody>,
        #[expect(dead_code, reason = "counts while it is there")] Stream,
    ),
}

/// A stream that is counted until it is dropped.
struct Stream(Rc<Cell<usize>>);

impl Stream {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What is left of a connection whose protocol was changed: it, and what was read of it.
pub(super) type Taken = (Box<dyn Io>, bytes::Bytes);

impl Upstream {
    /// Of that workload, at that port of it.
    #[must_use]
    pub fn new(workload: Arc<Workload>, port: u16) -> Rc<Self> {
        let token = token(&workload.uid.0, port);
        Rc::new(Self {
            workload,
            port,
            token,
            load: Cell::new(0),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: Semaphore::new(1),
            failed: RefCell::default(),
            is_swept: Cell::new(false),
        })
    }

    /// The endpoint, as it was when this was made.
    #[must_use]
    pub fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    /// The port on the endpoint.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Requests and upgraded connections that it serves for this worker now.
    #[must_use]
    pub fn load(&self) -> u32 {
        self.load.get()
    }

    /// What a client's session names it by: the same on every worker and after a restart.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Connections that are kept: idle ones of HTTP/1, all of HTTP/2.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.idle.borrow().len() + self.shared.borrow().len()
    }

    /// Counts one more request until the result is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> Load {
        self.load.set(self.load.get() + 1);
        Load(self.clone())
    }

    /// A connection for a request: a kept one, unless it must be `fresh`.
    pub(super) async fn lease(
        self: &Rc<Self>,
        site: &Rc<dyn Site>,
        asked: &Rc<Asked>,
        speak: Speak,
        fresh: bool,
    ) -> Result<Lease, ConnectError> {
        match speak {
            Speak::Http1 => self.lease_http1(site, asked, fresh).await,
            Speak::Http2 => self.lease_http2(site, asked, fresh).await,
        }
    }

    async fn lease_http1(
        self: &Rc<Self>,
        site: &Rc<dyn Site>,
        asked: &Rc<Asked>,
        fresh: bool,
    ) -> Result<Lease, ConnectError> {
        while let Some(mut sender) = self.newest_idle(site).filter(|_| !fresh) {
            if sender.ready().await.is_ok() {
                return Ok(self.leased(Sender::Http1(sender), true));
            }
        }
        let io = Lingering::new(site.open(asked, self).await?, site);
        let shaken = http1_builder().handshake(io).await;
        let (sender, connection) = shaken.map_err(|error| broken(&error))?;
        site.spawn(Box::pin(async move {
            // Its end is told to the request that it carries.
            let _ = connection.await;
        }));
        Ok(self.leased(Sender::Http1(sender), false))
    }

    /// A connection of its own, which can be taken back when its protocol changes.
    pub(super) async fn lease_for_upgrade(
        self: &Rc<Self>,
        site: &Rc<dyn Site>,
        asked: &Rc<Asked>,
    ) -> Result<(Lease, oneshot::Receiver<Taken>), ConnectError> {
        let io = Lingering::new(site.open(asked, self).await?, site);
        let shaken = http1_builder().handshake(io).await;
        let (sender, mut connection) = shaken.map_err(|error| broken(&error))?;
        let (taken, take) = oneshot::channel();
        site.spawn(Box::pin(async move {
            if (&mut connection).await.is_ok() {
                let parts = connection.into_parts();
                let io: Box<dyn Io> = Box::new(parts.io);
                let _ = taken.send((io, parts.read_buf));
            }
        }));
        Ok((self.leased(Sender::Http1(sender), false), take))
    }

    async fn lease_http2(
        self: &Rc<Self>,
        site: &Rc<dyn Site>,
        asked: &Rc<Asked>,
        fresh: bool,
    ) -> Result<Lease, ConnectError> {
        if let Some(lease) = self.shared(site).filter(|_| !fresh) {
            return Ok(lease);
        }
        let before = self.failed.borrow().0;
        let _turn = self.opening.acquire().await;
        if let Some(lease) = self.shared(site).filter(|_| !fresh) {
            return Ok(lease);
        }
        if let (count, Some(error)) = &*self.failed.borrow()
            && *count != before
        {
            return Err(error.clone());
        }
        let opened = self.open_http2(site, asked).await;
        if let Err(error) = &opened {
            let mut failed = self.failed.borrow_mut();
            *failed = (failed.0 + 1, Some(error.clone()));
        }
        opened
    }

    async fn open_http2(
        self: &Rc<Self>,
        site: &Rc<dyn Site>,
        asked: &Rc<Asked>,
    ) -> Result<Lease, ConnectError> {
        let io = Lingering::new(site.open(asked, self).await?, site);
        let shaken = http2::Builder::new(Exec::new(site))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .handshake(io)
            .await;
        let (sender, connection) = shaken.map_err(|error| broken(&error))?;
        site.spawn(Box::pin(async move {
            let _ = connection.await;
        }));
        let streams = Rc::new(Cell::new(0));
        let stream = Stream::new(&streams);
        self.shared.borrow_mut().push(Shared {
            sender: sender.clone(),
            streams,
            used: site.now(),
        });
        self.sweep_later(site);
        Ok(self.leased(Sender::Http2(sender, stream), false))
    }

    fn leased(self: &Rc<Self>, sender: Sender, is_reused: bool) -> Lease {
        Lease {
            sender,
            upstream: self.clone(),
            is_reused,
        }
    }

    fn newest_idle(&self, site: &Rc<dyn Site>) -> Option<http1::SendRequest<SentBody>> {
        let mut idle = self.idle.borrow_mut();
        let keep = site.limits().upstream_idle_timeout;
        while let Some(newest) = idle.pop() {
            if newest.since + keep <= site.now() {
                // The others are older still.
                idle.clear();
                return None;
            }
            if !newest.sender.is_closed() {
                return Some(newest.sender);
            }
        }
        None
    }

    fn shared(self: &Rc<Self>, site: &Rc<dyn Site>) -> Option<Lease> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|one| !one.sender.is_closed());
        let most = site.limits().upstream_streams_max;
        let one = shared.iter_mut().find(|one| one.streams.get() < most)?;
        one.used = site.now();
        let sender = Sender::Http2(one.sender.clone(), Stream::new(&one.streams));
        Some(self.leased(sender, true))
    }

    fn keep(self: &Rc<Self>, sender: http1::SendRequest<SentBody>, site: &Rc<dyn Site>) {
        if sender.is_closed() {
            return;
        }
        let since = site.now();
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= IDLE_MAX {
            idle.remove(0);
        }
        idle.push(Idle { sender, since });
        drop(idle);
        self.sweep_later(site);
    }

    /// One task an endpoint closes what is idle for too long; it ends with the last connection.
    fn sweep_later(self: &Rc<Self>, site: &Rc<dyn Site>) {
        if self.is_swept.replace(true) {
            return;
        }
        let (upstream, site) = (Rc::downgrade(self), site.clone());
        site.clone().spawn(Box::pin(async move {
            let keep = site.limits().upstream_idle_timeout;
            loop {
                site.sleep_until(site.now() + keep).await;
                let upstream = Weak::upgrade(&upstream);
                if !upstream.is_some_and(|upstream| upstream.sweep(&site)) {
                    return;
                }
            }
        }));
    }

    /// Whether anything is left.
    fn sweep(&self, site: &Rc<dyn Site>) -> bool {
        let (now, keep) = (site.now(), site.limits().upstream_idle_timeout);
        let mut idle = self.idle.borrow_mut();
        idle.retain(|one| one.since + keep > now && !one.sender.is_closed());
        let mut shared = self.shared.borrow_mut();
        shared.retain(|one| {
            let is_idle = one.streams.get() == 0 && one.used + keep <= now;
            !is_idle && !one.sender.is_closed()
        });
        let is_left = !idle.is_empty() || !shared.is_empty();
        self.is_swept.set(is_left);
        is_left
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(READ_BUFFER_BYTES);
    builder
}

fn broken(error: &hyper::Error) -> ConnectError {
    ConnectError {
        moves_on: true,
        why: error.to_string().into(),
    }
}

/// Why a request has no answer.
pub(super) struct Unanswered {
    pub(super) error: hyper::Error,
    /// Whether surely no byte of it was sent.
    pub(super) is_unsent: bool,
}

impl Lease {
    /// Whether absolute targets are sent.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(..))
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<SentBody>,
    ) -> Result<http::Response<hyper::body::Incoming>, Unanswered> {
        let outcome = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender, _) => sender.try_send_request(request).await,
        };
        outcome.map_err(|mut error| Unanswered {
            is_unsent: error.take_message().is_some(),
            error: error.into_error(),
        })
    }

    /// The answer has come whole: the connection can serve another request.
    pub(super) fn give_back(self, site: &Rc<dyn Site>) {
        if let Sender::Http1(sender) = self.sender {
            self.upstream.keep(sender, site);
        }
    }
}

/// A request that an endpoint serves.
pub(super) struct Load(Rc<Upstream>);

impl Load {
    pub(super) fn upstream(&self) -> &Rc<Upstream> {
        &self.0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.load.set(self.0.load.get() - 1);
    }
}

/// FNV-1a: it must be the same in every version, and hides nothing that a client may not know.
fn token(uid: &str, port: u16) -> u64 {
    let bytes = uid.bytes().chain(port.to_be_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
