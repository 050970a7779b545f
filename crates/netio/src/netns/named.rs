//! Named namespaces under [`NETNS_DIRECTORY`], in the layout of `ip netns`, so that `ip netns exec`
//! finds them.
//!
//! It must not decide when a namespace is removed: the caller owns the name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;

use super::{Netns, on_a_fresh_thread};

/// Where `ip netns` keeps its names (iproute2, NETNS_RUN_DIR).
pub const NETNS_DIRECTORY: &str = "/run/netns";

/// NAME_MAX of Linux file systems, in bytes.
const NAME_MAX_BYTES: usize = 255;

/// The path that a name has.
#[must_use]
pub fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_DIRECTORY).join(name)
}

/// Makes a namespace and binds it to a name. It outlives the process: the caller has to [`delete`]
/// it.
///
/// Nothing in it is configured; `lo` is down.
///
/// # Errors
/// `AlreadyExists` when the name is taken, `InvalidInput` for a name that is no file name; else the
/// kernel's answer, and the name is not left behind.
pub fn create(name: &str) -> io::Result<Netns> {
    check_name(name)?;
    let _lock = prepare_directory()?;
    let path = path_of(name);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(&path)?;
    let made = on_a_fresh_thread(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(Netns::current()?)
    });
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made
}

/// Removes a name. The namespace itself goes when the last process and descriptor in it goes.
///
/// # Errors
/// `NotFound` when there is no such name, `InvalidInput` for a name that is no file name.
pub fn delete(name: &str) -> io::Result<()> {
    check_name(name)?;
    let path = path_of(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: the file is there but nothing is mounted on it (left behind by a crash between
        // the two steps).
        Ok(()) | Err(Errno::EINVAL) => fs::remove_file(&path),
        Err(errno) => Err(errno.into()),
    }
}

/// All names, sorted; empty when the directory does not exist.
///
/// # Errors
/// When the directory cannot be read.
pub fn names() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn check_name(name: &str) -> io::Result<()> {
    let fine = !name.is_empty()
        && name.len() <= NAME_MAX_BYTES
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0']);
    if fine {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{name:?} is no name for a network namespace"),
    ))
}

/// Makes the directory a shared mount of its own, as `ip netns add` does: other mount namespaces
/// must see a binding come and go, or a namespace would stay alive in each of them. The lock (also
/// ip's) makes two first callers take turns.
fn prepare_directory() -> io::Result<Flock<File>> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(NETNS_DIRECTORY)?;
    let directory = File::open(NETNS_DIRECTORY)?;
    let lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(
            None::<&str>,
            NETNS_DIRECTORY,
            None::<&str>,
            flags,
            None::<&str>,
        )
    };
    if let Err(errno) = share() {
        // EINVAL: not a mount point yet.
        if errno != Errno::EINVAL {
            return Err(errno.into());
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(
            Some(NETNS_DIRECTORY),
            NETNS_DIRECTORY,
            None::<&str>,
            flags,
            None::<&str>,
        )?;
        share()?;
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Remove(String);

    impl Drop for Remove {
        fn drop(&mut self) {
            let _ = delete(&self.0);
        }
    }

    #[test]
    fn a_named_namespace_is_found_by_its_path_until_it_is_deleted() {
        let name = format!("netio-{}-named", std::process::id());
        let guard = Remove(name.clone());
        let made = create(&name).unwrap();
        assert_eq!(Netns::open(path_of(&name)).unwrap(), made);
        assert!(names().unwrap().contains(&name));
        assert_eq!(
            create(&name).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        delete(&name).unwrap();
        assert!(!path_of(&name).exists());
        assert_eq!(delete(&name).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(guard);
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        for name in ["", ".", "..", "../x", "a/b"] {
            assert_eq!(
                create(name).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{name}"
            );
            assert_eq!(
                delete(name).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{name}"
            );
        }
    }
}
