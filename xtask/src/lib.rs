//! Checks of the workspace that the compiler and clippy do not make.

pub mod tidy;

use std::path::PathBuf;

/// Folder of the workspace this program was built from.
///
/// # Errors
/// When the folder was moved away after the build.
pub fn workspace_root() -> anyhow::Result<PathBuf> {
    Ok(PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()?)
}
