//! A node with a thousand pods: real namespaces with a link and an address each, which nobody uses.
//!
//! A bridge has 1,024 ports and a namespace's end costs the kernel more than its beginning, so the
//! pods are no sandboxes of a CNI chain: they are enrolled by the agent's command, and the same
//! namespaces serve every back end.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path as FilePath;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use world::stack::{Binaries, ControlPlane, wait_ztunnel};
use world::{Node, Pod, Process, Program, World};

use super::culvert::program;

/// Namespaces that are made, or pods that are enrolled, at the same time.
const AT_ONCE: usize = 8;
/// Pods behind one service account: each account has a certificate.
const PER_ACCOUNT: usize = 50;
/// A link that leads nowhere; `ADDRESS` stands for the pod's.
const LINK: &str = "link add eth0 type veth peer name other\n\
    address add ADDRESS/16 dev eth0\n\
    link set eth0 up\n\
    link set other up\n";

/// A standing mesh of one node. Dropping it ends its processes and removes its world.
pub(crate) struct Crowd {
    pods: Vec<Pod>,
    /// Of the node.
    pub(crate) agent: Process,
    _control_plane: Process,
    node: Node,
    control: ControlPlane,
    _world: World,
}

impl Crowd {
    /// So many pods, none of them enrolled, and no ztunnel.
    pub(crate) fn new(count: usize) -> anyhow::Result<Self> {
        let mut world = World::new()?;
        let manifests = world.directory().join("manifests");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("pods.yaml"), pods_yaml(count))?;
        let control = ControlPlane::prepare(&world.host("control")?, &Binaries::of_this_build()?)?;
        let control_plane = control.serve(&manifests, &[])?;
        let node = world.node("node-1")?;
        let agent = control.start_agent(&node)?;
        let pods = each(0..count, |index| {
            let pod = node.sandbox(&format!("mesh/{}", name(index)))?;
            let link = LINK.replace("ADDRESS", &address(index).to_string());
            let program = Program::line("ip -batch -").stdin(link.into_bytes());
            pod.run(&program)?.success()?;
            Ok(pod)
        });
        Ok(Crowd {
            pods: pods.context("the namespaces of pods")?,
            agent,
            _control_plane: control_plane,
            node,
            control,
            _world: world,
        })
    }

    /// Starts a ztunnel and waits until it is ready.
    pub(crate) fn start(&self, ztunnel: &FilePath, io: &str, log: &str) -> anyhow::Result<Process> {
        let program = program(&self.control, ztunnel, &self.node);
        let program = program.args(["--io", io, "--log", log]);
        let place = self.node.place().with_cgroup("ztunnel")?;
        let proxy = place.start("ztunnel", &program)?;
        wait_ztunnel(&self.node, &proxy)?;
        Ok(proxy)
    }

    /// Enrols all by the agent's command; how long each took, sorted.
    pub(crate) fn enrol(&self) -> anyhow::Result<Vec<Duration>> {
        let mut took = each(&self.pods, |pod| {
            let begun = Instant::now();
            let netns = pod.place().netns().display().to_string();
            self.command("enrol", pod, &["--netns", &netns])?;
            Ok(begun.elapsed())
        })?;
        took.sort();
        Ok(took)
    }

    /// Lets all go.
    pub(crate) fn release(&self) -> anyhow::Result<()> {
        each(&self.pods, |pod| self.command("unenrol", pod, &[]))?;
        Ok(())
    }

    fn command(&self, verb: &str, pod: &Pod, more: &[&str]) -> anyhow::Result<()> {
        let pod_name = pod.name();
        let words = [verb, "--namespace", &pod_name.namespace];
        let words = [&words[..], &["--name", &pod_name.name, "--uid", pod.uid()]].concat();
        let words = [&words[..], more].concat();
        self.control.agent_command(&self.node, &words)?;
        Ok(())
    }
}

/// Does something with each of many, [`AT_ONCE`] at the same time; the first error ends all.
fn each<T: Send, R: Send>(
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    act: impl Fn(T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().expect("no holder of the lock panics").next();
    let work = || {
        let mut done = Vec::new();
        while let Some(item) = next() {
            done.push(act(item)?);
        }
        anyhow::Ok(done)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().ok().context("a worker's thread")??);
        }
        Ok(all)
    })
}

fn name(index: usize) -> String {
    format!("pod-{index}")
}

fn address(index: usize) -> Ipv4Addr {
    let [.., high, low] = (index + 2).to_be_bytes();
    Ipv4Addr::new(10, 245, high, low)
}

/// Namespace `mesh`, which is enrolled, with its pods.
fn pods_yaml(count: usize) -> String {
    let mut text = "apiVersion: v1\nkind: Namespace\n\
        metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}\n"
        .to_owned();
    for index in 0..count {
        let account = index / PER_ACCOUNT;
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: mesh}}\n\
             spec: {{nodeName: node-1, serviceAccountName: account-{account}, \
             containers: [{{name: app}}]}}\nstatus: {{podIP: {}}}\n",
            name(index),
            address(index)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_done_once_and_an_error_is_told() {
        let mut done = each(0..100, |n| Ok(n * 2)).unwrap();
        done.sort_unstable();
        assert_eq!(done, (0..100).map(|n| n * 2).collect::<Vec<_>>());
        let failed = each(0..100, |n| {
            anyhow::ensure!(n != 50, "no fifty");
            Ok(n)
        });
        assert_eq!(failed.unwrap_err().to_string(), "no fifty");
    }

    #[test]
    fn every_pod_has_a_manifest() {
        let text = pods_yaml(120);
        assert_eq!(text.matches("kind: Pod").count(), 120);
        assert!(text.contains("name: pod-119,") && text.contains("account-2,"));
        assert!(text.contains("podIP: 10.245.0.121}"));
    }
}
