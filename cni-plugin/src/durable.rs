//! Files that are replaced as a whole: a reader, and whoever looks after a power loss, sees the old
//! content or the new one. Knows nothing of what is in them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Ending of the file that is written beside; no container runtime reads such a one.
const BESIDE: &str = "culvert-new";

/// Writes beside, syncs, renames, syncs the directory. `mode` are the new file's permission bits.
///
/// # Errors
/// When it cannot be written, naming the file. Before the rename the old one is as it was; nothing
/// stays beside it.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = with_suffix(path, BESIDE);
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let mut file = options.open(&beside)?;
        file.write_all(content)?;
        // The mode of opening is cut by the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_directory(path.parent().unwrap_or(Path::new("/")))
    };
    write().map_err(|error| {
        // The error that is reported is the first one.
        let _ = fs::remove_file(&beside);
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    })
}

/// Makes what was renamed or removed in a directory last.
///
/// # Errors
/// The kernel's answer.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// `a/b` and `x` give `a/b.x`.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_stays_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        for (content, mode) in [("one", 0o600), ("two", 0o755)] {
            replace(&path, content.as_bytes(), mode).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            let found = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        // Nothing can be renamed over a directory that is not empty.
        let path = directory.path().join("file.json");
        fs::create_dir_all(path.join("x")).unwrap();
        let error = replace(&path, b"one", 0o600).unwrap_err().to_string();
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
