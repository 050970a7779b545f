//! One suite over both back ends, and the kernel interfaces that do not depend on one.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "the BPF test loads its program by raw calls, and tests are meant to panic"
)]

mod bpf;
mod connect;
mod executor;
mod lifecycle;
mod listener;
mod relay;
mod seqpacket;
mod splice;

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use netio::command::Placement;
use netio::netns::Netns;
use netio::{Backend, TcpListener, TcpStream};

/// Makes one `#[test]` per back end of each async function.
macro_rules! on_both_back_ends {
    ($($name:ident),* $(,)?) => {
        mod io_uring {
            $(#[test] fn $name() { crate::run(netio::Backend::IoUring, super::$name()); })*
        }
        mod epoll {
            $(#[test] fn $name() { crate::run(netio::Backend::Epoll, super::$name()); })*
        }
    };
}
pub(crate) use on_both_back_ends;

/// A hang is a failure, not a wait for the harness.
pub const HANG: Duration = Duration::from_secs(60);

pub fn run(backend: Backend, test: impl Future<Output = ()>) {
    let test = async {
        netio::time::timeout(HANG, test)
            .await
            .expect("the test hangs")
    };
    netio::executor::run(backend, test).unwrap();
}

/// Two ends of a connection over loopback, both on this executor.
pub async fn pair() -> (Rc<TcpStream>, Rc<TcpStream>) {
    let listener = TcpListener::from_std(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let listener = listener.unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr()).unwrap();
    let far = listener.accept().await.unwrap();
    (Rc::new(TcpStream::from_std(near).unwrap()), Rc::new(far))
}

/// Reads until the end of the stream.
pub async fn read_to_end(stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let (result, buffer) = stream.read(Vec::with_capacity(64 * 1024)).await;
        match result? {
            0 => return Ok(all),
            _ => all.extend_from_slice(&buffer),
        }
    }
}

pub fn errno(result: std::io::Result<usize>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

/// A namespace of the test's own; gone with its descriptor.
pub fn lonely_netns() -> Netns {
    let netns = Netns::anonymous().unwrap();
    ip(&netns, "link set lo up");
    netns
}

pub fn ip(netns: &Netns, arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    Placement {
        netns: Some(netns),
        ..Placement::default()
    }
    .apply(&mut command)
    .unwrap();
    let output = command.output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

pub fn sysctl(netns: &Netns, name: &str, value: &str) {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    netns
        .enter(|| std::fs::write(&path, value))
        .unwrap()
        .unwrap();
}

/// An ordinary application's listener inside a namespace.
pub fn listen_in(netns: &Netns, address: &str) -> std::net::TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    netns
        .enter(|| std::net::TcpListener::bind(address))
        .unwrap()
        .unwrap()
}

/// Room for the tests with thousands of sockets: the soft limit is often 1024.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

pub fn is_nodelay(stream: &impl AsFd) -> bool {
    socket2::SockRef::from(stream).tcp_nodelay().unwrap()
}
