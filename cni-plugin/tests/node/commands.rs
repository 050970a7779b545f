//! The binary as an operator and a DaemonSet run it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use netio::command::{Placement, Signal};
use nix::unistd::Pid;
use serde_json::Value;

use crate::ground::{Bpffs, Network, RUN, Tree, abandoned, unique};
use crate::ztunnel::Ztunnel;

const PROGRAM: &str = env!("CARGO_BIN_EXE_culvert-cni");

fn command(arguments: &[&str]) -> Output {
    let _tree = Tree::get();
    Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .output()
        .unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct AgentProcess {
    child: Child,
    admin: SocketAddr,
}

/// Fields are dropped in this order.
struct Site {
    bpffs: Bpffs,
    network: Network,
    run: tempfile::TempDir,
    tree: Tree,
}

impl Site {
    fn new() -> Self {
        let tree = Tree::get();
        Self {
            bpffs: Bpffs::mount(),
            network: Network::new(),
            run: tempfile::tempdir().unwrap(),
            tree,
        }
    }

    fn cni_socket(&self) -> std::path::PathBuf {
        self.run.path().join("cni/cni.sock")
    }

    fn zds_socket(&self) -> std::path::PathBuf {
        self.run.path().join("zds/zds.sock")
    }

    /// With a control plane that is not there, and no files for it.
    fn start_agent(&self) -> AgentProcess {
        let admin = own_address();
        let mut command = Command::new(PROGRAM);
        command
            .args([
                "agent",
                "--node-name",
                "node-1",
                "--control-plane",
                "https://127.0.0.1:1",
            ])
            .args([
                "--root-cert",
                "/nonexistent/root.pem",
                "--token-file",
                "/nonexistent/token",
            ])
            .args(["--cni-socket", path(&self.cni_socket())])
            .args(["--zds-socket", path(&self.zds_socket())])
            .args(["--bpffs", path(&self.bpffs.path())])
            .args(["--cgroup-root", path(self.tree.root())])
            .args(["--admin-addr", &admin.to_string()])
            // The tests of this process start programs in the cgroup that it has as a ztunnel.
            .arg("--allow-shared-cgroup")
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Placement {
            cgroup: Some(&self.tree.apps),
            ..Placement::default()
        }
        .apply(&mut command)
        .unwrap();
        let agent = AgentProcess {
            child: command.spawn().unwrap(),
            admin,
        };
        agent.until_ready();
        agent
    }

    fn pod_command(&self, verb: &str) -> Output {
        let (socket, netns) = (self.cni_socket(), self.network.pod.path());
        let arguments = [
            verb,
            "--socket",
            path(&socket),
            "--namespace",
            "shop",
            "--name",
            "web",
            "--uid",
            "uid-1",
            "--netns",
            path(&netns),
            "--timeout",
            "6s",
        ];
        command(&arguments)
    }
}

/// A loopback address that nobody else listens at: a port that was free a moment ago may be
/// another test's now.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [b, c, ..] = RUN.to_be_bytes();
    // 127.0.0.0/16 has the addresses of everybody else.
    let own = Ipv4Addr::new(127, b.max(1), c, NEXT.fetch_add(1, Ordering::Relaxed));
    SocketAddr::from((own, 15_099))
}

impl AgentProcess {
    fn get(&self, page: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        write!(
            stream,
            "GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn until_ready(&self) {
        for _ in 0..3000 {
            if self
                .get("/healthz/ready")
                .is_some_and(|text| text.starts_with("HTTP/1.1 200"))
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("never ready");
    }

    fn end(mut self, signal: Signal) -> std::process::ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_control_plane_serves_says_what_is_wrong_and_ends_when_asked() {
    let site = Site::new();
    let agent = site.start_agent();
    let ztunnel = Ztunnel::connect(&site.zds_socket()).await;
    let socket = site.cni_socket();
    let status = command(&["status", "--socket", path(&socket)]);
    assert!(status.status.success());
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["node"], "node-1");
    assert_eq!(status["ztunnels"][0]["pid"], std::process::id());
    let enrol = site.pod_command("enrol");
    assert_eq!(enrol.status.code(), Some(1));
    let said = String::from_utf8(enrol.stderr).unwrap();
    assert!(
        said.contains("control plane") && said.contains("code 11"),
        "{said}"
    );
    let metrics = agent.get("/metrics").unwrap();
    for line in [
        r#"culvert_agent_calls_total{op="enrol",result="failed"} 1"#,
        "culvert_agent_ztunnels 1",
        "culvert_agent_control_plane_reached 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(agent.end(Signal::SIGTERM).success());
    ztunnel.stop().await;
    let none = command(&["status", "--socket", path(&socket)]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        String::from_utf8(none.stderr)
            .unwrap()
            .contains(path(&socket))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_is_replaced_by_the_next() {
    let site = Site::new();
    let agent = site.start_agent();
    let _killed = agent.end(Signal::SIGKILL);
    let agent = site.start_agent();
    let ztunnel = Ztunnel::connect(&site.zds_socket()).await;
    let unenrol = site.pod_command("unenrol");
    let said = String::from_utf8(unenrol.stderr).unwrap();
    assert!(said.contains("is not known"), "{said}");
    ztunnel.stop().await;
    assert!(agent.end(Signal::SIGTERM).success());
}

#[test]
fn installation_by_command_can_be_repeated_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let (conf, bin) = (dir.path().join("net.d"), dir.path().join("bin"));
    std::fs::create_dir(&conf).unwrap();
    let list = conf.join("10-pods.conflist");
    let original = b"{\"cniVersion\":\"1.0.0\", \"name\":\"x\",\"plugins\":[{\"type\":\"ptp\"}]}";
    std::fs::write(&list, original).unwrap();
    let run = |verb: &str| {
        let arguments = [
            verb,
            "--conf-dir",
            path(&conf),
            "--bin-dir",
            path(&bin),
            "--agent-socket",
            "/run/x.sock",
            "--exclude-namespace",
            "kube-system",
        ];
        let output = command(&arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("install").starts_with("installed"));
    assert!(run("install").starts_with("nothing to do"));
    let installed: Value = serde_json::from_slice(&std::fs::read(&list).unwrap()).unwrap();
    assert_eq!(
        installed["plugins"][1]["exclude_namespaces"][0],
        "kube-system"
    );
    let copied = std::fs::read(bin.join("culvert-cni")).unwrap();
    assert_eq!(copied, std::fs::read(PROGRAM).unwrap());
    assert!(run("uninstall").starts_with("uninstalled"));
    assert!(run("uninstall").starts_with("nothing to do"));
    assert_eq!(std::fs::read(&list).unwrap(), original);
    assert!(!bin.join("culvert-cni").exists());
    let empty = tempfile::tempdir().unwrap();
    let failed = command(&[
        "install",
        "--conf-dir",
        path(empty.path()),
        "--bin-dir",
        path(&bin),
    ]);
    assert_eq!(failed.status.code(), Some(1));
}

#[test]
fn an_agent_whose_directories_are_not_what_they_should_be_says_which() {
    let (site, plain) = (Site::new(), tempfile::tempdir().unwrap());
    let bpffs = site.bpffs.path();
    let cgroup = site.tree.root();
    for (bpffs, cgroup, wanted) in [
        (plain.path(), cgroup, "mount -t bpf"),
        (bpffs.as_path(), plain.path(), "cgroup2"),
    ] {
        let output = command(&[
            "agent",
            "--node-name",
            "node-1",
            "--control-plane",
            "https://127.0.0.1:1",
            "--bpffs",
            path(bpffs),
            "--cgroup-root",
            path(cgroup),
            "--cni-socket",
            path(&site.cni_socket()),
            "--zds-socket",
            path(&site.zds_socket()),
            "--admin-addr",
            "127.0.0.1:0",
        ]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn only_leftovers_of_test_processes_that_are_gone_are_swept() {
    let directory = tempfile::tempdir().unwrap();
    // No process has this number: the kernel's largest is 4194304.
    let gone = "cni4194305-0badcafe-7-p";
    let living = format!("{}-p", unique());
    for name in [gone, &living, "cni-podman", "cnix-1", "4194305-1", "web"] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    assert_eq!(abandoned(directory.path()), [gone]);
}
