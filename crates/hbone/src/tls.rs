//! TLS 1.3 between two workloads: credentials, the checks of the peer's SPIFFE identity, and the
//! session that opens and seals records. The only place of the tunnel that knows rustls and keys.

mod client;
mod credentials;
mod exchange;
mod failure;
mod identity;
mod records;
mod server;
mod session;
mod validity;
mod verify;

pub use client::ClientTls;
pub use credentials::{Credentials, TlsSetupError};
pub use exchange::KeyExchange;
pub use failure::HandshakeError;
pub use identity::PeerIdentity;
pub use server::ServerTls;
pub use verify::IdentityMismatch;

pub(crate) use records::RECORD_BYTES;
pub(crate) use session::{Opened, Session, SessionError};
