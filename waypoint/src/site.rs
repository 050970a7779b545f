//! What HTTP is given by the worker that it runs on: routes, endpoints, connections, time, records.
//! It must not know HTTP's own rules.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use carrier::headers::shortened;
use carrier::limits::{Limit, Reached};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use http::{Uri, Version};
use mesh::Identity;
use mesh::decide::waypoint::Bound;
use mesh::route::{ServicePort, Table};
use mesh::service::{AppProtocol, Service, ServiceKey};
use mesh::snapshot::Snapshot;
use mesh::workload::{TunnelProtocol, Workload};
use tracing::Level;

use crate::connection::Party;
use crate::endpoints::{Endpoint, Ground, Wanted};
use crate::http::site::{
    Asked, Choose, ChooseError, Chosen, ConnectError, Io, Limits, RequestRecord as Ended, Site,
    Upstream,
};
use crate::record::{Record, RequestRecord, Said};
use crate::serving::addressed;
use crate::trace::Tracing;
use crate::upstream::{self, OnBehalf};
use crate::wire::Wire;
use crate::worker::Worker;

/// The site of one worker, which owns what owns this.
pub struct WorkerSite {
    worker: Weak<Worker>,
    limits: Limits,
    tracing: Option<Tracing>,
}

/// The worker is gone: its tasks are being dropped.
const GONE: &str = "the waypoint shuts down";

impl WorkerSite {
    /// Of that worker.
    pub fn new(worker: &Rc<Worker>) -> Self {
        Self {
            worker: Rc::downgrade(worker),
            limits: worker.http_limits.clone(),
            tracing: worker.tracing.clone(),
        }
    }
}

fn service_port(asked: &Asked) -> Option<ServicePort> {
    asked.service.as_ref().map(|service| ServicePort {
        service: service.clone(),
        port: asked.port,
    })
}

fn protocol(service: &Service, port: u16) -> Option<AppProtocol> {
    let mut ports = service.ports.iter();
    let of_port = ports.find(|mapping| mapping.service_port == port);
    of_port.map(|mapping| mapping.protocol)
}

/// What is asked for, with the address that the client used where it is the same that it addressed:
/// a service may keep it, and its family comes first.
fn target(
    snapshot: &Snapshot,
    asked: &Asked,
    backend: Option<(&ServiceKey, u16)>,
) -> Result<(Bound, AppProtocol), ChooseError> {
    let addressed = || asked.service.as_ref().map(|key| (key, asked.port));
    if let Some((key, port)) = backend.or_else(addressed) {
        let unknown = || ChooseError::Unknown(format!("service {key}").into());
        let service = snapshot.service(key).ok_or_else(unknown)?;
        let unknown = || ChooseError::Unknown(format!("port {port} of {key}").into());
        let protocol = protocol(service, port).ok_or_else(unknown)?;
        let is_addressed = asked.service.as_ref() == Some(key);
        let bound = Bound::Service {
            service: Arc::clone(service),
            port,
            address: asked.address.filter(|_| is_addressed).map(|it| it.ip()),
        };
        return Ok((bound, protocol));
    }
    let (Some(workload), Some(address)) = (&asked.workload, asked.address) else {
        return Err(ChooseError::NoEndpoint("nothing was addressed".into()));
    };
    let bound = Bound::Workload {
        workload: Arc::clone(workload),
        address,
    };
    Ok((bound, asked.protocol))
}

impl Site for WorkerSite {
    fn routes(&self, asked: &Asked) -> Option<Arc<Table>> {
        let worker = self.worker.upgrade()?;
        let service = service_port(asked);
        let addressed = addressed(service.as_ref(), asked, &worker.config.gateway);
        let book = worker.book();
        let found = book.for_request(&addressed);
        found.map(|(_, table)| Arc::clone(table))
    }

    fn choose(&self, asked: &Asked, choose: Choose<'_>) -> Result<Chosen, ChooseError> {
        let none = |why: &str| ChooseError::NoEndpoint(why.into());
        let worker = self.worker.upgrade().ok_or_else(|| none(GONE))?;
        let snapshot = worker.snapshot();
        let own = snapshot.workload(&worker.config.workload);
        let own = own.ok_or_else(|| none("the waypoint's own workload is not known"))?;
        let (bound, protocol) = target(&snapshot, asked, choose.backend)?;
        let ground = Ground {
            snapshot: &snapshot,
            own,
        };
        let mut entropy = || worker.random();
        let mut choose_but = |tried: &dyn Fn(&Endpoint) -> bool| {
            let wanted = Wanted {
                bound: &bound,
                tried,
                prefer: choose.prefer,
            };
            worker.endpoints.choose(ground, wanted, &mut entropy)
        };
        let was_tried =
            |one: &Endpoint| choose.tried.iter().any(|it| Rc::ptr_eq(it, &one.upstream));
        let chosen = match choose_but(&was_tried) {
            // The next try after a reset or a timeout, where there is no other.
            Err(_) if !choose.tried.is_empty() => choose_but(&|_| false),
            chosen => chosen,
        };
        let endpoint = chosen.map_err(|why| none(&why.to_string()))?;
        Ok(Chosen {
            upstream: Rc::clone(&endpoint.upstream),
            protocol,
        })
    }

    fn open(
        &self,
        asked: &Rc<Asked>,
        upstream: &Rc<Upstream>,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Io>, ConnectError>> {
        let worker = self.worker.upgrade();
        let behalf = OnBehalf {
            client: asked.client,
            host: asked.service.as_ref().map(|key| Arc::clone(&key.hostname)),
        };
        let upstream = Rc::clone(upstream);
        async move {
            let cannot = |moves_on, why: &str| ConnectError {
                moves_on,
                is_limit: false,
                why: why.into(),
            };
            let worker = worker.ok_or_else(|| cannot(false, GONE))?;
            let endpoint = worker.endpoints.with(&upstream);
            let endpoint = endpoint.ok_or_else(|| cannot(true, "the endpoint is gone"))?;
            let place = worker.endpoint_connections.take().ok_or_else(|| {
                let full = Reached::refused(Limit::HttpEndpointConnectionsPerWorker);
                worker.count_reached(full);
                ConnectError {
                    is_limit: true,
                    ..cannot(false, &full.to_string())
                }
            })?;
            match upstream::connect(&worker, &endpoint, &behalf).await {
                Ok(end) => {
                    let wire = Wire::new(end, Rc::clone(&worker.buffers));
                    Ok(Box::new(wire.holding(place)) as Box<dyn Io>)
                }
                Err(error) => Err(ConnectError {
                    is_limit: error.is_limit(),
                    ..cannot(error.tries_elsewhere(), &error.to_string())
                }),
            }
        }
        .boxed_local()
    }

    fn tracing(&self) -> Option<&Tracing> {
        self.tracing.as_ref()
    }

    fn record(&self, ended: &Ended<'_>) {
        let Some(worker) = self.worker.upgrade() else {
            return;
        };
        let asked = ended.asked;
        let workload = ended.endpoint.cloned();
        let backend = ended.backend.map(|(key, _)| key.clone());
        let record = RequestRecord {
            source: Party {
                workload: asked.client_workload.clone(),
                identity: asked.client_identity.clone(),
            },
            destination: Party {
                identity: workload.as_deref().and_then(identity_of),
                workload,
            },
            service: backend.or_else(|| asked.service.clone()),
            is_grpc: ended.is_grpc,
            status: ended.status.map(|status| status.as_u16()),
            grpc_status: ended.grpc_status,
            reason: ended.reason,
            audits: asked.audits.borrow().clone(),
            duration: ended.duration,
            bytes: ended.bytes,
            said: said(ended),
        };
        worker.recorder.put(Record::from(record));
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) -> bool {
        let worker = self.worker.upgrade();
        worker.is_some_and(|worker| worker.spawn(task))
    }

    fn sleep_until(&self, at: Instant) -> LocalBoxFuture<'static, ()> {
        netio::time::sleep_until(at).boxed_local()
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn random(&self) -> u64 {
        // A worker that is gone serves no request that could tell.
        self.worker.upgrade().map_or(0, |worker| worker.random())
    }

    fn draining(&self) -> LocalBoxFuture<'static, ()> {
        match self.worker.upgrade() {
            Some(worker) => worker.draining.clone().cancelled_owned().boxed_local(),
            None => std::future::ready(()).boxed_local(),
        }
    }

    fn closing(&self) -> LocalBoxFuture<'static, ()> {
        match self.worker.upgrade() {
            Some(worker) => worker.closing.clone().cancelled_owned().boxed_local(),
            None => std::future::ready(()).boxed_local(),
        }
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// Who an endpoint proved to be: without that it is not reached over HBONE.
pub fn identity_of(workload: &Workload) -> Option<Identity> {
    let is_proven = workload.tunnel == TunnelProtocol::Hbone;
    is_proven.then(|| workload.identity().ok()).flatten()
}

/// Path and query, in either version of HTTP; of CONNECT what it is to reach.
fn target_of(uri: &Uri) -> String {
    let path = uri.path_and_query();
    path.map_or_else(|| uri.to_string(), ToString::to_string)
}

/// The texts of the access log, if it is written.
fn said(ended: &Ended<'_>) -> Option<Box<Said>> {
    let is_failure = ended.reason.is_some();
    let wanted = tracing::enabled!(target: "access", Level::INFO)
        || is_failure && tracing::enabled!(target: "access", Level::ERROR);
    let said = || Said {
        method: shortened(ended.method.as_str()),
        target: shortened(&target_of(ended.uri)),
        authority: shortened(ended.authority),
        version: version(ended.version),
        request_id: shortened(ended.request_id),
        client: ended.asked.client,
        route: ended.route.map(|(key, rule)| (key.clone(), rule)),
        endpoint: ended
            .endpoint
            .and_then(|one| one.addresses.first().copied()),
        tries: ended.tries,
    };
    wanted.then(|| Box::new(said()))
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP",
    }
}
