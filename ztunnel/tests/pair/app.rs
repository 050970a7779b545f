//! What applications do: send, receive, and look how it ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use crate::net::PATIENCE;

/// The next connection of a server.
pub fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener
        .accept()
        .expect("a connection arrives at the application");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// `length` bytes that are different everywhere, by a seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends all and half-closes.
pub fn send(mut stream: &TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Reads to the end of the stream.
pub fn receive(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Reads so many bytes.
pub fn receive_exactly(mut stream: &TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Sends a word and hears it back from the other application.
pub fn talk(mut client: &TcpStream, mut server: &TcpStream, word: &[u8]) {
    client.write_all(word).unwrap();
    assert_eq!(receive_exactly(server, word.len()), word);
    server.write_all(word).unwrap();
    assert_eq!(receive_exactly(client, word.len()), word);
}

/// Fails unless the connection ends with a reset before its patience does.
pub fn expect_reset(mut stream: &TcpStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("no reset but {other:?} with {} bytes", rest.len()),
    }
}

/// Closes with RST.
pub fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
}
