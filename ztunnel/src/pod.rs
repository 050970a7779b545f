//! A pod of this node: who it is, its network namespace, and the listeners in it.
//!
//! Knows neither ZDS nor discovery; checked once when it is made, trusted afterwards.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

pub use carrier::tunnel::key::PodUid;
use mesh::Identity;
use mesh::workload::WorkloadUid;
use netio::netns::{Netns, NetnsError};
pub use netio::socket::Family;
use netio::socket::{ListenerError, check_listener};

/// What arrives at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Connections that the pod's application makes.
    Outbound,
    /// Plaintext to the pod.
    Inbound,
    /// HBONE to the pod.
    Hbone,
}

/// Where a pod's connections are accepted.
#[derive(Debug)]
pub enum Listeners {
    /// Made by our agent in the pod's namespace and steered to by sk_lookup (steering.md): their
    /// original destination is their local address. A further kind, bound by ourselves to 15001,
    /// 15006 and 15008 under a stock agent, has its place here.
    Handed(Vec<Listener>),
}

/// One listener.
#[derive(Debug)]
pub struct Listener {
    /// What arrives there.
    pub role: Role,
    /// Its family.
    pub family: Family,
    /// The socket, shared with the agent and perhaps with another ztunnel, until each worker has
    /// a descriptor of its own for it.
    socket: Mutex<Option<TcpListener>>,
    /// The address it is bound to, never a destination itself.
    pub address: SocketAddr,
}

impl Listener {
    fn new(role: Role, family: Family, socket: TcpListener) -> io::Result<Self> {
        let address = socket.local_addr()?;
        Ok(Self {
            role,
            family,
            socket: Mutex::new(Some(socket)),
            address,
        })
    }

    /// A descriptor of the caller's own.
    ///
    /// # Errors
    /// There are too many, or it comes after [`Listeners::close`].
    pub fn copy(&self) -> io::Result<TcpListener> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        match &*socket {
            Some(socket) => socket.try_clone(),
            None => Err(io::Error::other("the listener was handed out already")),
        }
    }
}

impl Listeners {
    /// Closes the descriptors that copies are made of: with six for each pod, a node of a thousand
    /// pods is short of them.
    pub fn close(&self) {
        let Self::Handed(listeners) = self;
        for listener in listeners {
            let socket = listener.socket.lock();
            socket.unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// A pod of this node.
#[derive(Debug)]
pub struct Pod {
    /// Name that the agent uses.
    pub uid: PodUid,
    /// Kubernetes name.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Who it is towards peers.
    pub identity: Identity,
    /// Name in discovery.
    pub workload: WorkloadUid,
    /// Its network namespace; upstream sockets are made in it.
    pub netns: Netns,
    /// Where its connections arrive.
    pub listeners: Listeners,
}

/// Why a descriptor that was handed to us is not what its place says.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// The first descriptor is no network namespace.
    #[error("the first descriptor is no network namespace: {0}")]
    Netns(NetnsError),
    /// It is the proxy's own network namespace.
    #[error("the network namespace is the proxy's own")]
    OwnNetns,
    /// Not as many descriptors as roles.
    #[error("{fds} listeners came with {roles} roles")]
    Count {
        /// Descriptors after the netns.
        fds: usize,
        /// Roles in the message.
        roles: usize,
    },
    /// A role that is unknown, or named twice, or missing.
    #[error("listener roles must be each of outbound, inbound and hbone in v4 and v6, once")]
    Roles,
    /// Not a listening TCP socket of that namespace.
    #[error("the {role:?} {family:?} descriptor: {source}")]
    Listener {
        /// Its place.
        role: Role,
        /// Its place.
        family: Family,
        /// What it is instead.
        source: ListenerError,
    },
    /// A listener of the other family.
    #[error("the {role:?} {family:?} descriptor is a listener of the other family")]
    OtherFamily {
        /// Its place.
        role: Role,
        /// Its place.
        family: Family,
    },
    /// The kernel refused to say.
    #[error("checking a descriptor: {0}")]
    Io(#[from] std::io::Error),
}

/// The roles that our agent hands, each once.
const PLACES: [(Role, Family); 6] = [
    (Role::Outbound, Family::V4),
    (Role::Outbound, Family::V6),
    (Role::Inbound, Family::V4),
    (Role::Inbound, Family::V6),
    (Role::Hbone, Family::V4),
    (Role::Hbone, Family::V6),
];

/// Checks a network namespace that was handed to us.
///
/// # Errors
/// It is none, or our own.
pub fn check_netns(fd: OwnedFd) -> Result<Netns, DescriptorError> {
    let netns = Netns::from_fd(fd).map_err(DescriptorError::Netns)?;
    let own = Netns::current().map_err(DescriptorError::Netns)?;
    if netns == own {
        return Err(DescriptorError::OwnNetns);
    }
    Ok(netns)
}

/// Checks the listeners that were handed to us against their places and the namespace.
///
/// # Errors
/// Anything that is not a listening TCP socket of its family in that very namespace: otherwise
/// one pod's connections would be taken for another's (`bpf_sk_assign` does not look).
pub fn check_listeners(
    netns: &Netns,
    places: &[(Role, Family)],
    fds: Vec<OwnedFd>,
) -> Result<Listeners, DescriptorError> {
    if fds.len() != places.len() {
        return Err(DescriptorError::Count {
            fds: fds.len(),
            roles: places.len(),
        });
    }
    if places.len() != PLACES.len() || !PLACES.iter().all(|place| places.contains(place)) {
        return Err(DescriptorError::Roles);
    }
    let cookie = netns.cookie()?;
    let check = |(&(role, family), fd): (&(Role, Family), OwnedFd)| {
        let found =
            check_listener(fd.as_fd(), cookie).map_err(|source| DescriptorError::Listener {
                role,
                family,
                source,
            })?;
        if found != family {
            return Err(DescriptorError::OtherFamily { role, family });
        }
        let socket = TcpListener::from(fd);
        Ok(Listener::new(role, family, socket)?)
    };
    let listeners = places
        .iter()
        .zip(fds)
        .map(check)
        .collect::<Result<_, _>>()?;
    Ok(Listeners::Handed(listeners))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_whose_copies_were_handed_out_keeps_no_descriptor() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = Listener::new(Role::Inbound, Family::V4, socket).unwrap();
        let address = listener.address;
        let copy = listener.copy().unwrap();
        let listeners = Listeners::Handed(vec![listener]);
        listeners.close();
        std::net::TcpStream::connect(address).unwrap();
        drop(copy);
        std::net::TcpStream::connect(address).unwrap_err();
        let Listeners::Handed(listeners) = &listeners;
        listeners[0].copy().unwrap_err();
    }
}
