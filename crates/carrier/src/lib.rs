//! What ztunnel and waypoint carry bytes with: HBONE tunnels on sockets, their pools, the relay,
//! and the bounds of all that.
//!
//! Each worker thread of a proxy has its own of everything here. It must not know how a connection
//! came to the proxy, where it should go, nor whether it may: its owner says so.

pub mod budget;
pub mod certificate;
pub mod clock;
pub mod files;
pub mod flag;
pub mod guests;
pub mod handshakes;
pub mod headers;
pub mod hush;
pub mod labels;
pub mod limits;
pub mod memory;
pub mod records;
pub mod relay;
pub mod signal;
pub mod spread;
pub mod threads;
pub mod tunnel;
