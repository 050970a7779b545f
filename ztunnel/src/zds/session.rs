//! One connection to the node agent, from hello to its end. Every message is answered by one ack.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use mesh::Identity;
use mesh::identity::IdentityError;
use netio::seqpacket::{Conn, Message, RecvError};
use proto::decode::{self, DecodeError};
use proto::encode;
use proto::zds::{Ack, Add, Hello, ListenerRole, Request};

use super::Client;
use crate::pod::{self, DescriptorError, Family, Pod, PodUid, Role};
use crate::pods::{PodError, Pods};
use carrier::limits::{ZDS_MESSAGE_BYTES, ZDS_MESSAGE_FDS};

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A message that is too long or brings too much.
    #[error("{0}")]
    Receive(#[from] RecvError),
    /// The agent closed it.
    #[error("closed by the agent")]
    Closed,
    /// It is no agent that runs as root.
    #[error("the agent runs as user {0}, not as root")]
    NotRoot(u32),
    /// A message that is none.
    #[error("a message that cannot be read: {0}")]
    Message(#[from] DecodeError),
    /// Descriptors that are not what they should be: whoever sent them is no agent of ours.
    #[error("bad descriptors: {0}")]
    Descriptors(#[from] DescriptorError),
    /// Descriptors beside a message that has none.
    #[error("{0} descriptors beside a message that takes none")]
    StrayDescriptors(usize),
    /// No netns beside an add.
    #[error("an add without a network namespace")]
    NoDescriptor,
}

/// Why an add is refused while the session goes on.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the message does not say who the pod is")]
    Nameless,
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error(
        "no listeners were handed: this agent captures by other means than sk_lookup, which this \
         proxy does not serve"
    )]
    NoListeners,
    #[error(transparent)]
    Pod(#[from] PodError),
}

/// What the ack says, unless the session ends.
type Handled = Result<Result<(), Refused>, SessionError>;

pub(super) struct Session<'a> {
    client: &'a Client,
    pods: &'a mut Pods,
}

impl<'a> Session<'a> {
    /// Runs until something ends it.
    pub(super) async fn run(client: &'a Arc<Client>, pods: &'a mut Pods) -> SessionError {
        let mut session = Self { client, pods };
        match session.serve().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, SessionError> {
        let conn = Conn::connect(&self.client.socket)?;
        let uid = conn.peer_cred()?.uid;
        if uid != 0 {
            return Err(SessionError::NotRoot(uid));
        }
        let hello = encode::zds_hello(&Hello {
            accepts_listeners: true,
        });
        conn.send(&hello, &[]).await?;
        tracing::info!(socket = %self.client.socket.display(), "connected to the node agent");
        self.client
            .ready
            .missing("the agent has not named all pods yet");
        self.pods.begin();
        loop {
            let message = conn.recv(ZDS_MESSAGE_BYTES, ZDS_MESSAGE_FDS).await?;
            let Message { bytes, fds } = message.ok_or(SessionError::Closed)?;
            let handled = self.handle(&bytes, fds).await;
            let error = match &handled {
                Ok(Ok(())) => None,
                Ok(Err(refused)) => Some(refused.to_string()),
                Err(end) => Some(end.to_string()),
            };
            if let Some(error) = &error {
                tracing::warn!(%error, "a message of the node agent was refused");
            }
            conn.send(&encode::zds_ack(&Ack { error }), &[]).await?;
            // Only what the session can go on after.
            let _refused = handled?;
        }
    }

    async fn handle(&mut self, message: &[u8], fds: Vec<OwnedFd>) -> Handled {
        let request = decode::zds_request(message)?;
        if !fds.is_empty() && !matches!(request, Request::Add(_)) {
            return Err(SessionError::StrayDescriptors(fds.len()));
        }
        match request {
            Request::Add(add) => self.add(add, fds).await,
            Request::Keep { uid } => Ok(self.pods.keep(&pod_uid(uid)).map_err(Refused::from)),
            Request::Delete { uid } => {
                Ok(self.pods.delete(&pod_uid(uid)).await.map_err(Refused::from))
            }
            Request::SnapshotSent => {
                let complete = self.pods.snapshot_complete().await;
                self.client.ready.met();
                Ok(complete.map_err(Refused::from))
            }
        }
    }

    async fn add(&mut self, add: Add, fds: Vec<OwnedFd>) -> Handled {
        let mut fds = fds.into_iter();
        let netns = pod::check_netns(fds.next().ok_or(SessionError::NoDescriptor)?)?;
        if add.listeners.is_empty() && fds.len() == 0 {
            return Ok(Err(Refused::NoListeners));
        }
        let places: Vec<_> = add.listeners.iter().map(|role| place(*role)).collect();
        let listeners = pod::check_listeners(&netns, &places, fds.collect())?;
        let Some(info) = add.pod else {
            return Ok(Err(Refused::Nameless));
        };
        let config = &self.client.config;
        let identity =
            match Identity::new(&config.trust_domain, &info.namespace, &info.service_account) {
                Ok(identity) => identity,
                Err(error) => return Ok(Err(error.into())),
            };
        let pod = Pod {
            uid: pod_uid(add.uid),
            workload: config.workload_uid(&info.namespace, &info.name),
            name: info.name.into(),
            namespace: info.namespace.into(),
            identity,
            netns,
            listeners,
        };
        Ok(self.pods.add(pod).await.map_err(Refused::from))
    }
}

fn pod_uid(uid: String) -> PodUid {
    PodUid(uid.into())
}

fn place(role: ListenerRole) -> (Role, Family) {
    match role {
        ListenerRole::OutboundV4 => (Role::Outbound, Family::V4),
        ListenerRole::OutboundV6 => (Role::Outbound, Family::V6),
        ListenerRole::InboundV4 => (Role::Inbound, Family::V4),
        ListenerRole::InboundV6 => (Role::Inbound, Family::V6),
        ListenerRole::HboneV4 => (Role::Hbone, Family::V4),
        ListenerRole::HboneV6 => (Role::Hbone, Family::V6),
    }
}
