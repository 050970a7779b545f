//! A directory of manifests as the mesh that it makes, without any pod: for commands that look at
//! manifests before anybody applies them.

use std::path::{Path, PathBuf};

use process::manifests::{Directory, DirectoryError};
use translate::document::MAX_FILE_BYTES;
use translate::{Allocations, Collection, Input, Objects, Options, Output, SourceError, translate};

/// What a directory makes.
pub struct Manifests {
    /// The objects that were accepted.
    pub objects: Objects,
    /// The mesh of them.
    pub output: Output,
    /// What was not accepted.
    pub errors: Vec<SourceError>,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// The directory cannot be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// It has no object.
    #[error("{} has no object (*.yaml, *.yml, *.json; not its subdirectories){}", .0.display(), .1)]
    Empty(PathBuf, String),
}

impl Manifests {
    /// Reads the directory as culvertd would.
    ///
    /// # Errors
    /// It cannot be read, or has no valid object.
    pub fn read(path: &Path) -> Result<Self, ManifestsError> {
        let files = Directory::new(path, MAX_FILE_BYTES).read_changed()?;
        let mut collection = Collection::default();
        for (name, text) in files.unwrap_or_default() {
            match text {
                Ok(text) => collection.load(&name, &text),
                Err(reason) => collection.refuse(&name, reason),
            }
        }
        let (objects, errors) = collection.objects();
        if objects.is_empty() {
            let first = errors.first().map(|error| format!("; {error}"));
            return Err(ManifestsError::Empty(
                path.to_owned(),
                first.unwrap_or_default(),
            ));
        }
        let output = translate(&Input {
            objects: &objects,
            reports: &[],
            vips: &Allocations::new(),
            options: &Options::default(),
        });
        Ok(Self {
            objects,
            output,
            errors,
        })
    }
}
