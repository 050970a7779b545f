//! A directory of manifests: what is in it, and whether that changed. Knows nothing of what the
//! files say. Who uses it: culvertd, and the commands of `culvert` that look at manifests.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most files read from a directory.
const MAX_FILES: usize = 10_000;

/// Endings of manifests.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Why a directory cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("manifests directory {path}: {reason}")]
pub struct DirectoryError {
    path: PathBuf,
    reason: String,
}

/// Files by name, each with its text or why it has none.
pub type Files = BTreeMap<String, Result<String, String>>;

/// What tells whether a file changed: inode, modification time, size.
type Signature = BTreeMap<String, (u64, i64, i64, u64)>;

/// A directory, flat: `*.yaml`, `*.yml`, `*.json`; names that begin with a dot are left out, and so
/// are directories in it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    max_file_bytes: usize,
    seen: Option<Signature>,
}

impl Directory {
    /// A directory that was not read yet; a larger file is refused whole.
    pub fn new(path: &Path, max_file_bytes: usize) -> Self {
        Self {
            path: path.to_owned(),
            max_file_bytes,
            seen: None,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All files if any changed since the last call, else None.
    ///
    /// # Errors
    /// The directory is not there, cannot be listed, or has too many files.
    pub fn read_changed(&mut self) -> Result<Option<Files>, DirectoryError> {
        // A directory that comes back as it was is a change too: it was told to be away.
        let seen = self.seen.take();
        let before = self.signature()?;
        if seen.as_ref() == Some(&before) {
            self.seen = seen;
            return Ok(None);
        }
        let files = before
            .keys()
            .map(|name| (name.clone(), self.read_file(name)))
            .collect();
        // What changed while it was read is read again at the next look.
        let after = self.signature()?;
        self.seen = (before == after).then_some(after);
        Ok(Some(files))
    }

    fn wrong(&self, reason: impl ToString) -> DirectoryError {
        DirectoryError {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn signature(&self) -> Result<Signature, DirectoryError> {
        let mut signature = Signature::new();
        for entry in fs::read_dir(&self.path).map_err(|error| self.wrong(error))? {
            let entry = entry.map_err(|error| self.wrong(error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ending = Path::new(&name)
                .extension()
                .and_then(|ending| ending.to_str());
            if name.starts_with('.') || !ending.is_some_and(|e| ENDINGS.contains(&e)) {
                continue;
            }
            // Follows links: a ConfigMap volume swaps them.
            let known = match fs::metadata(entry.path()) {
                Ok(m) if m.is_dir() => continue,
                Ok(m) => (m.ino(), m.mtime(), m.mtime_nsec(), m.size()),
                // Removed since it was listed, or a link to nothing: the read will say.
                Err(error) if error.kind() == io::ErrorKind::NotFound => (0, 0, 0, 0),
                Err(error) => return Err(self.wrong(format!("{name}: {error}"))),
            };
            signature.insert(name, known);
            if signature.len() > MAX_FILES {
                return Err(self.wrong(format!("more than {MAX_FILES} files")));
            }
        }
        Ok(signature)
    }

    fn read_file(&self, name: &str) -> Result<String, String> {
        let path = self.path.join(name);
        let size = fs::metadata(&path)
            .map_err(|error| error.to_string())?
            .size();
        let most = self.max_file_bytes;
        if size > most as u64 {
            return Err(format!("{size} bytes are more than {most}"));
        }
        let bytes = fs::read(&path).map_err(|error| error.to_string())?;
        String::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))
    }
}
