//! Nodes, pods and machines: their addresses, links and routes.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::cni::{CniError, Runtime, Sandbox, bridge_conflist};
use crate::ending::making;
use crate::error::WorldError;
use crate::ip;
use crate::namespace;
use crate::place::{Place, make_cgroup};
use crate::process::Process;
use crate::program::{Output, Program};
use crate::world::NO_DAD;

/// Where a member of the world is plugged in.
pub(crate) struct Wiring {
    pub router: Place,
    /// The router's end of the link.
    pub link: String,
    /// The first three bytes of its IPv4 network; the IPv6 one is spelled after it.
    pub network: String,
}

/// A Kubernetes node: a namespace with a bridge for its pods.
#[derive(Clone, Debug)]
pub struct Node {
    place: Place,
    index: u8,
    directory: PathBuf,
    bpffs: PathBuf,
}

/// A machine that is in no cluster.
#[derive(Clone, Debug)]
pub struct Host {
    place: Place,
    addresses: [IpAddr; 2],
}

/// Namespace and name of a pod in Kubernetes' sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name, unique in a world, also over its namespaces.
    pub name: String,
}

/// A pod sandbox: a network namespace that the CNI chain has wired, or shall wire.
#[derive(Debug)]
pub struct Pod {
    place: Place,
    name: PodName,
    runtime: Runtime,
    sandbox: Sandbox,
    uid: String,
    added: Mutex<Option<Added>>,
}

#[derive(Clone, Debug)]
struct Added {
    result: Value,
    took: Duration,
}

impl FromStr for PodName {
    type Err = WorldError;

    /// `namespace/name`, or a name in namespace `default`.
    fn from_str(text: &str) -> Result<Self, WorldError> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        if namespace.is_empty() || name.is_empty() {
            return Err(WorldError::Unreadable(format!(
                "{text:?} is no namespace/name"
            )));
        }
        Ok(PodName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl Wiring {
    /// `172.30.1` -> (`172.30.1`, `fd00:172:30:1:`).
    fn prefixes(&self) -> (String, String) {
        (
            self.network.clone(),
            format!("fd00:{}:", self.network.replace('.', ":")),
        )
    }

    /// Plugs `place` in: .1 and ::1 are the router, .2 and ::2 the member.
    fn connect(&self, place: &Place) -> Result<[IpAddr; 2], WorldError> {
        let (v4, v6) = self.prefixes();
        let member = file_name(&place.netns);
        let router = file_name(&self.router.netns);
        let link = &self.link;
        ip::batch(
            &router,
            &format!(
                "link add {link} type veth peer name eth0 netns {member}\n\
                 address add {v4}.1/24 dev {link}\n\
                 address add {v6}:1/64 dev {link} nodad\n\
                 link set {link} up\n"
            ),
        )?;
        ip::batch(
            &member,
            &format!(
                "link set lo up\n\
                 address add {v4}.2/24 dev eth0\n\
                 address add {v6}:2/64 dev eth0 nodad\n\
                 link set eth0 up\n\
                 route add default via {v4}.1\n\
                 route add default via {v6}:1\n"
            ),
        )?;
        Ok([address(&format!("{v4}.2"))?, address(&format!("{v6}:2"))?])
    }
}

impl Node {
    pub(crate) fn make(place: Place, wiring: Wiring, index: u8) -> Result<Self, WorldError> {
        let directory = place.recorder.directory().join(&place.name);
        let bpffs = directory.join("bpf");
        let node = Node {
            place,
            index,
            directory,
            bpffs,
        };
        wiring.connect(&node.place)?;
        let (v4, v6) = wiring.prefixes();
        let (pods_v4, pods_v6) = node.pod_subnets();
        ip::batch(
            &file_name(&wiring.router.netns),
            &format!("route add {pods_v4} via {v4}.2\nroute add {pods_v6} via {v6}:2\n"),
        )?;
        node.configure(&pods_v4, &pods_v6)?;
        node.mount_bpffs()?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.place.name()
    }

    /// Its namespace and cgroup. The cgroup is above those of its pods.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its directory: sockets, CNI configuration, tokens.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its own mount of the bpf file system.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The container runtime of the node: where its CNI configuration and plugins are.
    pub fn runtime(&self) -> Result<Runtime, WorldError> {
        Ok(Runtime {
            place: self.place.with_cgroup("runtime")?,
            conf_dir: self.directory.join("net.d"),
            bin_dir: self.directory.join("cni-bin"),
        })
    }

    /// IPv4 and IPv6 subnet of its pods.
    pub fn pod_subnets(&self) -> (String, String) {
        let n = self.index;
        (format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64"))
    }

    /// A pod, wired by the CNI chain. After a failed ADD the runtime's DEL was called.
    pub fn pod(&self, name: &str) -> Result<Pod, WorldError> {
        let pod = self.sandbox(name)?;
        pod.add()?;
        Ok(pod)
    }

    /// A pod whose namespace is there and unwired yet.
    pub fn sandbox(&self, name: &str) -> Result<Pod, WorldError> {
        let name: PodName = name.parse()?;
        let id = self.place.recorder.state().id;
        let netns = format!("{id}-{}", name.name);
        let cgroup = self.place.cgroup.join("pods").join(&name.name);
        make_cgroup(&cgroup)?;
        let place = Place {
            name: name.name.clone(),
            netns: netio::netns::path_of(&netns),
            cgroup,
            ..self.place.clone()
        };
        namespace::create(&netns, NO_DAD)?;
        ip::batch(&netns, "link set lo up\n")?;
        let uid = random_uid();
        let container_id = random_uid().replace('-', "");
        let args = chain::pod_args(&name.namespace, &name.name, &container_id, &uid);
        let sandbox = Sandbox {
            container_id,
            netns: place.netns.clone(),
            args,
        };
        let runtime = self.runtime()?;
        Ok(Pod {
            place,
            name,
            runtime,
            sandbox,
            uid,
            added: Mutex::new(None),
        })
    }

    /// Runs a program on the node.
    pub fn run(&self, program: &Program) -> Result<Output, WorldError> {
        self.place.run(program)
    }

    fn configure(&self, pods_v4: &str, pods_v6: &str) -> Result<(), WorldError> {
        let runtime = self.runtime()?;
        let conflist = bridge_conflist(pods_v4, pods_v6, &self.directory.join("ipam"));
        let text = serde_json::to_vec_pretty(&conflist)
            .map_err(|e| WorldError::Unreadable(e.to_string()))?;
        fs::create_dir_all(&runtime.conf_dir)
            .and_then(|()| fs::create_dir_all(&runtime.bin_dir))
            .and_then(|()| fs::write(runtime.conf_dir.join("10-pods.conflist"), text))
            .map_err(WorldError::io("write the CNI configuration"))
    }

    fn mount_bpffs(&self) -> Result<(), WorldError> {
        fs::create_dir_all(&self.bpffs).map_err(WorldError::io("make the bpffs directory"))?;
        let _making = making()?;
        self.place.recorder.mount(&self.bpffs)?;
        mount(
            Some("bpf"),
            &self.bpffs,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .map_err(|e| WorldError::io("mount a bpf file system")(e.into()))
    }
}

impl Host {
    pub(crate) fn make(place: Place, wiring: Wiring) -> Result<Self, WorldError> {
        let addresses = wiring.connect(&place)?;
        Ok(Host { place, addresses })
    }

    /// Its namespace and cgroup.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> IpAddr {
        self.addresses[0]
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> IpAddr {
        self.addresses[1]
    }
}

impl Pod {
    /// Calls ADD of the chain; on failure DEL, as runtimes do, and gives ADD's error.
    pub fn add(&self) -> Result<(), CniError> {
        let start = Instant::now();
        match self.runtime.add(&self.sandbox) {
            Ok(result) => {
                let added = Added {
                    result,
                    took: start.elapsed(),
                };
                *self.added.lock().unwrap_or_else(PoisonError::into_inner) = Some(added);
                Ok(())
            }
            Err(e) => {
                // ADD's error is the one to tell.
                let _ = self.runtime.del(&self.sandbox, None);
                Err(e)
            }
        }
    }

    /// Calls DEL twice as containerd does, the second time without a namespace, and removes the
    /// namespace in between.
    pub fn delete(&self) -> Result<(), WorldError> {
        let added = self
            .added
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let result = added.as_ref().map(|added| &added.result);
        self.runtime.del(&self.sandbox, result)?;
        namespace::delete(&file_name(&self.place.netns))?;
        let gone = Sandbox {
            netns: PathBuf::new(),
            ..self.sandbox.clone()
        };
        Ok(self.runtime.del(&gone, result)?)
    }

    /// Namespace and name.
    pub fn name(&self) -> &PodName {
        &self.name
    }

    /// The Kubernetes UID that CNI_ARGS carries.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its namespace and cgroup.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the runtime knows of it, for callers that make the CNI calls themselves.
    pub fn as_sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// How long ADD took through the whole chain; zero before it.
    pub fn add_took(&self) -> Duration {
        let added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        added.as_ref().map_or(Duration::ZERO, |added| added.took)
    }

    /// The addresses of the CNI result.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        let result = added.as_ref().map(|added| &added.result);
        result.map(chain::addresses).unwrap_or_default()
    }

    /// Its IPv4 address, or the error that it has none.
    pub fn ipv4(&self) -> Result<IpAddr, WorldError> {
        self.address(IpAddr::is_ipv4)
    }

    /// Its IPv6 address, or the error that it has none.
    pub fn ipv6(&self) -> Result<IpAddr, WorldError> {
        self.address(IpAddr::is_ipv6)
    }

    /// Runs a program in the pod to its end.
    pub fn run(&self, program: &Program) -> Result<Output, WorldError> {
        self.place.run(program)
    }

    /// Starts a program that stays in the pod.
    pub fn start(&self, name: &str, program: &Program) -> Result<Process, WorldError> {
        self.place.start(name, program)
    }

    fn address(&self, wanted: fn(&IpAddr) -> bool) -> Result<IpAddr, WorldError> {
        self.addresses().into_iter().find(wanted).ok_or_else(|| {
            WorldError::Unreadable(format!("pod {} lacks an address", self.name.name))
        })
    }
}

fn random_uid() -> String {
    let bits = rand::random::<u128>();
    let hex = format!("{bits:032x}");
    // Version 4, variant 1 (RFC 9562, 5.4).
    format!(
        "{}-{}-4{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn address(text: &str) -> Result<IpAddr, WorldError> {
    text.parse()
        .map_err(|_| WorldError::Unreadable(format!("{text:?} is no address")))
}
