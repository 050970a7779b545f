//! The certificate service, by the ecosystem's protocol (`protocol.md` 4): checks who asks for
//! whom, then has the authority sign.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh::Identity;
use prost_types::value::Kind;
use proto::wire::ca::istio_certificate_service_server::IstioCertificateService;
use proto::wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};

use crate::authority::{Authority, csr};
use crate::callers::caller;
use crate::engine::EngineHandle;
use crate::metrics::{Metrics, ResultLabel};

/// Where a request says which identity it is for.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// The service.
pub struct Certificates {
    authority: Authority,
    engine: EngineHandle,
    trust_domain: Arc<str>,
    metrics: Arc<Metrics>,
}

impl Certificates {
    /// The service on an authority and the pods of an engine.
    pub fn new(
        authority: Authority,
        engine: EngineHandle,
        trust_domain: Arc<str>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            authority,
            engine,
            trust_domain,
            metrics,
        }
    }

    fn sign(&self, node: &str, request: &IstioCertificateRequest) -> Result<Vec<String>, Refused> {
        let identity = asked(request)?;
        self.check_on_node(node, &identity)?;
        let key =
            csr::check(&request.csr, &identity).map_err(|error| Refused::Csr(error.to_string()))?;
        let asked = u64::try_from(request.validity_duration)
            .map_err(|_| Refused::Csr("validity_duration is negative".to_owned()))?;
        let now = SystemTime::now();
        let issued = self
            .authority
            .workload(&identity, &key, Duration::from_secs(asked), now)
            .map_err(|error| Refused::Authority(error.to_string()))?;
        tracing::info!(%node, %identity, "certificate signed");
        Ok(issued.chain)
    }

    /// A node gets certificates of the pods that are bound to it, of the waypoints that it was told
    /// to run and says it runs, and of no other.
    fn check_on_node(&self, node: &str, identity: &Identity) -> Result<(), Refused> {
        if *identity.trust_domain() != *self.trust_domain {
            return Err(Refused::Node(identity.clone()));
        }
        let published = self.engine.now();
        let runs = published.objects.pods.values().any(|pod| {
            pod.node.as_deref() == Some(node)
                && *pod.meta.name.namespace == *identity.namespace()
                && *pod.service_account == *identity.service_account()
                && !pod.finished
        });
        // What was not planned for the node is taken out of its report (`waypoints::plan`).
        let own = published.reports.get(node).into_iter().flatten();
        let mut waypoints = own.filter_map(|pod| Some((pod, pod.waypoint.as_ref()?)));
        let runs_waypoint = waypoints.any(|(pod, waypoint)| {
            *pod.name.namespace == *identity.namespace()
                && *waypoint.gateway == *identity.service_account()
        });
        (runs || runs_waypoint)
            .then_some(())
            .ok_or_else(|| Refused::Node(identity.clone()))
    }
}

enum Refused {
    Csr(String),
    Node(Identity),
    Authority(String),
}

fn asked(request: &IstioCertificateRequest) -> Result<Identity, Refused> {
    let fields = request.metadata.as_ref().map(|m| &m.fields);
    let value = fields
        .and_then(|f| f.get(IMPERSONATED))
        .and_then(|v| v.kind.as_ref());
    let Some(Kind::StringValue(text)) = value else {
        return Err(Refused::Csr(format!("metadata has no text {IMPERSONATED}")));
    };
    text.parse()
        .map_err(|error| Refused::Csr(format!("{IMPERSONATED}: {error}")))
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let node = caller(&request)?.node;
        let count = |result| {
            self.metrics
                .certificates
                .get_or_create(&ResultLabel { result })
                .inc();
        };
        match self.sign(&node, request.get_ref()) {
            Ok(cert_chain) => {
                count("signed");
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(Refused::Csr(reason)) => {
                count("bad_request");
                tracing::warn!(%node, %reason, "certificate refused");
                Err(Status::invalid_argument(reason))
            }
            Err(Refused::Node(identity)) => {
                count("not_on_node");
                let reason = format!("no pod of {identity} is bound to node {node}");
                tracing::warn!(%node, %reason, "certificate refused");
                Err(Status::permission_denied(reason))
            }
            Err(Refused::Authority(reason)) => {
                count("error");
                tracing::error!(%node, %reason, "certificate not signed");
                Err(Status::internal(
                    "the authority cannot sign; its log says why",
                ))
            }
        }
    }
}
