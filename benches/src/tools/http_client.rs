//! As much of an HTTP/1.1 client as the loads need: one fixed request, answers of a known length.

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request on a connection that stays open.
pub(super) const KEEP: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
/// Larger than any answer of the bench's server: a body of 1 KB and its head.
const ANSWER_BYTES: usize = 8 << 10;

/// One request on a connection that the server closes after its answer.
pub(super) async fn ask_and_close(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> anyhow::Result<()> {
    stream.write_all(CLOSE).await?;
    buffer.clear();
    while stream.read_buf(buffer).await? > 0 {
        anyhow::ensure!(buffer.len() < ANSWER_BYTES, "an answer that is too long");
    }
    let length = whole_length(buffer)?.context("an answer without a whole head")?;
    anyhow::ensure!(buffer.len() == length, "{} of {length} bytes", buffer.len());
    Ok(())
}

/// Bytes of head and body; None while the head is incomplete.
pub(crate) fn whole_length(answer: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end])?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("no Content-Length")?;
    Ok(Some(end + 4 + length.1.trim().parse::<usize>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_answer_is_known_with_its_head() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(whole_length(answer).unwrap(), Some(answer.len()));
        assert_eq!(whole_length(&answer[..30]).unwrap(), None);
        assert!(whole_length(b"HTTP/1.1 503 No\r\n\r\n").is_err());
        assert!(whole_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
