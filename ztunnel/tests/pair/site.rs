//! A node with real ztunnel processes: the test plays the agent that hands the listeners, and the
//! very first predecessor. No control plane and no CA answers the processes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh::workload::TunnelProtocol;
use netio::seqpacket::{Conn, Listener};
use process::admin::Readiness;
use process::certs::{CertManager, DEFAULT_TTL};
use process::clock::SystemClock;
use process::grpc::{ControlPlane, Settings};
use process::metrics::XdsMetrics;
use process::tasks::Tasks;
use process::xds::{self, Carried, Mesh, Node, Scope};
use prometheus_client::registry::Registry;
use proto::zds::Request;
use proto::{Resource, encode};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use ztunnel::handover::server::Server;

use crate::ca::Ca;
use crate::net::{Net, PATIENCE, PodNet, own_loopback};
use crate::world::{identity, listeners, workload};
use crate::zds::add;

/// Nobody listens there.
const NOBODY: &str = "https://127.0.0.1:9";

/// Where every ztunnel listens, at an address of its own.
const READY_PORT: u16 = 15021;
const ADMIN_PORT: u16 = 15000;
const METRICS_PORT: u16 = 15020;

/// The node.
pub struct Site {
    pub client: PodNet,
    pub server: PodNet,
    pub directory: TempDir,
    runtime: Runtime,
    tasks: Tasks,
    /// Snapshots that were acked to their end, of all processes.
    acked: watch::Receiver<usize>,
    started: AtomicUsize,
    _net: Net,
}

/// A ztunnel.
pub struct Process {
    child: Child,
    ready: SocketAddr,
    log: PathBuf,
}

impl Site {
    /// Two pods, and an agent that hands their listeners to whoever connects.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut net = Net::new();
        let (client, server) = (net.pod("client", 1), net.pod("server", 2));
        let directory = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let handed = Arc::new([("client", handed(&client)), ("server", handed(&server))]);
        let _context = runtime.enter();
        let listener = Listener::bind(&directory.path().join("zds.sock")).unwrap();
        let (acked_by, acked) = watch::channel(0);
        let sessions = tasks.clone();
        let stop = tasks.stop();
        tasks.spawn("agent", async move {
            while let Some(Ok(conn)) = stop.run_until_cancelled(listener.accept()).await {
                let (stop, handed) = (stop.clone(), Arc::clone(&handed));
                let acked = acked_by.clone();
                sessions.spawn("session", async move {
                    stop.run_until_cancelled(hand(conn, &*handed, acked)).await;
                });
            }
        });
        drop(_context);
        Self {
            client,
            server,
            directory,
            runtime,
            tasks,
            acked,
            started: AtomicUsize::new(0),
            _net: net,
        }
    }

    /// A process that serves nothing, but has the state and a CA: what the first ztunnel of the
    /// test takes over from.
    pub fn serve_first_state(&self) {
        let mesh = Mesh {
            addresses: [("client", &self.client), ("server", &self.server)]
                .map(|(name, net)| workload(name, net, TunnelProtocol::Hbone))
                .map(|workload| encode::discovered(&Resource::Workload(workload), "1"))
                .into(),
            ..Mesh::default()
        };
        let _context = self.runtime.enter();
        let settings = Settings::new(NOBODY, "/nowhere".as_ref(), None);
        let config = xds::Config {
            routes: false,
            node: Node::ztunnel("node", "Kubernetes"),
            scope: Scope::Wildcard,
            carried: Some(Carried::from_wire(&mesh).unwrap()),
        };
        let feed = xds::start(
            &self.tasks,
            ControlPlane::new(settings).unwrap(),
            config,
            XdsMetrics::register(&mut Registry::default()),
            &Readiness::new(),
        );
        let ca = Arc::new(Ca::new());
        let certificates = CertManager::start(&self.tasks, ca, Arc::new(SystemClock), DEFAULT_TTL);
        for name in ["client", "server"] {
            let identity = identity(name);
            let issued = certificates.certificate(&identity, PATIENCE);
            self.runtime.block_on(issued).unwrap();
        }
        let (replaced_by, mut replaced) = mpsc::channel(1);
        let server = Server {
            socket: self.socket(),
            feed,
            certificates,
            replaced: replaced_by,
        };
        let stop = self.tasks.stop();
        self.tasks.spawn("first", async move {
            let serve = async {
                futures::join!(server.run(None), async {
                    replaced.recv().await.unwrap().send(()).unwrap();
                })
            };
            stop.run_until_cancelled(serve).await;
        });
        // Nobody may ask before it listens.
        let deadline = Instant::now() + PATIENCE;
        while !self.socket().exists() {
            assert!(Instant::now() < deadline, "the first state is not served");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("handover.sock")
    }

    /// Starts a ztunnel.
    pub fn start(&self, io: &str) -> Process {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.path().join(format!("{number}.log"));
        let ip = own_loopback();
        let address = |port: u16| SocketAddr::from((ip, port));
        let ready = address(READY_PORT);
        let file = File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ztunnel"))
            .args(["--node-name", "node", "--xds-address", NOBODY])
            .args(["--ca-address", NOBODY, "--root-cert", "/nowhere"])
            .args(["--token-file", "/nowhere", "--workers", "2", "--io", io])
            .args(["--ready-addr", &ready.to_string()])
            .args(["--admin-addr", &address(ADMIN_PORT).to_string()])
            .args(["--metrics-addr", &address(METRICS_PORT).to_string()])
            .arg("--zds-socket")
            .arg(self.directory.path().join("zds.sock"))
            .arg("--handover-socket")
            .arg(self.socket())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Process { child, ready, log }
    }

    /// Waits until so many processes have acked all pods.
    pub fn wait_acked(&self, processes: usize) {
        let mut acked = self.acked.clone();
        let enough = acked.wait_for(|acked| *acked >= processes);
        let waited = async { tokio::time::timeout(PATIENCE, enough).await.is_ok() };
        assert!(self.runtime.block_on(waited), "not all pods were acked");
    }

    /// Ends what the test plays.
    pub fn stop(self) {
        self.runtime.block_on(self.tasks.shutdown(PATIENCE));
    }
}

impl Process {
    /// The page of its readiness; None when it does not answer.
    pub fn readiness(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.ready).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /healthz/ready HTTP/1.1\r\nhost: ztunnel\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    /// Waits until its readiness is as `wanted`.
    pub fn wait(&self, what: &str, wanted: impl Fn(Option<&str>) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(self.readiness().as_deref()) {
            assert!(Instant::now() < deadline, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn wait_ready(&self) {
        self.wait("ready", |page| {
            page.is_some_and(|page| page.starts_with("HTTP/1.1 200"))
        });
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Handed = (OwnedFd, Vec<OwnedFd>);

/// The agent keeps what it hands, as the real one does.
fn handed(net: &PodNet) -> Handed {
    let netns = net.netns.as_fd().try_clone_to_owned().unwrap();
    (netns, listeners(net))
}

async fn hand(conn: Conn, pods: &[(&str, Handed)], acked: watch::Sender<usize>) {
    let ask = async |request: &Request, fds: &[_]| {
        let bytes = encode::zds_request(request).unwrap();
        conn.send(&bytes, fds).await.ok()?;
        let ack = conn.recv(1024, 0).await.ok()??;
        let ack = proto::decode::zds_ack(&ack.bytes).unwrap();
        assert_eq!(ack.error, None);
        Some(())
    };
    if !matches!(conn.recv(1024, 0).await, Ok(Some(_))) {
        return;
    }
    for (name, (netns, listeners)) in pods {
        let fds: Vec<_> = std::iter::once(netns.as_fd())
            .chain(listeners.iter().map(AsFd::as_fd))
            .collect();
        if ask(&add(name), &fds).await.is_none() {
            return;
        }
    }
    if ask(&Request::SnapshotSent, &[]).await.is_some() {
        acked.send_modify(|acked| *acked += 1);
    }
    // Until the other side closes.
    let _ = conn.recv(1024, 0).await;
}
