//! cgroup2 directories: find, make, empty and remove them, and the id that a BPF program sees.
//!
//! It must not know what runs in them; cgroup v1 hierarchies are not looked at.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long [`Cgroup::remove`] waits for killed processes to leave; a process that ignores SIGKILL
/// this long sits in the kernel and is somebody else's problem.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks; `cgroup.procs` empties within about a millisecond of the kill.
const EMPTY_PAUSE: Duration = Duration::from_millis(5);

/// A directory that lies on a cgroup2 file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// Where cgroup2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid systems.
    ///
    /// # Errors
    /// `NotFound` when no cgroup2 mount is visible.
    pub fn mount_point() -> io::Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ');
                let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
                (kind == "cgroup2").then(|| PathBuf::from(path))
            })
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 is mounted"))
    }

    /// Takes an existing directory.
    ///
    /// # Errors
    /// `InvalidInput` when it does not lie on cgroup2.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let fs = nix::sys::statfs::statfs(&path)?;
        if fs.filesystem_type() != nix::sys::statfs::CGROUP2_SUPER_MAGIC {
            let text = format!("{} is not on a cgroup2 file system", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // On 64-bit kernels the inode number of a kernfs node is its whole id (Linux 5.5), which is
        // what bpf_get_current_cgroup_id() returns.
        let id = fs::metadata(&path)?.ino();
        Ok(Self { path, id })
    }

    /// Makes the directory and its parents, or takes them as they are.
    ///
    /// # Errors
    /// As [`Cgroup::open`], and when it cannot be made.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        Self::open(path)
    }

    /// The cgroup2 of a process, below `mount` (see [`Cgroup::mount_point`]).
    ///
    /// # Errors
    /// `NotFound` when the process is gone or has no cgroup2.
    pub fn of_pid(mount: &Path, pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let inner = text
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("process {pid} has no cgroup2"),
                )
            })?;
        Self::open(mount.join(inner))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The 64-bit id that `bpf_get_current_cgroup_id()` and `bpf_get_current_ancestor_cgroup_id()`
    /// return.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How deep it lies: the mount point is 0; the level that the ancestor helper wants.
    ///
    /// # Errors
    /// `InvalidInput` when it does not lie below `mount`.
    pub fn level(&self, mount: &Path) -> io::Result<u32> {
        let below = self.path.strip_prefix(mount).map_err(|_| {
            let text = format!("{} is not below {}", self.path.display(), mount.display());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        Ok(u32::try_from(below.components().count()).unwrap_or(u32::MAX))
    }

    /// The processes directly in it.
    ///
    /// # Errors
    /// When the directory is gone.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let text = fs::read_to_string(self.path.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Sends SIGKILL to every process in it and below (`cgroup.kill`, Linux 5.14). Does not wait.
    ///
    /// # Errors
    /// When the directory is gone or is the root.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Kills what runs in it and below, then removes it and its children. Nothing is done when it
    /// is gone.
    ///
    /// # Errors
    /// `TimedOut` when processes do not go within 5 s.
    pub fn remove(self) -> io::Result<()> {
        match self.kill() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
        let deadline = Instant::now() + EMPTY_TIMEOUT;
        loop {
            match remove_tree(&self.path) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    if Instant::now() >= deadline {
                        let text = format!("{} does not empty", self.path.display());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                    std::thread::sleep(EMPTY_PAUSE);
                }
                result => return result,
            }
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_with_children_and_processes_is_removed() {
        let root = Cgroup::mount_point().unwrap();
        let outer = Cgroup::create(root.join(format!("netio-{}", std::process::id()))).unwrap();
        let inner = Cgroup::create(outer.path().join("inner")).unwrap();
        assert_ne!(outer.id(), inner.id());
        assert_eq!(inner.level(&root).unwrap(), outer.level(&root).unwrap() + 1);
        let mut command = std::process::Command::new("sleep");
        command.arg("600");
        let place = crate::command::Placement {
            cgroup: Some(inner.path()),
            ..Default::default()
        };
        place.apply(&mut command).unwrap();
        let mut child = command.spawn().unwrap();
        assert_eq!(Cgroup::of_pid(&root, child.id()).unwrap(), inner);
        assert_eq!(inner.pids().unwrap(), [child.id()]);
        outer.clone().remove().unwrap();
        assert!(!outer.path().exists());
        assert!(!child.wait().unwrap().success());
        outer.remove().unwrap();
    }

    #[test]
    fn a_plain_directory_is_no_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        let error = Cgroup::open(directory.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
