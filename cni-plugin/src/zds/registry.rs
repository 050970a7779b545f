//! Which pods there are, which ztunnels are connected, and what each of them has acknowledged.
//!
//! Pure bookkeeping: sessions get their work through bounded queues, filled under one lock, so that
//! a snapshot and the changes after it never miss or repeat a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Answer, Command, HandedPod};
use crate::message::ZtunnelStatus;

/// Changes that may wait for one ztunnel. One that is this far behind is dropped, and gets all
/// anew when it connects again.
const QUEUE: usize = 256;

/// A pod, as far as ZDS is concerned.
#[derive(Clone, Debug)]
pub enum Known {
    /// With all that a ztunnel needs.
    Handed(Arc<HandedPod>),
    /// Its namespace cannot be opened (any more), but whoever serves it shall go on.
    Kept,
}

/// A change to tell.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Add(Arc<HandedPod>),
    Delete(String),
}

/// What a session starts with.
pub(super) struct Start {
    pub id: u64,
    pub snapshot: Vec<(String, Known)>,
    pub commands: mpsc::Receiver<Command>,
}

#[derive(Default)]
pub(super) struct Registry {
    next_id: u64,
    pods: BTreeMap<String, Known>,
    /// Oldest first.
    sessions: Vec<Session>,
}

struct Session {
    id: u64,
    pid: i32,
    ready: bool,
    acked: BTreeSet<String>,
    /// None: too far behind, ends as soon as its task sees the closed queue.
    commands: Option<mpsc::Sender<Command>>,
}

impl Registry {
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub fn ready(&self) -> usize {
        self.sessions.iter().filter(|session| session.ready).count()
    }

    pub fn status(&self) -> Vec<ZtunnelStatus> {
        let status = |session: &Session| ZtunnelStatus {
            pid: session.pid,
            ready: session.ready,
            pods: session.acked.len(),
        };
        self.sessions.iter().map(status).collect()
    }

    pub fn remember(&mut self, uid: &str, known: Known) {
        self.pods.insert(uid.to_owned(), known);
    }

    /// Queues the pod for the newest ready ztunnel, and for those that are still at their snapshot.
    /// None when there is nobody to give it to.
    pub fn add(&mut self, pod: &Arc<HandedPod>) -> Option<oneshot::Receiver<Result<(), String>>> {
        self.pods
            .insert(pod.uid.clone(), Known::Handed(pod.clone()));
        let ready = self.sessions.iter().rposition(|session| session.ready);
        let chosen = ready.or(self.sessions.len().checked_sub(1))?;
        let mut answer = None;
        for (index, session) in self.sessions.iter_mut().enumerate() {
            if index == chosen || !session.ready {
                let receiver = session.queue(Change::Add(pod.clone()));
                if index == chosen {
                    answer = Some(receiver);
                }
            }
        }
        answer
    }

    pub fn delete(&mut self, uid: &str) -> Vec<oneshot::Receiver<Result<(), String>>> {
        if self.pods.remove(uid).is_none() {
            return Vec::new();
        }
        self.sessions
            .iter_mut()
            .map(|s| s.queue(Change::Delete(uid.to_owned())))
            .collect()
    }

    pub fn enter(&mut self, pid: i32) -> Start {
        self.next_id += 1;
        let id = self.next_id;
        let (commands, receiver) = mpsc::channel(QUEUE);
        self.sessions.push(Session {
            id,
            pid,
            ready: false,
            acked: BTreeSet::new(),
            commands: Some(commands),
        });
        let snapshot = self
            .pods
            .iter()
            .map(|(uid, known)| (uid.clone(), known.clone()))
            .collect();
        Start {
            id,
            snapshot,
            commands: receiver,
        }
    }

    pub fn snapshot_acked(&mut self, id: u64) {
        if let Some(session) = self.session(id) {
            session.ready = true;
        }
    }

    pub fn acked(&mut self, id: u64, uid: &str) {
        if let Some(session) = self.session(id) {
            session.acked.insert(uid.to_owned());
        }
    }

    pub fn has_acked(&self, uid: &str) -> bool {
        let mut sessions = self.sessions.iter();
        sessions.any(|session| session.acked.contains(uid))
    }

    pub fn deleted(&mut self, id: u64, uid: &str) {
        if let Some(session) = self.session(id) {
            session.acked.remove(uid);
        }
    }

    /// Forgets a session. When it was the newest that was ready, the one before it gets the pods
    /// that it has never seen.
    pub fn leave(&mut self, id: u64) {
        self.sessions.retain(|session| session.id != id);
        let Some(newest) = self.sessions.iter_mut().rfind(|session| session.ready) else {
            return;
        };
        for (uid, known) in &self.pods {
            if let (Known::Handed(pod), false) = (known, newest.acked.contains(uid)) {
                // Nobody waits: the session logs what goes wrong.
                drop(newest.queue(Change::Add(pod.clone())));
            }
        }
    }

    fn session(&mut self, id: u64) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.id == id)
    }
}

impl Session {
    fn queue(&mut self, change: Change) -> oneshot::Receiver<Result<(), String>> {
        let (answer, receiver): (Answer, _) = oneshot::channel();
        let command = Command { change, answer };
        let sent = self
            .commands
            .as_ref()
            .map(|commands| commands.try_send(command).is_ok());
        if sent == Some(false) {
            tracing::warn!(pid = self.pid, "a ztunnel is too far behind, dropping it");
            self.commands = None;
            self.ready = false;
        }
        receiver
    }
}
