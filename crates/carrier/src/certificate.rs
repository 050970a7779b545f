//! Certificates of the pods on this node: who needs one, and how workers get it.
//!
//! The control side follows the certificate of each identity in use and publishes their TLS
//! together; a worker looks into that map and never waits for the issuer. Knows no CA protocol
//! (`process::certs` does) and shows no key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hbone::tls::{ClientTls, Credentials, ServerTls, TlsSetupError};
use mesh::Identity;
use process::certs::{CertManager, CertificateStatus, Issued};
use process::tasks::Tasks;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tokio::sync::watch;

/// One identity's TLS, ready for use.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// For tunnels that the identity makes.
    pub client: ClientTls,
    /// For tunnels that it takes.
    pub server: ServerTls,
    issued: Arc<Issued>,
}

impl Certificate {
    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.issued.not_after()
    }

    /// Whether it may be shown now. Asked at each use: a clock that jumps tells nobody.
    pub fn is_valid(&self) -> bool {
        self.issued.is_valid(SystemTime::now())
    }
}

/// Certificates of the identities of this node; without those that are not there yet, with those
/// that have ended since. Cloning is cheap.
pub type Book = imbl::HashMap<Identity, Certificate>;

/// Keeps the [`Book`].
pub struct Certificates {
    manager: CertManager,
    trust_domain: Arc<str>,
    time: Arc<dyn TimeProvider>,
    book: watch::Sender<Book>,
    /// How many pods have an identity.
    pods: Mutex<HashMap<Identity, usize>>,
    tasks: Tasks,
}

impl Certificates {
    /// With nothing in it. `tasks` owns the followers.
    pub fn new(manager: CertManager, trust_domain: Arc<str>, tasks: &Tasks) -> Arc<Self> {
        Arc::new(Self {
            manager,
            trust_domain,
            time: Arc::new(DefaultTimeProvider),
            book: watch::Sender::new(Book::new()),
            pods: Mutex::default(),
            tasks: tasks.clone(),
        })
    }

    /// The book as it changes.
    pub fn book(&self) -> watch::Receiver<Book> {
        self.book.subscribe()
    }

    /// Why an identity is not in the book, or not valid, in words.
    pub fn why_missing(&self, identity: &Identity) -> String {
        self.manager.why_unusable(identity)
    }

    /// Why this node cannot prove who its pods are; None when it can, or has no pods. One pod whose
    /// certificate is refused does not keep the others from being served.
    pub fn why_none(&self) -> Option<String> {
        let pods = self.pods();
        let book = self.book.borrow();
        let lacks = |identity: &&Identity| !book.contains_key(*identity);
        let refused = |identity: &Identity| self.manager.last_error(identity).is_some();
        let first = pods.keys().find(lacks)?;
        let all_tried = pods.keys().filter(lacks).all(refused);
        let none_has = pods.keys().all(|identity| lacks(&identity));
        (none_has || !all_tried)
            .then(|| format!("no certificate for {first}: {}", self.why_missing(first)))
    }

    /// State of all, for the dump.
    pub fn status(&self) -> Vec<CertificateStatus> {
        self.manager.status()
    }

    /// One pod more has this identity; for the first one a certificate is fetched.
    ///
    /// # Errors
    /// This node holds too many identities.
    pub fn hold(
        self: &Arc<Self>,
        identity: &Identity,
    ) -> Result<(), process::certs::CertificateError> {
        let mut pods = self.pods();
        if let Some(count) = pods.get_mut(identity) {
            *count += 1;
            return Ok(());
        }
        let issued = self.manager.subscribe(identity)?;
        pods.insert(identity.clone(), 1);
        drop(pods);
        let (this, identity) = (Arc::clone(self), identity.clone());
        let stop = self.tasks.stop();
        self.tasks.spawn("certificate", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.follow(&identity, issued) => {}
            }
        });
        Ok(())
    }

    /// One pod less has this identity; with the last one it is forgotten.
    pub fn release(&self, identity: &Identity) {
        let mut pods = self.pods();
        let Some(count) = pods.get_mut(identity) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        pods.remove(identity);
        // Ends its follower.
        self.manager.forget(identity);
        self.book.send_modify(|book| {
            book.remove(identity);
        });
    }

    async fn follow(&self, identity: &Identity, mut issued: watch::Receiver<Option<Arc<Issued>>>) {
        loop {
            let newest = issued.borrow_and_update().clone();
            if let Some(newest) = newest {
                self.publish(identity, &newest);
            }
            if issued.changed().await.is_err() {
                return;
            }
        }
    }

    fn publish(&self, identity: &Identity, issued: &Arc<Issued>) {
        let certificate = match self.certificate(issued) {
            Ok(certificate) => certificate,
            Err(error) => {
                tracing::error!(%identity, %error, "the certificate cannot be used");
                return;
            }
        };
        // Under the lock, so that a release does not slip in between.
        let pods = self.pods();
        if pods.contains_key(identity) {
            tracing::debug!(%identity, "certificate in use");
            self.book.send_modify(|book| {
                book.insert(identity.clone(), certificate);
            });
        }
    }

    fn certificate(&self, issued: &Arc<Issued>) -> Result<Certificate, TlsSetupError> {
        let credentials = Credentials {
            chain: issued.chain().to_vec(),
            key: issued.key().to_der(),
            roots: issued.roots().to_vec(),
        };
        let time = || Arc::clone(&self.time);
        Ok(Certificate {
            client: ClientTls::new(&credentials, time())?,
            server: ServerTls::new(&credentials, &self.trust_domain, time())?,
            issued: Arc::clone(issued),
        })
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<Identity, usize>> {
        // Code under this lock leaves the map whole at every step.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
