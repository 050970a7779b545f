//! Whether a CONNECT is taken: bound to this waypoint, and let in by policy. Waits for discovery,
//! not for anything else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use carrier::limits::DISCOVERY_WAIT;
use hbone::authority::Authority;
use mesh::address::NetworkAddress;
use mesh::decide::waypoint::{Bound, Unbound, WaypointQuery, bound};
use mesh::route::ServicePort;
use mesh::service::{AppProtocol, PortMapping};
use mesh::snapshot::Snapshot;
use mesh::{Identity, Workload};
use netio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use crate::connection::{Admission, Connection};
use crate::worker::Worker;
use crate::worker::bindings::addressed;

/// What was let in.
pub struct Taken {
    /// What it leads to.
    pub bound: Bound,
    /// What the application at that port said that it speaks.
    pub protocol: AppProtocol,
    /// Cancelled when it is not bound to the waypoint any more.
    pub revoked: CancellationToken,
}

/// Who asks, from where.
pub struct Client<'a> {
    /// From its certificate.
    pub identity: &'a Identity,
    /// The socket of its proxy.
    pub peer: SocketAddr,
}

/// Judges a CONNECT and notes what decided.
pub async fn admit(
    worker: &Worker,
    connection: &Connection,
    authority: &str,
    client: Client<'_>,
) -> Result<Taken, Refusal> {
    let authority: Authority = authority.parse()?;
    let addressed = addressed(&authority);
    let mut missing = None;
    let found = worker.find(Instant::now() + DISCOVERY_WAIT, |snapshot| {
        let own = snapshot.workload(&worker.config.workload)?;
        let query = WaypointQuery {
            own,
            addressed,
            client_namespace: client.identity.namespace(),
        };
        match bound(snapshot, &query) {
            Err(why @ Unbound::NotYet(_)) => {
                missing = Some(why);
                None
            }
            outcome => Some(outcome),
        }
    });
    let bound = match (found.await, missing) {
        (Some(outcome), _) => outcome.map_err(Refusal::Unbound)?,
        (None, Some(why)) => return Err(Refusal::NotYet(why)),
        (None, None) => return Err(Refusal::UnknownSelf(worker.config.workload.clone())),
    };
    let admission = admission(&bound, &client);
    // Noted of a connection that is refused, too.
    let audited = admission.audited(&worker.book(), &worker.config.gateway);
    connection.audits.replace(audited);
    admission
        .authorize(&worker.book(), &worker.config.gateway)
        .map_err(Refusal::Denied)?;
    if let Bound::Service { service, .. } = &bound {
        connection.details.borrow_mut().service = Some(service.key.clone());
    }
    let namespace = client.identity.namespace();
    let binding = worker.bindings.hold(authority, namespace, &bound);
    // Set once: only this call makes admissions, and it is made once for a connection.
    let _ = connection.admission.set(admission);
    let _ = connection.binding.set(Rc::clone(&binding));
    Ok(Taken {
        protocol: protocol(&bound),
        bound,
        revoked: binding.revoked().clone(),
    })
}

fn admission(bound: &Bound, client: &Client<'_>) -> Admission {
    let (service, destination) = match bound {
        Bound::Workload { address, .. } => (None, *address),
        Bound::Service {
            service,
            port,
            address,
        } => {
            // Addressed by name, it has the address that its name stands for.
            let first = || service.addresses.first().map(|range| range.cidr.addr());
            let ip = address.or_else(first);
            let port_of = ServicePort {
                service: service.key.clone(),
                port: *port,
            };
            let ip = ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            (Some(port_of), SocketAddr::new(ip, *port))
        }
    };
    Admission {
        service,
        destination,
        source: client.peer,
        client: client.identity.clone(),
    }
}

/// What the application says that it speaks there. A workload says so for the ports that services
/// lead to.
fn protocol(bound: &Bound) -> AppProtocol {
    let known = |mapping: &&PortMapping| mapping.protocol != AppProtocol::Unknown;
    match bound {
        Bound::Service { service, port, .. } => {
            let mut ports = service.ports.iter();
            let of_port = ports.find(|mapping| mapping.service_port == *port);
            of_port.map_or(AppProtocol::Unknown, |mapping| mapping.protocol)
        }
        Bound::Workload { workload, address } => {
            let ports = workload.services.values().flatten();
            let mut led_here = ports.filter(|mapping| mapping.target_port == address.port());
            let first = led_here.find(known);
            first.map_or(AppProtocol::Unknown, |mapping| mapping.protocol)
        }
    }
}

/// The client's workload, if discovery knows the address and it is of that identity: the address
/// of a proxy that speaks for others says nothing.
pub fn client_workload(
    snapshot: &Snapshot,
    own: Option<&Workload>,
    ip: IpAddr,
    identity: &Identity,
) -> Option<Arc<Workload>> {
    let address = NetworkAddress::new(Arc::clone(&own?.network), ip);
    let workload = snapshot.workload_by_address(&address)?;
    let is_it = workload.identity().ok().as_ref() == Some(identity);
    is_it.then(|| Arc::clone(workload))
}
