//! Routes on their way to their parents: their rules made, their references resolved.

use mesh::route::stream::{StreamRoute, StreamRule};
use mesh::route::{HostPattern, Route, RouteKey, RouteKind, Rule};

use super::reference::{Problem, References};
use super::rule::{self, Mistake, grpc_rule, http_rule, stream_rule};
use crate::gateway::{BackendRef, ParentRef};
use crate::object::{Kind, Name};
use crate::status::{ACCEPTED, Condition, PARTIALLY_INVALID, RESOLVED_REFS};
use crate::translation::{Input, Statuses};

/// A route on its way to its parents.
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a Name,
    pub(super) parents: &'a [ParentRef],
    /// Host names as written; a parent decides whether they count.
    pub(super) hostnames: Vec<HostPattern>,
    pub(super) created: Option<u64>,
    /// Whether it asks for the default Gateways too.
    pub(super) wants_default: bool,
    /// Of HTTPRoutes and GRPCRoutes.
    rules: Vec<Rule>,
    /// Of TLSRoutes and TCPRoutes.
    stream_rules: Vec<StreamRule>,
    /// Rules that are not served, with their numbers.
    dropped: Vec<String>,
    /// The first reference that leads nowhere.
    unresolved: Option<Problem>,
}

/// All routes, whatever their parents.
pub(super) fn drafts<'a>(input: &Input<'a>) -> Vec<Draft<'a>> {
    let references = References::new(input);
    let objects = input.objects;
    let mut drafts = Vec::new();
    for (name, route) in &objects.http_routes {
        let spec = &route.spec;
        let draft = Draft::new((Kind::HTTPRoute, name), &spec.parent_refs, route.created);
        let draft = draft.with_hostnames(&spec.hostnames);
        let draft = draft.with_default(spec.use_default_gateways.as_deref());
        drafts.push(draft.with_rules(spec.rules.as_deref(), &references, http_rule));
    }
    for (name, route) in &objects.grpc_routes {
        let spec = &route.spec;
        let draft = Draft::new((Kind::GRPCRoute, name), &spec.parent_refs, route.created);
        let draft = draft.with_hostnames(&spec.hostnames);
        let draft = draft.with_default(spec.use_default_gateways.as_deref());
        drafts.push(draft.with_rules(spec.rules.as_deref(), &references, grpc_rule));
    }
    let streams = [
        (Kind::TLSRoute, &objects.tls_routes),
        (Kind::TCPRoute, &objects.tcp_routes),
    ];
    for (kind, routes) in streams {
        for (name, route) in routes {
            let spec = &route.spec;
            let mut draft = Draft::new((kind, name), &spec.parent_refs, route.created);
            draft.stream_rules =
                draft.made(&spec.rules, &references, stream_rule, |rule, place| {
                    rule.place = place;
                    None
                });
            let draft = draft.with_default(spec.use_default_gateways.as_deref());
            drafts.push(draft.with_hostnames(&spec.hostnames));
        }
    }
    drafts
}

/// A filter that fails the rule's requests.
fn unusable_filter(rule: &Rule) -> Option<Problem> {
    let of_backends = rule.backends.iter().map(|backend| &backend.filters);
    let mut all = of_backends.chain([&rule.filters]);
    let name = all.find_map(|filters| filters.unusable.as_ref())?;
    let message = format!("filter {name} is not served: requests that it is for fail with 500");
    Some(("InvalidKind", message))
}

impl<'a> Draft<'a> {
    fn new((kind, name): (Kind, &'a Name), parents: &'a [ParentRef], created: Option<u64>) -> Self {
        Self {
            kind,
            name,
            parents,
            hostnames: Vec::new(),
            created,
            wants_default: false,
            rules: Vec::new(),
            stream_rules: Vec::new(),
            dropped: Vec::new(),
            unresolved: None,
        }
    }

    fn with_hostnames(self, list: &[String]) -> Self {
        // Admission has refused what is none.
        let hosts = list.iter().filter_map(|host| HostPattern::parse(host).ok());
        Self {
            hostnames: hosts.collect(),
            ..self
        }
    }

    fn with_default(self, scope: Option<&str>) -> Self {
        Self {
            wants_default: scope.is_some_and(|scope| scope != "None"),
            ..self
        }
    }

    fn with_rules<S>(
        mut self,
        rules: Option<&[S]>,
        references: &References<'_>,
        make: impl Fn(&S, rule::Resolve<'_>) -> Result<Rule, Mistake>,
    ) -> Self {
        self.rules = match rules {
            // As the API server fills it in: one rule that takes everything and leads nowhere.
            None => vec![Rule::default()],
            Some(rules) => self.made(rules, references, make, |rule, place| {
                rule.place = place;
                unusable_filter(rule)
            }),
        };
        self
    }

    /// The rules that are served; `finish` numbers one and says what else is wrong with it.
    fn made<S, R>(
        &mut self,
        rules: &[S],
        references: &References<'_>,
        make: impl Fn(&S, rule::Resolve<'_>) -> Result<R, Mistake>,
        finish: impl Fn(&mut R, usize) -> Option<Problem>,
    ) -> Vec<R> {
        let mut all = Vec::new();
        for (place, rule) in rules.iter().enumerate() {
            let mut unresolved = None;
            let mut resolve = |reference: &BackendRef| {
                let (target, problem) = references.target(self.kind, self.name, reference);
                unresolved = unresolved.take().or(problem);
                target
            };
            match make(rule, &mut resolve) {
                Ok(mut rule) => {
                    let other = finish(&mut rule, place);
                    unresolved = unresolved.or(other);
                    all.push(rule);
                }
                Err(Mistake::Invalid(why) | Mistake::Unsupported(why)) => {
                    self.dropped.push(format!("rules[{place}]: {why}"));
                }
            }
            self.unresolved = self.unresolved.take().or(unresolved);
        }
        all
    }

    pub(super) fn route_kind(&self) -> RouteKind {
        match self.kind {
            Kind::GRPCRoute => RouteKind::Grpc,
            Kind::TLSRoute => RouteKind::Tls,
            Kind::TCPRoute => RouteKind::Tcp,
            _ => RouteKind::Http,
        }
    }

    /// Why it can be attached nowhere.
    pub(super) fn unusable(&self) -> Option<Problem> {
        let none = self.rules.is_empty() && self.stream_rules.is_empty();
        none.then(|| ("UnsupportedValue", self.dropped.join("; ")))
    }

    /// What is said of it at a parent of ours.
    pub(super) fn describe(
        &self,
        parent: &str,
        problem: Option<&Problem>,
        statuses: &mut Statuses,
    ) {
        let mut add = |condition: Condition| {
            statuses.add(self.kind, self.name, condition.of_parent(parent));
        };
        add(match problem {
            None => Condition::holds(ACCEPTED, "Accepted"),
            Some((reason, message)) => Condition::fails(ACCEPTED, reason, message),
        });
        add(match &self.unresolved {
            None => Condition::holds(RESOLVED_REFS, "ResolvedRefs"),
            Some((reason, message)) => Condition::fails(RESOLVED_REFS, reason, message),
        });
        if !self.dropped.is_empty() && self.unusable().is_none() {
            // The words that the specification wants the message to begin with.
            let message = format!("Dropped Rule: {}", self.dropped.join("; "));
            add(Condition::holds(PARTIALLY_INVALID, "UnsupportedValue").because(message));
        }
    }

    fn key(&self) -> RouteKey {
        RouteKey {
            kind: self.route_kind(),
            namespace: self.name.namespace.clone(),
            name: self.name.name.clone(),
        }
    }

    pub(super) fn route(&self, hostnames: Vec<HostPattern>) -> Route {
        Route {
            key: self.key(),
            created: self.created,
            hostnames,
            rules: self.rules.clone(),
        }
    }

    pub(super) fn stream_route(&self, hostnames: Vec<HostPattern>) -> StreamRoute {
        StreamRoute {
            key: self.key(),
            created: self.created,
            hostnames,
            rules: self.stream_rules.clone(),
        }
    }
}
