//! What can go wrong while a world is made or used.

use std::io;
use std::time::Duration;

/// Why a step in a world failed. A world that failed is still removed by its drop guard.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The machine lacks something; every missing part is named, with what to install or mount.
    #[error("this machine cannot hold a world: {}", .0.join("; "))]
    Missing(Vec<String>),
    /// A file, mount, namespace or cgroup operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program ended with another status than 0, or by a signal.
    #[error("`{program}` {outcome}: {output}")]
    Failed {
        /// The command line.
        program: String,
        /// How it ended.
        outcome: String,
        /// The end of what it wrote.
        output: String,
    },
    /// Something that was waited for did not come.
    #[error("waited {after:?} for {what}{detail}")]
    TimedOut {
        /// What was expected.
        what: String,
        /// How long.
        after: Duration,
        /// The end of a log, or nothing.
        detail: String,
    },
    /// The person or the runner asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A CNI call failed.
    #[error(transparent)]
    Cni(#[from] crate::cni::CniError),
    /// A state file, a capture or an answer is not what it should be.
    #[error("{0}")]
    Unreadable(String),
}

impl WorldError {
    /// For `map_err`: names what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| WorldError::Io { what, source }
    }
}
