//! The sysctls that steering needs in a pod's namespace, and what they were before.
//!
//! Must run in a thread that is in that namespace: /proc/sys/net shows the caller's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Each is wanted as 1. The accepted socket inherits the SYN's mark (IPv6 too), and the RST of a
/// closed port comes back to the proxy that asked.
const WANTED: [&str; 3] = [
    "net/ipv4/tcp_fwmark_accept",
    "net/ipv4/fwmark_reflect",
    "net/ipv6/fwmark_reflect",
];

/// A sysctl that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct SysctlError {
    path: PathBuf,
    source: io::Error,
}

/// Values as they were found, by name below /proc/sys.
pub type Before = BTreeMap<String, String>;

/// What they are now. IPv6's is left out where the kernel has no IPv6.
///
/// # Errors
/// The first that could not be read.
pub fn read() -> Result<Before, SysctlError> {
    let mut found = Before::new();
    for name in WANTED {
        let path = Path::new("/proc/sys").join(name);
        match std::fs::read_to_string(&path) {
            Ok(value) => found.insert(name.to_owned(), value.trim().to_owned()),
            Err(error) if is_absent(name, &error) => continue,
            Err(source) => return Err(SysctlError { path, source }),
        };
    }
    Ok(found)
}

/// Sets all that are there.
///
/// # Errors
/// The first that could not be set; those before it stay set.
pub fn set() -> Result<(), SysctlError> {
    for (name, _) in read()?.into_iter().filter(|(_, value)| value != "1") {
        let path = Path::new("/proc/sys").join(name);
        std::fs::write(&path, "1").map_err(|source| SysctlError { path, source })?;
    }
    Ok(())
}

/// Puts back what [`read`] found.
///
/// # Errors
/// The first that could not be set.
pub fn restore(before: &Before) -> Result<(), SysctlError> {
    for (name, value) in before
        .iter()
        .filter(|(name, _)| WANTED.contains(&name.as_str()))
    {
        let path = Path::new("/proc/sys").join(name);
        std::fs::write(&path, value).map_err(|source| SysctlError { path, source })?;
    }
    Ok(())
}

/// Whether all are set.
pub fn are_set() -> bool {
    WANTED.iter().all(
        |name| match std::fs::read_to_string(Path::new("/proc/sys").join(name)) {
            Ok(value) => value.trim() == "1",
            Err(error) => is_absent(name, &error),
        },
    )
}

fn is_absent(name: &str, error: &io::Error) -> bool {
    name.starts_with("net/ipv6") && error.kind() == io::ErrorKind::NotFound
}
