//! Namespaces on one bridge, with the rules that a captured pod has.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use netio::netns::{self, Netns};
use socket2::{Domain, Socket, Type};

/// The port of every application in these tests.
pub const PORT: u16 = 8080;

/// How long an application waits for a byte, a connection or an end. Nothing takes that long but
/// on a machine that has stood still.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Namespaces of one test.
pub struct Net {
    prefix: String,
    /// Own addresses for each test, since all proxies of the process write into one journal.
    number: u8,
    names: Vec<String>,
}

/// A pod's namespace.
pub struct PodNet {
    pub netns: Netns,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// A loopback address of this process that nobody else listens at: a port that was free a moment
/// ago may be another's now.
pub fn own_loopback() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let [.., b, c] = std::process::id().to_be_bytes();
    // 127.0.0.0/16 has the addresses of everybody else, and ends in no 0.
    let second = u8::try_from(1 + number % 254).unwrap();
    Ipv4Addr::new(127, second, b, c.max(1))
}

impl Net {
    /// A hub with a bridge.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("zt-{}-{number}", std::process::id());
        let mut net = Self {
            prefix,
            number: (number % 250) as u8,
            names: Vec::new(),
        };
        net.make("hub");
        net.ip(
            "hub",
            &[],
            "link add br0 type bridge\nlink set br0 up\nlink set lo up\n",
        );
        net
    }

    /// A pod with the addresses 10.99.`n`.`host` and fd99::`n`:`host`, for the n-th net.
    pub fn pod(&mut self, name: &str, host: u8) -> PodNet {
        let netns = self.make(name);
        let pod = self.full(name);
        let (v4, v6) = (
            Ipv4Addr::new(10, 99, self.number, host),
            Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, self.number.into(), host.into()),
        );
        let port = format!(
            "link add p{host} type veth peer name eth0 netns {pod}\n\
             link set p{host} master br0\nlink set p{host} up\n"
        );
        self.ip("hub", &[], &port);
        let inside = format!(
            "link set lo up\nlink set eth0 up\naddr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             route add default via 10.99.{}.254\n\
             route add local default dev lo table 100 src {v4}\n\
             rule add pref 100 fwmark 0x53a/0xfff lookup 100\n",
            self.number
        );
        self.ip(name, &[], &inside);
        let inside6 = format!(
            "route add default via fd99::fe\n\
             route add local default dev lo table 100 src {v6}\n\
             rule add pref 100 fwmark 0x53a/0xfff lookup 100\n"
        );
        self.ip(name, &["-6"], &inside6);
        netns
            .enter(|| {
                std::fs::write("/proc/sys/net/ipv4/tcp_fwmark_accept", "1").unwrap();
                std::fs::write("/proc/sys/net/ipv4/fwmark_reflect", "1").unwrap();
                std::fs::write("/proc/sys/net/ipv6/fwmark_reflect", "1").unwrap();
            })
            .unwrap();
        PodNet { netns, v4, v6 }
    }

    fn full(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn make(&mut self, name: &str) -> Netns {
        let name = self.full(name);
        let netns = netns::create(&name).expect("root may make network namespaces");
        self.names.push(name);
        netns
    }

    fn ip(&self, name: &str, options: &[&str], batch: &str) {
        let mut child = Command::new("ip")
            .args(options)
            .args(["-n", &self.full(name), "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(batch.as_bytes())
            .unwrap();
        assert!(
            child.wait().unwrap().success(),
            "ip -batch in {name}:\n{batch}"
        );
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = netns::delete(name);
        }
    }
}

/// Removes the namespaces of runs that were killed: those with a name of ours whose process is
/// gone, nothing else.
fn sweep() {
    let names = std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let rest = name
            .strip_prefix("zt-")
            .and_then(|rest| rest.split_once('-'));
        let pid = rest.and_then(|(pid, _)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // What another run removes at the same time is gone for both.
            let _ = netns::delete(&name);
        }
    }
}

/// Where a listener takes connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Everywhere in its namespace.
    Any,
    /// From outside only.
    Eth0,
    /// From the namespace itself and from its proxy only.
    Lo,
}

impl PodNet {
    pub fn address(&self, ipv6: bool) -> SocketAddr {
        let ip = if ipv6 {
            IpAddr::V6(self.v6)
        } else {
            IpAddr::V4(self.v4)
        };
        SocketAddr::new(ip, PORT)
    }

    /// Listens on all addresses of the namespace, and on those of others that are led into it.
    pub fn listen(&self, ipv6: bool, port: u16, side: Side) -> TcpListener {
        let make = || {
            let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
            let socket = Socket::new(domain, Type::STREAM, None)?;
            let any: IpAddr = if ipv6 {
                socket.set_only_v6(true)?;
                socket.set_ip_transparent_v6(true)?;
                Ipv6Addr::UNSPECIFIED.into()
            } else {
                socket.set_ip_transparent_v4(true)?;
                Ipv4Addr::UNSPECIFIED.into()
            };
            socket.set_reuse_address(true)?;
            // A second agent's worth of listeners comes while the first still listens.
            socket.set_reuse_port(true)?;
            match side {
                Side::Any => {}
                Side::Eth0 => socket.bind_device(Some(b"eth0"))?,
                Side::Lo => socket.bind_device(Some(b"lo"))?,
            }
            socket.bind(&SocketAddr::new(any, port).into())?;
            socket.listen(128)?;
            Ok::<_, std::io::Error>(socket)
        };
        self.netns.enter(make).unwrap().unwrap().into()
    }

    /// Whether the tests' proxies take what comes to its applications from outside.
    pub fn is_captured_inbound(&self) -> bool {
        self.v4.octets()[3] == 2
    }

    /// An application's listener; its accepts give up after [`PATIENCE`].
    ///
    /// Beside a listener of the proxy on the same port it must be bound to `lo`: of two sockets
    /// with SO_REUSEPORT the kernel takes the first that fits, not the one that fits best.
    pub fn serve(&self, ipv6: bool) -> TcpListener {
        let side = if self.is_captured_inbound() {
            Side::Lo
        } else {
            Side::Any
        };
        let listener = self.listen(ipv6, PORT, side);
        let fd: OwnedFd = listener.into();
        let socket = Socket::from(fd);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    }

    /// An application connects, and the connection is led to its proxy.
    pub fn connect(&self, to: SocketAddr) -> TcpStream {
        self.dial(to, 0x53a).1.unwrap()
    }

    /// As [`Self::connect`], where the proxy may refuse at once.
    pub fn try_connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.dial(to, 0x53a).1
    }

    /// An application of a pod that is not captured connects.
    pub fn connect_plainly(&self, to: SocketAddr) -> TcpStream {
        self.dial(to, 0).1.unwrap()
    }

    /// Fails unless an application's connection is reset. Gives its `src.addr=` field.
    pub fn expect_refusal(&self, to: SocketAddr) -> String {
        refused(self.dial(to, 0x53a))
    }

    /// As [`Self::expect_refusal`] for an application that is not captured.
    pub fn expect_plain_refusal(&self, to: SocketAddr) -> String {
        refused(self.dial(to, 0))
    }

    /// How many connections of the namespace are established to a port of others.
    pub fn established_to(&self, port: u16) -> usize {
        let read = || std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let table = self.netns.enter(read).unwrap();
        // Local address, remote address with the port in hexadecimal, state 01.
        let remote = format!(":{port:04X} 01 ");
        table.lines().filter(|line| line.contains(&remote)).count()
    }

    /// The source address, and the connection.
    fn dial(&self, to: SocketAddr, mark: u32) -> (SocketAddr, std::io::Result<TcpStream>) {
        let make = || Socket::new(Domain::for_address(to), Type::STREAM, None);
        let socket = self.netns.enter(make).unwrap().unwrap();
        if mark != 0 {
            socket.set_mark(mark).unwrap();
        }
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let own = SocketAddr::new(self.address(to.is_ipv6()).ip(), 0);
        socket.bind(&own.into()).unwrap();
        let source = socket.local_addr().unwrap().as_socket().unwrap();
        let connected = socket.connect_timeout(&to.into(), PATIENCE);
        (source, connected.map(|()| socket.into()))
    }
}

/// A reset may come so soon that the connect fails already.
fn refused((source, connected): (SocketAddr, std::io::Result<TcpStream>)) -> String {
    match connected {
        Ok(client) => crate::app::expect_reset(&client),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    format!("src.addr={source}")
}
