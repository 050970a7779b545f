//! Peers that are not ours: what they show and how they speak TLS. They check nobody, since what is
//! tested is the other end. Knows no HTTP/2 and no scenario.

pub mod credentials;
pub mod tls;

pub use credentials::{Credentials, Issuers, Shown, Validity};
