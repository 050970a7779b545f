//! What a workload shows to its peers and checks them against, and the cryptography both roles
//! share.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;

/// A workload's certificate, key and the roots of its mesh. The key never appears in a dump.
pub struct Credentials {
    /// The workload's certificate first, then what leads to a root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate.
    pub key: PrivateKeyDer<'static>,
    /// Roots that peers' chains must end in.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            roots: self.roots.clone(),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("certificates", &self.chain.len())
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

/// Why credentials cannot serve; the fault is the CA's or the caller's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsSetupError {
    /// The chain is empty.
    #[error("there is no certificate")]
    NoCertificate,
    /// There is no root, so no peer could ever be trusted.
    #[error("there is no root certificate")]
    NoRoot,
    /// A root cannot be read.
    #[error("root certificate {index} cannot be read: {why}")]
    Root {
        /// Its place among the roots, from 0.
        index: usize,
        /// What the parser says.
        why: String,
    },
    /// The key cannot be used, or is not the key of the first certificate.
    #[error("the key cannot be used: {0}")]
    Key(String),
    /// The trust domain is empty.
    #[error("the trust domain is empty")]
    TrustDomain,
    /// rustls refused the configuration.
    #[error("TLS cannot be configured: {0}")]
    Config(String),
}

/// ALPN name of HTTP/2, the only protocol of the tunnel.
pub(super) const ALPN: &[u8] = b"h2";

/// Cryptography of the mesh: AES-GCM only (what every peer has and what the CPU does fastest);
/// X25519MLKEM768 preferred (rustls servers follow the client's order), X25519 and P-256 accepted.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}

/// Chain and key for rustls, checked against each other.
pub(super) fn certified_key(
    credentials: &Credentials,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsSetupError> {
    if credentials.chain.is_empty() {
        return Err(TlsSetupError::NoCertificate);
    }
    let key = provider
        .key_provider
        .load_private_key(credentials.key.clone_key())
        .map_err(|e| TlsSetupError::Key(e.to_string()))?;
    let certified = CertifiedKey::new(credentials.chain.clone(), key);
    certified
        .keys_match()
        .map_err(|e| TlsSetupError::Key(e.to_string()))?;
    Ok(Arc::new(certified))
}

/// The roots as trust anchors; all must be readable.
pub(super) fn anchors(
    credentials: &Credentials,
) -> Result<Arc<[TrustAnchor<'static>]>, TlsSetupError> {
    if credentials.roots.is_empty() {
        return Err(TlsSetupError::NoRoot);
    }
    let anchors = credentials.roots.iter().enumerate().map(|(index, root)| {
        webpki::anchor_from_trusted_cert(root)
            .map(|anchor| anchor.to_owned())
            .map_err(|e| TlsSetupError::Root {
                index,
                why: e.to_string(),
            })
    });
    anchors.collect()
}
