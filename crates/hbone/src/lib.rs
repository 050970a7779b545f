//! The tunnel between two proxies, sans-I/O: mutual TLS 1.3 with SPIFFE identities, and inside it
//! an HTTP/2 codec that knows CONNECT and nothing else. Received bytes and the time go in; events,
//! bytes to send and the next deadline come out.
//!
//! It must not know sockets, clocks, threads, tasks or files, nor what a workload or a policy is:
//! it compares identities and moves bytes.

pub mod authority;
pub mod baggage;
pub mod by_number;
pub mod codec;
pub mod config;
pub mod connection;
pub mod error;
pub mod event;
pub mod forwarded;
pub mod h2;
pub mod headers;
pub mod time;
pub mod tls;

pub use by_number::ByNumber;
pub use codec::FRAME_HEADROOM;
pub use config::Config;
pub use connection::{Connection, Stats};
pub use error::{CloseReason, ErrorCode, OpenError, RespondError, StreamGone};
pub use event::{ConnectRequest, ConnectResponse, Event, StreamId};
pub use headers::Headers;
pub use time::Mono;
pub use tls::{KeyExchange, PeerIdentity};
