//! The bpf(2) calls that aya 0.14 lacks: sockmap slots with 8-byte values, replacing the program of
//! a link, and objects of a bpffs as plain descriptors.
//!
//! It must not load programs nor know what one decides.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Commands of bpf(2), linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    ObjectPin = 6,
    ObjectGet = 7,
    ObjectInfo = 15,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// BPF_MAP_TYPE_SOCKMAP.
const MAP_TYPE_SOCKMAP: u32 = 15;
/// Replace whatever is in the slot.
const BPF_ANY: u64 = 0;

/// Arguments of the map element commands.
#[repr(C)]
#[derive(Default)]
struct ElementArguments {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Arguments of pin and get.
#[repr(C)]
#[derive(Default)]
struct ObjectArguments {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Arguments of the information command.
#[repr(C)]
#[derive(Default)]
struct InfoArguments {
    fd: u32,
    length: u32,
    info: u64,
}

/// Arguments of the link commands.
#[repr(C)]
#[derive(Default)]
struct LinkArguments {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// The first fields of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    flags: u32,
}

/// The first fields of `struct bpf_link_info`, its union as the two words that cgroup and netns
/// links use.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    _pad: u32,
    first: u64,
    second: u64,
}

/// What a link connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// The link's id.
    pub id: u32,
    /// Id of the program that runs now.
    pub program: u32,
    /// Where it is attached.
    pub target: LinkTarget,
}

/// Where a link is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkTarget {
    /// A network namespace, by inode number; 0 once the namespace is gone.
    Netns {
        /// Inode number, as [`crate::netns::NetnsId::ino`].
        ino: u32,
    },
    /// A cgroup2 directory; 0 once it is gone.
    Cgroup {
        /// The id, as [`crate::cgroup::Cgroup::id`].
        id: u64,
    },
    /// Something else.
    Other {
        /// BPF_LINK_TYPE_*.
        kind: u32,
    },
}

/// A BPF_MAP_TYPE_SOCKMAP whose values have 8 bytes, so that user space can read socket cookies
/// back.
#[derive(Debug)]
pub struct SockMap {
    fd: OwnedFd,
    slots: u32,
}

impl SockMap {
    /// Takes a descriptor after asking the kernel what it is.
    ///
    /// # Errors
    /// `InvalidInput` when it is no sockmap with 4-byte keys and 8-byte values; EPERM without
    /// CAP_BPF.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let mut info = MapInfo::default();
        object_info(fd.as_fd(), &mut info)?;
        if (info.kind, info.key_bytes, info.value_bytes) != (MAP_TYPE_SOCKMAP, 4, 8) {
            let text = format!(
                "map type {}, keys of {} and values of {} bytes: no sockmap with 8-byte values",
                info.kind, info.key_bytes, info.value_bytes
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self {
            fd,
            slots: info.max_entries,
        })
    }

    /// Opens a pinned map.
    ///
    /// # Errors
    /// ENOENT, else as [`SockMap::from_fd`].
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_fd(object_get(path)?)
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Puts a socket into a slot, replacing what is there in one step. The map does not keep the
    /// socket alive.
    ///
    /// The caller compares [`crate::socket::netns_cookie`] first: the kernel assigns packets of one
    /// namespace to a socket of another without a word.
    ///
    /// # Errors
    /// E2BIG for a slot that is not there, EOPNOTSUPP for a socket that neither listens nor is
    /// connected.
    pub fn set(&self, slot: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = u64::from(number(socket.as_raw_fd()));
        self.element(Command::MapUpdate, &slot, (&raw const value) as u64)
    }

    /// The cookie of the socket in a slot (compare [`crate::socket::cookie`]); `None` when the slot
    /// is empty.
    ///
    /// # Errors
    /// EPERM without CAP_BPF.
    pub fn cookie(&self, slot: u32) -> io::Result<Option<u64>> {
        let mut value = 0u64;
        match self.element(Command::MapLookup, &slot, (&raw mut value) as u64) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Empties a slot; says whether something was there.
    ///
    /// # Errors
    /// EPERM without CAP_BPF.
    pub fn clear(&self, slot: u32) -> io::Result<bool> {
        match self.element(Command::MapDelete, &slot, 0) {
            Ok(()) => Ok(true),
            // An empty slot is EINVAL for sock_map_delete_elem, ENOENT in other maps.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn element(&self, command: Command, slot: &u32, value: u64) -> io::Result<()> {
        let mut arguments = ElementArguments {
            map: number(self.fd.as_raw_fd()),
            key: std::ptr::from_ref(slot) as u64,
            value,
            flags: BPF_ANY,
            ..Default::default()
        };
        // SAFETY: from_fd proved that keys have 4 and values 8 bytes; key and value point to a u32
        // and a u64 (or are unused by delete) that live in the callers' frames through the call.
        unsafe { call(command, &mut arguments) }.map(drop)
    }
}

impl AsFd for SockMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Lets a link run another program of the same type from the next packet on, without a gap
/// (BPF_LINK_UPDATE, Linux 5.7; netns links 5.7 too).
///
/// # Errors
/// EINVAL for a program of another type, ENOLINK when the target is gone.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut arguments = LinkArguments {
        link: number(link.as_raw_fd()),
        program: number(program.as_raw_fd()),
        ..Default::default()
    };
    // SAFETY: the arguments hold descriptors only, no pointer.
    unsafe { call(Command::LinkUpdate, &mut arguments) }.map(drop)
}

/// Detaches a link now, though descriptors or pins still hold it (BPF_LINK_DETACH, Linux 5.9).
///
/// # Errors
/// EOPNOTSUPP for link types that cannot be detached.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut arguments = LinkArguments {
        link: number(link.as_raw_fd()),
        ..Default::default()
    };
    // SAFETY: the arguments hold a descriptor only, no pointer.
    unsafe { call(Command::LinkDetach, &mut arguments) }.map(drop)
}

/// What a link connects, for repair after a restart.
///
/// # Errors
/// EINVAL when the descriptor is no BPF object.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    const BPF_LINK_TYPE_CGROUP: u32 = 3;
    const BPF_LINK_TYPE_NETNS: u32 = 5;
    let mut info = RawLinkInfo::default();
    object_info(link, &mut info)?;
    let target = match info.kind {
        BPF_LINK_TYPE_CGROUP => LinkTarget::Cgroup { id: info.first },
        BPF_LINK_TYPE_NETNS => LinkTarget::Netns {
            ino: first_word(info.first),
        },
        kind => LinkTarget::Other { kind },
    };
    Ok(LinkInfo {
        id: info.id,
        program: info.program,
        target,
    })
}

/// The 32-bit number at the start of a union that was read as 64 bits.
fn first_word(union: u64) -> u32 {
    let [a, b, c, d, ..] = union.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Opens a pinned object (map, program or link).
///
/// # Errors
/// ENOENT; EPERM without CAP_BPF.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut arguments = ObjectArguments {
        path: path.as_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: `path` ends with a zero byte and lives through the call.
    let fd = unsafe { call(Command::ObjectGet, &mut arguments) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object to a path of a bpffs, whose last part must not hold a dot. It lives until the
/// file is removed.
///
/// # Errors
/// EEXIST, ENOENT for the directory, EPERM outside of a bpffs.
pub fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut arguments = ObjectArguments {
        path: path.as_ptr() as u64,
        fd: number(object.as_raw_fd()),
        ..Default::default()
    };
    // SAFETY: `path` ends with a zero byte and lives through the call.
    unsafe { call(Command::ObjectPin, &mut arguments) }.map(drop)
}

/// Integers only, laid out as the kernel's structure begins.
trait Info {}
impl Info for MapInfo {}
impl Info for RawLinkInfo {}

fn object_info<T: Info>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut arguments = InfoArguments {
        fd: number(object.as_raw_fd()),
        length: u32::try_from(mem::size_of::<T>()).expect("a few words"),
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: `info` is a structure of integers of the given length that lives through the call;
    // the kernel writes at most that many bytes.
    unsafe { call(Command::ObjectInfo, &mut arguments) }.map(drop)
}

/// # Safety
/// Every pointer in `arguments` must be valid for what `command` reads and writes there.
unsafe fn call<T>(command: Command, arguments: &mut T) -> io::Result<RawFd> {
    let size = mem::size_of::<T>();
    // SAFETY: the kernel reads `size` bytes of `arguments`; the pointers inside are the caller's
    // promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(arguments),
            size,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result).expect("bpf(2) returns an int"))
}

fn number(fd: RawFd) -> u32 {
    u32::try_from(fd).expect("an open descriptor is not negative")
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
