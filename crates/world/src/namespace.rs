//! Making and removing the named network namespaces of a world, with sysctls set before any link.

use std::fs;
use std::io;
use std::path::Path;

use netio::netns;

use crate::ending::making;
use crate::error::WorldError;

/// Makes a named namespace and sets sysctls (path below `/proc/sys/`, value) in it.
pub(crate) fn create(name: &str, sysctls: &[(&str, &str)]) -> Result<(), WorldError> {
    let _making = making()?;
    let make = || {
        let netns = netns::create(name)?;
        netns.enter(|| {
            sysctls.iter().try_for_each(|(key, value)| {
                let path = Path::new("/proc/sys").join(key);
                fs::write(&path, value)
                    .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
            })
        })?
    };
    make().map_err(WorldError::io(format!("make namespace {name}")))
}

/// Removes the name; the namespace goes with the last process in it.
pub(crate) fn delete(name: &str) -> Result<(), WorldError> {
    netns::delete(name).map_err(WorldError::io(format!("remove namespace {name}")))
}
