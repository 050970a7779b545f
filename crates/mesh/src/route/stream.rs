//! TCPRoutes and TLSRoutes: where a connection goes whose bytes are not looked into.
//!
//! A rule of either has no condition but the server name of TLS, which the route has: so the first
//! rule of the oldest route takes everything that the route is for.

use std::collections::HashMap;
use std::sync::Arc;

use super::decide::{Failure, draw};
use super::host::{HostPattern, suffixes};
use super::{RouteKey, RouteKind, Target};
use crate::service::ServiceKey;

/// One TCPRoute or TLSRoute as its parents see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRoute {
    /// Kind (TCP or TLS), namespace and name.
    pub key: RouteKey,
    /// Creation, in seconds since 1970; the oldest wins. None: younger than all that have one.
    pub created: Option<u64>,
    /// Server names of a TLSRoute; empty: all. Empty for a TCPRoute.
    pub hostnames: Vec<HostPattern>,
    /// At least one; the first one takes the connection.
    pub rules: Vec<StreamRule>,
}

/// Where a connection goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamRule {
    /// Number of the rule in the object that it is written in, from 0.
    pub place: usize,
    /// Unique in its route, if given.
    pub name: Option<Arc<str>>,
    /// One is drawn by weight; empty: the connection is refused.
    pub backends: Vec<StreamBackend>,
}

/// One of the places a rule leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamBackend {
    /// Where it is.
    pub target: Target,
    /// Its share of the sum of all weights, 0 to [`WEIGHT_MAX`](super::WEIGHT_MAX).
    pub weight: u32,
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// Not with TLS, or nobody looked ([`Streams::needs_server_name`]).
    Plain,
    /// With a ClientHello, and its server name in lower case, if it has one.
    Tls(Option<&'a str>),
}

/// The TCPRoutes and TLSRoutes of one parent.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    routes: Vec<Arc<StreamRoute>>,
    exact: HashMap<Arc<str>, usize>,
    /// By suffix with its dot.
    wildcards: HashMap<Arc<str>, usize>,
    any_name: Option<usize>,
    tcp: Option<usize>,
    refusal: Option<Arc<str>>,
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug)]
pub struct StreamForward<'a> {
    /// The route that took it.
    pub route: &'a Arc<StreamRoute>,
    /// Its rule.
    pub rule: &'a StreamRule,
    /// Number of the backend in the rule.
    pub backend_index: usize,
    /// Where to.
    pub service: &'a ServiceKey,
    /// The service port.
    pub port: u16,
}

/// Why a connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct StreamRefused {
    /// The route that took it, if one did.
    pub route: Option<RouteKey>,
    /// Why.
    pub failure: Failure,
}

impl Streams {
    /// Arranges routes; their order says nothing.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Arc<StreamRoute>>) -> Self {
        let mut routes: Vec<_> = routes.into_iter().collect();
        routes.sort_by_key(|route| rank(route));
        let mut streams = Self::default();
        for (at, route) in routes.iter().enumerate() {
            if route.key.kind != RouteKind::Tls {
                streams.tcp = streams.tcp.or(Some(at));
                continue;
            }
            if route.hostnames.is_empty() {
                streams.any_name = streams.any_name.or(Some(at));
            }
            for host in &route.hostnames {
                let (hosts, name) = match host {
                    HostPattern::Exact(name) => (&mut streams.exact, name),
                    HostPattern::Below(suffix) => (&mut streams.wildcards, suffix),
                };
                hosts.entry(name.clone()).or_insert(at);
            }
        }
        streams.routes = routes;
        streams
    }

    /// Of a parent whose routes cannot be read: refuses every connection.
    #[must_use]
    pub fn refusing(why: &str) -> Self {
        Self {
            refusal: Some(why.into()),
            ..Self::default()
        }
    }

    /// The routes, the one that wins first.
    #[must_use]
    pub fn routes(&self) -> &[Arc<StreamRoute>] {
        &self.routes
    }

    /// Whether there is no route: the parent has its ordinary behaviour.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.refusal.is_none()
    }

    /// Whether the decision needs to know how the connection begins.
    #[must_use]
    pub fn needs_server_name(&self) -> bool {
        self.any_name.is_some() || !self.exact.is_empty() || !self.wildcards.is_empty()
    }

    /// Decides: the most specific server name, then the oldest route. A TCPRoute takes what no
    /// TLSRoute does.
    ///
    /// # Errors
    /// No route takes it, or the one that does leads nowhere.
    pub fn decide(
        &self,
        opening: Opening<'_>,
        entropy: &mut dyn FnMut() -> u64,
    ) -> Result<StreamForward<'_>, StreamRefused> {
        let refused = |route: Option<&Arc<StreamRoute>>, failure| StreamRefused {
            route: route.map(|route| route.key.clone()),
            failure,
        };
        if let Some(why) = &self.refusal {
            return Err(refused(None, Failure::Unreadable(why.clone())));
        }
        let route = self.select(opening);
        let route = route.ok_or_else(|| refused(None, Failure::NoRoute))?;
        let refused = |failure| refused(Some(route), failure);
        let rule = route.rules.first();
        let rule = rule.ok_or_else(|| refused(Failure::NoBackend))?;
        let weights = rule.backends.iter().map(|backend| backend.weight);
        let backend_index = draw(weights, entropy).map_err(refused)?;
        match &rule.backends[backend_index].target {
            Target::Invalid(why) => Err(refused(Failure::InvalidBackend(why.clone()))),
            Target::Service { service, port } => Ok(StreamForward {
                route,
                rule,
                backend_index,
                service,
                port: *port,
            }),
        }
    }

    fn select(&self, opening: Opening<'_>) -> Option<&Arc<StreamRoute>> {
        let by_name = |name: &str| {
            let exact = self.exact.get(name);
            exact.or_else(|| suffixes(name).find_map(|suffix| self.wildcards.get(suffix)))
        };
        let of_tls = match opening {
            Opening::Plain => None,
            Opening::Tls(name) => name.and_then(by_name).copied().or(self.any_name),
        };
        self.routes.get(of_tls.or(self.tcp)?)
    }
}

fn rank(route: &StreamRoute) -> (u64, String) {
    let RouteKey {
        namespace, name, ..
    } = &route.key;
    let created = route.created.unwrap_or(u64::MAX);
    (created, format!("{namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: RouteKind, name: &str, hosts: &[&str], weights: &[u32]) -> Arc<StreamRoute> {
        let backend = |(at, weight): (usize, &u32)| StreamBackend {
            target: Target::Service {
                service: ServiceKey {
                    namespace: "shop".into(),
                    hostname: format!("{name}-{at}").into(),
                },
                port: 443,
            },
            weight: *weight,
        };
        Arc::new(StreamRoute {
            key: RouteKey {
                kind,
                namespace: "shop".into(),
                name: name.into(),
            },
            created: None,
            hostnames: hosts
                .iter()
                .map(|host| HostPattern::parse(host).unwrap())
                .collect(),
            rules: vec![StreamRule {
                backends: weights.iter().enumerate().map(backend).collect(),
                ..StreamRule::default()
            }],
        })
    }

    fn taken(streams: &Streams, opening: Opening<'_>, number: u64) -> String {
        match streams.decide(opening, &mut || number) {
            Ok(forward) => forward.service.hostname.to_string(),
            Err(refused) => refused.to_string(),
        }
    }

    #[test]
    fn the_most_specific_server_name_wins_and_a_tcp_route_takes_the_rest() {
        let tls = |name: &str, hosts: &[&str]| route(RouteKind::Tls, name, hosts, &[1]);
        let all = [
            tls("wide", &["*.shop.example"]),
            tls("exact", &["a.shop.example"]),
            tls("younger", &["a.shop.example"]),
        ];
        let streams = Streams::new(all.clone());
        assert!(streams.needs_server_name());
        let nothing = "no rule of any route takes the request";
        for (opening, expected) in [
            (Opening::Tls(Some("a.shop.example")), "exact-0"),
            (Opening::Tls(Some("b.shop.example")), "wide-0"),
            (Opening::Tls(Some("shop.example")), nothing),
            (Opening::Tls(None), nothing),
            (Opening::Plain, nothing),
        ] {
            assert_eq!(taken(&streams, opening, 0), expected, "{opening:?}");
        }
        let tcp = route(RouteKind::Tcp, "tcp", &[], &[1]);
        let both = Streams::new(all.into_iter().chain([tcp.clone()]));
        assert_eq!(taken(&both, Opening::Plain, 0), "tcp-0");
        assert_eq!(taken(&both, Opening::Tls(Some("other")), 0), "tcp-0");
        assert!(!Streams::new([tcp]).needs_server_name());
    }

    #[test]
    fn a_connection_goes_to_backends_by_weight_and_nowhere_without_one() {
        let weighted = Streams::new([route(RouteKind::Tcp, "t", &[], &[1, 0, 3])]);
        let counts = (0..4).map(|number| taken(&weighted, Opening::Plain, number));
        assert_eq!(counts.collect::<Vec<_>>(), ["t-0", "t-2", "t-2", "t-2"]);
        for (weights, why) in [
            (&[0_u32, 0][..], Failure::NoWeight),
            (&[], Failure::NoBackend),
        ] {
            let streams = Streams::new([route(RouteKind::Tcp, "t", &[], weights)]);
            let refused = streams.decide(Opening::Plain, &mut || 0).unwrap_err();
            assert_eq!(refused.failure, why);
        }
    }

    #[test]
    fn routes_that_cannot_be_read_refuse_everything() {
        let streams = Streams::refusing("field x");
        assert!(!streams.is_empty());
        let refused = streams.decide(Opening::Plain, &mut || 0).unwrap_err();
        assert_eq!(refused.failure, Failure::Unreadable("field x".into()));
    }
}
