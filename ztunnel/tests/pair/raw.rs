//! A peer that is no proxy of ours: a bare connection of `hbone` on a blocking socket.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hbone::tls::{ClientTls, Credentials};
use hbone::{
    CloseReason, Config, ConnectRequest, Connection, ErrorCode, Event, Headers, Mono, StreamId,
};
use mesh::Identity;
use rustls::time_provider::DefaultTimeProvider;

use crate::net::PATIENCE;

/// One tunnel.
pub struct Peer {
    connection: Connection,
    socket: TcpStream,
    start: Instant,
}

impl Peer {
    /// A client on a connected socket, that expects the server to be one of `expected`.
    pub fn client(socket: TcpStream, credentials: &Credentials, expected: &[Identity]) -> Self {
        let tls = ClientTls::new(credentials, Arc::new(DefaultTimeProvider)).unwrap();
        let expected: BTreeSet<_> = expected.iter().cloned().collect();
        let now = Mono(Duration::ZERO);
        let connection = Connection::client(&tls, expected, &Config::default(), now).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        socket
            .set_write_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        Self {
            connection,
            socket,
            start: Instant::now(),
        }
    }

    /// Moves bytes until an event is taken by `wanted`. None when the tunnel is over before.
    pub fn wait<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> Result<T, CloseReason> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Mono(self.start.elapsed());
            assert!(Instant::now() < deadline, "the awaited event does not come");
            self.connection.handle_timeout(now);
            let mut out = Vec::new();
            while self.connection.poll_transmit(now, &mut out, 1 << 20) > 0 {}
            let lost = self.socket.write_all(&out).is_err();
            while let Some(event) = self.connection.poll_event() {
                if let Some(found) = wanted(&event) {
                    return Ok(found);
                }
                if let Event::Closed(reason) = event {
                    return Err(reason);
                }
            }
            let mut received = vec![0; 64 * 1024];
            match self.socket.read(&mut received) {
                Ok(count @ 1..) if !lost => {
                    received.truncate(count);
                    self.connection.handle_input(now, &mut received);
                }
                Err(error) if is_timeout(&error) && !lost => {}
                _ => self.connection.handle_eof(now),
            }
        }
    }

    /// Waits until both sides are authenticated.
    pub fn establish(&mut self) -> Result<(), CloseReason> {
        self.wait(|event| matches!(event, Event::Established { .. }).then_some(()))
    }

    /// Asks for a stream and gives the status of the answer.
    pub fn ask(&mut self, authority: &str) -> Result<u16, CloseReason> {
        self.open(authority).map(|(status, _)| status)
    }

    /// As [`Self::ask`]; the stream is let go at once.
    pub fn probe(&mut self, authority: &str) -> Result<u16, CloseReason> {
        let (status, stream) = self.open(authority)?;
        self.connection.reset(stream, ErrorCode::CANCEL);
        Ok(status)
    }

    /// Waits until the other side lets go of the tunnel.
    pub fn let_go(&mut self) {
        let gone = self.wait(|event| matches!(event, Event::GoAway { .. }).then_some(()));
        assert!(
            matches!(gone, Ok(()) | Err(CloseReason::Drained)),
            "{gone:?}"
        );
    }

    /// Sends what the windows take of `bytes` within `time`, and gives how much that was.
    pub fn push(&mut self, stream: StreamId, bytes: &[u8], time: Duration) -> usize {
        let (end, mut sent) = (Instant::now() + time, 0);
        while Instant::now() < end && sent < bytes.len() {
            sent += self.connection.write(stream, &bytes[sent..]).unwrap();
            self.turn();
        }
        sent
    }

    /// Half-closes a stream, once all of it is sent.
    pub fn finish(&mut self, stream: StreamId) {
        self.connection.finish(stream);
        self.turn();
    }

    /// Moves bytes for a moment.
    pub fn turn(&mut self) {
        let now = Mono(self.start.elapsed());
        self.connection.handle_timeout(now);
        let mut out = Vec::new();
        while self.connection.poll_transmit(now, &mut out, 1 << 20) > 0 {}
        let mut unsent = &out[..];
        let mut received = vec![0; 64 * 1024];
        loop {
            match self.socket.read(&mut received) {
                Ok(count @ 1..) => {
                    let mut read = received[..count].to_vec();
                    self.connection.handle_input(now, &mut read);
                }
                Ok(_) => return,
                Err(error) => assert!(is_timeout(&error), "{error}"),
            }
            match self.socket.write(unsent) {
                Ok(count) => unsent = &unsent[count..],
                Err(error) => assert!(is_timeout(&error), "{error}"),
            }
            while self.connection.poll_event().is_some() {}
            if unsent.is_empty() {
                return;
            }
        }
    }

    /// Asks for a stream and gives the status of the answer with the stream.
    pub fn open(&mut self, authority: &str) -> Result<(u16, StreamId), CloseReason> {
        let request = ConnectRequest {
            authority: authority.to_owned(),
            headers: Headers::new(),
        };
        let asked = self.connection.open_stream(&request).unwrap();
        self.wait(|event| match event {
            Event::Response { stream, response } if *stream == asked => {
                Some((response.status, asked))
            }
            _ => None,
        })
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}
