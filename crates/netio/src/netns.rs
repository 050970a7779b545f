//! Network namespaces: open, check, enter, make and remove them.
//!
//! A [`Netns`] holds a descriptor that was proven to be a network namespace, so a descriptor that a
//! stranger handed over is checked once, here. It must not know why somebody wants to enter one.

mod home;
mod named;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};

use home::WayBack;
pub use named::{NETNS_DIRECTORY, create, delete, names, path_of};

/// `_IO(0xb7, 0x3)` of linux/nsfs.h: which kind of namespace a descriptor is (Linux 4.11).
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// Why a descriptor or a path is no usable network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path could not be opened, or a system call on it failed.
    #[error("{path}: {source}")]
    Open {
        /// What was opened.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The descriptor is a file, socket or directory, not a namespace.
    #[error("the descriptor is not a namespace (file system magic {magic:#x}, not nsfs)")]
    NotNsfs {
        /// `f_type` of the file system it lies on.
        magic: i64,
    },
    /// The descriptor is a namespace of another kind (mount, pid …).
    #[error("the descriptor is a namespace, but not a network namespace (clone flag {flag:#x})")]
    NotNetwork {
        /// The CLONE_NEW* flag that the kernel names.
        flag: i32,
    },
    /// The kernel refused to look at the descriptor.
    #[error("cannot inspect the namespace descriptor: {0}")]
    Inspect(#[source] io::Error),
}

impl From<NetnsError> for io::Error {
    fn from(error: NetnsError) -> Self {
        match error {
            NetnsError::Open { ref source, .. } => io::Error::new(source.kind(), error),
            other => io::Error::other(other),
        }
    }
}

/// Device and inode of a namespace: equal exactly for the same living namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub dev: u64,
    /// Inode number; also what `readlink /proc/PID/ns/net` shows. Reused after the namespace is
    /// gone.
    pub ino: u64,
}

/// A network namespace, kept alive by a descriptor. A clone shares the descriptor.
#[derive(Debug, Clone)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    id: NetnsId,
}

impl Netns {
    /// Takes a descriptor after proving that it is a network namespace.
    ///
    /// # Errors
    /// [`NetnsError::NotNsfs`] and [`NetnsError::NotNetwork`] for anything else; the descriptor is
    /// closed then.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetnsError> {
        check_kind(fd.as_fd())?;
        let stat = nix::sys::stat::fstat(&fd).map_err(|e| NetnsError::Inspect(e.into()))?;
        let id = NetnsId {
            dev: stat.st_dev,
            ino: stat.st_ino,
        };
        Ok(Self {
            fd: Arc::new(fd),
            id,
        })
    }

    /// Opens a path such as `/run/netns/a` or `/proc/42/ns/net`.
    ///
    /// # Errors
    /// [`NetnsError::Open`] when it cannot be opened, else as [`Netns::from_fd`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| NetnsError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::from_fd(file.into())
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When /proc is not readable.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of process 1 (of the pid namespace that /proc shows).
    ///
    /// # Errors
    /// When /proc is not readable or CAP_SYS_PTRACE is missing.
    pub fn of_init() -> Result<Self, NetnsError> {
        Self::open("/proc/1/ns/net")
    }

    /// A new namespace without a name; it lives as long as a descriptor or a process holds it.
    ///
    /// # Errors
    /// Needs CAP_SYS_ADMIN; ENOSPC at the limit of `user.max_net_namespaces`.
    pub fn anonymous() -> io::Result<Self> {
        on_a_fresh_thread(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(Self::current()?)
        })
    }

    /// Device and inode, to tell two namespaces apart.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The kernel's cookie of the namespace (SO_NETNS_COOKIE, Linux 5.14): never reused while the
    /// machine runs, and what a BPF program sees.
    ///
    /// # Errors
    /// When no socket can be made inside, or the kernel is older.
    pub fn cookie(&self) -> io::Result<u64> {
        let socket = self
            .enter(|| socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None))??;
        crate::socket::netns_cookie(socket.as_fd())
    }

    /// Runs `inside` with the calling thread in this namespace and comes back, also when `inside`
    /// panics.
    ///
    /// Only the calling thread moves. Sockets that `inside` makes stay in this namespace for their
    /// whole life. When coming back fails the process aborts: a worker that silently stays in a
    /// foreign namespace would serve one client with another's addresses.
    ///
    /// # Errors
    /// When the own namespace cannot be opened or setns(2) refuses (CAP_SYS_ADMIN); `inside` has
    /// not run then.
    pub fn enter<R>(&self, inside: impl FnOnce() -> R) -> io::Result<R> {
        let _back = WayBack::remember()?;
        setns(&*self.fd, CloneFlags::CLONE_NEWNET)?;
        Ok(inside())
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check_kind(fd: BorrowedFd<'_>) -> Result<(), NetnsError> {
    let fs = nix::sys::statfs::fstatfs(fd).map_err(|e| NetnsError::Inspect(e.into()))?;
    if fs.filesystem_type() != nix::sys::statfs::NSFS_MAGIC {
        return Err(NetnsError::NotNsfs {
            magic: fs.filesystem_type().0,
        });
    }
    // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours; the descriptor is
    // borrowed, so it is open, and it lies on nsfs, where this number means nothing else.
    let flag = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    match flag {
        -1 => Err(NetnsError::Inspect(io::Error::last_os_error())),
        libc::CLONE_NEWNET => Ok(()),
        flag => Err(NetnsError::NotNetwork { flag }),
    }
}

/// unshare(2) moves the calling thread for good, so it happens on a thread that ends with it.
fn on_a_fresh_thread<R: Send>(work: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_socket_is_no_network_namespace() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let error = Netns::from_fd(listener.into()).unwrap_err();
        assert!(matches!(error, NetnsError::NotNsfs { .. }), "{error}");
    }

    #[test]
    fn a_mount_namespace_is_no_network_namespace() {
        let file = File::open("/proc/self/ns/mnt").unwrap();
        let error = Netns::from_fd(file.into()).unwrap_err();
        assert!(
            matches!(
                error,
                NetnsError::NotNetwork {
                    flag: libc::CLONE_NEWNS
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn entering_moves_the_thread_there_and_back() {
        let home = Netns::current().unwrap();
        let other = Netns::anonymous().unwrap();
        assert_ne!(home, other);
        let seen = other.enter(|| Netns::current().unwrap()).unwrap();
        assert_eq!(seen, other);
        assert_eq!(Netns::current().unwrap(), home);
    }

    #[test]
    fn nested_entering_comes_back_to_the_outer_one() {
        let outer = Netns::anonymous().unwrap();
        let inner = Netns::anonymous().unwrap();
        let seen = outer
            .enter(|| {
                inner.enter(|| ()).unwrap();
                Netns::current().unwrap()
            })
            .unwrap();
        assert_eq!(seen, outer);
    }

    #[test]
    fn a_thread_that_moved_by_other_means_comes_back_where_it_moved_to() {
        let other = Netns::anonymous().unwrap();
        let seen = on_a_fresh_thread(|| {
            other.enter(|| ())?;
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            let moved = Netns::current()?;
            other.enter(|| ())?;
            Ok((moved, Netns::current()?))
        });
        let (moved, after) = seen.unwrap();
        assert_eq!(moved, after);
    }

    #[test]
    fn a_panic_inside_still_comes_back() {
        let home = Netns::current().unwrap();
        let other = Netns::anonymous().unwrap();
        let result = std::panic::catch_unwind(|| other.enter(|| panic!("inside")));
        assert!(result.is_err());
        assert_eq!(Netns::current().unwrap(), home);
    }

    #[test]
    fn cookies_tell_namespaces_apart_and_stay_the_same() {
        let a = Netns::anonymous().unwrap();
        let b = Netns::anonymous().unwrap();
        assert_eq!(a.cookie().unwrap(), a.cookie().unwrap());
        assert_ne!(a.cookie().unwrap(), b.cookie().unwrap());
    }

    #[test]
    fn a_missing_path_is_named_in_the_error() {
        let error = Netns::open("/run/netns/no-such-namespace").unwrap_err();
        assert!(error.to_string().contains("no-such-namespace"));
    }
}
