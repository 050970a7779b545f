//! Asking a waypoint whether it is ready, inside its namespace. Knows its endpoint and no more.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use netio::netns::Netns;

/// Port of the readiness endpoint (protocol.md 8).
const PORT: u16 = 15021;
const REQUEST: &[u8] =
    b"GET /healthz/ready HTTP/1.1\r\nhost: waypoint\r\nconnection: close\r\n\r\n";
/// Time for the connection, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most bytes of an answer that are looked at.
const MAX_ANSWER_BYTES: u64 = 4096;
/// Most characters of its reason that are passed on.
const MAX_REASON: usize = 200;

/// Asks once. Blocks for [`PATIENCE`] a few times at most.
///
/// # Errors
/// Why it is not ready, in words.
pub fn ready(netns: &Netns) -> Result<(), String> {
    let answer = ask(netns).map_err(|error| format!("its readiness endpoint: {error}"))?;
    judge(&answer)
}

fn ask(netns: &Netns) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let mut stream = netns.enter(|| TcpStream::connect_timeout(&address, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(answer: &str) -> Result<(), String> {
    let status = answer.split_ascii_whitespace().nth(1).unwrap_or_default();
    if status == "200" {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let reason: Vec<&str> = body.split_whitespace().collect();
    let reason: String = reason.join(" ").chars().take(MAX_REASON).collect();
    match (status, reason.is_empty()) {
        ("", _) => Err("its readiness endpoint answers no HTTP".to_owned()),
        (status, true) => Err(format!("its readiness endpoint answers {status}")),
        (_, false) => Err(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_200_is_ready_and_any_other_gives_its_reason() {
        assert_eq!(judge("HTTP/1.1 200 OK\r\n\r\nready"), Ok(()));
        let waits = judge("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nxds: not\r\n connected");
        assert_eq!(waits, Err("xds: not connected".into()));
        assert!(
            judge("HTTP/1.1 503 Service Unavailable\r\n\r\n")
                .unwrap_err()
                .contains("503")
        );
        assert!(judge("").unwrap_err().contains("no HTTP"));
        let long = judge(&format!("HTTP/1.1 503 x\r\n\r\n{}", "é".repeat(999)));
        assert_eq!(long.unwrap_err().chars().count(), MAX_REASON);
    }
}
