//! Descriptors of the process. Knows no socket.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Asks the kernel for so many. It is no reason not to serve when it gives fewer.
pub fn ask_for(wanted: usize) {
    let asked = || {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let files = most.min(wanted as u64);
        setrlimit(Resource::RLIMIT_NOFILE, files, most)?;
        Ok::<_, nix::Error>(files)
    };
    match asked() {
        Ok(files) => tracing::info!(files, wanted, "open files allowed"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}
