//! Certificates for strangers: from a control plane of the world, or self-made.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use netio::netns::Netns;
use process::certs::{CertManager, DEFAULT_TTL, GrpcAuthority};
use process::clock::SystemClock;
use process::grpc::{ControlPlane as Caller, Settings};
use process::tasks::Tasks;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use world::Place;
use world::stack::ControlPlane;

/// A control plane signs within this.
const ISSUED_WITHIN: Duration = Duration::from_secs(60);

/// What a peer shows: a chain, leaf first, with the leaf's key.
#[derive(Debug)]
pub struct Shown {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// What a peer shows, and until when it is good.
#[derive(Debug)]
pub struct Credentials {
    /// Chain and key.
    pub shown: Shown,
    not_after: SystemTime,
}

/// How long a certificate shall be good.
#[derive(Clone, Copy, Debug)]
pub enum Validity {
    /// As long as those of pods.
    Day,
    /// The shortest that the control plane gives.
    Shortest,
}

/// Asks control planes as a node does.
#[derive(Clone, Debug)]
pub struct Issuers {
    /// Where the node is.
    pub place: Place,
    /// File with its token.
    pub token: PathBuf,
}

impl Issuers {
    /// A certificate of `identity`, signed by this control plane.
    ///
    /// # Errors
    /// It does not sign, or not in time.
    pub fn issue(
        &self,
        control: &ControlPlane,
        identity: &str,
        validity: Validity,
    ) -> anyhow::Result<Credentials> {
        let ttl = match validity {
            Validity::Day => DEFAULT_TTL,
            Validity::Shortest => Duration::from_secs(1),
        };
        let identity = identity.parse().context("an identity")?;
        let root = control.root_certificate();
        let settings = Settings::new(&control.url(), &root, Some(&self.token));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let issued = Netns::open(self.place.netns())?.enter(|| {
            runtime.block_on(async {
                let tasks = Tasks::new();
                let authority = Arc::new(GrpcAuthority::new(Caller::new(settings)?));
                let manager = CertManager::start(&tasks, authority, Arc::new(SystemClock), ttl);
                let issued = manager.certificate(&identity, ISSUED_WITHIN).await?;
                tasks.shutdown(Duration::ZERO).await;
                anyhow::Ok(issued)
            })
        })??;
        Ok(Credentials {
            shown: Shown {
                chain: issued.chain().to_vec(),
                key: issued.key().to_der(),
            },
            not_after: issued.not_after(),
        })
    }
}

impl Credentials {
    /// Signed by itself, with the SPIFFE ID in the right place.
    ///
    /// # Errors
    /// The identity cannot stand in a certificate.
    pub fn self_made(identity: &str) -> anyhow::Result<Self> {
        let mut params = rcgen::CertificateParams::default();
        let uri = rcgen::string::Ia5String::try_from(identity)?;
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        let key = rcgen::KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Credentials {
            shown: Shown {
                chain: vec![certificate.der().clone()],
                key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            },
            not_after: SystemTime::now() + DEFAULT_TTL,
        })
    }

    /// How long it is good from now on.
    pub fn until_expired(&self) -> Duration {
        self.not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }
}

impl Shown {
    /// A copy of the key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// Writes chain and key as PEM into a new file of mode 0600.
    ///
    /// # Errors
    /// The file is there, or cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let certificates = self.chain.iter().map(|der| ("CERTIFICATE", der.to_vec()));
        let label = match &self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let key = (label, self.key.secret_der().to_vec());
        let text: String = certificates
            .chain([key])
            .map(|(label, der)| pem::encode(&pem::Pem::new(label, der)))
            .collect();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// No such file, or not of that form.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let read = || {
            let chain = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
            let key = PrivateKeyDer::from_pem_file(path)?;
            Ok::<Self, rustls::pki_types::pem::Error>(Shown { chain, key })
        };
        read().with_context(|| format!("read {}", path.display()))
    }
}
