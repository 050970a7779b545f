//! The state directory: private (0700), every file replaced atomically, changes made under a lock.
//! Knows where files are and how they are written, not what they say, except [`nodes`].

pub mod nodes;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Largest state file read, in bytes: the last reports of 1,000 nodes are some 20 MB.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// Mode of files that hold secrets or are nobody's business.
pub const PRIVATE: u32 = 0o600;
/// Mode of the public bundle.
pub const PUBLIC: u32 = 0o644;

/// What went wrong with a file of the state directory.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct StateError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the kernel said, or what is wrong with the content.
    pub problem: String,
}

impl StateError {
    /// An error about `path`.
    pub fn new(path: impl Into<PathBuf>, problem: impl ToString) -> Self {
        Self {
            path: path.into(),
            problem: problem.to_string(),
        }
    }
}

/// Which version of a file is there: changes whenever the file is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    inode: u64,
    modified: (i64, i64),
    bytes: u64,
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory, makes it when it is not there, and takes other users' access away.
    ///
    /// # Errors
    /// It can be neither made nor closed to others, or is no directory.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let wrong = |error: io::Error| StateError::new(path, error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(wrong)?;
        let metadata = fs::metadata(path).map_err(wrong)?;
        if !metadata.is_dir() {
            return Err(StateError::new(path, "is no directory"));
        }
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(wrong)?;
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps other processes from changing the state until the lock is dropped.
    ///
    /// # Errors
    /// The lock file can be neither made nor locked.
    pub fn lock(&self) -> Result<Flock<File>, StateError> {
        let path = self.path("lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(PRIVATE)
            .open(&path);
        let file = file.map_err(|error| StateError::new(&path, error))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| StateError::new(&path, error))
    }

    /// The content of a file, None when it is not there.
    ///
    /// # Errors
    /// It cannot be read, or is larger than any that was written here.
    pub fn read(&self, name: &str) -> Result<Option<String>, StateError> {
        let path = self.path(name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::new(path, error)),
            Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
                let problem = format!("{} bytes are more than {MAX_FILE_BYTES}", metadata.len());
                return Err(StateError::new(path, problem));
            }
            Ok(_) => {}
        }
        fs::read_to_string(&path)
            .map(Some)
            .map_err(|error| StateError::new(path, error))
    }

    /// Replaces a file of the directory.
    ///
    /// # Errors
    /// As [`write_atomically`].
    pub fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<(), StateError> {
        write_atomically(&self.path(name), content, mode)
    }

    /// Which version of a file is there, None when there is none (or it cannot be looked at).
    pub fn version(&self, name: &str) -> Option<Version> {
        let metadata = fs::metadata(self.path(name)).ok()?;
        Some(Version {
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            bytes: metadata.len(),
        })
    }
}

/// Replaces a file so that at every moment, also after a crash, the old or the new one is there
/// whole; it never has another mode than `mode`.
///
/// # Errors
/// No file can be made beside it, or the disk is full.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), StateError> {
    let wrong = |error: io::Error| StateError::new(path, error);
    let name = path
        .file_name()
        .ok_or_else(|| StateError::new(path, "is no file name"))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = directory.join(format!(
        ".{}.{}.{:08x}",
        name.to_string_lossy(),
        std::process::id(),
        rand::random::<u32>()
    ));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        // The mode of open() is cut by the umask; for public files it must not be.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // The error that is reported is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_and_its_files_are_closed_to_others() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/state");
        let state = StateDir::open(&path).unwrap();
        state.write("secret", b"x", PRIVATE).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(&state.path("secret"))), (0o700, 0o600));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        StateDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_replaced_file_is_another_version_and_leaves_nothing_behind() {
        let base = tempfile::tempdir().unwrap();
        let state = StateDir::open(base.path()).unwrap();
        assert_eq!(state.version("f"), None);
        assert_eq!(state.read("f").unwrap(), None);
        state.write("f", b"one", PRIVATE).unwrap();
        let first = state.version("f");
        state.write("f", b"two", PRIVATE).unwrap();
        assert_ne!(state.version("f"), first);
        assert_eq!(state.read("f").unwrap().as_deref(), Some("two"));
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }
}
