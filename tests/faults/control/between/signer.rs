//! The certificate service of a scenario: culvertd's answers, or such as no CA should give.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use control_plane::authority::csr;
use mesh::Identity;
use prost_types::value::Kind;
use proto::wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use proto::wire::ca::istio_certificate_service_server::IstioCertificateService;
use proto::wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use rcgen::{KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use tonic::{Code, Request, Response, Status};

use super::State;

/// Longest validity that is asked for.
const DAY: Duration = Duration::from_secs(86_400);

/// How requests for an identity are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// As culvertd does.
    AsAsked,
    /// With an error of gRPC.
    Refused(Code),
    /// With texts that are no certificates.
    Garbage,
    /// With half of a certificate.
    Half,
    /// With a certificate of somebody else for the right key.
    OtherIdentity,
    /// With a certificate of the right identity for another key.
    OtherKey,
    /// With a certificate that has ended.
    Ended,
    /// With a chain that has no root.
    NoRoot,
}

/// The service.
pub struct Signer(pub Arc<State>);

#[tonic::async_trait]
impl IstioCertificateService for Signer {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let identity = asked(request.get_ref()).ok_or(Status::invalid_argument("for nobody"))?;
        let signing = self.0.signing().get(&identity).copied();
        let cert_chain = match signing.unwrap_or(Signing::AsAsked) {
            Signing::AsAsked => return self.pass_on(request).await,
            Signing::Refused(code) => {
                return Err(Status::new(code, "the scenario says no"));
            }
            signing => self.forge(signing, &identity, &request.get_ref().csr)?,
        };
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

impl Signer {
    async fn pass_on(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let channel = self.0.upstream.connect().await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let (metadata, _, message) = request.into_parts();
        let mut request = Request::new(message);
        *request.metadata_mut() = metadata;
        IstioCertificateServiceClient::new(channel)
            .create_certificate(request)
            .await
    }

    fn forge(&self, signing: Signing, of: &Identity, csr: &str) -> Result<Vec<String>, Status> {
        let internal = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
        let asked = csr::check(csr, of).map_err(|e| internal(&e))?;
        let now = SystemTime::now();
        let made = |identity: &Identity, key: &SubjectPublicKeyInfo, now| {
            let issued = self.0.authority.workload(identity, key, DAY, now);
            issued.map(|it| it.chain).map_err(|e| internal(&e))
        };
        match signing {
            Signing::OtherIdentity => {
                let other = Identity::new("cluster.local", "demo", "intruder");
                made(&other.map_err(|e| internal(&e))?, &asked, now)
            }
            Signing::OtherKey => {
                let other = KeyPair::generate().map_err(|e| internal(&e))?;
                let other = SubjectPublicKeyInfo::from_der(&other.subject_public_key_info());
                made(of, &other.map_err(|e| internal(&e))?, now)
            }
            Signing::Ended => made(of, &asked, now - 2 * DAY),
            Signing::NoRoot => made(of, &asked, now).map(|mut chain| {
                let leaf = chain.remove(0);
                vec![leaf.clone(), leaf]
            }),
            Signing::Half => made(of, &asked, now).map(|mut chain| {
                let half = chain[0].len() / 2;
                chain[0].truncate(half);
                chain
            }),
            _ => Ok(vec!["not a certificate".to_owned(), "\u{fffd}".to_owned()]),
        }
    }
}

fn asked(request: &IstioCertificateRequest) -> Option<Identity> {
    let fields = &request.metadata.as_ref()?.fields;
    match fields.get("ImpersonatedIdentity")?.kind.as_ref()? {
        Kind::StringValue(text) => text.parse().ok(),
        _ => None,
    }
}
