//! Accepting on a pod's listeners. Knows which flow a listener's role begins, not what it does.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;

use netio::time::sleep;
use netio::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::pods::LocalPod;
use crate::connection::Ended;
use crate::pod::{Listeners, Pod, Role};
use crate::{inbound, outbound};
use carrier::limits::{ACCEPT_PAUSE, LISTENER_HANDOVER};

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
}

impl Worker {
    /// Accepts on all listeners of a pod from now on. When the pod was there with other listeners,
    /// those are still served for [`LISTENER_HANDOVER`].
    ///
    /// # Errors
    /// A listener cannot be used; nothing has changed then.
    pub fn accept_for(self: &Rc<Self>, pod: std::sync::Arc<Pod>) -> io::Result<()> {
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
            resident: self.pods.resident(&pod),
            pod,
            stop: CancellationToken::new(),
        });
        for (role, listener) in sockets {
            let (worker, local) = (Rc::clone(self), Rc::clone(&local));
            self.spawn(async move { worker.accept_loop(role, listener, &local).await });
        }
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
                accepted = listener.accept() => accepted,
            };
            match accepted.and_then(|socket| Accepted::new(pod, socket)) {
                Ok(accepted) => self.begin(role, accepted),
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(pod = %pod.pod.uid, ?role, %error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn begin(self: &Rc<Self>, role: Role, accepted: Accepted) {
        let worker = Rc::clone(self);
        // One that is refused has been counted.
        let _ = match role {
            Role::Outbound => self.spawn(outbound::serve(worker, accepted)),
            Role::Inbound => self.spawn(inbound::plaintext::serve(worker, accepted)),
            Role::Hbone => self.spawn(inbound::tunnel::serve(worker, accepted)),
        };
    }
}

impl Accepted {
    fn new(pod: &Rc<LocalPod>, socket: TcpStream) -> io::Result<Self> {
        let (source, destination) = (socket.peer_addr()?, socket.local_addr()?);
        Ok(Self {
            pod: Rc::clone(pod),
            socket: Rc::new(socket),
            source,
            destination,
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
