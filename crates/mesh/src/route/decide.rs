//! From a request to what is done with it. The order: the match that takes it, a preflight, a
//! redirect, one backend by weight, what the filters make of path and host.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::cors::{AnswerHeaders, Cors};
use super::filter::{Filters, HeaderChanges, Mirror, OwnFilters, Redirect, matched_prefix};
use super::request::Request;
use super::table::{Selected, Table};
use super::{Backend, Target};
use crate::service::ServiceKey;

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Decision<'a> {
    /// It is sent on.
    Forward(Forward<'a>),
    /// It is answered with a redirect.
    Redirect {
        /// What took it.
        selected: Selected<'a>,
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// Value of `Location`.
        location: String,
    },
    /// It is a preflight, and answered with 204 and these headers.
    Preflight {
        /// What took it.
        selected: Selected<'a>,
        /// Set on the answer.
        headers: AnswerHeaders,
    },
    /// It is answered with an error.
    Fail {
        /// What took it, if anything did.
        selected: Option<Selected<'a>>,
        /// Why.
        failure: Failure,
    },
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Forward<'a> {
    /// What took it.
    pub selected: Selected<'a>,
    /// The backend that was drawn.
    pub backend: &'a Backend,
    /// Its number in the rule, from 0.
    pub backend_index: usize,
    /// Its service.
    pub service: &'a ServiceKey,
    /// The service port.
    pub port: u16,
    /// Path, without the query.
    pub path: Cow<'a, str>,
    /// Another host than the request's; None: that.
    pub host: Option<&'a str>,
    /// To apply to the request in this order.
    pub request_headers: [&'a HeaderChanges; 2],
    /// To apply to the answer in this order.
    pub response_headers: [&'a HeaderChanges; 2],
    /// Headers that the answer gets for the client's origin.
    pub cors: AnswerHeaders,
    /// Where copies go.
    pub mirrors: Vec<&'a Mirror>,
}

/// Why a request is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No match takes it: 404.
    NoRoute,
    /// The rule leads nowhere: 500.
    NoBackend,
    /// All backends have weight 0: 500.
    NoWeight,
    /// The backend that was drawn is no backend: 500.
    InvalidBackend(Arc<str>),
    /// A filter that must not be skipped cannot be applied: 500.
    UnusableFilter(Arc<str>),
    /// What the control plane says of the parent's routes cannot be read: 500.
    Unreadable(Arc<str>),
}

impl Failure {
    /// Status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NoRoute => 404,
            _ => 500,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("no rule of any route takes the request"),
            Self::NoBackend => f.write_str("the rule has no backend"),
            Self::NoWeight => f.write_str("all backends of the rule have weight 0"),
            Self::InvalidBackend(why) => write!(f, "the backend is not usable: {why}"),
            Self::UnusableFilter(name) => write!(f, "the filter {name} cannot be applied"),
            Self::Unreadable(why) => write!(f, "the routes cannot be read: {why}"),
        }
    }
}

/// Decides. `entropy` gives uniform numbers; it is asked once for the backend and once for each
/// mirror.
pub fn decide<'a>(
    table: &'a Table,
    request: &Request<'a>,
    entropy: &mut dyn FnMut() -> u64,
) -> Decision<'a> {
    if let Some(why) = table.refusal() {
        return fail(None, Failure::Unreadable(why.clone()));
    }
    let Some(selected) = table.select(request) else {
        return fail(None, Failure::NoRoute);
    };
    let ruling = selected.ruling();
    let answered = |filters: &'a OwnFilters| answered(filters.get()?, selected, request);
    if let Some(answered) = answered(&ruling.filters) {
        return answered;
    }
    let backends = ruling.backends();
    let weights = backends.iter().map(|backend| backend.weight);
    let backend_index = match draw(weights, entropy) {
        Ok(drawn) => drawn,
        Err(failure) => return fail(Some(selected), failure),
    };
    let backend = &backends[backend_index];
    if let Some(answered) = answered(&backend.filters) {
        return answered;
    }
    let (service, port) = match &backend.target {
        Target::Service { service, port } => (service, *port),
        Target::Invalid(why) => {
            return fail(Some(selected), Failure::InvalidBackend(why.clone()));
        }
    };
    let to = (service, port);
    let forward = forward(selected, (backend_index, backend), to, request, entropy);
    Decision::Forward(forward)
}

/// What the filters make of a request that goes to a backend.
fn forward<'a>(
    selected: Selected<'a>,
    (backend_index, backend): (usize, &'a Backend),
    (service, port): (&'a ServiceKey, u16),
    request: &Request<'a>,
    entropy: &mut dyn FnMut() -> u64,
) -> Forward<'a> {
    let of_rule = &selected.ruling().filters;
    let both = [of_rule, &backend.filters];
    let given = || both.into_iter().filter_map(OwnFilters::get);
    // The backend's rewrite replaces the rule's: both at once would rewrite twice.
    let mut rewrites = given().filter_map(|filters| filters.rewrite.as_ref());
    let rewrite = rewrites.next_back();
    let change = rewrite.and_then(|rewrite| rewrite.path.as_ref());
    let path = match change {
        Some(change) => change.apply(request.path, matched_prefix(&selected)).into(),
        None => Cow::Borrowed(request.path),
    };
    let mirrors = given().flat_map(|filters| &filters.mirrors);
    Forward {
        selected,
        backend,
        backend_index,
        service,
        port,
        path,
        host: rewrite.and_then(|rewrite| rewrite.host.as_deref()),
        request_headers: both.map(|filters| &filters.request_headers),
        // From the inside out.
        response_headers: [&backend.filters.response_headers, &of_rule.response_headers],
        cors: given()
            .filter_map(|filters| filters.cors.as_ref())
            .next_back()
            .map(|cors| cors.answer(request))
            .unwrap_or_default(),
        mirrors: mirrors
            .filter(|mirror| mirror.share.has(entropy()))
            .collect(),
    }
}

fn fail(selected: Option<Selected<'_>>, failure: Failure) -> Decision<'_> {
    Decision::Fail { selected, failure }
}

/// What filters answer instead of forwarding.
fn answered<'a>(
    filters: &'a Filters,
    selected: Selected<'a>,
    request: &Request<'_>,
) -> Option<Decision<'a>> {
    if let Some(name) = &filters.unusable {
        let failure = Failure::UnusableFilter(name.clone());
        return Some(fail(Some(selected), failure));
    }
    if let Some(cors) = filters
        .cors
        .as_ref()
        .filter(|_| Cors::is_preflight(request))
    {
        return Some(Decision::Preflight {
            selected,
            headers: cors.preflight(request),
        });
    }
    let redirect: &Redirect = filters.redirect.as_ref()?;
    Some(Decision::Redirect {
        selected,
        status: redirect.status,
        location: redirect.location(request, matched_prefix(&selected)),
    })
}

/// Number of one backend, drawn by weight. A backend that leads nowhere keeps its share.
pub(super) fn draw(
    weights: impl ExactSizeIterator<Item = u32> + Clone,
    entropy: &mut dyn FnMut() -> u64,
) -> Result<usize, Failure> {
    if weights.len() == 0 {
        return Err(Failure::NoBackend);
    }
    let sum: u64 = weights.clone().map(u64::from).sum();
    if sum == 0 {
        return Err(Failure::NoWeight);
    }
    // Uniform to one part in 2^38: a route has 16 backends of at most 10^6 each.
    let mut left = entropy() % sum;
    for (at, weight) in weights.map(u64::from).enumerate() {
        if left < weight {
            return Ok(at);
        }
        left -= weight;
    }
    Err(Failure::NoWeight)
}
