//! What the processes of a mesh take: memory, descriptors, BPF objects, pinned or not.
//!
//! BPF objects are the world's when a process of its mesh has a descriptor of them, when they are
//! pinned on the bpffs of one of its nodes, or when they are attached to one of its network
//! namespaces or cgroups; with them count the programs of those links and the maps of those
//! programs. So a program or map counts that nobody pinned, and the objects of other tests that
//! run beside do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;
use world::{Process, Program};

use super::bed::Bed;

/// bpftool fails when an object ends while it lists them, as those of other tests do.
const LISTED_AT_MOST: usize = 50;
/// Between two tries.
const LIST_PAUSE: Duration = Duration::from_millis(100);

/// What the processes of the mesh take.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// Resident MiB by process.
    pub rss_mib: BTreeMap<String, f64>,
    /// Open descriptors by process.
    pub fds: BTreeMap<String, u64>,
    /// BPF programs, maps and links, and pins on the bpffs of both nodes.
    pub bpf: BTreeMap<String, u64>,
}

impl Usage {
    /// Of the control plane, the agents and the proxies; draining proxies count with the BPF
    /// objects only.
    pub fn of(bed: &Bed) -> anyhow::Result<Self> {
        let mut usage = Usage::default();
        let mut processes = Vec::new();
        let mut take = |name: String, process: &Process| {
            let pid = process.pid();
            usage.rss_mib.insert(name.clone(), rss_mib(pid));
            usage.fds.insert(name, entries(&format!("/proc/{pid}/fd")));
            processes.push(pid);
        };
        take("culvertd".to_owned(), &bed.mesh.culvertd);
        for part in &bed.mesh.nodes {
            take(format!("agent {}", part.node.name()), &part.agent);
            take(format!("ztunnel {}", part.node.name()), &part.ztunnel);
        }
        processes.extend(bed.draining.iter().map(Process::pid));
        usage.bpf = Objects::of(bed, &processes)?.counts();
        Ok(usage)
    }

    /// Resident memory of all processes in MiB.
    pub fn rss(&self) -> f64 {
        self.rss_mib.values().sum()
    }
}

/// What is there in `end` and was not in `start`: the sum over all names of how much each grew.
/// What another one has less of does not make up for it.
pub fn growth(start: &BTreeMap<String, u64>, end: &BTreeMap<String, u64>) -> u64 {
    end.iter()
        .map(|(name, count)| count.saturating_sub(start.get(name).copied().unwrap_or(0)))
        .sum()
}

/// Ids of BPF objects.
#[derive(Debug, Default)]
struct Objects {
    programs: BTreeSet<u64>,
    maps: BTreeSet<u64>,
    links: BTreeSet<u64>,
    pins: u64,
}

impl Objects {
    fn of(bed: &Bed, processes: &[i32]) -> anyhow::Result<Self> {
        let mut objects = Objects::default();
        for pid in processes {
            for entry in files(Path::new(&format!("/proc/{pid}/fdinfo"))) {
                objects.note(&entry);
            }
        }
        for part in &bed.mesh.nodes {
            for pin in files(part.node.bpffs()) {
                objects.pins += 1;
                // Gone meanwhile: not there any more.
                if let Ok(object) = netio::bpf::object_get(&pin) {
                    let info = format!("/proc/self/fdinfo/{}", object.as_raw_fd());
                    objects.note(Path::new(&info));
                }
            }
        }
        objects.attached(bed)?;
        objects.used(bed)?;
        Ok(objects)
    }

    /// Takes what a descriptor's information names.
    fn note(&mut self, info: &Path) {
        for line in fs::read_to_string(info).unwrap_or_default().lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let ids = match key {
                "prog_id" => &mut self.programs,
                "map_id" => &mut self.maps,
                "link_id" => &mut self.links,
                _ => continue,
            };
            ids.extend(value.trim().parse::<u64>());
        }
    }

    /// Links to namespaces and cgroups of the world, whoever holds them, with their programs.
    fn attached(&mut self, bed: &Bed) -> anyhow::Result<()> {
        let pods = bed.mesh.pods.all();
        let namespaces = pods.map(|pod| inode(pod.place().netns()));
        let nodes = bed.mesh.nodes.iter();
        let cgroups: BTreeSet<u64> = nodes
            .map(|part| inode(part.node.place().cgroup()))
            .collect();
        for link in listed(bed, "link")? {
            let number = |key: &str| link[key].as_u64();
            let ours = number("netns_ino").is_some_and(|ino| namespaces.contains(&ino))
                || number("cgroup_id").is_some_and(|id| cgroups.contains(&id));
            let id = number("id").unwrap_or_default();
            if ours || self.links.contains(&id) {
                self.links.insert(id);
                self.programs.extend(number("prog_id"));
            }
        }
        Ok(())
    }

    /// Maps of the programs.
    fn used(&mut self, bed: &Bed) -> anyhow::Result<()> {
        for program in listed(bed, "prog")? {
            let id = program["id"].as_u64().unwrap_or_default();
            if self.programs.contains(&id) {
                let maps = program["map_ids"].as_array().into_iter().flatten();
                self.maps.extend(maps.filter_map(Value::as_u64));
            }
        }
        Ok(())
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let counts = [
            ("programs", self.programs.len() as u64),
            ("maps", self.maps.len() as u64),
            ("links", self.links.len() as u64),
            ("pins", self.pins),
        ];
        counts.map(|(name, count)| (name.to_owned(), count)).into()
    }
}

/// All objects of a kind in the kernel, as bpftool names them.
fn listed(bed: &Bed, kind: &str) -> anyhow::Result<Vec<Value>> {
    let program = Program::line("bpftool -j").args([kind, "show"]);
    for _ in 0..LISTED_AT_MOST {
        let output = bed.mesh.nodes[0].node.run(&program)?;
        if output.ok() {
            let text = output.text();
            return serde_json::from_str(&text).with_context(|| format!("bpftool {kind} show"));
        }
        bed.sleep(LIST_PAUSE)?;
    }
    bail!("`bpftool {kind} show` failed {LISTED_AT_MOST} times")
}

/// Resident memory of a process; 0 when it is gone.
fn rss_mib(pid: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.ino())
}

fn entries(directory: &str) -> u64 {
    fs::read_dir(directory).map_or(0, |entries| entries.count() as u64)
}

/// All files below a directory; none when it is gone.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_of_one_is_not_made_up_for_by_another() {
        let map = |values: [(&str, u64); 2]| {
            let values = values.map(|(name, value)| (name.to_owned(), value));
            BTreeMap::from(values)
        };
        let (start, end) = (map([("a", 5), ("b", 5)]), map([("a", 3), ("b", 6)]));
        assert_eq!(growth(&start, &end), 1);
        assert_eq!(growth(&start, &start), 0);
        assert_eq!(growth(&BTreeMap::new(), &end), 9);
    }
}
