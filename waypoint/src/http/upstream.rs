//! One endpoint on one worker: how busy it is, and the connections to it that are kept.

mod channel;
mod lease;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hyper::client::conn::http1;
use mesh::workload::Workload;
use tokio::sync::{Semaphore, oneshot};

use super::limits::{IDLE_MAX, READ_BUFFER_BYTES};
use super::linger::Lingering;
use super::sent::SentBody;
use super::session;
use super::site::{Asked, ConnectError, Io, Site};
use channel::{Channel, Room};
use lease::Sender;
pub(super) use lease::{Lease, Unanswered};

/// One endpoint and target port on one worker. Dropping the last one closes its idle connections.
pub struct Upstream {
    workload: Arc<Workload>,
    port: u16,
    token: u64,
    load: Cell<u32>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Rc<Channel>>>,
    /// One HTTP/2 connection is opened at a time: it will carry those that wait, too.
    opening: Semaphore,
    /// How the last of them failed, and how many have: those that waited for it share it.
    failed: RefCell<(u64, Option<ConnectError>)>,
    is_swept: Cell<bool>,
    /// Whether it lets clients wait in vain for `100 Continue`.
    ignores_expect: Arc<AtomicBool>,
}

/// An HTTP/1 connection between two requests.
struct Idle {
    sender: http1::SendRequest<SentBody>,
    since: Instant,
}

/// What is spoken with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speak {
    Http1,
    Http2,
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
            ignores_expect: Arc::default(),
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
        if let Some(sender) = self.newest_idle(site).filter(|_| !fresh) {
            return Ok(self.leased(Sender::Http1(sender), true));
        }
        let io = Lingering::new(site.open(asked, self).await?, site);
        let shaken = http1_builder().handshake(io).await;
        let (sender, connection) = shaken.map_err(|error| broken(&error))?;
        let spawned = site.spawn(Box::pin(async move {
            // Its end is told to the request that it carries.
            let _ = connection.await;
        }));
        match spawned {
            true => Ok(self.leased(Sender::Http1(sender), false)),
            false => Err(too_many()),
        }
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
        let spawned = site.spawn(Box::pin(async move {
            if (&mut connection).await.is_ok() {
                let parts = connection.into_parts();
                let io: Box<dyn Io> = Box::new(parts.io);
                let _ = taken.send((io, parts.read_buf));
            }
        }));
        match spawned {
            true => Ok((self.leased(Sender::Http1(sender), false), take)),
            false => Err(too_many()),
        }
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
        if !fresh {
            if let Some(lease) = self.shared(site) {
                return Ok(lease);
            }
            if let Some(untold) = self.untold(site) {
                untold.settled(site).await;
                if let Some(lease) = self.shared(site) {
                    return Ok(lease);
                }
            }
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
        let channel = Channel::open(site, io).await?;
        let counted = Rc::new(channel.enter(site.now()));
        self.shared.borrow_mut().push(channel);
        self.sweep_later(site);
        Ok(self.leased(Sender::Http2(counted, None), false))
    }

    fn leased(self: &Rc<Self>, sender: Sender, is_reused: bool) -> Lease {
        Lease {
            sender,
            upstream: self.clone(),
            is_reused,
        }
    }

    /// The newest one that can take a request: one whose body is still being sent cannot.
    fn newest_idle(&self, site: &Rc<dyn Site>) -> Option<http1::SendRequest<SentBody>> {
        let mut idle = self.idle.borrow_mut();
        let (now, keep) = (site.now(), site.limits().upstream_idle_timeout);
        if idle.last().is_some_and(|newest| newest.since + keep <= now) {
            // The others are older still.
            idle.clear();
        }
        idle.retain(|one| !one.sender.is_closed());
        let is_ready = |one: &Idle| one.since + keep > now && one.sender.is_ready();
        let place = idle.iter().rposition(is_ready)?;
        Some(idle.remove(place).sender)
    }

    fn shared(self: &Rc<Self>, site: &Rc<dyn Site>) -> Option<Lease> {
        let most = site.limits().upstream_streams_max;
        let mut shared = self.shared.borrow_mut();
        let mut is_closed = false;
        let free = shared.iter().find(|one| match one.room(most) {
            Room::Free => true,
            room => {
                is_closed |= room == Room::Closed;
                false
            }
        });
        let counted = free.map(|one| Rc::new(one.enter(site.now())));
        if is_closed {
            shared.retain(|one| one.room(most) != Room::Closed);
        }
        drop(shared);
        Some(self.leased(Sender::Http2(counted?, None), true))
    }

    fn untold(&self, site: &Rc<dyn Site>) -> Option<Rc<Channel>> {
        let most = site.limits().upstream_streams_max;
        let shared = self.shared.borrow();
        let mut untold = shared.iter().filter(|one| one.room(most) == Room::Untold);
        untold.next().cloned()
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
        let (upstream, of_task) = (Rc::downgrade(self), site.clone());
        let spawned = site.spawn(Box::pin(async move {
            let keep = of_task.limits().upstream_idle_timeout;
            loop {
                of_task.sleep_until(of_task.now() + keep).await;
                let upstream = Weak::upgrade(&upstream);
                if !upstream.is_some_and(|upstream| upstream.sweep(&of_task)) {
                    return;
                }
            }
        }));
        // Without a task the next connection that is kept tries again.
        self.is_swept.set(spawned);
    }

    /// Whether anything is left.
    fn sweep(&self, site: &Rc<dyn Site>) -> bool {
        let (now, keep) = (site.now(), site.limits().upstream_idle_timeout);
        let mut idle = self.idle.borrow_mut();
        idle.retain(|one| one.since + keep > now && !one.sender.is_closed());
        let mut shared = self.shared.borrow_mut();
        shared.retain(|one| !one.is_idle(now, keep) && one.room(0) != Room::Closed);
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

fn broken(error: &dyn std::error::Error) -> ConnectError {
    ConnectError {
        moves_on: true,
        is_limit: false,
        why: error.to_string().into(),
    }
}

/// The worker takes no task more.
fn too_many() -> ConnectError {
    ConnectError {
        moves_on: false,
        is_limit: true,
        why: "the waypoint has too much to do".into(),
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

fn token(uid: &str, port: u16) -> u64 {
    session::hash(uid.bytes().chain(port.to_be_bytes()))
}
