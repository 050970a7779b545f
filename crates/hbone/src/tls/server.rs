//! The server's side of TLS: one per workload that takes connections.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;

use super::credentials::{ALPN, Credentials, TlsSetupError, anchors, certified_key, provider};
use super::verify::MeshClient;

/// TLS for connections that one workload takes. Cheap to clone; made anew when the certificate or
/// the roots change (connections that are open keep theirs).
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// TLS under these credentials for clients of `trust_domain`; `time` is the wall clock that
    /// certificates are checked against.
    ///
    /// # Errors
    /// Credentials that cannot be used, or an empty trust domain.
    pub fn new(
        credentials: &Credentials,
        trust_domain: &str,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, TlsSetupError> {
        if trust_domain.is_empty() {
            return Err(TlsSetupError::TrustDomain);
        }
        let provider = provider();
        let roots = anchors(credentials)?;
        let key = certified_key(credentials, &provider)?;
        let algorithms = provider.signature_verification_algorithms;
        let clients = MeshClient::new(roots, algorithms, trust_domain.into());
        let mut config = ServerConfig::builder_with_details(provider, time)
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| TlsSetupError::Config(e.to_string()))?
            .with_client_cert_verifier(Arc::new(clients))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // For our own records alone: no caller ever sees the configuration or a connection of it.
        config.enable_secret_extraction = true;
        // Resumption would skip the certificate check; clients of the mesh do not ask for it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// A session with a client that has just connected.
    pub(super) fn start(&self) -> Result<UnbufferedServerConnection, rustls::Error> {
        UnbufferedServerConnection::new(self.config.clone())
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}
