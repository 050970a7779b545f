//! What a process hands to its successor, as bytes: the mesh it knows, and the certificates of its
//! node with their keys. Knows no socket: who carries the bytes sees to it that nobody else reads
//! them. They are in memory only, and wiped.

use std::fmt;
use std::time::SystemTime;

use mesh::Identity;
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use crate::certs::Issued;
use crate::xds::{Carried, Mesh};

/// Why the bytes are of no use.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// They are no state.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] prost::DecodeError),
}

/// What a successor starts with.
#[derive(Default)]
pub struct State {
    /// The mesh; None when the predecessor did not know it as a whole, or it cannot be used.
    pub carried: Option<Carried>,
    /// Certificates that are valid now.
    pub certificates: Vec<Issued>,
}

#[derive(PartialEq, prost::Message)]
struct Packed {
    #[prost(message, optional, tag = "1")]
    mesh: Option<Mesh>,
    #[prost(message, repeated, tag = "2")]
    certificates: Vec<Certificate>,
}

#[derive(PartialEq, prost::Message)]
#[prost(skip_debug)]
struct Certificate {
    #[prost(string, tag = "1")]
    identity: String,
    /// PKCS 8, DER.
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    /// DER: leaf, intermediates, roots.
    #[prost(bytes = "vec", repeated, tag = "3")]
    chain: Vec<Vec<u8>>,
}

impl Drop for Certificate {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Packs what a feed and a certificate manager hold.
pub fn pack<'a>(
    carried: Option<&Carried>,
    certificates: impl IntoIterator<Item = &'a Issued>,
) -> Zeroizing<Vec<u8>> {
    let packed = Packed {
        mesh: carried.map(Carried::to_wire),
        certificates: certificates.into_iter().map(certificate).collect(),
    };
    // Room for all of it at once: growing would leave copies of keys behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(packed.encoded_len()));
    packed
        .encode(&mut *bytes)
        .expect("a vector has room for what it was made for");
    bytes
}

/// Unpacks. A mesh that cannot be used, and certificates that the CA could not have given us
/// now, are left out, and a log line says so.
///
/// # Errors
/// The bytes are no state.
pub fn unpack(bytes: &[u8], now: SystemTime) -> Result<State, UnpackError> {
    let packed = Packed::decode(bytes)?;
    let carried = packed.mesh.as_ref().map(Carried::from_wire).transpose();
    let carried = carried.unwrap_or_else(|error| {
        tracing::warn!(%error, "the predecessor's knowledge of the mesh cannot be used");
        None
    });
    let mut certificates = Vec::with_capacity(packed.certificates.len());
    for certificate in &packed.certificates {
        match issued(certificate, now) {
            Ok(issued) => certificates.push(issued),
            Err(error) => {
                tracing::warn!(
                    identity = %certificate.identity, %error,
                    "a certificate of the predecessor is not used"
                );
            }
        }
    }
    Ok(State {
        carried,
        certificates,
    })
}

fn certificate(issued: &Issued) -> Certificate {
    let chain = issued.chain().iter().chain(issued.roots());
    let mut key = issued.key().to_der();
    let packed = Certificate {
        identity: issued.identity().to_string(),
        key: key.secret_der().to_vec(),
        chain: chain.map(|der| der.to_vec()).collect(),
    };
    key.zeroize();
    packed
}

fn issued(certificate: &Certificate, now: SystemTime) -> Result<Issued, String> {
    let identity: Identity = certificate
        .identity
        .parse()
        .map_err(|error: mesh::identity::IdentityError| error.to_string())?;
    Issued::from_der(&identity, &certificate.key, &certificate.chain, now)
        .map_err(|error| error.to_string())
}
