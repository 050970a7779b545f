//! What a route decided for one request, without a borrow of the request.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use mesh::route::cors::AnswerHeaders;
use mesh::route::filter::HeaderChanges;
use mesh::route::{
    Backend, Decision, Failure, Persistence, Request, Retry, Route, Rule, Table, Target, Timeouts,
    decide,
};
use mesh::service::ServiceKey;

use super::headers::Fields;
use super::session::{backend_place, backend_token};

/// A request's way.
#[derive(Default)]
pub struct Plan {
    /// The route and the places of rule and backend in it; None: the addressed service.
    taken: Option<(Arc<Route>, usize, usize)>,
    /// Another path, without the query.
    pub path: Option<String>,
    /// Headers of the answer for the client's origin.
    pub cors: AnswerHeaders,
    /// Services and ports that get a copy.
    pub mirrors: Vec<(ServiceKey, u16)>,
}

/// What happens instead.
pub enum Answered {
    /// This status and location.
    Redirect(StatusCode, String),
    /// 204 with these headers.
    Preflight(AnswerHeaders),
    /// An error.
    Failed(Failure),
}

/// The outcome, and the route and rule that took the request.
pub struct Planned {
    /// Route and place of the rule.
    pub route: Option<(Arc<Route>, usize)>,
    /// What is done.
    pub outcome: Result<Plan, Answered>,
}

/// A request as it came.
pub struct Arrived<'a> {
    /// Its method.
    pub method: &'a http::Method,
    /// Its target.
    pub uri: &'a http::Uri,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// The addressed port.
    pub port: u16,
    /// Its fields.
    pub headers: &'a HeaderMap,
}

impl Arrived<'_> {
    fn path(&self) -> &str {
        match *self.method == http::Method::CONNECT && self.uri.scheme().is_none() {
            true => "",
            false => self.uri.path(),
        }
    }
}

/// Decides; `session` is asked for the token of the backend that the client's session is at, once
/// its rule is known.
pub fn plan(
    table: &Table,
    target: &Arrived<'_>,
    random: &dyn Fn() -> u64,
    session: &dyn Fn(&Persistence) -> Option<u64>,
) -> Planned {
    let fields = Fields(target.headers);
    let request = Request {
        method: target.method.as_str(),
        scheme: "http",
        authority: target.authority,
        port: target.port,
        path: target.path(),
        query: target.uri.query(),
        headers: &fields,
    };
    let mut decision = decide(table, &request, &mut || random());
    if let Decision::Forward(forward) = &decision
        && let Some(persistence) = &forward.selected.rule().persistence
        && let Some(token) = session(persistence)
        && let Some(at) = backend_place(&forward.selected.rule().backends, token)
        && at != forward.backend_index
        && let Some(drawn) = drawing(&forward.selected.rule().backends, at)
    {
        let mut first = Some(drawn);
        decision = decide(table, &request, &mut || first.take().unwrap_or_else(random));
    }
    owned(decision)
}

/// The number that draws this backend; None: it is never drawn.
fn drawing(backends: &[Backend], at: usize) -> Option<u64> {
    let before = backends.get(..at)?.iter();
    let is_drawn = backends.get(at)?.weight > 0;
    is_drawn.then(|| before.map(|one| u64::from(one.weight)).sum())
}

fn owned(decision: Decision<'_>) -> Planned {
    match decision {
        Decision::Forward(forward) => {
            let route = forward.selected.route.clone();
            let rule = forward.selected.rule_index;
            let mirrors = forward.mirrors.iter().filter_map(|mirror| {
                let Target::Service { service, port } = &mirror.target else {
                    return None;
                };
                Some((service.clone(), *port))
            });
            let path = match forward.path {
                std::borrow::Cow::Owned(path) => Some(path),
                std::borrow::Cow::Borrowed(_) => None,
            };
            let plan = Plan {
                mirrors: mirrors.collect(),
                taken: Some((route.clone(), rule, forward.backend_index)),
                path,
                cors: forward.cors,
            };
            Planned {
                route: Some((route, rule)),
                outcome: Ok(plan),
            }
        }
        Decision::Redirect {
            selected,
            status,
            location,
        } => Planned {
            route: Some((selected.route.clone(), selected.rule_index)),
            outcome: Err(Answered::Redirect(
                StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND),
                location,
            )),
        },
        Decision::Preflight { selected, headers } => Planned {
            route: Some((selected.route.clone(), selected.rule_index)),
            outcome: Err(Answered::Preflight(headers)),
        },
        Decision::Fail { selected, failure } => Planned {
            route: selected.map(|selected| (selected.route.clone(), selected.rule_index)),
            outcome: Err(Answered::Failed(failure)),
        },
    }
}

impl Plan {
    fn rule(&self) -> Option<&Rule> {
        let (route, rule, _) = self.taken.as_ref()?;
        route.rules.get(*rule)
    }

    fn drawn(&self) -> Option<&Backend> {
        let (_, _, backend) = self.taken.as_ref()?;
        self.rule()?.backends.get(*backend)
    }

    /// Place of the backend in its rule.
    pub fn backend_index(&self) -> Option<usize> {
        self.taken.as_ref().map(|(_, _, backend)| *backend)
    }

    /// What a session names its backend by.
    pub fn backend_token(&self) -> Option<u64> {
        backend_token(&self.rule()?.backends, self.backend_index()?)
    }

    /// Service and port; None: what the client addressed.
    pub fn backend(&self) -> Option<(&ServiceKey, u16)> {
        match &self.drawn()?.target {
            Target::Service { service, port } => Some((service, *port)),
            Target::Invalid(_) => None,
        }
    }

    /// Whether its rule is for requests of this method by name.
    pub fn is_for_method(&self, method: &str) -> bool {
        let mut matches = self.rule().into_iter().flat_map(|rule| &rule.matches);
        matches.any(|one| one.method.as_deref() == Some(method))
    }

    /// Timeouts of the rule.
    pub fn timeouts(&self) -> Timeouts {
        self.rule().map(|rule| rule.timeouts).unwrap_or_default()
    }

    /// When the rule has the request sent again.
    pub fn retry(&self) -> Option<&Retry> {
        self.rule()?.retry.as_ref()
    }

    /// Whether the rule keeps clients' sessions.
    pub fn persistence(&self) -> Option<&Persistence> {
        self.rule()?.persistence.as_ref()
    }

    /// Path of the match that a session's cookie is for.
    pub fn match_path(&self) -> Option<&str> {
        use mesh::route::matching::PathMatch;
        match &self.rule()?.matches.first()?.path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) => Some(path),
            _ => None,
        }
    }

    /// Another host on the way on.
    pub fn host(&self) -> Option<&str> {
        let filters = [&self.drawn()?.filters, &self.rule()?.filters];
        let mut rewrites = filters.into_iter().filter_map(|one| one.rewrite.as_ref());
        rewrites.next()?.host.as_deref()
    }

    /// Changes of the request, in this order.
    pub fn request_changes(&self) -> impl Iterator<Item = &HeaderChanges> {
        let rule = self.rule().map(|rule| &rule.filters.request_headers);
        let backend = self.drawn().map(|one| &one.filters.request_headers);
        rule.into_iter().chain(backend)
    }

    /// Changes of the answer, in this order: from the inside out.
    pub fn response_changes(&self) -> impl Iterator<Item = &HeaderChanges> {
        let rule = self.rule().map(|rule| &rule.filters.response_headers);
        let backend = self.drawn().map(|one| &one.filters.response_headers);
        backend.into_iter().chain(rule)
    }
}
