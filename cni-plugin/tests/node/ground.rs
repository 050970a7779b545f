//! What tests stand on: a cgroup tree of this test process, namespaces with links, a bpffs.
//! Everything is removed when dropped.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use netio::cgroup::Cgroup;
use netio::netns::{self, Netns};
use nix::mount::{MntFlags, MsFlags};

/// Tells this process from every other, also from those of earlier runs that were killed: their
/// process ids come again.
pub static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());

/// Begins the names of all that tests make; the process id and a number follow.
const PREFIX: &str = "cni";

/// A name that no other test of this machine uses: `cni<pid>-<run>-<number>`.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SWEPT: LazyLock<()> = LazyLock::new(sweep);
    LazyLock::force(&SWEPT);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{:08x}-{next}", std::process::id(), *RUN as u32)
}

/// Removes what runs that were killed have left: namespaces and cgroups with a name of ours whose
/// process is gone, nothing else.
fn sweep() {
    // What another run removes at the same time is gone for both.
    for name in abandoned(Path::new("/run/netns")) {
        let _ = netns::delete(&name);
    }
    let mount = Cgroup::mount_point().unwrap();
    for name in abandoned(&mount) {
        let _ = Cgroup::open(mount.join(name)).and_then(Cgroup::remove);
    }
}

/// Names in a directory that begin as ours do, of processes that are gone.
pub fn abandoned(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let gone = |name: &String| {
        let rest = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        let pid = rest.and_then(|(pid, _)| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    names.filter(gone).collect()
}

pub fn ip(batch: &str) {
    let _tree = Tree::get();
    for line in batch.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let output = Command::new("ip")
            .args(line.split_whitespace())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {line}: {error}");
    }
}

pub fn ip_text(line: &str) -> String {
    let _tree = Tree::get();
    let output = Command::new("ip")
        .args(line.split_whitespace())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The cgroups of this process: it is itself the ztunnel of all tests, and lives in `ztunnel`;
/// programs live in `apps`. The hooks are attached above both. Tests that run at the same time
/// share one, and the last removes it with what runs in it: whoever starts a process holds one.
pub struct Tree {
    base: Cgroup,
    pub apps: PathBuf,
}

struct Shared {
    base: Cgroup,
    home: PathBuf,
    users: usize,
}

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

impl Tree {
    pub fn get() -> Self {
        let mut shared = SHARED.lock().unwrap_or_else(|error| error.into_inner());
        let shared = shared.get_or_insert_with(|| {
            let mount = Cgroup::mount_point().unwrap();
            let home = Cgroup::of_pid(&mount, std::process::id())
                .unwrap()
                .path()
                .to_owned();
            let base = Cgroup::create(mount.join(unique())).unwrap();
            Cgroup::create(base.path().join("apps")).unwrap();
            enter(Cgroup::create(base.path().join("ztunnel")).unwrap().path());
            Shared {
                base,
                home,
                users: 0,
            }
        });
        shared.users += 1;
        Self {
            base: shared.base.clone(),
            apps: shared.base.path().join("apps"),
        }
    }

    pub fn root(&self) -> &Path {
        self.base.path()
    }

    pub fn ztunnel(&self) -> PathBuf {
        self.base.path().join("ztunnel")
    }
}

fn enter(cgroup: &Path) {
    std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

impl Drop for Tree {
    fn drop(&mut self) {
        let mut shared = SHARED.lock().unwrap_or_else(|error| error.into_inner());
        let Some(tree) = shared.as_mut() else { return };
        tree.users -= 1;
        if tree.users == 0 {
            enter(&tree.home);
            tree.base.clone().remove().unwrap();
            *shared = None;
        }
    }
}

/// A namespace with a name, so that `ip -n` and the agent find it.
pub struct Space {
    pub name: String,
    pub netns: Netns,
}

impl Space {
    pub fn new(label: &str) -> Self {
        let name = format!("{}-{label}", unique());
        let netns = netns::create(&name).unwrap();
        let space = Self { name, netns };
        // Else link-local addresses, and with them neighbour discovery, take a second to work.
        space.sysctl("net/ipv6/conf/all/accept_dad", "0");
        space.sysctl("net/ipv6/conf/default/accept_dad", "0");
        ip(&format!("-n {} link set lo up", space.name));
        space
    }

    pub fn path(&self) -> PathBuf {
        netns::path_of(&self.name)
    }

    pub fn sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys").join(key);
        self.netns
            .enter(|| std::fs::write(path, value))
            .unwrap()
            .unwrap();
    }

    pub fn read_sysctl(&self, key: &str) -> String {
        let path = Path::new("/proc/sys").join(key);
        self.netns
            .enter(|| std::fs::read_to_string(path))
            .unwrap()
            .unwrap()
            .trim()
            .to_owned()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Tests that delete the pod have done this.
        let _ = netns::delete(&self.name);
    }
}

pub const POD_V4: &str = "10.77.0.2";
pub const POD_V6: &str = "fd77::2";
pub const OUTSIDE_V4: &str = "10.88.0.2";
pub const OUTSIDE_V6: &str = "fd88::2";

/// A node that routes between a pod and a machine outside.
pub struct Network {
    _node: Space,
    pub pod: Space,
    pub outside: Space,
}

impl Network {
    pub fn new() -> Self {
        let (node, pod, outside) = (Space::new("n"), Space::new("p"), Space::new("o"));
        let (n, p, o) = (&node.name, &pod.name, &outside.name);
        node.sysctl("net/ipv4/ip_forward", "1");
        node.sysctl("net/ipv6/conf/all/forwarding", "1");
        ip(&format!(
            "-n {n} link add pod type veth peer name eth0 netns {p}
             -n {n} link add outside type veth peer name eth0 netns {o}
             -n {n} addr add 10.77.0.1/24 dev pod
             -n {n} addr add fd77::1/64 dev pod nodad
             -n {n} addr add 10.88.0.1/24 dev outside
             -n {n} addr add fd88::1/64 dev outside nodad
             -n {n} link set pod up
             -n {n} link set outside up
             -n {p} addr add {POD_V4}/24 dev eth0
             -n {p} addr add {POD_V6}/64 dev eth0 nodad
             -n {p} link set eth0 up
             -n {o} addr add {OUTSIDE_V4}/24 dev eth0
             -n {o} addr add {OUTSIDE_V6}/64 dev eth0 nodad
             -n {o} link set eth0 up
             -n {p} route add default via 10.77.0.1
             -n {p} -6 route add default via fd77::1
             -n {o} route add default via 10.88.0.1
             -n {o} -6 route add default via fd88::1"
        ));
        until_local(&pod, POD_V6);
        until_local(&outside, OUTSIDE_V6);
        Self {
            _node: node,
            pod,
            outside,
        }
    }
}

/// Waits until the kernel has done all that it does by itself after a link is up: its link-local
/// address, and the route that makes an IPv6 address the namespace's own. Else rules that a test
/// compares change under it, and the agent follows an address that no test has made.
fn until_local(space: &Space, ip: &str) {
    let name = &space.name;
    let within = Duration::from_secs(60);
    let start = Instant::now();
    loop {
        let addresses = ip_text(&format!("-n {name} -6 addr show dev eth0"));
        let routes = ip_text(&format!("-n {name} -6 route show table local dev eth0"));
        let own = format!("local {ip} ");
        let link_local = routes.lines().any(|line| line.starts_with("local fe80"));
        let multicast = routes.contains("multicast ff00::/8");
        if !addresses.contains("tentative") && link_local && multicast && routes.contains(&own) {
            return;
        }
        assert!(start.elapsed() < within, "{addresses}{routes}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A bpffs of its own.
pub struct Bpffs {
    dir: tempfile::TempDir,
}

impl Bpffs {
    pub fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let none = None::<&str>;
        nix::mount::mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), none).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("culvert")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        nix::mount::umount2(self.dir.path(), MntFlags::MNT_DETACH).unwrap();
    }
}
