//! Pods that come and go leave nothing behind. A process of its own, whose descriptors, threads
//! and BPF objects can be counted.

#![allow(clippy::unwrap_used)] // All of this is test code, though not all of it is in a #[test].
#![allow(dead_code)] // The ground is shared with tests/node, which uses all of it.

#[path = "node/app.rs"]
mod app;
#[path = "node/ground.rs"]
mod ground;
#[path = "node/rig.rs"]
mod rig;
#[path = "node/ztunnel.rs"]
mod ztunnel;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use cni_plugin::message::{PodName, Request};

use ground::{Space, ip, unique};
use rig::Rig;
use ztunnel::Ztunnel;

/// Set to churn more pods than the 50 of an ordinary run.
const PODS: &str = "CULVERT_CHURN_PODS";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Footprint {
    fds: usize,
    bpf_fds: usize,
    threads: usize,
    pins: usize,
    records: usize,
    enrolled: usize,
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn count_deep(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => 1 + count_deep(&entry.path()),
            false => 1,
        })
        .sum()
}

fn bpf_fds() -> usize {
    let infos = std::fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .flatten()
        // That of the directory itself is gone by now.
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let is_bpf = |info: &String| {
        ["map_id:", "prog_id:", "link_id:"]
            .iter()
            .any(|key| info.contains(key))
    };
    infos.filter(is_bpf).count()
}

impl Footprint {
    fn of(rig: &Rig) -> Self {
        let map = MapData::from_pin(rig.bpffs.path().join("node/enrolled")).unwrap();
        let map: HashMap<_, u64, u32> = Map::HashMap(map).try_into().unwrap();
        let enrolled = map.keys().count();
        drop(map);
        Self {
            fds: count(Path::new("/proc/self/fd")),
            bpf_fds: bpf_fds(),
            threads: count(Path::new("/proc/self/task")),
            pins: count_deep(&rig.bpffs.path()),
            records: count(&rig.state_dir()),
            enrolled,
        }
    }

    /// Before, some of what the first pods had may have been on its way out: idle threads of the
    /// runtime with the descriptor of their namespace, tasks with those of a pod's maps.
    fn is_no_more_than(&self, before: &Self) -> bool {
        let here = (self.pins, self.records, self.enrolled);
        here == (before.pins, before.records, before.enrolled)
            && self.fds <= before.fds
            && self.bpf_fds <= before.bpf_fds
            && self.threads <= before.threads
    }
}

/// A pod that is captured, then deleted; every tenth loses its namespace without a DEL.
fn churn(rig: &Rig, index: usize) {
    let space = Space::new("c");
    let name = &space.name;
    ip(&format!(
        "-n {name} link add eth0 type veth peer name other
        -n {name} addr add 10.99.0.2/24 dev eth0
        -n {name} addr add fd99::2/64 dev eth0 nodad
        -n {name} link set eth0 up"
    ));
    let container_id = format!("sandbox-{index}");
    let add = Request::Add {
        pod: PodName {
            uid: unique(),
            namespace: "shop".into(),
            name: format!("web-{index}"),
        },
        container_id: container_id.clone(),
        netns: space.path().display().to_string(),
        ips: ["10.99.0.2", "fd99::2"]
            .map(|ip| ip.parse::<IpAddr>().unwrap())
            .to_vec(),
        timeout_ms: 60_000,
    };
    assert!(rig.ask(&add, Some(&space)).unwrap().0);
    if !index.is_multiple_of(10) {
        rig.ask(&Request::Del { container_id }, None).unwrap();
    }
}

#[test]
fn pods_that_come_and_go_leave_nothing_behind() {
    // Idle threads end soon, so that nobody has to wait for them.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_keep_alive(Duration::from_millis(100))
        .enable_all()
        .build();
    runtime.unwrap().block_on(come_and_go());
}

async fn come_and_go() {
    let pods: usize = std::env::var(PODS).map_or(50, |pods| pods.parse().unwrap());
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    // What is made once: threads of the runtime, the object's loader.
    (1..6).for_each(|index| churn(&rig, index));
    let before = Footprint::of(&rig);
    for index in 0..pods {
        churn(&rig, index);
    }
    let mut after = Footprint::of(&rig);
    for _ in 0..5000 {
        if after.is_no_more_than(&before) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        after = Footprint::of(&rig);
    }
    assert!(after.is_no_more_than(&before), "{before:?} then {after:?}");
    assert_eq!(rig.status().pods, []);
    ztunnel.stop().await;
}
