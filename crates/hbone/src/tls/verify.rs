//! Who may be at the other end: the chain must end in a root of the mesh, and the leaf must carry
//! exactly one URI name that is an expected SPIFFE ID. DNS names count for nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh::identity::{Identity, IdentityError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};

/// A peer's certificate that is genuine and yet not the wanted one, or cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityMismatch {
    /// The certificate is past its end.
    #[error("the peer's certificate has expired")]
    Expired,
    /// The certificate is not valid yet (often a clock that is wrong).
    #[error("the peer's certificate is not valid yet")]
    NotYetValid,
    /// The chain ends in no root of this mesh.
    #[error("the peer's certificate is not signed by a root of this mesh: {0}")]
    Untrusted(String),
    /// Not one URI name, or none that is a SPIFFE ID.
    #[error("the peer's certificate names no single SPIFFE ID: {0}")]
    NoIdentity(String),
    /// An identity of another trust domain.
    #[error("the peer is {peer}, not of trust domain {expected}")]
    TrustDomain {
        /// Who it is.
        peer: Identity,
        /// Our trust domain.
        expected: Arc<str>,
    },
    /// An identity of this mesh, but another one.
    #[error("the peer is {peer}, expected {}", list(.expected))]
    Identity {
        /// Who it is.
        peer: Identity,
        /// Who it should have been.
        expected: BTreeSet<Identity>,
    },
}

fn list(identities: &BTreeSet<Identity>) -> String {
    identities
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" or ")
}

impl From<IdentityMismatch> for Error {
    fn from(mismatch: IdentityMismatch) -> Self {
        CertificateError::Other(OtherError(Arc::new(mismatch))).into()
    }
}

/// The one SPIFFE ID of a certificate.
pub(super) fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, IdentityMismatch> {
    let no_identity = |why: String| IdentityMismatch::NoIdentity(why);
    let leaf = EndEntityCert::try_from(certificate).map_err(|e| no_identity(e.to_string()))?;
    let mut names = leaf.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => name
            .parse()
            .map_err(|e: IdentityError| no_identity(e.to_string())),
        (None, _) => Err(no_identity("it has no URI name".to_owned())),
        (Some(_), Some(_)) => Err(no_identity("it has several URI names".to_owned())),
    }
}

/// What both verifiers share: the roots and the signatures they take.
#[derive(Debug, Clone)]
struct Chain {
    roots: Arc<[TrustAnchor<'static>]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Chain {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<Identity, IdentityMismatch> {
        let end = EndEntityCert::try_from(leaf)
            .map_err(|e| IdentityMismatch::Untrusted(e.to_string()))?;
        end.verify_for_usage(
            self.algorithms.all,
            &self.roots,
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map_err(|e| match e {
            webpki::Error::CertExpired { .. } => IdentityMismatch::Expired,
            webpki::Error::CertNotValidYet { .. } => IdentityMismatch::NotYetValid,
            other => IdentityMismatch::Untrusted(other.to_string()),
        })?;
        identity_of(leaf)
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// TLS 1.2 is not configured, so its signatures never come here; refuse them all the same.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
}

/// Client side: the server must be one of the expected identities.
#[derive(Debug)]
pub(super) struct ExpectedServer {
    chain: Chain,
    expected: BTreeSet<Identity>,
}

impl ExpectedServer {
    pub(super) fn new(
        roots: Arc<[TrustAnchor<'static>]>,
        algorithms: WebPkiSupportedAlgorithms,
        expected: BTreeSet<Identity>,
    ) -> Self {
        Self {
            chain: Chain { roots, algorithms },
            expected,
        }
    }
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = self
            .chain
            .verify(end_entity, intermediates, now, KeyUsage::server_auth())?;
        if !self.expected.contains(&peer) {
            let expected = self.expected.clone();
            return Err(IdentityMismatch::Identity { peer, expected }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.algorithms.supported_schemes()
    }
}

/// Server side: the client must be of our trust domain. What it may do is policy, not ours to know.
#[derive(Debug)]
pub(super) struct MeshClient {
    chain: Chain,
    trust_domain: Arc<str>,
}

impl MeshClient {
    pub(super) fn new(
        roots: Arc<[TrustAnchor<'static>]>,
        algorithms: WebPkiSupportedAlgorithms,
        trust_domain: Arc<str>,
    ) -> Self {
        Self {
            chain: Chain { roots, algorithms },
            trust_domain,
        }
    }
}

impl ClientCertVerifier for MeshClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A workload has one certificate; hints would only cost bytes.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let peer = self
            .chain
            .verify(end_entity, intermediates, now, KeyUsage::client_auth())?;
        if peer.trust_domain() != &*self.trust_domain {
            let expected = self.trust_domain.clone();
            return Err(IdentityMismatch::TrustDomain { peer, expected }.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.algorithms.supported_schemes()
    }
}
