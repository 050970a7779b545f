//! The rules of the house: each is a function from sources to faults.

mod crates;
mod deny;
mod purity;
mod sources;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Most product lines in a file; tests at its end are not counted.
pub const MAX_FILE_LINES: usize = 500;
/// Most lines in a function, its signature included.
pub const MAX_FUNCTION_LINES: usize = 70;
/// Most type parameters of a function or type.
pub const MAX_TYPE_PARAMETERS: usize = 2;
/// Longest line in characters.
pub const MAX_LINE: usize = 100;

/// One broken rule, shown as `file:line: what`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// File relative to the workspace.
    pub file: PathBuf,
    /// Line from 1, 0 for the whole file.
    pub line: usize,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// One source file, read once and handed to every rule.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
}

impl Source {
    pub(crate) fn parse(path: PathBuf, text: String) -> anyhow::Result<Self> {
        let syntax = syn::parse_file(&text).with_context(|| path.display().to_string())?;
        Ok(Self { path, text, syntax })
    }

    pub(crate) fn fault(&self, line: usize, what: impl Into<String>) -> Fault {
        Fault {
            file: self.path.clone(),
            line,
            what: what.into(),
        }
    }

    /// Whether the file holds tests, benches or fuzz targets only: tests may be long.
    pub(crate) fn is_test(&self) -> bool {
        let inside = |name: &str| self.path.components().any(|part| part.as_os_str() == name);
        inside("tests") || inside("fuzz_targets")
    }
}

/// All faults of the workspace at `root`, in the order of files.
///
/// # Errors
/// When a source cannot be read or parsed, or `cargo metadata` fails.
pub fn check(root: &Path) -> anyhow::Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for path in sources::rust_files(root)? {
        let text = std::fs::read_to_string(root.join(&path))?;
        faults.extend(check_source(path, text)?);
    }
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        // Dependencies of other platforms were never fetched.
        .other_options(["--offline", "--filter-platform", "host-tuple"].map(str::to_owned))
        .exec()
        .context("cargo metadata (run a build first: it fetches the dependencies)")?;
    faults.extend(crates::check(root, &metadata)?);
    faults.extend(deny::check(root, &metadata)?);
    faults.extend(purity::check_dependencies(&metadata));
    Ok(faults)
}

/// Faults of one file's content.
///
/// # Errors
/// When the text is not Rust.
pub fn check_source(path: PathBuf, text: String) -> anyhow::Result<Vec<Fault>> {
    let source = Source::parse(path, text)?;
    let mut faults = sources::check(&source);
    faults.extend(purity::check(&source));
    Ok(faults)
}
