//! The outbound tunnels of one worker, by key. One tunnel is made for all who wait for the same
//! key; knows no socket: a [`Maker`] makes tunnels.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use hbone::tls::HandshakeError;
use hbone::{CloseReason, ConnectRequest, OpenError};
use tokio::sync::watch;

use super::Tunnel;
use super::key::TunnelKey;
use super::stream::{StreamError, TunnelStream};
use crate::flag::Flag;
use crate::limits::{Limit, Limits, Reached};

/// How often one connection may find its new tunnel full or draining before it gives up: all that
/// may wait (`waiting_per_tunnel`) find a place in eleven tunnels of 100 streams.
const ROUNDS: usize = 16;

/// Why there is no stream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelError {
    /// No TCP connection.
    #[error("{0}")]
    Connect(Arc<str>),
    /// No answer to our SYN.
    #[error("connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008")]
    TimedOut,
    /// The tunnel ended before it was established.
    #[error("{0}")]
    Handshake(CloseReason),
    /// The source has no certificate.
    #[error("no certificate for {0}")]
    NoCertificate(Arc<str>),
    /// Too many tunnels, or too many that wait, or too much that is held.
    #[error(transparent)]
    Limit(#[from] Reached),
    /// It cannot be asked for a stream.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// Asked, but the stream ended without an answer.
    #[error("{0}")]
    Stream(#[from] StreamError),
}

impl TunnelError {
    /// What metrics say of it.
    pub fn flag(&self) -> Flag {
        match self {
            Self::Connect(_) | Self::Limit(_) | Self::Open(_) | Self::Stream(_) => Flag::Connect,
            Self::TimedOut => Flag::NetworkPolicy,
            Self::Handshake(CloseReason::Handshake(_) | CloseReason::Tls(_)) => Flag::TlsFailure,
            Self::Handshake(_) => Flag::H2HandshakeFailure,
            Self::NoCertificate(_) => Flag::IdentityError,
        }
    }

    /// Whether the peer went away in the middle of the handshake without a word of refusal, as a
    /// proxy that is being replaced does.
    pub fn was_cut_off(&self) -> bool {
        use CloseReason::{Eof, Handshake};
        matches!(
            self,
            Self::Handshake(Eof { .. } | Handshake(HandshakeError::Closed))
        )
    }

    /// Whether another endpoint may do better.
    pub fn tries_elsewhere(&self) -> bool {
        !matches!(
            self,
            Self::NoCertificate(_) | Self::Limit(_) | Self::Stream(StreamError::Silent)
        )
    }
}

/// How the making of a tunnel goes.
#[derive(Clone)]
pub enum Progress {
    /// Not done yet.
    Making,
    /// In the pool.
    Ready,
    /// It failed for all who wait.
    Failed(TunnelError),
}

/// Starts to make a tunnel: puts it into the pool when established, then says so.
pub trait Maker {
    /// Returns at once.
    fn make(&self, key: &Rc<TunnelKey>, progress: watch::Sender<Progress>);
}

#[derive(Default)]
struct Place {
    tunnels: Vec<Rc<Tunnel>>,
    making: Option<watch::Receiver<Progress>>,
    waiting: usize,
}

/// The tunnels.
pub struct Pool {
    limits: Limits,
    places: RefCell<HashMap<Rc<TunnelKey>, Place>>,
}

impl Pool {
    /// None yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            places: RefCell::default(),
        }
    }

    /// A stream in a tunnel of that key, which is made if there is none with room.
    ///
    /// # Errors
    /// Why there is none. Nothing was asked of the peer.
    pub async fn stream(
        &self,
        key: &Rc<TunnelKey>,
        request: &ConnectRequest,
        maker: &dyn Maker,
    ) -> Result<Rc<TunnelStream>, TunnelError> {
        for _ in 0..ROUNDS {
            let ready = self.with_room(key);
            match ready.map(|tunnel| tunnel.open(request)) {
                Some(Ok(stream)) => return Ok(stream),
                // Between the look and the call it became full or began to drain.
                Some(Err(OpenError::TooManyStreams | OpenError::Draining | OpenError::Closed)) => {
                    continue;
                }
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
            let making = self.making(key, maker)?;
            self.wait(key, making).await?;
        }
        Err(TunnelError::Open(OpenError::TooManyStreams))
    }

    /// A tunnel was established.
    pub fn insert(&self, key: &Rc<TunnelKey>, tunnel: &Rc<Tunnel>) {
        let mut places = self.places.borrow_mut();
        places
            .entry(Rc::clone(key))
            .or_default()
            .tunnels
            .push(Rc::clone(tunnel));
    }

    /// A tunnel is over.
    pub fn remove(&self, key: &Rc<TunnelKey>, tunnel: &Rc<Tunnel>) {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(key) else {
            return;
        };
        place.tunnels.retain(|kept| !Rc::ptr_eq(kept, tunnel));
        if place.tunnels.is_empty() && place.making.is_none() && place.waiting == 0 {
            places.remove(key);
        }
    }

    /// The making is over, for better or worse.
    pub fn made(&self, key: &Rc<TunnelKey>) {
        let mut places = self.places.borrow_mut();
        if let Some(place) = places.get_mut(key) {
            place.making = None;
            if place.tunnels.is_empty() && place.waiting == 0 {
                places.remove(key);
            }
        }
    }

    fn with_room(&self, key: &TunnelKey) -> Option<Rc<Tunnel>> {
        let places = self.places.borrow();
        places
            .get(key)?
            .tunnels
            .iter()
            .find(|tunnel| tunnel.has_room())
            .cloned()
    }

    fn making(
        &self,
        key: &Rc<TunnelKey>,
        maker: &dyn Maker,
    ) -> Result<watch::Receiver<Progress>, TunnelError> {
        let mut places = self.places.borrow_mut();
        let all: usize = places.values().map(Place::size).sum();
        let place = places.entry(Rc::clone(key)).or_default();
        if let Some(making) = &place.making {
            if place.waiting >= self.limits.waiting_per_tunnel {
                return Err(Reached::refused(Limit::WaitingPerTunnel).into());
            }
            return Ok(making.clone());
        }
        let reached = if all >= self.limits.outbound_tunnels_per_worker {
            Some(Limit::OutboundTunnelsPerWorker)
        } else if place.size() >= self.limits.outbound_tunnels_per_peer {
            Some(Limit::OutboundTunnelsPerPeer)
        } else {
            None
        };
        if let Some(limit) = reached {
            if place.size() == 0 && place.waiting == 0 {
                places.remove(key);
            }
            return Err(Reached::refused(limit).into());
        }
        let (progress, making) = watch::channel(Progress::Making);
        place.making = Some(making.clone());
        drop(places);
        maker.make(key, progress);
        Ok(making)
    }

    async fn wait(
        &self,
        key: &Rc<TunnelKey>,
        mut making: watch::Receiver<Progress>,
    ) -> Result<(), TunnelError> {
        let _waiting = Waiting::new(self, key);
        let done = making
            .wait_for(|progress| !matches!(progress, Progress::Making))
            .await;
        match done.as_deref() {
            Ok(Progress::Failed(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            // The maker was dropped with its worker.
            Err(_) => Err(TunnelError::Connect("the proxy shuts down".into())),
        }
    }
}

impl Place {
    fn size(&self) -> usize {
        self.tunnels.len() + usize::from(self.making.is_some())
    }
}

/// Counts one who waits, while it lives.
struct Waiting<'a> {
    pool: &'a Pool,
    key: &'a TunnelKey,
}

impl<'a> Waiting<'a> {
    fn new(pool: &'a Pool, key: &'a Rc<TunnelKey>) -> Self {
        let mut places = pool.places.borrow_mut();
        places.entry(Rc::clone(key)).or_default().waiting += 1;
        Self { pool, key }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut places = self.pool.places.borrow_mut();
        if let Some(place) = places.get_mut(self.key) {
            place.waiting -= 1;
            if place.size() == 0 && place.waiting == 0 {
                places.remove(self.key);
            }
        }
    }
}
