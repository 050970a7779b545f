//! The node-wide connect and bind hook: which namespaces are enrolled, and which cgroups proxies
//! run in. Pinned, so that captured pods stay captured while no agent runs.
//!
//! Knows namespaces by cookie and proxies by cgroup id, nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::HashMap;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use netio::bpf::LinkTarget;
use netio::cgroup::Cgroup;

use super::BpfError;
use super::program::{make_private_dir, map, remove_pin};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hook.bpf.o"));

const MAPS: [&str; 2] = ["enrolled", "proxies"];
/// Without these there is no capture.
const CONNECT: [&str; 2] = ["connect4", "connect6"];
/// Without these (Linux before 6.1) an application may find its port in use by captured sockets.
const BIND: [&str; 2] = ["bind4", "bind6"];

/// The attached hook.
#[derive(Debug)]
pub struct Hook {
    dir: PathBuf,
    cgroup: Cgroup,
    ebpf: Ebpf,
    /// The links by program, beside their pins: whoever removes these, or unmounts the bpffs, ends
    /// no capture while the agent runs.
    links: BTreeMap<&'static str, OwnedFd>,
}

impl Hook {
    /// Loads the programs over the maps pinned in `dir` and attaches them to the cgroup
    /// directory. Programs of an earlier agent give way only after the new ones are attached:
    /// marking a socket twice is harmless.
    ///
    /// # Errors
    /// [`BpfError`] when the connect hook cannot work; without the bind hook it warns and goes on.
    pub fn attach(dir: &Path, cgroup: &Path) -> Result<Self, BpfError> {
        make_private_dir(dir)?;
        let cgroup = Cgroup::open(cgroup).map_err(BpfError::step("opening --cgroup-root"))?;
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, dir.join(name));
        }
        let ebpf = loader
            .load(OBJECT)
            .map_err(BpfError::step("loading the object"))?;
        let mut hook = Self {
            dir: dir.to_owned(),
            cgroup,
            ebpf,
            links: BTreeMap::new(),
        };
        hook.attach_all(|_, _| true)?;
        Ok(hook)
    }

    /// Attaches again what was detached or unpinned, and pins the maps where a bpffs was unmounted
    /// with them.
    ///
    /// # Errors
    /// As [`Hook::attach`].
    pub fn restore(&mut self) -> Result<(), BpfError> {
        make_private_dir(&self.dir)?;
        for name in MAPS {
            let path = self.dir.join(name);
            let map = self.ebpf.map(name).ok_or_else(|| BpfError::missing(name))?;
            if !path.exists() {
                map.pin(&path)
                    .map_err(BpfError::step("pinning a map of the hook"))?;
            }
        }
        self.attach_all(|hook, name| !hook.is_linked(name))
    }

    fn attach_all(&mut self, wanted: impl Fn(&Self, &str) -> bool) -> Result<(), BpfError> {
        let root = File::open(self.cgroup.path());
        let root = root.map_err(BpfError::step("opening --cgroup-root"))?;
        for name in CONNECT {
            if wanted(self, name) {
                self.attach_one(name, &root)?;
            }
        }
        for name in BIND {
            if !wanted(self, name) {
                continue;
            }
            if let Err(error) = self.attach_one(name, &root) {
                tracing::warn!(
                    program = name,
                    %error,
                    "no bind hook (Linux 6.1 has it): an application may find its port in use \
                     while captured connections of that port live",
                );
            }
        }
        Ok(())
    }

    fn attach_one(&mut self, name: &'static str, root: &File) -> Result<(), BpfError> {
        let (link, fresh) = (self.dir.join(name), self.dir.join(format!("{name}_new")));
        remove_pin(&fresh)?;
        let program = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| BpfError::missing(name))?;
        let program: &mut CgroupSockAddr = program
            .try_into()
            .map_err(BpfError::step("opening a hook program"))?;
        if program.fd().is_err() {
            program
                .load()
                .map_err(BpfError::step("loading a hook program"))?;
        }
        let attached = program
            .attach(root, CgroupAttachMode::Single)
            .and_then(|id| program.take_link(id))
            .map_err(BpfError::step("attaching a hook program"))?;
        let attached =
            FdLink::try_from(attached).map_err(BpfError::step("attaching a hook program"))?;
        attached
            .pin(&fresh)
            .map_err(BpfError::step("pinning a hook program"))?;
        let held = netio::bpf::object_get(&fresh)
            .map_err(BpfError::step("holding a hook program's link"))?;
        std::fs::rename(&fresh, &link).map_err(BpfError::step("pinning a hook program"))?;
        // The one before ends here, when nothing else holds it.
        self.links.insert(name, held);
        Ok(())
    }

    /// New outbound connections of this namespace are captured from now on.
    ///
    /// # Errors
    /// [`BpfError`], when the map is full for one.
    pub fn enrol(&mut self, netns_cookie: u64) -> Result<(), BpfError> {
        let mut map: HashMap<_, u64, u32> = map(&mut self.ebpf, "enrolled")?;
        map.insert(netns_cookie, 1, 0)
            .map_err(BpfError::step("adding to map enrolled"))
    }

    /// New outbound connections of this namespace are left alone from now on.
    ///
    /// # Errors
    /// [`BpfError`]; a namespace that is not enrolled is none.
    pub fn withdraw(&mut self, netns_cookie: u64) -> Result<(), BpfError> {
        remove_key(&mut self.ebpf, "enrolled", netns_cookie)
    }

    /// The enrolled namespaces.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn enrolled(&mut self) -> Result<BTreeSet<u64>, BpfError> {
        keys(&mut self.ebpf, "enrolled")
    }

    /// Sockets with mark 0x539 are believed from this cgroup from now on.
    ///
    /// # Errors
    /// [`BpfError`], when the map is full for one.
    pub fn add_proxy(&mut self, cgroup_id: u64) -> Result<(), BpfError> {
        let mut map: HashMap<_, u64, u32> = map(&mut self.ebpf, "proxies")?;
        map.insert(cgroup_id, 1, 0)
            .map_err(BpfError::step("adding to map proxies"))
    }

    /// Sockets with mark 0x539 are not believed from this cgroup any more.
    ///
    /// # Errors
    /// [`BpfError`]; an unknown cgroup is none.
    pub fn remove_proxy(&mut self, cgroup_id: u64) -> Result<(), BpfError> {
        remove_key(&mut self.ebpf, "proxies", cgroup_id)
    }

    /// The cgroups of proxies.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn proxies(&mut self) -> Result<BTreeSet<u64>, BpfError> {
        keys(&mut self.ebpf, "proxies")
    }

    /// Whether the pinned links of the connect programs are in force where they belong.
    pub fn is_attached(&self) -> bool {
        CONNECT.iter().all(|name| self.is_linked(name))
    }

    fn is_linked(&self, name: &str) -> bool {
        let info = netio::bpf::object_get(&self.dir.join(name))
            .and_then(|link| netio::bpf::link_info(link.as_fd()));
        let wanted = LinkTarget::Cgroup {
            id: self.cgroup.id(),
        };
        info.is_ok_and(|info| info.target == wanted)
    }
}

fn keys(ebpf: &mut Ebpf, name: &'static str) -> Result<BTreeSet<u64>, BpfError> {
    let map: HashMap<_, u64, u32> = map(ebpf, name)?;
    map.keys()
        .collect::<Result<_, _>>()
        .map_err(BpfError::step("reading a map of the hook"))
}

fn remove_key(ebpf: &mut Ebpf, name: &'static str, key: u64) -> Result<(), BpfError> {
    let mut map: HashMap<_, u64, u32> = map(ebpf, name)?;
    match map.remove(&key) {
        Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(error) => {
            let is_absent = matches!(&error, aya::maps::MapError::SyscallError(syscall)
                if syscall.io_error.kind() == std::io::ErrorKind::NotFound);
            if is_absent {
                Ok(())
            } else {
                Err(BpfError::step("removing from a map")(error))
            }
        }
    }
}
