//! The last good state of a set of files: a document that goes bad keeps the version that was good,
//! a file that cannot be read keeps all of its own. Knows no file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::document::{self, Document, Outcome, Subject};
use crate::object::{Object, ObjectKey, Objects};

/// What is wrong with a source at one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceError {
    /// File name without its directory.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Sentence.
    pub reason: String,
    /// Whether an earlier version that was good is served instead.
    pub last_good_kept: bool,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)?;
        if self.last_good_kept {
            f.write_str(" (the last good version is served)")?;
        }
        Ok(())
    }
}

/// One accepted document, as it is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// File name without its directory.
    pub file: String,
    /// Line it starts on.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// All files of a source with what was last good of each.
#[derive(Clone, Debug, Default)]
pub struct Collection {
    /// Shared with clones: a change of one file costs what is in that file.
    files: BTreeMap<Arc<str>, Arc<FileState>>,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    good: BTreeMap<ObjectKey, Good>,
    errors: Vec<SourceError>,
}

#[derive(Clone, Debug)]
struct Good {
    line: usize,
    text: Arc<str>,
    object: Arc<Object>,
}

impl Collection {
    /// Takes the present text of a file. An emptied file is refused: it is more likely cut off, by
    /// a full disk or an editor at work, than meant, and a policy must not vanish with it.
    pub fn load(&mut self, file: &str, text: &str) {
        let has_objects = |state: &Arc<FileState>| !state.good.is_empty();
        if is_empty(text) && self.files.get(file).is_some_and(has_objects) {
            let reason = "the file is empty now; remove it if its objects shall go";
            return self.refuse(file, reason.to_owned());
        }
        let file: Arc<str> = file.into();
        let before = self.files.remove(&file).unwrap_or_default();
        let before = Arc::unwrap_or_clone(before);
        let state = FileState::of(&file, document::parse(text), before);
        self.files.insert(file, Arc::new(state));
    }

    /// Takes note that a file is there and cannot be read: all its objects stay.
    pub fn refuse(&mut self, file: &str, reason: String) {
        let file: Arc<str> = file.into();
        let state = Arc::make_mut(self.files.entry(file.clone()).or_default());
        let last_good_kept = !state.good.is_empty();
        state.errors = vec![SourceError {
            file,
            line: 1,
            reason,
            last_good_kept,
        }];
    }

    /// Forgets the files that `keep` does not name, with their objects.
    pub fn retain(&mut self, keep: &BTreeSet<&str>) {
        self.files.retain(|file, _| keep.contains(&**file));
    }

    /// Every object, and every error in the order of files and lines.
    ///
    /// Of two documents of one object the first by file name and line is taken, the other refused.
    pub fn objects(&self) -> (Objects, Vec<SourceError>) {
        let mut objects = Objects::default();
        let mut errors = Vec::new();
        let mut places: BTreeMap<&ObjectKey, (&str, usize)> = BTreeMap::new();
        for (file, state) in &self.files {
            errors.extend(state.errors.iter().cloned());
            for (key, good) in &state.good {
                if let Some((other, line)) = places.get(key) {
                    let reason = format!("{key} is already defined at {other}:{line}");
                    let (file, line) = (file.clone(), good.line);
                    errors.push(SourceError {
                        file,
                        line,
                        reason,
                        last_good_kept: false,
                    });
                    continue;
                }
                places.insert(key, (file, good.line));
                objects.insert(Object::clone(&good.object));
            }
        }
        errors.sort();
        (objects, errors)
    }

    /// The accepted documents, so that the last good state outlives the process.
    pub fn export(&self) -> Vec<Kept> {
        let documents = self.files.iter().flat_map(|(file, state)| {
            state.good.values().map(|good| Kept {
                file: file.to_string(),
                line: good.line,
                text: good.text.to_string(),
            })
        });
        documents.collect()
    }

    /// A collection with documents of [`Collection::export`] as its last good state.
    pub fn restore(kept: &[Kept]) -> Self {
        let mut collection = Self::default();
        for document in kept {
            let file: Arc<str> = document.file.as_str().into();
            let state = Arc::make_mut(collection.files.entry(file).or_default());
            for read in document::parse(&document.text) {
                if let Outcome::Accepted(object) = read.outcome {
                    let good = Good {
                        line: document.line,
                        text: read.text,
                        object,
                    };
                    state.good.insert(good.object.key(), good);
                }
            }
        }
        collection
    }
}

/// Whether there is nothing in it, not even a comment.
fn is_empty(text: &str) -> bool {
    let nothing = |line: &str| line.trim().is_empty() || line.trim() == "---";
    text.lines().all(nothing)
}

impl FileState {
    fn of(file: &Arc<str>, documents: Vec<Document>, mut before: Self) -> Self {
        let mut state = Self::default();
        let mut refused = Vec::new();
        for document in documents {
            match document.outcome {
                Outcome::Accepted(object) => {
                    let key = object.key();
                    if let Some(first) = state.good.get(&key) {
                        let reason = format!("{key} is already defined at line {}", first.line);
                        state.error(file, document.line, reason, false);
                        continue;
                    }
                    let good = Good {
                        line: document.line,
                        text: document.text,
                        object,
                    };
                    state.good.insert(key, good);
                }
                Outcome::Refused(refusal) => refused.push(refusal),
            }
        }
        // Whatever the unreadable text was meant to be, none of the objects before may vanish.
        let any_unknown = refused.iter().any(|r| r.subject == Subject::Unknown);
        for refusal in refused {
            let kept = match &refusal.subject {
                Subject::Known(key) => match before.good.remove(key) {
                    Some(good) => {
                        state.good.entry(key.clone()).or_insert(good);
                        true
                    }
                    None => false,
                },
                Subject::Unknown => before.good.keys().any(|key| !state.good.contains_key(key)),
                Subject::Foreign => false,
            };
            state.error(file, refusal.line, refusal.reason, kept);
        }
        if any_unknown {
            for (key, good) in before.good {
                state.good.entry(key).or_insert(good);
            }
        }
        state
    }

    fn error(&mut self, file: &Arc<str>, line: usize, reason: String, last_good_kept: bool) {
        self.errors.push(SourceError {
            file: file.clone(),
            line,
            reason,
            last_good_kept,
        });
    }
}
