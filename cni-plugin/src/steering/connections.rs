//! The TCP connections of a network namespace, asked of the kernel through sock_diag, which tells a
//! privileged caller each socket's mark: those that live by the capture rules, and those that were
//! there before.
//!
//! Must run in a thread that is in that namespace. Knows no pods.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rtnetlink::sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use super::abi::{MARK_CAPTURE, MARK_MASK, MARK_PROXY};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLM_F_REQUEST_ACK: u16 = 0x5;
const INET_DIAG_MARK: u16 = 15;
const FAMILIES: [u8; 2] = [nix::libc::AF_INET as u8, nix::libc::AF_INET6 as u8];
/// States that need no route any more, by number: TIME_WAIT 6 answers strays only, CLOSE 7 is over,
/// LISTEN 10 is no connection.
const ROUTED: u32 = 0x1fff & !(1 << 6 | 1 << 7 | 1 << 10);
/// ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT: an application may still use these.
const USED: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8;
/// struct nlmsghdr, inet_diag_sockid, inet_diag_req_v2, inet_diag_msg: sizes in bytes.
const NLMSG_BYTES: usize = 16;
const ID_BYTES: usize = 48;
const REQUEST_BYTES: usize = 56;
const MESSAGE_BYTES: usize = 72;
/// Where the sockid lies in an inet_diag_msg, behind family, state, timer and retransmissions.
const ID_OFFSET: usize = 4;
/// The kernel fills dump datagrams up to 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// A connection, as one of its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    family: u8,
    /// Ports, addresses, interface and cookie; the last makes it this socket and no later one.
    id: [u8; ID_BYTES],
}

impl Connection {
    /// The pod's end.
    pub fn local(&self) -> SocketAddr {
        self.end(0, 4)
    }

    /// The other end.
    pub fn remote(&self) -> SocketAddr {
        self.end(2, 20)
    }

    fn end(&self, port: usize, address: usize) -> SocketAddr {
        let port = u16::from_be_bytes([self.id[port], self.id[port + 1]]);
        let bytes: [u8; 16] = std::array::from_fn(|index| self.id[address + index]);
        let ip = match self.family == FAMILIES[0] {
            true => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
            false => Ipv6Addr::from(bytes).to_canonical(),
        };
        SocketAddr::new(ip, port)
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.local(), self.remote())
    }
}

/// The number of TCP sockets, IPv4 and IPv6, that carry the capture mark and are connected or
/// connecting.
///
/// # Errors
/// When the kernel's answer cannot be had or read.
pub fn captured() -> io::Result<usize> {
    let mut sum = 0;
    for family in FAMILIES {
        let sockets = dump(family, ROUTED)?;
        sum += sockets
            .iter()
            .filter(|(_, mark)| *mark == MARK_CAPTURE)
            .count();
    }
    Ok(sum)
}

/// The connections with other hosts that no proxy has, in a namespace that is not captured yet.
/// `own` are its addresses.
///
/// # Errors
/// When the kernel's answer cannot be had or read.
pub fn existing(own: &[IpAddr]) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let sockets = dump(family, USED)?.into_iter();
        let foreign = sockets.filter(|(connection, mark)| {
            let remote = connection.remote().ip();
            let ours = *mark == MARK_CAPTURE || *mark == MARK_PROXY;
            !ours && !remote.is_loopback() && !own.contains(&remote)
        });
        found.extend(foreign.map(|(connection, _)| connection));
    }
    Ok(found)
}

/// Whether this kernel can close a connection of somebody else.
///
/// # Errors
/// When it cannot be asked, or the caller lacks CAP_NET_ADMIN.
pub fn can_close() -> io::Result<bool> {
    let nothing = Connection {
        family: FAMILIES[0],
        id: [0; ID_BYTES],
    };
    match destroy(&nothing) {
        // It has looked for the socket.
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(nix::libc::ENOENT) => Ok(true),
            Some(nix::libc::EOPNOTSUPP | nix::libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Closes connections (SOCK_DESTROY, Linux 4.9 with CONFIG_INET_DIAG_DESTROY): the application gets
/// ECONNABORTED, the peer a RST. Gives how many there still were.
///
/// # Errors
/// The first refusal; those after it stay open.
pub fn close(connections: &[Connection]) -> io::Result<usize> {
    let mut closed = 0;
    for connection in connections {
        match destroy(connection) {
            Ok(()) => closed += 1,
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(closed)
}

fn destroy(connection: &Connection) -> io::Result<()> {
    let socket = open()?;
    let kind = (SOCK_DESTROY, NLM_F_REQUEST_ACK);
    socket.send(
        &request(kind, connection.family, u32::MAX, &connection.id),
        0,
    )?;
    let mut answer = Vec::with_capacity(DATAGRAM_BYTES);
    socket.recv(&mut answer, 0)?;
    match answer.get(4..6) {
        Some(kind) if kind == NLMSG_ERROR.to_ne_bytes() => {}
        _ => return Err(malformed()),
    }
    let body = answer.get(NLMSG_BYTES..).unwrap_or_default();
    if body.starts_with(&[0; 4]) {
        return Ok(());
    }
    Err(kernel_error(body))
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// A socket and the part of its mark that is ours.
type Marked = (Connection, u32);

fn dump(family: u8, states: u32) -> io::Result<Vec<Marked>> {
    let socket = open()?;
    let kind = (SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP);
    socket.send(&request(kind, family, states, &[0; ID_BYTES]), 0)?;
    let mut found = Vec::new();
    loop {
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        socket.recv(&mut datagram, 0)?;
        if read_datagram(&datagram, &mut found)? {
            return Ok(found);
        }
    }
}

fn request(kind: (u16, u16), family: u8, states: u32, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let mut out = Vec::with_capacity(NLMSG_BYTES + REQUEST_BYTES);
    out.extend(((NLMSG_BYTES + REQUEST_BYTES) as u32).to_ne_bytes());
    out.extend(kind.0.to_ne_bytes());
    out.extend(kind.1.to_ne_bytes());
    out.extend([0; 8]);
    out.extend([family, nix::libc::IPPROTO_TCP as u8, 0, 0]);
    out.extend(states.to_ne_bytes());
    out.extend(id);
    out
}

/// Adds the sockets of one datagram; whether it was the last.
fn read_datagram(mut rest: &[u8], found: &mut Vec<Marked>) -> io::Result<bool> {
    while rest.len() >= NLMSG_BYTES {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < NLMSG_BYTES || length > rest.len() {
            return Err(malformed());
        }
        let body = &rest[NLMSG_BYTES..length];
        match u16::from_ne_bytes([rest[4], rest[5]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(kernel_error(body)),
            SOCK_DIAG_BY_FAMILY => found.push((connection_of(body)?, mark_of(body)?)),
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn connection_of(body: &[u8]) -> io::Result<Connection> {
    let id = body.get(ID_OFFSET..ID_OFFSET + ID_BYTES);
    let id = id.and_then(|id| id.try_into().ok()).ok_or_else(malformed)?;
    Ok(Connection {
        family: body[0],
        id,
    })
}

/// 0 when the kernel says none.
fn mark_of(body: &[u8]) -> io::Result<u32> {
    let mut attributes = body.get(MESSAGE_BYTES..).ok_or_else(malformed)?;
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        let value = attributes.get(4..length).ok_or_else(malformed)?;
        if kind == INET_DIAG_MARK {
            let mark = value.try_into().map(u32::from_ne_bytes);
            return Ok(mark.map_err(|_| malformed())? & MARK_MASK);
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(0)
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
    fn every_socket_is_told_with_our_part_of_its_mark() {
        let marks = [Some(0x53a), Some(0x7000_053a), Some(0x539), Some(0), None];
        let mut datagram: Vec<u8> = marks.into_iter().flat_map(socket).collect();
        let mut found = Vec::new();
        assert!(!read_datagram(&datagram, &mut found).unwrap());
        let marks: Vec<u32> = found.into_iter().map(|(_, mark)| mark).collect();
        assert_eq!(marks, [0x53a, 0x53a, 0x539, 0, 0]);
        datagram.extend(message(NLMSG_DONE, &[0; 4]));
        assert!(read_datagram(&datagram, &mut Vec::new()).unwrap());
    }

    #[test]
    fn an_error_of_the_kernel_and_a_cut_datagram_are_errors() {
        let refused = message(NLMSG_ERROR, &(-1i32).to_ne_bytes());
        assert_eq!(
            read_datagram(&refused, &mut Vec::new())
                .unwrap_err()
                .raw_os_error(),
            Some(1)
        );
        let whole = socket(Some(0x53a));
        for length in NLMSG_BYTES..whole.len() {
            assert!(
                read_datagram(&whole[..length], &mut Vec::new()).is_err(),
                "{length}"
            );
        }
        let short = message(SOCK_DIAG_BY_FAMILY, &[0; 10]);
        assert!(read_datagram(&short, &mut Vec::new()).is_err());
    }

    #[test]
    fn this_machine_answers_and_closes_what_it_is_told_to() {
        use std::io::Read;
        use std::net::{TcpListener, TcpStream};
        captured().unwrap();
        for own in ["127.0.0.1", "::1"] {
            let listener = TcpListener::bind((own, 0)).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            // Loopback is left out of `existing`.
            let all = FAMILIES.map(|family| dump(family, USED).unwrap());
            let all: Vec<Marked> = all.into_iter().flatten().collect();
            let found = all.into_iter().map(|(connection, _)| connection);
            let found: Vec<Connection> = found.filter(|c| c.local() == local).collect();
            assert_eq!((found.len(), found[0].remote()), (1, remote), "{own}");
            assert!(existing(&[]).unwrap().iter().all(|c| c.local() != local));
            if !can_close().unwrap() {
                assert!(close(&found).is_err());
                continue;
            }
            assert_eq!(close(&found).unwrap(), 1);
            assert_eq!(close(&found).unwrap(), 0);
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
            let error = server.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
