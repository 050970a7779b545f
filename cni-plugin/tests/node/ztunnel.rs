//! A stand-in for ztunnel: speaks ZDS, and relays in plaintext what the handed listeners accept,
//! with the sockets that steering.md asks of a proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netio::netns::Netns;
use netio::seqpacket::Conn;
use process::tasks::{Drained, Tasks};
use proto::zds::{Ack, Hello, ListenerRole, Request};
use proto::{decode, encode};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const MARK_PROXY: u32 = 0x539;
const MARK_CAPTURE: u32 = 0x53a;

/// How the stand-in misbehaves.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Answers adds with this error.
    pub refuse: Option<String>,
    /// Never answers an add.
    pub silent: bool,
    /// Makes its first connection to the application without binding to lo.
    pub unbound_once: bool,
}

/// An accepted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub role: ListenerRole,
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

#[derive(Default)]
struct Shared {
    manners: Mutex<Manners>,
    accepted: Mutex<Vec<Accepted>>,
    requests: Mutex<Vec<Request>>,
    pods: Mutex<BTreeMap<String, CancellationToken>>,
}

pub struct Ztunnel {
    shared: Arc<Shared>,
    tasks: Tasks,
}

impl Ztunnel {
    /// Connects and returns when the snapshot was sent.
    pub async fn connect(socket: &Path) -> Self {
        Self::with(socket, Manners::default()).await
    }

    pub async fn with(socket: &Path, manners: Manners) -> Self {
        let shared = Arc::new(Shared::default());
        *shared.manners.lock().unwrap() = manners;
        let tasks = Tasks::new();
        let conn = Conn::connect(socket).unwrap();
        let hello = encode::zds_hello(&Hello {
            accepts_listeners: true,
        });
        conn.send(&hello, &[]).await.unwrap();
        let ztunnel = Self { shared, tasks };
        let (shared, tasks) = (ztunnel.shared.clone(), ztunnel.tasks.clone());
        ztunnel.tasks.spawn("zds", async move {
            let stop = tasks.stop();
            tokio::select! {
                () = stop.cancelled() => {}
                () = obey(&shared, &tasks, conn) => {}
            }
        });
        ztunnel
            .until(|requests| requests.contains(&Request::SnapshotSent))
            .await;
        ztunnel
    }

    /// Waits until the requests so far are as wanted.
    pub async fn until(&self, wanted: impl Fn(&[Request]) -> bool) {
        for _ in 0..3000 {
            if wanted(&self.shared.requests.lock().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "never came; so far {:?}",
            self.shared.requests.lock().unwrap()
        );
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn added(&self, uid: &str) -> usize {
        let is = |request: &&Request| matches!(request, Request::Add(add) if add.uid == uid);
        self.shared
            .requests
            .lock()
            .unwrap()
            .iter()
            .filter(is)
            .count()
    }

    /// What was accepted since the last call.
    pub fn accepted(&self) -> Vec<Accepted> {
        std::mem::take(&mut self.shared.accepted.lock().unwrap())
    }

    /// Ends: listeners, connections and all.
    pub async fn stop(self) {
        let drained = self.tasks.shutdown(Duration::from_secs(60)).await;
        assert_eq!(drained, Drained::default());
    }
}

async fn obey(shared: &Arc<Shared>, tasks: &Tasks, conn: Conn) {
    while let Ok(Some(message)) = conn.recv(1024, 8).await {
        let request = decode::zds_request(&message.bytes).unwrap();
        shared.requests.lock().unwrap().push(request.clone());
        let manners = shared.manners.lock().unwrap().clone();
        let error = match request {
            Request::Add(_) if manners.silent => continue,
            Request::Add(_) if manners.refuse.is_some() => manners.refuse,
            Request::Add(add) => {
                assert_eq!(add.listeners, ListenerRole::ALL);
                take(shared, tasks, add.uid, message.fds);
                None
            }
            Request::Delete { uid } => {
                if let Some(stop) = shared.pods.lock().unwrap().remove(&uid) {
                    stop.cancel();
                }
                None
            }
            Request::Keep { .. } | Request::SnapshotSent => None,
        };
        if conn
            .send(&encode::zds_ack(&Ack { error }), &[])
            .await
            .is_err()
        {
            return;
        }
    }
}

fn take(shared: &Arc<Shared>, tasks: &Tasks, uid: String, fds: Vec<OwnedFd>) {
    let stop = CancellationToken::new();
    let mut fds = fds.into_iter();
    let netns = Netns::from_fd(fds.next().unwrap()).unwrap();
    for (role, fd) in ListenerRole::ALL.into_iter().zip(fds) {
        let listener = TcpListener::from_std(std::net::TcpListener::from(fd)).unwrap();
        let (shared, netns, stop) = (shared.clone(), netns.clone(), stop.clone());
        let inner = tasks.clone();
        tasks.spawn("listener", async move {
            let all_stop = inner.stop();
            loop {
                let (client, peer) = tokio::select! {
                    () = stop.cancelled() => return,
                    () = all_stop.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap(),
                };
                let local = client.local_addr().unwrap();
                let accepted = Accepted { role, local, peer };
                shared.accepted.lock().unwrap().push(accepted.clone());
                let unbound = std::mem::take(&mut shared.manners.lock().unwrap().unbound_once);
                let relay = relay(client, accepted, netns.clone(), unbound);
                let all_stop = all_stop.clone();
                inner.spawn("relay", async move {
                    tokio::select! {
                        () = all_stop.cancelled() => {}
                        () = relay => {}
                    }
                });
            }
        });
    }
    if let Some(old) = shared.pods.lock().unwrap().insert(uid, stop) {
        old.cancel();
    }
}

async fn relay(mut client: TcpStream, accepted: Accepted, netns: Netns, unbound: bool) {
    use ListenerRole as Role;
    let Accepted { role, local, peer } = accepted;
    let upstream = tokio::task::spawn_blocking(move || match role {
        Role::OutboundV4 | Role::OutboundV6 => outbound(&netns, local),
        Role::InboundV4 | Role::InboundV6 => inbound(&netns, local, peer.ip(), unbound),
        Role::HboneV4 | Role::HboneV6 => Err(std::io::Error::other("hbone")),
    });
    match upstream.await.unwrap() {
        Ok(upstream) => {
            let mut upstream = TcpStream::from_std(upstream).unwrap();
            // However it ends, both ends close.
            let _ = copy_bidirectional(&mut client, &mut upstream).await;
        }
        Err(error) if error.to_string() == "hbone" => {
            let text = format!("peer={}|{} hbone={}\n", peer.ip(), peer.port(), local);
            let _ = client.write_all(text.as_bytes()).await;
        }
        Err(_) => SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap(),
    }
}

fn outbound(netns: &Netns, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    let socket = netns.enter(|| Socket::new(Domain::for_address(to), Type::STREAM, None))??;
    socket.set_mark(MARK_PROXY)?;
    finish(socket, to)
}

fn inbound(
    netns: &Netns,
    to: SocketAddr,
    client: IpAddr,
    unbound: bool,
) -> std::io::Result<std::net::TcpStream> {
    for port in (61_000..=65_535).step_by(7) {
        let socket = netns.enter(|| Socket::new(Domain::for_address(to), Type::STREAM, None))??;
        // SOL_IP sets the same bit on an IPv6 socket (net/ipv6/ipv6_sockglue.c).
        socket.set_ip_transparent_v4(true)?;
        socket.set_mark(MARK_CAPTURE)?;
        if !unbound {
            socket.bind_device(Some(b"lo"))?;
        }
        socket.set_reuse_address(true)?;
        match socket.bind(&SocketAddr::new(client, port).into()) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => continue,
            bound => bound?,
        }
        match finish(socket, to) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => continue,
            result => return result,
        }
    }
    Err(std::io::ErrorKind::AddrInUse.into())
}

fn finish(socket: Socket, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    socket.connect_timeout(&to.into(), Duration::from_secs(60))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
