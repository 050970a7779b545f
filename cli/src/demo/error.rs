//! Why the demo could not be shown. What it showed and should not is no error but a finding.

use std::io;
use std::path::PathBuf;

use world::{CniError, WorldError};

use crate::canary::CanaryError;

/// Why the demo stopped. The world is removed all the same.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The world could not be made or used.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A pod could not be added.
    #[error("pod {pod}: {source}")]
    Pod {
        /// Its name.
        pod: String,
        /// The CNI error.
        source: Box<CniError>,
    },
    /// A program answered something that the demo cannot read.
    #[error("{what} answered {answer:?}")]
    Answer {
        /// Which program, asked what.
        what: String,
        /// What came.
        answer: String,
    },
    /// The report, the logs or a manifest could not be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The split could not be set.
    #[error(transparent)]
    Canary(#[from] CanaryError),
    /// The signals could not be watched.
    #[error("signals: {0}")]
    Signals(io::Error),
    /// A defect of the demo itself.
    #[error("the demo panicked: {0}")]
    Panicked(String),
}
