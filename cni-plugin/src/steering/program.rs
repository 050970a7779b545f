//! The sk_lookup program of one pod and its maps, all pinned in the pod's directory on bpffs, so
//! that they outlive the agent.
//!
//! Knows no CNI, no ZDS and no rules; [`super::pod`] puts it together with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::SkLookup;
use aya::programs::links::FdLink;
use aya::{Ebpf, EbpfLoader};
use netio::bpf::{LinkTarget, SockMap};

use super::BpfError;
use super::abi::{COUNTERS, LISTENERS, address_key, key_address};

/// Format of the maps; written into map `config` when they are made. Maps of another format are
/// not touched: what another version reads in them is not known here.
pub const MAPS_VERSION: u32 = 1;
/// What a new map `config` holds.
const NO_VERSION: u32 = 0;
/// Most addresses in map `local_addrs` (bpf/steer.bpf.c).
pub const MAX_ADDRESSES: usize = 64;
const MAPS: [&str; 5] = ["listeners", "local_addrs", "exempt", "config", "stats"];
const LINK: &str = "link";
/// A link before it takes the place of the old one.
const NEW_LINK: &str = "link_new";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// One for all: a fresh loader parses the kernel's whole type information, 5 MB, which programs
/// without relocations do not need.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    Mutex::new(loader)
});

/// The program of a pod. Between [`Program::load`] and [`Program::attach`] the agent holds it
/// whole, afterwards its link and its maps.
pub struct Program {
    dir: PathBuf,
    loaded: Option<Ebpf>,
    /// The link, beside its pin: whoever removes the pin, or unmounts the bpffs, ends no capture
    /// while the agent runs.
    link: Option<OwnedFd>,
    /// Through a raw call: aya's own type wants values of 4 bytes and cannot read them back.
    listeners: SockMap,
    local_addrs: HashMap<MapData, [u8; 16], u32>,
    stats: Array<MapData, u64>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Program").field(&self.dir).finish()
    }
}

impl Program {
    /// Loads the program with the maps that are pinned in `dir`; makes what is not there. Attaches
    /// nothing.
    ///
    /// # Errors
    /// [`BpfError`] naming the step.
    pub fn load(dir: &Path) -> Result<Self, BpfError> {
        make_private_dir(dir)?;
        let loaded = load_object(dir)?;
        let pin = |name: &str| MapData::from_pin(dir.join(name));
        let opened = || BpfError::step("opening a map");
        let local_addrs = Map::HashMap(pin("local_addrs").map_err(opened())?);
        let stats = Map::Array(pin("stats").map_err(opened())?);
        Ok(Self {
            dir: dir.to_owned(),
            loaded: Some(loaded),
            link: None,
            listeners: SockMap::open(&dir.join("listeners"))
                .map_err(BpfError::step("opening map listeners"))?,
            local_addrs: local_addrs.try_into().map_err(opened())?,
            stats: stats.try_into().map_err(opened())?,
        })
    }

    /// Starts to steer the namespace. An older link gives way only after the new one works.
    ///
    /// # Errors
    /// [`BpfError`]; the old link is then in force.
    pub fn attach(&mut self, netns: impl AsFd) -> Result<(), BpfError> {
        let (fresh, link) = (self.dir.join(NEW_LINK), self.dir.join(LINK));
        remove_pin(&fresh)?;
        let mut loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => load_object(&self.dir)?,
        };
        let program = lookup_program(&mut loaded)?;
        let attached = program
            .attach(netns)
            .and_then(|id| program.take_link(id))
            .map_err(BpfError::step("attaching program steer"))?;
        let attached: FdLink = attached.into();
        attached
            .pin(&fresh)
            .map_err(BpfError::step("pinning the link"))?;
        let held = netio::bpf::object_get(&fresh).map_err(BpfError::step("holding the link"))?;
        std::fs::rename(&fresh, &link).map_err(BpfError::step("pinning the link"))?;
        // The one before ends here, when nothing else holds it.
        self.link = Some(held);
        Ok(())
    }

    /// Stops to steer by the link that is held here.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn detach_held(&mut self) -> Result<(), BpfError> {
        let Some(link) = &self.link else {
            return Ok(());
        };
        netio::bpf::link_detach(link.as_fd()).map_err(BpfError::step("detaching program steer"))?;
        self.link = None;
        Ok(())
    }

    /// Whether the pinned link steers the namespace with this inode number.
    pub fn is_attached(&self, netns: u64) -> bool {
        let info = netio::bpf::object_get(&self.dir.join(LINK))
            .and_then(|link| netio::bpf::link_info(link.as_fd()));
        // A link that was detached names no namespace.
        info.is_ok_and(
            |info| matches!(info.target, LinkTarget::Netns { ino } if u64::from(ino) == netns),
        )
    }

    /// Whether all maps are pinned: a new program can be loaded over them.
    pub fn is_pinned(&self) -> bool {
        MAPS.iter().all(|name| self.dir.join(name).exists())
    }

    /// The pod's addresses as the program knows them.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.local_addrs.keys().flatten().map(key_address).collect()
    }

    /// Puts a listener into its slot, in one update.
    ///
    /// # Errors
    /// [`BpfError`]; the slot is then as it was.
    pub fn set_listener(&self, slot: usize, listener: impl AsFd) -> Result<(), BpfError> {
        self.listeners
            .set(slot as u32, listener.as_fd())
            .map_err(BpfError::step("putting a listener into its slot"))
    }

    /// Cookie of the socket in each of the slots that are in use; None for an empty one.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn slot_cookies(&self) -> Result<[Option<u64>; LISTENERS], BpfError> {
        let mut cookies = [None; LISTENERS];
        for (slot, cookie) in cookies.iter_mut().enumerate() {
            *cookie = self
                .listeners
                .cookie(slot as u32)
                .map_err(BpfError::step("reading a listener's slot"))?;
        }
        Ok(cookies)
    }

    /// Makes `wanted` the pod's addresses. New ones are added before old ones go,
    /// as far as there is room: without its entry an own address is captured as a foreign one.
    ///
    /// # Errors
    /// [`BpfError`]; more than [`MAX_ADDRESSES`] is one.
    pub fn set_addresses(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), BpfError> {
        if wanted.len() > MAX_ADDRESSES {
            let reason = format!("{} addresses, at most {MAX_ADDRESSES}", wanted.len());
            return Err(BpfError::step("filling map local_addrs")(io::Error::other(
                reason,
            )));
        }
        let map = &mut self.local_addrs;
        let known = map.keys().flatten().map(key_address).collect();
        for change in changes(&known, wanted) {
            let made = match change {
                Change::Add(ip) => map.insert(address_key(ip), 1, 0),
                Change::Remove(ip) => map.remove(&address_key(ip)),
            };
            made.map_err(BpfError::step("filling map local_addrs"))?;
        }
        Ok(())
    }

    /// What the program did so far, by the names of [`COUNTERS`].
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn counters(&self) -> Result<BTreeMap<String, u64>, BpfError> {
        let mut counters = BTreeMap::new();
        for (index, name) in COUNTERS.iter().enumerate() {
            let value = self
                .stats
                .get(&(index as u32), 0)
                .map_err(BpfError::step("reading map stats"))?;
            counters.insert((*name).to_owned(), value);
        }
        Ok(counters)
    }
}

/// One change of the map of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add(IpAddr),
    Remove(IpAddr),
}

/// The changes from `known` to `wanted`, in their order; each has at most [`MAX_ADDRESSES`].
fn changes(known: &BTreeSet<IpAddr>, wanted: &BTreeSet<IpAddr>) -> Vec<Change> {
    let mut new = wanted.difference(known).copied().map(Change::Add);
    let gone = known.difference(wanted).copied().map(Change::Remove);
    let room = MAX_ADDRESSES.saturating_sub(known.len());
    let mut changes: Vec<Change> = new.by_ref().take(room).collect();
    changes.extend(gone);
    changes.extend(new);
    changes
}

/// Whether maps that are pinned in `dir` are of the format that this agent knows.
fn check_format(dir: &Path) -> Result<(), BpfError> {
    let map = match MapData::from_pin(dir.join("config")) {
        Ok(map) => map,
        // None at all; or not to be opened, which the load says better.
        Err(_) => return Ok(()),
    };
    let read = Array::<_, u32>::try_from(Map::Array(map)).and_then(|config| config.get(&0, 0));
    let found = match read {
        // Made by a load that was cut off before it wrote the format.
        Ok(MAPS_VERSION | NO_VERSION) => return Ok(()),
        Ok(found) => found.to_string(),
        Err(error) => format!("unknown ({error})"),
    };
    let reason = format!(
        "they have format {found} and this agent knows {MAPS_VERSION}: they were pinned by another \
         version of the agent and are left as they are, the pod stays captured; run that version, \
         or delete the pod and start it anew"
    );
    Err(BpfError::step("adopting the pod's pinned maps")(
        io::Error::other(reason),
    ))
}

fn load_object(dir: &Path) -> Result<Ebpf, BpfError> {
    check_format(dir)?;
    // A panic in a load leaves paths, which the next load sets anew.
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    for name in MAPS {
        loader.map_pin_path(name, dir.join(name));
    }
    let mut loaded = loader
        .load(OBJECT)
        .map_err(BpfError::step("loading the object"))?;
    let mut config: Array<_, u32> = map(&mut loaded, "config")?;
    config
        .set(0, MAPS_VERSION, 0)
        .map_err(BpfError::step("writing map config"))?;
    lookup_program(&mut loaded)?
        .load()
        .map_err(BpfError::step("loading program steer"))?;
    Ok(loaded)
}

fn lookup_program(ebpf: &mut Ebpf) -> Result<&mut SkLookup, BpfError> {
    let program = ebpf
        .program_mut("steer")
        .ok_or_else(|| BpfError::missing("program steer"))?;
    program
        .try_into()
        .map_err(BpfError::step("opening program steer"))
}

/// A map of the object under its type.
pub(super) fn map<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, BpfError>
where
    T: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.map_mut(name).ok_or_else(|| BpfError::missing(name))?;
    T::try_from(map).map_err(BpfError::step("opening a map"))
}

/// Removes a pod's directory with all that is pinned in it. Its program stops steering.
///
/// # Errors
/// [`BpfError`].
pub fn unpin(dir: &Path) -> Result<(), BpfError> {
    // The link first: without it nothing of the rest is in use.
    detach(dir)?;
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BpfError::step("removing the pod's pins")(error))
        }
        _ => Ok(()),
    }
}

/// Stops steering by what is pinned in a pod's directory; the maps stay.
///
/// Removing a pin alone ends its link some time later, in a work queue of the kernel.
///
/// # Errors
/// [`BpfError`].
pub fn detach(dir: &Path) -> Result<(), BpfError> {
    for name in [NEW_LINK, LINK] {
        let path = dir.join(name);
        match netio::bpf::object_get(&path) {
            Ok(link) => netio::bpf::link_detach(link.as_fd())
                .map_err(BpfError::step("detaching program steer"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(BpfError::step("opening the link")(error)),
        }
        remove_pin(&path)?;
    }
    Ok(())
}

pub(super) fn remove_pin(path: &Path) -> Result<(), BpfError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BpfError::step("removing a pin")(error))
        }
        _ => Ok(()),
    }
}

pub(super) fn make_private_dir(dir: &Path) -> Result<(), BpfError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(BpfError::step(
            "making a directory on bpffs (is a bpffs mounted there?)",
        ))?;
    check_bpffs(dir).inspect_err(|_| {
        // Nothing is left where a bpffs will be mounted over it.
        let _ = std::fs::remove_dir(dir);
    })
}

/// Pinning anywhere else fails with a bare EPERM.
fn check_bpffs(dir: &Path) -> Result<(), BpfError> {
    let found = nix::sys::statfs::statfs(dir).map_err(BpfError::step("looking at --bpffs"))?;
    if found.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC {
        return Ok(());
    }
    let text = format!(
        "{} is not on a bpffs: mount -t bpf bpf <directory>",
        dir.display()
    );
    Err(BpfError::step("looking at --bpffs")(io::Error::other(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_before_others_go_as_far_as_there_is_room() {
        let ips = |range: std::ops::Range<u8>| -> BTreeSet<IpAddr> {
            range.map(|last| IpAddr::from([10, 0, 0, last])).collect()
        };
        let (first, last) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 3]));
        let order = changes(&ips(1..3), &ips(2..4));
        assert_eq!(order, [Change::Add(last), Change::Remove(first)]);
        let most = MAX_ADDRESSES as u8;
        let mut held = ips(0..most - 1);
        let wanted = ips(2..most + 1);
        for change in changes(&held, &wanted) {
            match change {
                Change::Add(ip) => held.insert(ip),
                Change::Remove(ip) => held.remove(&ip),
            };
            assert!(held.len() <= MAX_ADDRESSES);
        }
        assert_eq!(held, wanted);
        let full = changes(&ips(0..most), &ips(1..most + 1));
        assert_eq!(full[0], Change::Remove(IpAddr::from([10, 0, 0, 0])));
    }
}
