//! From a captured connection to an open far end: who asks, where to, and the next endpoint when
//! one refuses.

use std::rc::Rc;
use std::sync::Arc;

use mesh::Workload;
use mesh::decide::{Missing, Outbound, OutboundQuery, Route, outbound};
use mesh::workload::WorkloadUid;
use netio::time::Instant;

use super::{Established, OutboundError, ip, peer};
use crate::connection::{Connection, Details};
use crate::record::Party;
use crate::worker::Worker;
use crate::worker::pods::LocalPod;
use carrier::limits::{DISCOVERY_WAIT, ENDPOINT_TRIES};

pub(super) async fn establish(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    connection: &Connection,
) -> Established {
    if pod.is_own_listener(connection.destination()) {
        return Err(OutboundError::OwnListener);
    }
    let deadline = Instant::now() + DISCOVERY_WAIT;
    let source = source(worker, pod, connection, deadline).await?;
    connection.details.borrow_mut().source = Party::of(&source, Some(pod.pod.identity.clone()));
    let mut tried = Vec::new();
    loop {
        let query = OutboundQuery {
            source: &source,
            destination: connection.destination(),
            tried: &tried,
        };
        let decision = decide(worker, &query, deadline).await?;
        note(connection, &decision);
        let attempt = peer::connect(worker, pod, connection, &decision).await;
        let Err(error) = attempt else { return attempt };
        let again = error.tries_elsewhere()
            && tried.len() + 1 < ENDPOINT_TRIES
            && connection.ended().is_none();
        let Some(refused) = decision.workload.filter(|_| again) else {
            return Err(error);
        };
        tracing::debug!(endpoint = %refused.uid, %error, "trying another endpoint");
        tried.push(refused.uid.clone());
        if !has_another(worker, &source, connection, &tried) {
            return Err(error);
        }
    }
}

/// The pod's workload, once discovery knows it with the address that the application used.
///
/// The address is waited for too: a pod of the same name may have had another one a moment ago.
async fn source(
    worker: &Worker,
    pod: &LocalPod,
    connection: &Connection,
    deadline: Instant,
) -> Result<Arc<Workload>, OutboundError> {
    let address = ip(connection.source());
    let uid = &pod.pod.workload;
    let known = |workload: &&Arc<Workload>| workload.has_address(address);
    let found = worker
        .find(deadline, |s| s.workload(uid).filter(known).cloned())
        .await;
    found.ok_or_else(|| match worker.snapshot().workload(uid) {
        Some(_) => OutboundError::ForeignSource(address),
        None => OutboundError::UnknownWorkload(uid.clone()),
    })
}

/// The decision, once discovery knows enough for one.
async fn decide(
    worker: &Worker,
    query: &OutboundQuery<'_>,
    deadline: Instant,
) -> Result<Outbound, OutboundError> {
    let mut missing: Option<Missing> = None;
    let decided = worker.find(deadline, |snapshot| {
        let decision = outbound(snapshot, query, &mut || worker.random());
        match decision.route {
            Route::NotYet(what) => {
                missing = Some(what);
                None
            }
            _ => Some(decision),
        }
    });
    match decided.await {
        Some(Outbound {
            route: Route::Refuse(why),
            ..
        }) => Err(OutboundError::Refused(why)),
        Some(decision) => Ok(decision),
        None => {
            let missing = missing.expect("a look that decides nothing says what is missing");
            Err(OutboundError::NotYet(missing))
        }
    }
}

/// Whether the next decision leads somewhere else. If not, the last endpoint's error says more
/// than "no endpoint is left".
fn has_another(
    worker: &Worker,
    source: &Workload,
    connection: &Connection,
    tried: &[WorkloadUid],
) -> bool {
    let query = OutboundQuery {
        source,
        destination: connection.destination(),
        tried,
    };
    let decision = outbound(&worker.snapshot(), &query, &mut || worker.random());
    let is_new = decision
        .workload
        .is_some_and(|workload| !tried.contains(&workload.uid));
    is_new && !matches!(decision.route, Route::Refuse(_) | Route::NotYet(_))
}

fn note(connection: &Connection, decision: &Outbound) {
    let mut details = connection.details.borrow_mut();
    let source = std::mem::take(&mut details.source);
    let destination = Party {
        workload: decision.workload.clone(),
        identity: None,
    };
    let service = decision.service.clone();
    *details = Details {
        source,
        destination,
        service,
        actual: None,
        authority: None,
    };
    match &decision.route {
        Route::Hbone(route) => {
            details.actual = Some(route.peer.into());
            details.authority = Some(route.authority.as_str().into());
            // Which one of several it is, the peer will prove.
            if route.identities.len() == 1 {
                details.destination.identity = route.identities.first().cloned();
            }
        }
        Route::Passthrough(address) | Route::Plain(address) => {
            details.actual = Some((*address).into());
        }
        Route::NotYet(_) | Route::Refuse(_) => {}
    }
    if tracing::enabled!(tracing::Level::DEBUG) {
        let why: Vec<_> = decision.reasons.iter().map(ToString::to_string).collect();
        tracing::debug!(dst = %connection.destination(), route = %decision.route, ?why, "decided");
    }
}
