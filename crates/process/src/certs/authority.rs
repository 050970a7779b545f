//! Who signs: the trait that the manager asks, and the control plane's certificate service behind
//! it. Knows no schedule; checks nothing of the answer (that is `issued`).

use std::time::Duration;

use futures::future::BoxFuture;
use mesh::Identity;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::wire::ca::IstioCertificateRequest;
use proto::wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;

use super::issued::Unacceptable;
use crate::grpc::{CallError, ConnectError, ControlPlane, TokenError};

/// Time for one signature.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer in bytes: a chain of a few certificates of 1 to 2 KiB each.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// What is asked of a CA.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose certificate.
    pub identity: Identity,
    /// PEM; its only subject alternative name is the identity.
    pub csr_pem: String,
    /// Lifetime wished for.
    pub ttl: Duration,
}

/// Why an attempt gave no certificate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// No key or request could be made here.
    #[error("no key could be made: {0}")]
    Key(String),
    /// The CA could not be asked, or refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The CA did not answer.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer is not what was asked for.
    #[error(transparent)]
    Unacceptable(Unacceptable),
}

impl From<ConnectError> for AskError {
    fn from(error: ConnectError) -> Self {
        Self::Call(error.into())
    }
}

impl From<TokenError> for AskError {
    fn from(error: TokenError) -> Self {
        Self::Call(error.into())
    }
}

/// Something that signs certificate requests.
pub trait Authority: Send + Sync + 'static {
    /// The chain as PEM texts, leaf first, roots last.
    fn sign(&self, question: Question) -> BoxFuture<'_, Result<Vec<String>, AskError>>;
}

/// The certificate service of the control plane.
#[derive(Clone, Debug)]
pub struct GrpcAuthority {
    control_plane: ControlPlane,
}

impl GrpcAuthority {
    /// Connects when first asked.
    pub fn new(control_plane: ControlPlane) -> Self {
        Self { control_plane }
    }

    async fn call(&self, question: Question) -> Result<Vec<String>, AskError> {
        let mut request = self.control_plane.request(message(&question))?;
        request.set_timeout(CALL_TIMEOUT);
        let channel = self.control_plane.channel().await?;
        let mut client =
            IstioCertificateServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        match client.create_certificate(request).await {
            Ok(answer) => Ok(answer.into_inner().cert_chain),
            Err(status) => Err(self.control_plane.refused(&status).await.into()),
        }
    }
}

impl Authority for GrpcAuthority {
    fn sign(&self, question: Question) -> BoxFuture<'_, Result<Vec<String>, AskError>> {
        Box::pin(self.call(question))
    }
}

fn message(question: &Question) -> IstioCertificateRequest {
    // A node proxy asks for its pods, not for itself.
    let identity = Value {
        kind: Some(Kind::StringValue(question.identity.to_string())),
    };
    IstioCertificateRequest {
        csr: question.csr_pem.clone(),
        validity_duration: i64::try_from(question.ttl.as_secs()).unwrap_or(i64::MAX),
        metadata: Some(Struct {
            fields: [("ImpersonatedIdentity".to_owned(), identity)].into(),
        }),
    }
}
