//! Accepting clients' proxies on the waypoint's one listener.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use carrier::limits::ACCEPT_PAUSE;
use netio::time::sleep;
use netio::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Worker;
use crate::inbound;

/// A connection that was accepted.
pub struct Accepted {
    /// The socket.
    pub socket: Rc<TcpStream>,
    /// Who made it.
    pub source: SocketAddr,
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
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return,
                accepted = listener.accept() => accepted,
            };
            match accepted.and_then(Accepted::new) {
                Ok(accepted) => {
                    self.spawn(inbound::serve(Rc::clone(&self), accepted));
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Accepted {
    fn new(socket: TcpStream) -> io::Result<Self> {
        let source = socket.peer_addr()?;
        Ok(Self {
            socket: Rc::new(socket),
            source: SocketAddr::new(source.ip().to_canonical(), source.port()),
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
