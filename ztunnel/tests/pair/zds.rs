//! The test plays the node agent: what the proxy takes, refuses, keeps and lets go.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use netio::Backend;
use netio::netns::Netns;
use netio::seqpacket::{Conn, Listener};
use process::admin::Readiness;
use proto::zds::{Add, ListenerRole, PodInfo, Request};
use proto::{decode, encode};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use ztunnel::pods::PodMap;
use ztunnel::zds::Client;

use crate::app::{accept, expect_reset, talk};
use crate::journal;
use crate::net::{PATIENCE, PodNet};
use crate::world::{World, config, listeners};

/// An agent, and the node of a world that is connected to it.
struct Agent {
    world: World,
    listener: Listener,
    readiness: Readiness,
    pods: watch::Receiver<PodMap>,
    stop: CancellationToken,
    _directory: TempDir,
}

impl Agent {
    /// The client's node of a world listens to this agent; it begins with the pod `client`.
    fn new() -> Self {
        journal::open();
        let mut world = World::new(Backend::Epoll);
        let directory = tempfile::tempdir().unwrap();
        let socket: PathBuf = directory.path().join("zds/ztunnel.sock");
        let _context = world.runtime.enter();
        let listener = Listener::bind(&socket).unwrap();
        let readiness = Readiness::new();
        let ready = readiness.condition("zds", "not started");
        let stop = CancellationToken::new();
        // The proxy's pods move to the client; the node keeps an empty set of its own.
        let spare = ztunnel::pods::Pods::new(
            world.near.proxy.workers.clone(),
            world.near.proxy.certificates.clone(),
            ztunnel::metrics::Metrics::default(),
        );
        let pods = std::mem::replace(&mut world.near.proxy.pods, spare);
        let seen = pods.watch();
        let client = Client {
            socket,
            config: config(),
            ready,
        };
        world
            .near
            .tasks()
            .spawn("zds", client.run(pods, stop.clone()));
        drop(_context);
        Self {
            world,
            listener,
            readiness,
            pods: seen,
            stop,
            _directory: directory,
        }
    }

    /// The proxy's next connection, its hello taken.
    fn accept(&self) -> Session<'_> {
        self.world.runtime.block_on(async {
            let conn = timeout(PATIENCE, self.listener.accept())
                .await
                .unwrap()
                .unwrap();
            let message = conn.recv(1024, 0).await.unwrap().unwrap();
            assert!(decode::zds_hello(&message.bytes).unwrap().accepts_listeners);
            Session { agent: self, conn }
        })
    }

    fn uids(&self) -> Vec<String> {
        self.pods.borrow().keys().map(ToString::to_string).collect()
    }

    fn stop(self) {
        self.stop.cancel();
        self.world.stop();
    }
}

struct Session<'a> {
    agent: &'a Agent,
    conn: Conn,
}

impl Session<'_> {
    /// Sends a request and takes its ack: None for a good one, else the error.
    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Option<String> {
        let bytes = encode::zds_request(request).unwrap();
        self.ask_raw(&bytes, fds)
    }

    fn ask_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Option<String> {
        self.agent.world.runtime.block_on(async {
            self.conn.send(bytes, fds).await.unwrap();
            let message = timeout(PATIENCE, self.conn.recv(1024, 0))
                .await
                .unwrap()
                .unwrap();
            decode::zds_ack(&message.expect("an ack before the end").bytes)
                .unwrap()
                .error
        })
    }

    /// Whether the proxy has closed the connection.
    fn is_over(&self) -> bool {
        self.agent.world.runtime.block_on(async {
            let end = timeout(PATIENCE, self.conn.recv(1024, 0)).await;
            matches!(end, Ok(Ok(None) | Err(_)))
        })
    }
}

/// As the agent adds a pod.
pub fn add(name: &str) -> Request {
    let pod = PodInfo {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        service_account: name.to_owned(),
    };
    let listeners = ListenerRole::ALL.to_vec();
    Request::Add(Add {
        uid: format!("uid-{name}"),
        pod: Some(pod),
        listeners,
    })
}

fn add_pod(session: &Session<'_>, name: &str, net: &PodNet) -> Option<String> {
    let listeners = listeners(net);
    let fds: Vec<_> = std::iter::once(net.netns.as_fd())
        .chain(listeners.iter().map(AsFd::as_fd))
        .collect();
    session.ask(&add(name), &fds)
}

#[test]
fn a_pod_that_the_agent_hands_is_served_and_ready_comes_with_the_snapshot() {
    let mut agent = Agent::new();
    let other = agent.world.net.pod("other", 7);
    agent.world.push(|s| {
        s.insert_workload(crate::world::workload(
            "other",
            &other,
            mesh::workload::TunnelProtocol::Hbone,
        ));
    });
    let session = agent.accept();
    assert!(!agent.readiness.is_ready());
    assert_eq!(
        session.ask(
            &Request::Keep {
                uid: "uid-client".into()
            },
            &[]
        ),
        None
    );
    assert_eq!(add_pod(&session, "other", &other), None);
    assert!(!agent.readiness.is_ready());
    assert_eq!(session.ask(&Request::SnapshotSent, &[]), None);
    assert!(agent.readiness.is_ready());
    assert_eq!(agent.uids(), ["uid-client", "uid-other"]);
    let listener = agent.world.server.serve(false);
    let client = other.connect(agent.world.server.address(false));
    let server = accept(&listener);
    talk(&client, &server, b"word");

    let gone = Request::Delete {
        uid: "uid-other".into(),
    };
    assert_eq!(session.ask(&gone, &[]), None);
    assert_eq!(session.ask(&gone, &[]), None, "a pod that is gone is gone");
    expect_reset(&client);
    assert_eq!(agent.uids(), ["uid-client"]);
    drop(session);
    agent.stop();
}

#[test]
fn what_the_snapshot_does_not_name_goes_and_what_it_keeps_stays() {
    let agent = Agent::new();
    let listener = agent.world.server.serve(false);
    let client = agent
        .world
        .client
        .connect(agent.world.server.address(false));
    let server = accept(&listener);
    let session = agent.accept();
    assert_eq!(
        session.ask(
            &Request::Keep {
                uid: "uid-client".into()
            },
            &[]
        ),
        None
    );
    let unknown = session.ask(
        &Request::Keep {
            uid: "uid-unknown".into(),
        },
        &[],
    );
    assert!(unknown.unwrap().contains("not known here"));
    assert_eq!(session.ask(&Request::SnapshotSent, &[]), None);
    let late = session.ask(
        &Request::Keep {
            uid: "uid-client".into(),
        },
        &[],
    );
    assert!(late.unwrap().contains("before the snapshot"));
    talk(&client, &server, b"kept");
    // The agent goes: the proxy is not ready, and goes on.
    drop(session);
    let session = agent.accept();
    assert!(!agent.readiness.is_ready());
    talk(&client, &server, b"without an agent");
    assert_eq!(session.ask(&Request::SnapshotSent, &[]), None);
    assert_eq!(agent.uids(), Vec::<String>::new());
    expect_reset(&client);
    drop(session);
    agent.stop();
}

#[test]
fn new_listeners_of_a_known_pod_take_over_and_its_connections_go_on() {
    let agent = Agent::new();
    let listener = agent.world.server.serve(false);
    let to = agent.world.server.address(false);
    let client = agent.world.client.connect(to);
    let server = accept(&listener);
    talk(&client, &server, b"before");
    let session = agent.accept();
    assert_eq!(add_pod(&session, "client", &agent.world.client), None);
    assert_eq!(session.ask(&Request::SnapshotSent, &[]), None);
    talk(&client, &server, b"after");
    for _ in 0..20 {
        let client = agent.world.client.connect(to);
        let server = accept(&listener);
        talk(&client, &server, b"new");
    }
    drop(session);
    agent.stop();
}

#[test]
fn descriptors_that_are_not_what_their_place_says_close_the_connection() {
    let mut agent = Agent::new();
    let other = agent.world.net.pod("other", 7);
    let file: OwnedFd = std::fs::File::open("/proc/self/status").unwrap().into();
    let own = Netns::current().unwrap();
    let good = listeners(&other);
    let foreign = listeners(&agent.world.net.pod("foreign", 8));
    let with = |netns: BorrowedFd<'_>, listeners: Vec<BorrowedFd<'_>>| {
        let session = agent.accept();
        let fds: Vec<_> = std::iter::once(netns).chain(listeners).collect();
        let error = session.ask(&add("other"), &fds).expect("an error");
        assert!(session.is_over(), "{error}");
        error
    };
    let good_fds = || good.iter().map(AsFd::as_fd).collect::<Vec<_>>();
    let netns = other.netns.as_fd();
    assert!(with(file.as_fd(), good_fds()).contains("no network namespace"));
    assert!(with(own.as_fd(), good_fds()).contains("proxy's own"));
    assert!(with(netns, good_fds()[..5].to_vec()).contains("5 listeners came with 6 roles"));
    let mut swapped = good_fds();
    swapped.swap(0, 1);
    assert!(with(netns, swapped).contains("other family"));
    let mut no_socket = good_fds();
    no_socket[3] = file.as_fd();
    assert!(with(netns, no_socket).contains("no socket"));
    let mut of_another = good_fds();
    of_another[4] = foreign[4].as_fd();
    assert!(with(netns, of_another).contains("namespace"));
    let session = agent.accept();
    let stray = session.ask(
        &Request::Delete {
            uid: "uid-other".into(),
        },
        &[netns],
    );
    assert!(stray.unwrap().contains("takes none") && session.is_over());
    let session = agent.accept();
    assert!(session.ask_raw(b"\xff\xff\xff", &[]).is_some() && session.is_over());
    // It comes back each time, and still serves what it knew.
    let session = agent.accept();
    assert_eq!(
        session.ask(
            &Request::Keep {
                uid: "uid-client".into()
            },
            &[]
        ),
        None
    );
    drop(session);
    agent.stop();
}

#[test]
fn an_add_without_a_name_or_listeners_is_refused_and_the_session_goes_on() {
    let mut agent = Agent::new();
    let other = agent.world.net.pod("other", 7);
    let session = agent.accept();
    let Request::Add(named) = add("other") else {
        unreachable!()
    };
    let bare = Request::Add(Add {
        listeners: Vec::new(),
        ..named.clone()
    });
    let error = session.ask(&bare, &[other.netns.as_fd()]).unwrap();
    assert!(error.contains("no listeners"), "{error}");
    let listeners = listeners(&other);
    let fds: Vec<_> = std::iter::once(other.netns.as_fd())
        .chain(listeners.iter().map(AsFd::as_fd))
        .collect();
    let nameless = Request::Add(Add { pod: None, ..named });
    let error = session.ask(&nameless, &fds).unwrap();
    assert!(error.contains("who the pod is"), "{error}");
    assert_eq!(session.ask(&Request::SnapshotSent, &[]), None);
    assert_eq!(agent.readiness.missing(), []);
    drop(session);
    agent.stop();
}
