//! The mesh of these scenarios, with state and logs of node-1 and of the control plane on a small
//! disk of their own.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cli::demo::access_log;
use scenarios::prove::Bed;
use scenarios::prove::bed::addresses;
use scenarios::traffic::LoadReport;
use serde_json::Value;
use world::{CniError, Place, Pod, Process, Program, World};

/// More than state and logs of all scenarios need (about 2 MB), and quickly filled.
const DISK_BYTES: u64 = 48 * 1024 * 1024;
/// Decides on content, sizes and moments; every run has the same.
pub const SEED: u64 = 20_261_123;
/// Waiting for something that must come, on a machine that is busy with other things.
pub const COMES_WITHIN: Duration = Duration::from_secs(120);
/// What the kernel takes away a moment later is gone within this, on such a machine too.
const LEFT_WITHIN: Duration = Duration::from_secs(30);
/// bpftool fails when an object ends while it lists them.
const LISTED_AT_MOST: usize = 50;
/// Time that an ADD may take here: those that must fail for want of an answer do so soon, and those
/// that must succeed do so on a machine that is busy with other things too.
const ADD_TIMEOUT_S: u64 = 10;
/// Pods that scenarios bring and take away.
const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: spare, namespace: demo}
spec: {nodeName: node-1, serviceAccountName: client}
";

/// The mesh and the disk.
pub struct Ground {
    /// Two nodes and pods with `traffic`.
    pub bed: Bed,
    /// Where the disk is.
    pub disk: PathBuf,
    loads: u64,
}

/// What is in the kernel for a pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Whether its directory on bpffs is there.
    pub pinned: bool,
    /// Programs attached to its namespace.
    pub links: usize,
    /// Rules of its namespace beside the kernel's own three.
    pub rules: usize,
    /// Whether the connect hook knows some namespace beside those of the mesh's four pods.
    pub cookies: usize,
    /// Whether the agent has a record of it, or a part of one.
    pub records: usize,
}

impl Ground {
    /// Brings all of it up.
    pub fn up() -> anyhow::Result<Self> {
        world::remove_leftovers(world::Leftovers::Abandoned)?;
        let mut world = World::new()?;
        let logs = format!("culvert-faults-node-{}", std::process::id());
        world.save_logs_to(std::env::temp_dir().join(logs));
        let disk = world.disk("disk", DISK_BYTES)?;
        lay_out(world.directory(), &disk).context("links to the disk")?;
        let bed = Bed::up_in(world)?;
        bed.mesh.manifests.put("90-spare.yaml", PODS)?;
        shorten_timeout(&bed)?;
        println!("seed {SEED}");
        Ok(Ground {
            bed,
            disk,
            loads: 0,
        })
    }

    /// Client on node-1 and the server on node-2: all between them is carried by both proxies.
    pub fn ends(&self) -> [(Place, Vec<IpAddr>); 2] {
        let pods = &self.bed.mesh.pods;
        let near = (pods.client.place().clone(), addresses(&[&pods.web_v2]));
        let far = (pods.web_v2.place().clone(), addresses(&[&pods.client]));
        [near, far]
    }

    /// Starts short connections; `words` are their arguments.
    pub fn load(&mut self, from: &Place, to: &[IpAddr], words: &str) -> anyhow::Result<Process> {
        self.loads += 1;
        let seed = SEED + self.loads;
        self.bed.load(from, to, &format!("{words} --seed {seed}"))
    }

    /// Starts so many short connections at once, in both directions between the nodes.
    pub fn burst(&mut self, count: u64) -> anyhow::Result<Vec<Process>> {
        let words = format!("--count {count} --workers {count} --pause 0");
        let ends = self.ends();
        let starts = ends.iter();
        starts
            .map(|(from, to)| self.load(from, to, &words))
            .collect()
    }

    /// Waits for loads that end by themselves.
    pub fn results(&self, loads: &[Process]) -> anyhow::Result<LoadReport> {
        let mut all = LoadReport::default();
        for load in loads {
            all.add(&self.bed.result(load)?);
        }
        Ok(all)
    }

    /// Starts what a scenario that failed has left dead, so that the next one tells its own news.
    pub fn mend(&mut self) -> anyhow::Result<()> {
        for node in 0..self.bed.mesh.nodes.len() {
            if self.bed.mesh.nodes[node].agent.ended().is_some() {
                self.bed.start_agent(node)?;
            }
            if self.bed.mesh.nodes[node].ztunnel.ended().is_some() {
                self.bed.start_proxy(node)?;
            }
        }
        Ok(())
    }

    /// Everything works: some connections in both directions, none fails.
    pub fn works(&mut self) -> anyhow::Result<()> {
        let loads = self.burst(8)?;
        let report = self.results(&loads)?;
        ensure!(report.failures() == 0 && report.streams == 16, "{report:?}");
        Ok(())
    }

    /// Why connections failed since `mark`, as the access log of a node's proxy has it, with
    /// counts.
    pub fn reasons(&self, node: usize, mark: usize) -> BTreeMap<String, usize> {
        let log = self.bed.mesh.nodes[node].ztunnel.log();
        let new = String::from_utf8_lossy(log.as_bytes().get(mark..).unwrap_or_default());
        let mut reasons = BTreeMap::new();
        for record in access_log::records(&new) {
            if record.message == "connection failed" {
                *reasons.entry(record.get("error").to_owned()).or_default() += 1;
            }
        }
        reasons
    }

    /// The same, when there are at least so many, each with a reason.
    pub fn reasons_of(
        &self,
        node: usize,
        mark: usize,
        count: u64,
    ) -> anyhow::Result<BTreeMap<String, usize>> {
        // Records are written a moment after their connection's end.
        let look = |ground: &Self| {
            let reasons = ground.reasons(node, mark);
            Ok(reasons.values().sum::<usize>() as u64 >= count)
        };
        let logged = self.eventually("the reasons in the access log", look);
        let reasons = self.reasons(node, mark);
        logged.with_context(|| format!("{count} connections failed, the log has {reasons:?}"))?;
        ensure!(!reasons.contains_key(""), "without a reason: {reasons:?}");
        Ok(reasons)
    }

    /// The end of a proxy's log, for [`Ground::reasons`].
    pub fn mark(&self, node: usize) -> usize {
        self.bed.mesh.nodes[node].ztunnel.log().len()
    }

    /// A namespace on node-1 for the pod that the manifests have.
    pub fn spare(&self) -> anyhow::Result<Pod> {
        Ok(self.bed.mesh.nodes[0].node.sandbox("demo/spare")?)
    }

    /// An ADD that must fail; its code and text. No DEL follows: what must be undone, the agent
    /// undoes by itself.
    pub fn refused(&self, pod: &Pod) -> anyhow::Result<(u64, String)> {
        let runtime = self.bed.mesh.nodes[0].node.runtime()?;
        match runtime.add(pod.as_sandbox()) {
            Err(error @ CniError::Refused { code, .. }) => Ok((code, error.to_string())),
            Err(other) => Err(other).context("not an error of the agent"),
            Ok(_) => anyhow::bail!("ADD succeeded"),
        }
    }

    /// A new pod is added, its capture is verified and it reaches the server; then it is deleted
    /// and leaves nothing.
    pub fn adds(&mut self) -> anyhow::Result<()> {
        let pod = self.spare()?;
        let added = pod.add().map_err(anyhow::Error::from);
        let used = added.and_then(|()| self.use_spare(&pod));
        pod.delete()?;
        used?;
        let left = self.left(&pod)?;
        ensure!(left == Traces::default(), "a deleted pod left {left:?}");
        Ok(())
    }

    fn use_spare(&mut self, pod: &Pod) -> anyhow::Result<()> {
        ensure!(self.captured(pod)?, "verify says it is not captured");
        let to = addresses(&[&self.bed.mesh.pods.web_v2]);
        let load = self.load(pod.place(), &to, "--count 4 --workers 4 --pause 0")?;
        let report: LoadReport = self.bed.result(&load)?;
        ensure!(report.streams == 4, "{report:?}");
        Ok(())
    }

    /// Whether the agent's verification, by real connections, finds the pod captured.
    pub fn captured(&self, pod: &Pod) -> anyhow::Result<bool> {
        let output = self
            .bed
            .ask_agent(&["verify", "--json", "--pod", pod.uid()])?;
        let verdicts: Value = serde_json::from_str(&output.text())
            .with_context(|| format!("verify: {} {}", output.text(), output.stderr))?;
        let captured = verdicts[0]["captured"] == true && output.ok();
        if !captured {
            println!("    verify: {} {}", output.text(), output.stderr);
        }
        Ok(captured)
    }

    /// How far the first node's agent says that a pod is; empty when it does not know it.
    pub fn phase(&self, pod: &Pod) -> anyhow::Result<String> {
        let output = self.bed.ask_agent(&["status"])?.success()?;
        let status: Value = serde_json::from_str(&output.text())?;
        let pods = status["pods"].as_array().context("a status has pods")?;
        let ours = pods.iter().find(|entry| entry["uid"] == pod.uid());
        let phase = ours.and_then(|entry| entry["phase"].as_str());
        Ok(phase.unwrap_or_default().to_owned())
    }

    /// What there is of a pod in the kernel and on the disk.
    pub fn traces(&self, pod: &Pod) -> anyhow::Result<Traces> {
        let node = &self.bed.mesh.nodes[0].node;
        let mut traces = Traces {
            pinned: node.bpffs().join(pod.uid()).exists(),
            ..Traces::default()
        };
        if let Ok(namespace) = fs::metadata(pod.place().netns()) {
            let links = bpftool(node.place(), &["link", "list"])?;
            let links = links.as_array().context("links are a list")?;
            let ours = |link: &&Value| link["netns_ino"].as_u64() == Some(namespace.ino());
            traces.links = links.iter().filter(ours).count();
            for family in ["-4", "-6"] {
                let rules = pod.run(&Program::line("ip").args([family, "rule"]))?;
                let rules = rules.success()?.text();
                traces.rules += rules.lines().filter(|line| line.contains("0x53a")).count();
            }
        }
        let map = node.bpffs().join("node/enrolled");
        let map = map.to_string_lossy().into_owned();
        let known = bpftool(node.place(), &["map", "dump", "pinned", &map])?;
        let known = known.as_array().map_or(0, Vec::len);
        traces.cookies = known.saturating_sub(CAPTURED_PODS);
        for entry in fs::read_dir(self.records())? {
            let name = entry?.file_name();
            traces.records += usize::from(name.to_string_lossy().starts_with(pod.uid()));
        }
        Ok(traces)
    }

    /// What stays of a pod that should have left nothing. The kernel ends a link that nobody holds
    /// some time after its pin, and on a busy machine that is no moment.
    pub fn left(&self, pod: &Pod) -> anyhow::Result<Traces> {
        let start = Instant::now();
        loop {
            let traces = self.traces(pod)?;
            if traces == Traces::default() || start.elapsed() > LEFT_WITHIN {
                return Ok(traces);
            }
            self.bed.sleep(Duration::from_millis(50))?;
        }
    }

    /// Waits until something is true that must become so.
    pub fn eventually(
        &self,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !look(self)? {
            ensure!(
                start.elapsed() < COMES_WITHIN,
                "not within {COMES_WITHIN:?}: {what}"
            );
            self.bed.sleep(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// The agent's directory of records.
    pub fn records(&self) -> PathBuf {
        self.disk.join("pods")
    }
}

/// Pods of the mesh that node-1's agent has captured: client, intruder and web-v1.
const CAPTURED_PODS: usize = 3;

fn bpftool(place: &Place, words: &[&str]) -> anyhow::Result<Value> {
    let program = Program::new("bpftool")
        .arg("-j")
        .args(words.iter().copied());
    for _ in 0..LISTED_AT_MOST {
        let output = place.run(&program)?;
        if output.ok() {
            return Ok(serde_json::from_str(&output.text())?);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(serde_json::from_str(&place.text(&program)?)?)
}

/// What the world's processes write goes to the disk: state and log of the control plane, records
/// and logs of node-1.
fn lay_out(world: &Path, disk: &Path) -> std::io::Result<()> {
    let private = |path: &Path| DirBuilder::new().mode(0o700).recursive(true).create(path);
    for name in ["culvertd", "pods"] {
        private(&disk.join(name))?;
    }
    private(&world.join("node-1/cni"))?;
    symlink(disk.join("culvertd"), world.join("culvertd"))?;
    symlink(disk.join("pods"), world.join("node-1/cni/pods"))?;
    for name in ["node-1.agent", "node-1.ztunnel", "control.culvertd"] {
        let file = format!("{name}.log");
        symlink(disk.join(&file), world.join("logs").join(&file))?;
    }
    Ok(())
}

/// Sets `timeout_s` of our plugin in the chain of node-1, as an administrator would.
fn shorten_timeout(bed: &Bed) -> anyhow::Result<()> {
    let directory = bed.mesh.nodes[0].node.runtime()?.conf_dir;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "conflist") {
            continue;
        }
        let mut list: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let plugins = list["plugins"].as_array_mut().context("plugins")?;
        let ours = plugins
            .iter_mut()
            .find(|plugin| plugin["type"] == "culvert-cni");
        ours.context("our plugin is in the chain")?["timeout_s"] = ADD_TIMEOUT_S.into();
        fs::write(&path, serde_json::to_vec_pretty(&list)?)?;
    }
    Ok(())
}
