//! A directory of manifests: what is in it, and whether that changed. Knows nothing of what the
//! files say. Who uses it: culvertd, and the commands of `culvert` that look at manifests.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// Files by name, each with its text or why it has none. A text that did not change is the very
/// same from one look to the next.
pub type Files = BTreeMap<String, Result<Arc<str>, String>>;

/// A file that changed less than this before it was looked at is read again at the next look,
/// whatever its times say: file systems count time in steps (FAT in 2 s, the largest), and a second
/// change within a step leaves no trace in them. In seconds.
const SETTLED_AFTER_S: i64 = 2;

/// What tells whether a file changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signature {
    /// Device and inode.
    identity: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds since 1970. The second cannot be set back by a program.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    fn of(metadata: &Metadata) -> Self {
        Self {
            identity: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change after `now_s` gives another signature. A time in the future proves nothing.
    fn is_settled(&self, now_s: i64) -> bool {
        self.modified.0.max(self.changed.0) < now_s - SETTLED_AFTER_S
    }
}

/// A file as it was read.
#[derive(Debug)]
struct Known {
    /// From before it was read; None: it has to be read again at the next look.
    signature: Option<Signature>,
    text: Result<Arc<str>, String>,
}

/// A directory, flat: `*.yaml`, `*.yml`, `*.json`; names that begin with a dot are left out, and so
/// are directories in it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    max_file_bytes: usize,
    known: BTreeMap<String, Known>,
    /// Whether the last call told what is known.
    is_told: bool,
}

impl Directory {
    /// A directory that was not read yet; a larger file is refused whole.
    pub fn new(path: &Path, max_file_bytes: usize) -> Self {
        Self {
            path: path.to_owned(),
            max_file_bytes,
            known: BTreeMap::new(),
            is_told: false,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All files if any changed since the last call, else None. Only files that changed, or may
    /// have, are read.
    ///
    /// # Errors
    /// The directory is not there, cannot be listed, or has too many files.
    pub fn read_changed(&mut self) -> Result<Option<Files>, DirectoryError> {
        // A directory that comes back as it was is a change too: it was told to be away.
        let mut is_changed = !std::mem::take(&mut self.is_told);
        let now_s = now_s();
        let mut known = BTreeMap::new();
        for (name, signature) in self.listed()? {
            let before = self.known.remove(&name);
            let is_same = |before: &Known| before.signature.is_some_and(|s| signature == Some(s));
            let next = match before {
                Some(before) if is_same(&before) => before,
                before => {
                    let mut text = self.read_file(&name);
                    match before {
                        Some(before) if before.text == text => text = before.text,
                        _ => is_changed = true,
                    }
                    let settled = signature.filter(|s| text.is_ok() && s.is_settled(now_s));
                    Known {
                        signature: settled,
                        text,
                    }
                }
            };
            known.insert(name, next);
        }
        // What is left is not there any more.
        is_changed |= !self.known.is_empty();
        self.known = known;
        self.is_told = true;
        let files = self.known.iter();
        let files = files.map(|(name, known)| (name.clone(), known.text.clone()));
        Ok(is_changed.then(|| files.collect()))
    }

    fn wrong(&self, reason: impl ToString) -> DirectoryError {
        DirectoryError {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    /// The files that are there. Without a signature: removed since it was listed, or a link to
    /// nothing; reading it will say.
    fn listed(&self) -> Result<BTreeMap<String, Option<Signature>>, DirectoryError> {
        let mut listed = BTreeMap::new();
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
            let signature = match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => continue,
                Ok(metadata) => Some(Signature::of(&metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(self.wrong(format!("{name}: {error}"))),
            };
            listed.insert(name, signature);
            if listed.len() > MAX_FILES {
                return Err(self.wrong(format!("more than {MAX_FILES} files")));
            }
        }
        Ok(listed)
    }

    fn read_file(&self, name: &str) -> Result<Arc<str>, String> {
        let path = self.path.join(name);
        let size = fs::metadata(&path)
            .map_err(|error| error.to_string())?
            .size();
        let most = self.max_file_bytes;
        if size > most as u64 {
            return Err(format!("{size} bytes are more than {most}"));
        }
        let bytes = fs::read(&path).map_err(|error| error.to_string())?;
        let text = String::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))?;
        Ok(text.into())
    }
}

/// Seconds since 1970; a clock that is set before has no time at which anything is settled.
fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(i64::MIN / 2, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::time::Duration;

    use super::*;

    fn write(path: &Path, text: &str, changed: SystemTime) {
        fs::write(path, text).unwrap();
        let file = File::options().append(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(changed))
            .unwrap();
    }

    fn text(files: &Files, name: &str) -> String {
        files[name].as_deref().unwrap().to_owned()
    }

    #[test]
    fn a_change_that_leaves_no_trace_in_the_times_of_a_young_file_is_seen() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a.yaml");
        let mut directory = Directory::new(base.path(), 1000);
        // Neither size nor inode nor the time of modification tell the two apart.
        let at = SystemTime::now();
        write(&path, "one", at);
        let first = directory.read_changed().unwrap().unwrap();
        assert_eq!(text(&first, "a.yaml"), "one");
        write(&path, "two", at);
        let second = directory.read_changed().unwrap().unwrap();
        assert_eq!(text(&second, "a.yaml"), "two");
        assert_eq!(directory.read_changed().unwrap(), None);
    }

    #[test]
    fn only_a_signature_of_before_the_last_seconds_proves_that_nothing_changed() {
        let of = |modified, changed| Signature {
            identity: (1, 2),
            size: 3,
            modified: (modified, 0),
            changed: (changed, 0),
        };
        assert!(of(97, 97).is_settled(100));
        for (modified, changed) in [(98, 1), (1, 98), (100, 100), (101, 1)] {
            assert!(
                !of(modified, changed).is_settled(100),
                "{modified} {changed}"
            );
        }
    }

    #[test]
    fn a_file_that_did_not_change_is_not_read_again_and_its_text_is_the_very_same() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a.yaml");
        write(&path, "one", SystemTime::now());
        let mut directory = Directory::new(base.path(), 1000);
        directory.read_changed().unwrap().unwrap();
        // As if it had been there for long: what was read stands for it as long as nothing tells
        // that it changed.
        let signature = Signature::of(&fs::metadata(&path).unwrap());
        let known = directory.known.get_mut("a.yaml").unwrap();
        known.signature = Some(signature);
        known.text = Ok("what was read".into());
        assert_eq!(directory.read_changed().unwrap(), None);
        write(&base.path().join("b.yaml"), "other", SystemTime::now());
        let files = directory.read_changed().unwrap().unwrap();
        assert_eq!(text(&files, "a.yaml"), "what was read");
        assert_eq!(text(&files, "b.yaml"), "other");
        // The status of the inode tells even when the time of modification was set back.
        std::thread::sleep(Duration::from_millis(20));
        write(
            &path,
            "two",
            UNIX_EPOCH + Duration::from_secs(signature.modified.0 as u64),
        );
        let files = directory.read_changed().unwrap().unwrap();
        assert_eq!(text(&files, "a.yaml"), "two");
    }

    #[test]
    fn what_is_gone_or_comes_back_is_a_change() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("manifests");
        fs::create_dir(&path).unwrap();
        write(&path.join("a.yaml"), "one", SystemTime::now());
        write(&path.join("b.yaml"), "two", SystemTime::now());
        let mut directory = Directory::new(&path, 1000);
        assert_eq!(directory.read_changed().unwrap().unwrap().len(), 2);
        fs::remove_file(path.join("a.yaml")).unwrap();
        assert_eq!(directory.read_changed().unwrap().unwrap().len(), 1);
        let away = base.path().join("away");
        fs::rename(&path, &away).unwrap();
        directory.read_changed().unwrap_err();
        fs::rename(&away, &path).unwrap();
        assert_eq!(directory.read_changed().unwrap().unwrap().len(), 1);
        assert_eq!(directory.read_changed().unwrap(), None);
    }
}
