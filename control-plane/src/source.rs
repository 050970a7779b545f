//! The source of a directory of manifests: when to look again.

pub mod watch;
