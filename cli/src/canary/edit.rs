//! New weights in the text of a file: the numbers change, every other byte stays.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::error::CanaryError;
use super::place::{At, Place};

/// Mode of a manifest that is new.
const NEW_MODE: u32 = 0o644;

/// The file's text with these weights, one for each backend in their order.
pub(super) fn with_weights(place: &Place, weights: &[u32]) -> String {
    let mut text = place.text.clone();
    let mut edits: Vec<_> = place.backends.iter().zip(weights).collect();
    // From the end, so that what comes before keeps its place.
    edits.sort_by_key(|(backend, _)| match &backend.at {
        At::Number(at) => std::cmp::Reverse(at.start),
        At::Before(at, _) => std::cmp::Reverse(*at),
    });
    for (backend, weight) in edits {
        match &backend.at {
            _ if backend.weight == *weight => {}
            At::Number(at) => text.replace_range(at.clone(), &weight.to_string()),
            At::Before(at, None) => text.insert_str(*at, &format!("weight: {weight}, ")),
            At::Before(at, Some(indent)) => {
                // As the line before it ends.
                let end = match text[..*at].trim_end_matches(' ').ends_with("\r\n") {
                    true => "\r\n",
                    false => "\n",
                };
                text.insert_str(*at, &format!("weight: {weight}{end}{indent}"));
            }
        }
    }
    text
}

/// Writes a file in one step for whoever reads it: wholly there or as it was. A link is followed,
/// and the file keeps its mode.
///
/// # Errors
/// Cannot be written; it is as it was.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), CanaryError> {
    let failed = |source: io::Error| CanaryError::Write {
        path: path.to_owned(),
        source,
    };
    let target = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        other => other.map_err(failed)?,
    };
    let mode = fs::metadata(&target).map_or(NEW_MODE, |meta| meta.permissions().mode());
    let directory = target.parent().unwrap_or(Path::new("."));
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // A name that begins with a dot is read by nobody as a manifest.
    let new = directory.join(format!(".{name}.{}.new", std::process::id()));
    let written = write(&new, (text, mode)).and_then(|()| fs::rename(&new, &target));
    if written.is_err() {
        // The error that is told is the first one.
        let _ = fs::remove_file(&new);
    }
    written
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(failed)
}

fn write(path: &Path, (text, mode): (&str, u32)) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
