//! Accepting clients' proxies on the waypoint's one listener.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use carrier::limits::ACCEPT_PAUSE;
use carrier::spread::{Kind, Seat};
use netio::executor::yield_now;
use netio::time::sleep;
use netio::{Arrival, TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;

use super::Worker;
use crate::inbound;

/// A connection that was accepted.
pub struct Accepted {
    /// The socket.
    pub socket: Rc<TcpStream>,
    /// Who made it.
    pub source: SocketAddr,
    /// Counts it on this worker.
    pub seat: Seat,
}

/// A connection that another worker has accepted for this one, which has fewer.
pub struct Handed {
    arrival: Arrival,
    seat: Seat,
}

impl Worker {
    /// Accepts from when the gate is open until the worker drains.
    pub async fn accept_all(
        self: Rc<Self>,
        listener: TcpListener,
        mut open: watch::Receiver<bool>,
    ) {
        let stop = self.draining.clone();
        let mut stopped = std::pin::pin!(stop.cancelled());
        let opened = tokio::select! {
            biased;
            () = &mut stopped => return,
            opened = open.wait_for(|open| *open) => opened.is_ok(),
        };
        if !opened {
            return;
        }
        self.loads.set_serves(self.number, true);
        loop {
            let arrival = tokio::select! {
                biased;
                () = &mut stopped => return,
                arrival = listener.next() => arrival,
            };
            match arrival.and_then(|arrival| self.place(arrival)) {
                Ok(()) => {}
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            // What was accepted begins before the next one is taken.
            yield_now().await;
        }
    }

    /// Serves a connection here, or has the worker serve it that has the fewest.
    fn place(self: &Rc<Self>, arrival: Arrival) -> io::Result<()> {
        let seat = self.loads.seat(self.number, Kind::Tunnel);
        if seat.worker() == self.number {
            return self.begin(arrival, seat);
        }
        let neighbour = &self.neighbours[seat.worker()];
        let Err(refused) = neighbour.try_send(Handed { arrival, seat }) else {
            return Ok(());
        };
        // It has far too much to do, or takes no more.
        let (TrySendError::Full(handed) | TrySendError::Closed(handed)) = refused;
        self.begin(handed.arrival, handed.seat.moved(self.number))
    }

    /// Serves what other workers hand over. At the end of accepting, what is on its way still is
    /// served, and the others keep what they accept.
    pub(super) async fn take_handed(self: Rc<Self>, mut queue: mpsc::Receiver<Handed>) {
        loop {
            let handed = tokio::select! {
                biased;
                () = self.draining.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
                handed = queue.recv() => handed,
            };
            let Some(Handed { arrival, seat }) = handed else {
                return;
            };
            match self.begin(arrival, seat) {
                Err(error) if !is_of_the_peer(&error) => {
                    tracing::warn!(%error, "a connection of another worker was dropped");
                }
                _ => {}
            }
        }
    }

    fn begin(self: &Rc<Self>, arrival: Arrival, seat: Seat) -> io::Result<()> {
        let accepted = Accepted::new(arrival, seat)?;
        // One that is refused has been counted.
        let _ = self.spawn(inbound::serve(Rc::clone(self), accepted));
        Ok(())
    }
}

impl Accepted {
    fn new(arrival: Arrival, seat: Seat) -> io::Result<Self> {
        let socket = arrival.into_stream()?;
        let source = socket.peer_addr()?;
        Ok(Self {
            socket: Rc::new(socket),
            source: SocketAddr::new(source.ip().to_canonical(), source.port()),
            seat,
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
