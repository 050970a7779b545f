//! How many TCP connections of a network namespace still live by the capture rules: asked of the
//! kernel through sock_diag, which tells a privileged caller each socket's mark.
//!
//! Must run in a thread that is in that namespace. Knows no pods.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::abi::{MARK_CAPTURE, MARK_MASK};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const INET_DIAG_MARK: u16 = 15;
/// States that need no route any more, by number: TIME_WAIT 6 answers strays only, CLOSE 7 is over,
/// LISTEN 10 is no connection.
const STATES: u32 = 0x1fff & !(1 << 6 | 1 << 7 | 1 << 10);
/// struct nlmsghdr, struct inet_diag_req_v2, struct inet_diag_msg: sizes in bytes.
const NLMSG_BYTES: usize = 16;
const REQUEST_BYTES: usize = 56;
const MESSAGE_BYTES: usize = 72;
/// The kernel fills dump datagrams up to 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// The number of TCP sockets, IPv4 and IPv6, that carry the capture mark and are connected or
/// connecting.
///
/// # Errors
/// When the kernel's answer cannot be had or read.
pub fn count() -> io::Result<usize> {
    let mut sum = 0;
    for family in [nix::libc::AF_INET, nix::libc::AF_INET6] {
        sum += count_family(family as u8)?;
    }
    Ok(sum)
}

fn count_family(family: u8) -> io::Result<usize> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(family), 0)?;
    let mut sum = 0;
    loop {
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        socket.recv(&mut datagram, 0)?;
        match count_datagram(&datagram)? {
            (count, false) => sum += count,
            (count, true) => return Ok(sum + count),
        }
    }
}

fn request(family: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(NLMSG_BYTES + REQUEST_BYTES);
    out.extend(((NLMSG_BYTES + REQUEST_BYTES) as u32).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    out.extend([0; 8]);
    out.extend([family, nix::libc::IPPROTO_TCP as u8, 0, 0]);
    out.extend(STATES.to_ne_bytes());
    out.resize(NLMSG_BYTES + REQUEST_BYTES, 0);
    out
}

/// Marked sockets in one datagram, and whether it was the last.
fn count_datagram(mut rest: &[u8]) -> io::Result<(usize, bool)> {
    let mut count = 0;
    while rest.len() >= NLMSG_BYTES {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < NLMSG_BYTES || length > rest.len() {
            return Err(malformed());
        }
        let body = &rest[NLMSG_BYTES..length];
        match u16::from_ne_bytes([rest[4], rest[5]]) {
            NLMSG_DONE => return Ok((count, true)),
            NLMSG_ERROR => return Err(kernel_error(body)),
            SOCK_DIAG_BY_FAMILY => count += usize::from(is_captured(body)?),
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok((count, false))
}

fn is_captured(body: &[u8]) -> io::Result<bool> {
    let mut attributes = body.get(MESSAGE_BYTES..).ok_or_else(malformed)?;
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        let value = attributes.get(4..length).ok_or_else(malformed)?;
        if kind == INET_DIAG_MARK {
            let mark = value
                .try_into()
                .map(u32::from_ne_bytes)
                .map_err(|_| malformed())?;
            return Ok(mark & MARK_MASK == MARK_CAPTURE);
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn kernel_error(body: &[u8]) -> io::Error {
    match body.get(..4).and_then(|code| code.try_into().ok()) {
        Some(code) => io::Error::from_raw_os_error(-i32::from_ne_bytes(code)),
        None => malformed(),
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "sock_diag answered something else",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = ((NLMSG_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(body);
        out
    }

    fn socket(mark: Option<u32>) -> Vec<u8> {
        let mut body = vec![0; MESSAGE_BYTES];
        body.extend([5, 0, 9, 0, 7, 0, 0, 0]);
        if let Some(mark) = mark {
            body.extend([8, 0, 15, 0]);
            body.extend(mark.to_ne_bytes());
        }
        message(SOCK_DIAG_BY_FAMILY, &body)
    }

    #[test]
    fn only_sockets_whose_field_is_the_capture_mark_count() {
        let marks = [Some(0x53a), Some(0x7000_053a), Some(0x539), Some(0), None];
        let mut datagram: Vec<u8> = marks.into_iter().flat_map(socket).collect();
        assert_eq!(count_datagram(&datagram).unwrap(), (2, false));
        datagram.extend(message(NLMSG_DONE, &[0; 4]));
        assert_eq!(count_datagram(&datagram).unwrap(), (2, true));
    }

    #[test]
    fn an_error_of_the_kernel_and_a_cut_datagram_are_errors() {
        let refused = message(NLMSG_ERROR, &(-1i32).to_ne_bytes());
        assert_eq!(
            count_datagram(&refused).unwrap_err().raw_os_error(),
            Some(1)
        );
        let whole = socket(Some(0x53a));
        for length in NLMSG_BYTES..whole.len() {
            assert!(count_datagram(&whole[..length]).is_err(), "{length}");
        }
        let short = message(SOCK_DIAG_BY_FAMILY, &[0; 10]);
        assert!(count_datagram(&short).is_err());
    }

    #[test]
    fn this_machine_answers() {
        count().unwrap();
    }
}
