//! Certificates of the identities of this node: keys made here, signed by the control plane,
//! renewed at half of their life.
//!
//! Knows no TLS and no connection. Key material is in memory only, is wiped when dropped and is in
//! no `Debug`, no `Serialize` and no file.
//!
//! ```text
//!   want ──> due ──> asked ──> issued ── half-life ──> asked ──> issued ...
//!             ^        │ failed            (the old one stays in use until its end)
//!             └ pause ─┘  500 ms .. 150 s
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use mesh::Identity;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::tasks::Tasks;

mod authority;
mod issued;
mod request;
mod schedule;
mod status;

pub use authority::{AskError, Authority, GrpcAuthority, Question};
pub use issued::{Issued, PrivateKey, Unacceptable};
pub use status::{CertificateStatus, ChainStatus};

use schedule::Schedule;

/// Requests to the CA at once: a node that starts with 250 pods has their certificates in a few
/// round trips, and does not flood the CA.
const MAX_ASKING: usize = 16;
/// Identities held at once: pods of a node (Kubernetes: 110 by default, 500 at the largest
/// providers), with room to spare.
const MAX_IDENTITIES: usize = 4096;
/// Time for one answer, whoever is asked: longer and the request is given up and tried again.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// Lifetime asked for when nothing else is set.
pub const DEFAULT_TTL: Duration = Duration::from_secs(86_400);

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// None came in the time that the caller had.
    #[error("no certificate for {identity} yet: {reason}")]
    NotYet {
        /// Whose.
        identity: Identity,
        /// What the last attempt ended with.
        reason: String,
    },
    /// The identity was forgotten meanwhile.
    #[error("{0} is no longer wanted on this node")]
    Forgotten(Identity),
    /// Too many identities are held.
    #[error("{0} refused: this node holds certificates for {MAX_IDENTITIES} identities already")]
    Full(Identity),
}

/// Keeps certificates for the wanted identities. Cheap to clone.
#[derive(Clone)]
pub struct CertManager {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    authority: Arc<dyn Authority>,
    ttl: Duration,
    state: Mutex<State>,
    /// Wakes the task when the schedule changed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    entries: BTreeMap<Identity, Entry>,
    /// Certificates of a predecessor that nobody has wanted yet.
    adopted: BTreeMap<Identity, Arc<Issued>>,
}

struct Entry {
    issued: watch::Sender<Option<Arc<Issued>>>,
    /// Validity of the newest one, also when that is none any more.
    validity: Option<(SystemTime, SystemTime)>,
    /// What the last attempt ended with, None after a success.
    last_error: Option<String>,
}

impl Entry {
    /// Whether a certificate is there that may be shown now.
    fn has_valid(&self, now: SystemTime) -> bool {
        let issued = self.issued.borrow();
        issued.as_ref().is_some_and(|issued| issued.is_valid(now))
    }

    fn why_unusable(&self, now: SystemTime) -> String {
        let text = status::rfc3339;
        let last = match self.validity {
            Some((_, end)) if end <= now => format!("the last one ended at {}", text(end)),
            Some((start, _)) if now < start => {
                format!("the last one is not valid before {}", text(start))
            }
            _ => {
                let error = self.last_error.as_deref();
                return error.unwrap_or("none was issued yet").to_owned();
            }
        };
        match &self.last_error {
            Some(error) => format!("{last}; renewal failed: {error}"),
            None => format!("{last}; it is being renewed"),
        }
    }
}

impl fmt::Debug for CertManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertManager")
            .field("certificates", &self.status())
            .finish()
    }
}

impl CertManager {
    /// Starts the manager as a task of `tasks`. `ttl` is the lifetime that is asked for
    /// ([`DEFAULT_TTL`]); the CA may give less.
    pub fn start(
        tasks: &Tasks,
        authority: Arc<dyn Authority>,
        clock: Arc<dyn Clock>,
        ttl: Duration,
    ) -> Self {
        let state = Mutex::default();
        let inner = Arc::new(Inner {
            clock,
            authority,
            ttl,
            state,
            changed: Notify::new(),
        });
        tasks.spawn("certificates", inner.clone().run(tasks.stop()));
        Self { inner }
    }

    /// Fetches a certificate for `identity` and keeps it fresh until it is forgotten. Asking twice
    /// is asking once.
    ///
    /// # Errors
    /// [`CertificateError::Full`].
    pub fn want(&self, identity: &Identity) -> Result<(), CertificateError> {
        self.subscribe(identity).map(drop)
    }

    /// Makes `identities` the set of wanted ones: the others are forgotten.
    ///
    /// # Errors
    /// [`CertificateError::Full`] for the first that has no place; the others are wanted.
    pub fn set_wanted(&self, identities: &BTreeSet<Identity>) -> Result<(), CertificateError> {
        let held: Vec<_> = self.inner.state().entries.keys().cloned().collect();
        for identity in held.iter().filter(|held| !identities.contains(held)) {
            self.forget(identity);
        }
        let mut all = Ok(());
        for identity in identities {
            all = all.and(self.want(identity));
        }
        all
    }

    /// Drops the certificate and key of `identity`; false when there was no such.
    pub fn forget(&self, identity: &Identity) -> bool {
        let mut state = self.inner.state();
        state.schedule.forget(identity);
        state.entries.remove(identity).is_some()
    }

    /// The certificate as it is renewed; wants `identity`. None while there is no valid one. Ends
    /// (`changed()` fails) when the identity is forgotten.
    ///
    /// # Errors
    /// [`CertificateError::Full`].
    pub fn subscribe(
        &self,
        identity: &Identity,
    ) -> Result<watch::Receiver<Option<Arc<Issued>>>, CertificateError> {
        let mut state = self.inner.state();
        if let Some(entry) = state.entries.get(identity) {
            return Ok(entry.issued.subscribe());
        }
        if state.entries.len() >= MAX_IDENTITIES {
            return Err(CertificateError::Full(identity.clone()));
        }
        let now = self.inner.clock.now();
        state.schedule.want(identity.clone(), now);
        let adopted = state.adopted.remove(identity);
        let adopted = adopted.filter(|issued| issued.is_valid(now));
        if let Some(issued) = &adopted {
            // Counted from its beginning: a row of successors must not put it off.
            let begun = issued.not_before().min(now);
            let renew_at = schedule::half_life(begun, issued.not_after(), rand::random());
            state.schedule.issued(identity, now, renew_at);
        }
        let validity = adopted.as_ref().map(|it| (it.not_before(), it.not_after()));
        let (issued, receiver) = watch::channel(adopted);
        state.entries.insert(
            identity.clone(),
            Entry {
                issued,
                validity,
                last_error: None,
            },
        );
        drop(state);
        self.inner.changed.notify_one();
        Ok(receiver)
    }

    /// The certificate that is valid now, if there is one. Does not want the identity.
    pub fn current(&self, identity: &Identity) -> Option<Arc<Issued>> {
        let now = self.inner.clock.now();
        let state = self.inner.state();
        let issued = state.entries.get(identity)?.issued.borrow().clone();
        issued.filter(|issued| issued.is_valid(now))
    }

    /// The certificate of `identity`, at once when there is a valid one, else as soon as it comes;
    /// wants `identity`.
    ///
    /// # Errors
    /// [`CertificateError::NotYet`] with the reason when `within` is over.
    pub async fn certificate(
        &self,
        identity: &Identity,
        within: Duration,
    ) -> Result<Arc<Issued>, CertificateError> {
        let mut receiver = self.subscribe(identity)?;
        if let Some(issued) = self.current(identity) {
            return Ok(issued);
        }
        let usable = |issued: &Option<Arc<Issued>>| {
            issued
                .as_ref()
                .is_some_and(|issued| issued.is_valid(self.inner.clock.now()))
        };
        let waited = tokio::time::timeout(within, receiver.wait_for(usable)).await;
        match waited {
            Ok(Ok(issued)) => Ok(issued.clone().expect("only Some is waited for")),
            Ok(Err(_)) => Err(CertificateError::Forgotten(identity.clone())),
            Err(_) => Err(CertificateError::NotYet {
                identity: identity.clone(),
                reason: self
                    .last_error(identity)
                    .unwrap_or_else(|| "no answer yet".to_owned()),
            }),
        }
    }

    /// All certificates that are valid now, with their keys: what a successor needs.
    pub fn held(&self) -> Vec<Arc<Issued>> {
        let now = self.inner.clock.now();
        let state = self.inner.state();
        let issued = state.entries.values().map(|entry| entry.issued.borrow());
        let issued = issued.filter_map(|issued| issued.clone());
        issued.filter(|issued| issued.is_valid(now)).collect()
    }

    /// Keeps certificates of a predecessor: an identity that is wanted later has its own at once,
    /// and it is renewed at half of its life. At most [`MAX_IDENTITIES`].
    pub fn adopt(&self, certificates: Vec<Issued>) {
        let adopted = certificates.into_iter().take(MAX_IDENTITIES);
        let adopted = adopted.map(|issued| (issued.identity().clone(), Arc::new(issued)));
        self.inner.state().adopted.extend(adopted);
    }

    /// Wipes what was adopted and is wanted by no pod: the keys of others have no place here.
    pub fn drop_unwanted(&self) {
        self.inner.state().adopted.clear();
    }

    /// What the last attempt for `identity` ended with; None after a success or before its end.
    pub fn last_error(&self, identity: &Identity) -> Option<String> {
        self.inner.state().entries.get(identity)?.last_error.clone()
    }

    /// Why [`CertManager::current`] has nothing for `identity`: that the last one has ended and
    /// when, and what the last attempt ended with.
    pub fn why_unusable(&self, identity: &Identity) -> String {
        let now = self.inner.clock.now();
        let state = self.inner.state();
        match state.entries.get(identity) {
            Some(entry) => entry.why_unusable(now),
            None => "it is no longer wanted on this node".to_owned(),
        }
    }

    /// All identities with the state of their certificates, for `/config_dump`.
    pub fn status(&self) -> Vec<CertificateStatus> {
        let now = self.inner.clock.now();
        let state = self.inner.state();
        let of = |(identity, entry): (&Identity, &Entry)| {
            let issued = entry.issued.borrow();
            CertificateStatus::new(
                identity,
                issued.as_deref(),
                entry.last_error.as_deref(),
                now,
            )
        };
        state.entries.iter().map(of).collect()
    }
}

type Answer = (Identity, Result<Issued, AskError>);

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Code under this lock leaves the state whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut asking: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        loop {
            let now = self.clock.now();
            let free = MAX_ASKING - asking.len();
            let (due, next) = {
                let mut state = self.state();
                let due = state.schedule.take_due(now, free);
                (due, state.schedule.next())
            };
            asking.extend(due.into_iter().map(|identity| self.clone().ask(identity)));
            // A full house waits for an answer, not for the next that is due.
            let next = next.filter(|_| asking.len() < MAX_ASKING);
            tokio::select! {
                () = stop.cancelled() => return,
                Some((identity, result)) = asking.next() => self.answered(&identity, result),
                () = self.changed.notified() => {}
                () = self.sleep_until(next) => {}
            }
        }
    }

    async fn sleep_until(&self, at: Option<SystemTime>) {
        match at {
            Some(at) => self.clock.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn ask(self: Arc<Self>, identity: Identity) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            let asked = tokio::time::timeout(ASK_TIMEOUT, self.ask_once(&identity)).await;
            let result = asked.unwrap_or(Err(AskError::TimedOut(ASK_TIMEOUT)));
            (identity, result)
        })
    }

    async fn ask_once(&self, identity: &Identity) -> Result<Issued, AskError> {
        let (key, csr_pem) = request::make(identity).map_err(AskError::Key)?;
        let question = Question {
            identity: identity.clone(),
            csr_pem,
            ttl: self.ttl,
        };
        let chain = self.authority.sign(question).await?;
        let now = self.clock.now();
        issued::accept(identity, key, &chain, now).map_err(AskError::Unacceptable)
    }

    fn answered(&self, identity: &Identity, result: Result<Issued, AskError>) {
        let now = self.clock.now();
        let mut state = self.state();
        let State {
            schedule, entries, ..
        } = &mut *state;
        // Forgotten meanwhile: the answer and its key are dropped.
        let Some(entry) = entries.get_mut(identity) else {
            return;
        };
        match result {
            Ok(issued) => {
                let renew_at = schedule::half_life(now, issued.not_after(), rand::random());
                tracing::info!(%identity, ?issued, "certificate issued");
                schedule.issued(identity, now, renew_at);
                entry.last_error = None;
                entry.validity = Some((issued.not_before(), issued.not_after()));
                entry.issued.send_replace(Some(Arc::new(issued)));
            }
            Err(error) => {
                let retry_in = schedule.failed(identity, now, entry.has_valid(now));
                tracing::warn!(%identity, %error, ?retry_in, "no certificate");
                entry.last_error = Some(error.to_string());
                // A certificate that has ended is no certificate.
                entry.issued.send_if_modified(|held| {
                    let ended = held.as_ref().is_some_and(|held| held.not_after() <= now);
                    if ended {
                        *held = None;
                    }
                    ended
                });
            }
        }
    }
}
