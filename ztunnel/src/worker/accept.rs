//! Accepting on a pod's listeners. Knows which flow a listener's role begins, not what it does.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use netio::executor::yield_now;
use netio::time::sleep;
use netio::{Arrival, TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::pods::{LocalPod, Resident};
use crate::connection::Ended;
use crate::pod::{Listeners, Pod, Role};
use crate::{inbound, outbound};
use carrier::limits::{ACCEPT_PAUSE, LISTENER_HANDOVER};
use carrier::spread::{Kind, Seat};

/// A connection that was accepted.
pub struct Accepted {
    /// The pod it was accepted in.
    pub pod: Rc<LocalPod>,
    /// The socket.
    pub socket: Rc<TcpStream>,
    /// Who made it.
    pub source: SocketAddr,
    /// What it was made to.
    pub destination: SocketAddr,
    /// Counts it on this worker until it is listed, or its tunnel is over.
    pub seat: Option<Seat>,
}

/// A connection that another worker has accepted for this one, which has fewer.
pub struct Handed {
    pod: Arc<Pod>,
    role: Role,
    arrival: Arrival,
    seat: Seat,
}

impl Role {
    fn kind(self) -> Kind {
        match self {
            Self::Outbound | Self::Inbound => Kind::Connection,
            Self::Hbone => Kind::Tunnel,
        }
    }
}

impl Worker {
    /// Accepts on all listeners of a pod from now on. When the pod was there with other listeners,
    /// those are still served for [`LISTENER_HANDOVER`].
    ///
    /// # Errors
    /// A listener cannot be used; nothing has changed then.
    pub fn accept_for(self: &Rc<Self>, pod: Arc<Pod>) -> io::Result<()> {
        let Listeners::Handed(listeners) = &pod.listeners;
        let mut sockets = Vec::with_capacity(listeners.len());
        for listener in listeners {
            // Each worker waits on a descriptor of its own for the one socket.
            let copy = listener.copy()?;
            if listener.role == Role::Outbound {
                // The application is at the other end of the loopback interface. It works without.
                let _ = netio::socket::set_unpaced(copy.as_fd());
            }
            let mut copy = TcpListener::from_std(copy)?;
            if listener.role != Role::Hbone {
                // What every captured connection is given, and inherits for nothing from here.
                copy.set_reset_on_close()?;
            }
            sockets.push((listener.role, copy));
        }
        let local = Rc::new(LocalPod {
            resident: self.resident(&pod),
            pod,
            stop: CancellationToken::new(),
        });
        for (role, listener) in sockets {
            let (worker, local) = (Rc::clone(self), Rc::clone(&local));
            self.spawn(async move { worker.accept_loop(role, listener, &local).await });
        }
        local.resident.loads.set_serves(self.number, true);
        if let Some(before) = self.pods.insert(Rc::clone(&local)) {
            self.replace(before, &local);
        }
        Ok(())
    }

    /// The same pod with new listeners: what is in the queues of the old ones is still taken. In
    /// another namespace it is the same by name only, and its old sockets are dead.
    fn replace(self: &Rc<Self>, before: Rc<LocalPod>, now: &LocalPod) {
        if before.pod.netns != now.pod.netns {
            before.stop.cancel();
            self.remaining(Some(&now.pod.uid)).force(&Ended::PodGone);
            return;
        }
        self.spawn(async move {
            sleep(LISTENER_HANDOVER).await;
            before.stop.cancel();
        });
    }

    async fn accept_loop(self: Rc<Self>, role: Role, listener: TcpListener, pod: &Rc<LocalPod>) {
        let stop = pod.stop.clone();
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut gate = self.open.clone();
        let opened = tokio::select! {
            biased;
            () = &mut stopped => return,
            opened = gate.wait_for(|open| *open) => opened.is_ok(),
        };
        if !opened {
            return;
        }
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return,
                arrival = listener.next() => arrival,
            };
            match accepted.and_then(|arrival| self.place(role, arrival, pod)) {
                Ok(()) => {}
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(pod = %pod.pod.uid, ?role, %error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            // What was accepted begins before the next one is taken.
            yield_now().await;
        }
    }

    /// Serves a connection here, or has the worker serve it that has the fewest.
    fn place(self: &Rc<Self>, role: Role, arrival: Arrival, pod: &Rc<LocalPod>) -> io::Result<()> {
        let seat = pod.resident.loads.seat(self.number, role.kind());
        if seat.worker() == self.number {
            return self.begin(role, pod, arrival, seat);
        }
        let neighbour = &self.neighbours[seat.worker()];
        let handed = Handed {
            pod: Arc::clone(&pod.pod),
            role,
            arrival,
            seat,
        };
        let Err(refused) = neighbour.try_send(handed) else {
            return Ok(());
        };
        // It has far too much to do, or takes no more.
        let (mpsc::error::TrySendError::Full(handed) | mpsc::error::TrySendError::Closed(handed)) =
            refused;
        let seat = handed.seat.moved(self.number);
        self.begin(role, pod, handed.arrival, seat)
    }

    /// Serves what other workers hand over. At the end of accepting, what is on its way still is
    /// served, and the others keep what they accept.
    pub(super) async fn take_handed(self: Rc<Self>, mut queue: mpsc::Receiver<Handed>) {
        loop {
            let handed = tokio::select! {
                biased;
                () = self.stopped.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
                handed = queue.recv() => handed,
            };
            let Some(handed) = handed else { return };
            let uid = handed.pod.uid.clone();
            if let Err(error) = self.take(handed) {
                tracing::warn!(pod = %uid, %error, "a connection of another worker was dropped");
            }
        }
    }

    fn take(self: &Rc<Self>, handed: Handed) -> io::Result<()> {
        let Handed {
            pod,
            role,
            arrival,
            seat,
        } = handed;
        // A pod that is gone has no connections any more.
        let Some(local) = self.pods.get(&pod.uid) else {
            return Ok(());
        };
        let local = match &local.pod {
            same if Arc::ptr_eq(same, &pod) => local,
            // Its listeners were replaced meanwhile.
            other if other.netns == pod.netns => Rc::new(LocalPod {
                resident: self.resident(&pod),
                stop: local.stop.clone(),
                pod,
            }),
            _ => return Ok(()),
        };
        match self.begin(role, &local, arrival, seat) {
            Err(error) if is_of_the_peer(&error) => Ok(()),
            begun => begun,
        }
    }

    fn resident(&self, pod: &Pod) -> Rc<Resident> {
        self.pods.resident(pod, || self.spread.pod(&pod.uid))
    }

    fn begin(
        self: &Rc<Self>,
        role: Role,
        pod: &Rc<LocalPod>,
        arrival: Arrival,
        seat: Seat,
    ) -> io::Result<()> {
        let accepted = Accepted::new(pod, arrival, seat)?;
        let worker = Rc::clone(self);
        // One that is refused has been counted.
        let _ = match role {
            Role::Outbound => self.spawn(outbound::serve(worker, accepted)),
            Role::Inbound => self.spawn(inbound::plaintext::serve(worker, accepted)),
            Role::Hbone => self.spawn(inbound::tunnel::serve(worker, accepted)),
        };
        Ok(())
    }
}

impl Accepted {
    fn new(pod: &Rc<LocalPod>, arrival: Arrival, seat: Seat) -> io::Result<Self> {
        let socket = arrival.into_stream()?;
        let (source, destination) = (socket.peer_addr()?, socket.local_addr()?);
        Ok(Self {
            pod: Rc::clone(pod),
            socket: Rc::new(socket),
            source,
            destination,
            seat: Some(seat),
        })
    }
}

/// The connection died between its SYN and our accept; the next one may be fine.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | NotConnected
    )
}
