//! One network namespace that holds every address of a test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use netio::netns::Netns;

/// How long an application waits for a byte, a connection or an end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The port of every application in these tests.
pub const PORT: u16 = 8080;

/// A namespace with the addresses 10.98.0.1 to 10.98.0.9.
pub fn namespace() -> Netns {
    let netns = Netns::anonymous().expect("root may make network namespaces");
    let mut batch = "link set lo up\n".to_owned();
    for host in 1..10 {
        batch += &format!("addr add {} dev lo\n", ip(host));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), batch).unwrap();
    let run = || {
        let mut ip = Command::new("ip");
        ip.arg("-batch").arg(file.path()).status()
    };
    let status = netns.enter(run).unwrap().unwrap();
    assert!(status.success());
    netns
}

pub fn ip(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 98, 0, host).into()
}

pub fn listen(netns: &Netns, address: SocketAddr) -> TcpListener {
    let bind = || TcpListener::bind(address);
    netns.enter(bind).unwrap().unwrap()
}

/// An application's listener whose accepts give up after [`PATIENCE`].
pub fn serve(netns: &Netns, host: u8) -> TcpListener {
    let listener = listen(netns, SocketAddr::new(ip(host), PORT));
    let socket = socket2::Socket::from(listener);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}
