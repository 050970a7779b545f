//! The way to the control plane: gRPC over TLS to one address, the server checked against a pinned
//! root file, the caller known by a token file.
//!
//! Knows addresses, files and limits; knows nothing of what is asked (see `xds`, `certs` and
//! [`agent`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

mod advice;
pub mod agent;
pub(crate) mod messages;
mod token;

pub use token::TokenError;

/// Largest message in either direction: the ecosystem's bound for a full push of a large mesh.
pub const MAX_MESSAGE_BYTES: usize = 200 * 1024 * 1024;
/// Time for TCP connect and TLS handshake each: the control plane is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A PING on a quiet connection, so that a lost peer is noticed on a stream that only listens.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Time for the answer to that PING.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Flow-control windows: a full push should not wait for credit at every 64 KiB.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Largest root file, in bytes: a bundle has a few certificates of about 1 KiB.
const MAX_ROOT_BYTES: u64 = 1024 * 1024;

/// Where the control plane is and how both sides know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `https://IP:port` or `https://name:port`; the server's certificate must have that IP or
    /// name as subject alternative name.
    pub address: String,
    /// PEM file with the roots of the server's certificate; read at each connect.
    pub root_cert: PathBuf,
    /// File with the token (one line); read at each call. None: no token is sent.
    pub token_file: Option<PathBuf>,
    /// Whether a token that group or others may read is used with a warning instead of refused
    /// (projected service account tokens of a cluster are often 0644). Default false.
    pub shared_token: bool,
    /// Name of the cluster, sent as metadata `clusterid`. Default `Kubernetes`.
    pub cluster_id: String,
}

impl Settings {
    /// Settings with the defaults of the fields not given.
    pub fn new(address: &str, root_cert: &Path, token_file: Option<&Path>) -> Self {
        Self {
            address: address.to_owned(),
            root_cert: root_cert.to_owned(),
            token_file: token_file.map(Path::to_owned),
            shared_token: false,
            cluster_id: "Kubernetes".to_owned(),
        }
    }
}

/// An address that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control plane address `{address}`: {reason}; write https://IP:PORT or https://NAME:PORT")]
pub struct AddressError {
    /// As given.
    pub address: String,
    /// What is wrong.
    pub reason: String,
}

/// Why there is no connection. Each names the address or file, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The root file cannot be used.
    #[error(
        "root certificate {path:?}: {reason}; put the control plane's root.pem there \
         (culvertd writes it into its --state directory)"
    )]
    Root {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The connection or its TLS handshake failed.
    #[error("control plane {address}: {reason}; {fix}")]
    Unreachable {
        /// As given.
        address: String,
        /// The innermost reason.
        reason: String,
        /// What to do.
        fix: String,
    },
}

/// Why a call got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No token to send.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The control plane answered with an error, or the connection broke under the call.
    #[error("control plane {address} answered {code:?}: {message}; {fix}")]
    Refused {
        /// As given.
        address: String,
        /// gRPC status code.
        code: tonic::Code,
        /// Its message.
        message: String,
        /// What to do.
        fix: &'static str,
    },
}

/// The control plane: makes connections and requests to it. Cheap to clone; clones share the
/// connection of [`ControlPlane::channel`].
#[derive(Clone)]
pub struct ControlPlane {
    settings: Arc<Settings>,
    endpoint: Endpoint,
    /// Name that the certificate must have: the host of the address, IPv6 without brackets.
    server_name: Arc<str>,
    shared: Arc<Mutex<Option<Channel>>>,
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ControlPlane").field(&self.settings).finish()
    }
}

impl ControlPlane {
    /// Checks the address; touches no file and no network.
    ///
    /// # Errors
    /// An address that is not `https://HOST:PORT`.
    pub fn new(settings: Settings) -> Result<Self, AddressError> {
        let wrong = |reason: &str| AddressError {
            address: settings.address.clone(),
            reason: reason.to_owned(),
        };
        let uri: http::Uri = settings.address.parse().map_err(|_| wrong("is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("is not https"));
        }
        if uri.port_u16().is_none() {
            return Err(wrong("has no port"));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(wrong("has a path"));
        }
        let host = uri.host().ok_or_else(|| wrong("has no host"))?;
        let server_name = host.trim_start_matches('[').trim_end_matches(']').into();
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        Ok(Self {
            settings: Arc::new(settings),
            endpoint,
            server_name,
            shared: Arc::default(),
        })
    }

    /// The address as given.
    pub fn address(&self) -> &str {
        &self.settings.address
    }

    /// A new connection, with the roots that are in the file now. Ends when the TLS handshake is
    /// done. The channel connects again by itself when it breaks, with the same roots.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        let roots = read_roots(&self.settings.root_cert)?;
        let tls = ClientTlsConfig::new()
            .domain_name(&*self.server_name)
            .ca_certificates(roots.into_iter().map(Certificate::from_pem))
            .timeout(CONNECT_TIMEOUT);
        let unreachable = |error| advice::unreachable(&self.settings, &error);
        let endpoint = self.endpoint.clone().tls_config(tls).map_err(unreachable)?;
        endpoint.connect().await.map_err(unreachable)
    }

    /// The connection that short calls share; made when there is none.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn channel(&self) -> Result<Channel, ConnectError> {
        let mut shared = self.shared.lock().await;
        if let Some(channel) = &*shared {
            return Ok(channel.clone());
        }
        let channel = self.connect().await?;
        *shared = Some(channel.clone());
        Ok(channel)
    }

    /// `message` with the token that is in the file now.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn request<T>(&self, message: T) -> Result<Request<T>, TokenError> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        if let Some(path) = &self.settings.token_file {
            let bearer = token::read(path, self.settings.shared_token)?;
            metadata.insert("authorization", bearer);
        }
        if let Ok(cluster) = AsciiMetadataValue::try_from(&self.settings.cluster_id) {
            metadata.insert("clusterid", cluster);
        }
        Ok(request)
    }

    /// The error of a call on [`ControlPlane::channel`]. Forgets the shared connection unless the
    /// server itself answered, so that the next call reads the roots again.
    pub(crate) async fn refused(&self, status: &Status) -> CallError {
        if advice::is_transport(status) {
            *self.shared.lock().await = None;
        }
        advice::refused(&self.settings, status)
    }
}

/// The PEM blocks of the root file, at least one.
fn read_roots(path: &Path) -> Result<Vec<String>, ConnectError> {
    let wrong = |reason: String| ConnectError::Root {
        path: path.to_owned(),
        reason,
    };
    let length = std::fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if length > MAX_ROOT_BYTES {
        return Err(wrong(format!(
            "{length} bytes are more than {MAX_ROOT_BYTES}"
        )));
    }
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let blocks = pem::parse_many(text).map_err(|error| wrong(error.to_string()))?;
    let certificates: Vec<String> = blocks
        .iter()
        .filter(|block| block.tag() == "CERTIFICATE")
        .map(ToString::to_string)
        .collect();
    if certificates.is_empty() {
        return Err(wrong("holds no certificate".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control_plane(address: &str) -> Result<ControlPlane, AddressError> {
        ControlPlane::new(Settings::new(address, Path::new("/nowhere/root.pem"), None))
    }

    #[test]
    fn only_https_with_host_and_port_is_an_address() {
        for address in [
            "https://10.0.0.1:15012",
            "https://[fd00::1]:15012",
            "https://istiod:15012",
        ] {
            assert!(control_plane(address).is_ok(), "{address}");
        }
        for address in [
            "",
            "10.0.0.1:15012",
            "http://a:1",
            "https://a",
            "https://a:1/x",
            "https://a:99999",
        ] {
            let error = control_plane(address).unwrap_err().to_string();
            assert!(
                error.contains("write https://IP:PORT"),
                "{address}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_missing_or_empty_root_file_is_named() {
        let error = control_plane("https://127.0.0.1:1")
            .unwrap()
            .connect()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nowhere/root.pem"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = Settings::new("https://127.0.0.1:1", file.path(), None);
        let error = ControlPlane::new(settings)
            .unwrap()
            .connect()
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("holds no certificate"),
            "{error}"
        );
    }
}
