//! Routes at their parents, and policies with targets.

use std::sync::Arc;
use std::time::Duration;

use mesh::policy::targeted::{PolicyTarget, TargetedPolicy};
use mesh::route::cors::{Cors, Origin};
use mesh::route::filter::{HeaderChanges, Mirror, PathChange, Redirect, Rewrite};
use mesh::route::matching::{GrpcMatch, PathMatch, TextMatch, ValueMatch};
use mesh::route::stream::{StreamBackend, StreamRule};
use mesh::route::{
    Backend, Cookie, HostPattern, OwnFilters, Persistence, RequestMatch, Retry, RouteKey, Rule,
    SessionToken, Target,
};
use prost::Message;

use crate::routed::{AnyRoute, Routed};
use crate::wire::route as wire;

/// A route at its parent.
pub fn route(domain: &Routed) -> wire::Route {
    let (key, created, hostnames) = match &domain.route {
        AnyRoute::Http(route) => (&route.key, route.created, &route.hostnames),
        AnyRoute::Stream(route) => (&route.key, route.created, &route.hostnames),
    };
    let (rules, stream_rules) = match &domain.route {
        AnyRoute::Http(route) => (route.rules.iter().map(rule).collect(), Vec::new()),
        AnyRoute::Stream(route) => {
            let rules = route.rules.iter().map(stream_rule);
            (Vec::new(), rules.collect())
        }
    };
    let RouteKey {
        kind,
        namespace,
        name,
    } = key;
    wire::Route {
        parent: domain.parent.to_string(),
        kind: kind.to_string(),
        namespace: namespace.to_string(),
        name: name.to_string(),
        created,
        hostnames: hostnames.iter().map(HostPattern::to_string).collect(),
        rules,
        stream_rules,
    }
}

/// A policy with targets.
pub fn target_policy(domain: &TargetedPolicy) -> wire::TargetPolicy {
    use wire::policy_target::Target;
    let target = |target: &PolicyTarget| wire::PolicyTarget {
        target: Some(match target {
            PolicyTarget::Service(key) => Target::Service(key.to_string()),
            PolicyTarget::Gateway(key) => Target::Gateway(key.to_string()),
        }),
    };
    wire::TargetPolicy {
        policy: super::policy(&domain.policy).encode_to_vec(),
        targets: domain.targets.iter().map(target).collect(),
        unenforceable: text(domain.unenforceable.as_ref()),
        audit: domain.audit,
    }
}

fn text(domain: Option<&Arc<str>>) -> String {
    domain.map(ToString::to_string).unwrap_or_default()
}

fn texts(domain: &[Arc<str>]) -> Vec<String> {
    domain.iter().map(ToString::to_string).collect()
}

/// A number that is far below 2^32.
fn number(domain: usize) -> u32 {
    u32::try_from(domain).unwrap_or(u32::MAX)
}

/// The longest that fits is 584 years.
fn nanos(domain: Duration) -> u64 {
    u64::try_from(domain.as_nanos()).unwrap_or(u64::MAX)
}

fn stream_rule(domain: &StreamRule) -> wire::StreamRule {
    let backend = |domain: &StreamBackend| wire::Backend {
        target: Some(target(&domain.target)),
        weight: domain.weight,
        filters: None,
    };
    wire::StreamRule {
        place: number(domain.place),
        name: text(domain.name.as_ref()),
        backends: domain.backends.iter().map(backend).collect(),
    }
}

fn rule(domain: &Rule) -> wire::Rule {
    let backend = |domain: &Backend| wire::Backend {
        target: Some(target(&domain.target)),
        weight: domain.weight,
        filters: filters(&domain.filters),
    };
    wire::Rule {
        place: number(domain.place),
        name: text(domain.name.as_ref()),
        matches: domain.matches.iter().map(one_match).collect(),
        filters: filters(&domain.filters),
        backends: domain.backends.iter().map(backend).collect(),
        request_timeout_nanos: domain.timeouts.request.map(nanos),
        backend_request_timeout_nanos: domain.timeouts.backend_request.map(nanos),
        retry: domain.retry.as_ref().map(retry),
        persistence: domain.persistence.as_ref().map(persistence),
    }
}

fn one_match(domain: &RequestMatch) -> wire::Match {
    use wire::r#match::Path;
    let values = |list: &[ValueMatch]| {
        let value = |domain: &ValueMatch| wire::ValueMatch {
            name: domain.name.to_string(),
            value: Some(text_match(&domain.value)),
        };
        list.iter().map(value).collect()
    };
    wire::Match {
        path: Some(match &domain.path {
            PathMatch::Exact(path) => Path::Exact(path.to_string()),
            PathMatch::Prefix(path) => Path::Prefix(path.to_string()),
            PathMatch::Regex(pattern) => Path::Regex(pattern.as_str().to_owned()),
            PathMatch::Grpc(GrpcMatch { service, method }) => Path::Grpc(wire::GrpcMatch {
                service: service.as_ref().map(text_match),
                method: method.as_ref().map(text_match),
            }),
        }),
        method: text(domain.method.as_ref()),
        headers: values(&domain.headers),
        query: values(&domain.query),
    }
}

fn text_match(domain: &TextMatch) -> wire::TextMatch {
    use wire::text_match::Text;
    wire::TextMatch {
        text: Some(match domain {
            TextMatch::Exact(exact) => Text::Exact(exact.to_string()),
            TextMatch::Regex(pattern) => Text::Regex(pattern.as_str().to_owned()),
        }),
    }
}

fn filters(domain: &OwnFilters) -> Option<wire::Filters> {
    domain.get().map(|domain| wire::Filters {
        request_headers: changes(&domain.request_headers),
        response_headers: changes(&domain.response_headers),
        redirect: domain.redirect.as_ref().map(redirect),
        rewrite: domain.rewrite.as_ref().map(rewrite),
        mirrors: domain.mirrors.iter().map(mirror).collect(),
        cors: domain.cors.as_ref().map(cors),
        unusable: text(domain.unusable.as_ref()),
    })
}

fn changes(domain: &HeaderChanges) -> Option<wire::HeaderChanges> {
    let pairs = |list: &[(Arc<str>, Arc<str>)]| {
        let header = |(name, value): &(Arc<str>, Arc<str>)| wire::Header {
            name: name.to_string(),
            value: value.to_string(),
        };
        list.iter().map(header).collect()
    };
    (!domain.is_empty()).then(|| wire::HeaderChanges {
        set: pairs(&domain.set),
        add: pairs(&domain.add),
        remove: texts(&domain.remove),
    })
}

fn path_change(domain: &PathChange) -> wire::PathChange {
    use wire::path_change::Change;
    wire::PathChange {
        change: Some(match domain {
            PathChange::Full(path) => Change::Full(path.to_string()),
            PathChange::Prefix(path) => Change::Prefix(path.to_string()),
        }),
    }
}

fn redirect(domain: &Redirect) -> wire::Redirect {
    let scheme = domain.scheme.map(|scheme| scheme.as_str().to_owned());
    wire::Redirect {
        scheme: scheme.unwrap_or_default(),
        host: text(domain.host.as_ref()),
        port: domain.port.unwrap_or_default().into(),
        path: domain.path.as_ref().map(path_change),
        status: domain.status.into(),
    }
}

fn rewrite(domain: &Rewrite) -> wire::Rewrite {
    wire::Rewrite {
        host: text(domain.host.as_ref()),
        path: domain.path.as_ref().map(path_change),
    }
}

fn mirror(domain: &Mirror) -> wire::Mirror {
    wire::Mirror {
        target: Some(target(&domain.target)),
        numerator: domain.share.numerator,
        denominator: domain.share.denominator,
    }
}

fn cors(domain: &Cors) -> wire::Cors {
    let origin = |domain: &Origin| match domain {
        Origin::Any => wire::Origin {
            any: true,
            ..wire::Origin::default()
        },
        Origin::Like { before, behind } => wire::Origin {
            before: before.to_string(),
            behind: behind.as_ref().map(ToString::to_string),
            any: false,
        },
    };
    wire::Cors {
        origins: domain.origins.iter().map(origin).collect(),
        credentials: domain.credentials,
        methods: texts(&domain.methods),
        headers: texts(&domain.headers),
        expose: texts(&domain.expose),
        max_age_seconds: domain.max_age_seconds,
    }
}

fn target(domain: &Target) -> wire::Target {
    use wire::target::Target as Wire;
    wire::Target {
        target: Some(match domain {
            Target::Service { service, port } => Wire::Service(wire::ServicePort {
                namespace: service.namespace.to_string(),
                hostname: service.hostname.to_string(),
                port: (*port).into(),
            }),
            Target::Invalid(why) => Wire::Invalid(why.to_string()),
        }),
    }
}

fn retry(domain: &Retry) -> wire::Retry {
    wire::Retry {
        codes: domain.codes.iter().map(|code| u32::from(*code)).collect(),
        attempts: domain.attempts,
        backoff_nanos: nanos(domain.backoff),
    }
}

fn persistence(domain: &Persistence) -> wire::Persistence {
    use wire::persistence::Token;
    let token = match domain.token {
        SessionToken::Cookie(Cookie::Session) => Token::SessionCookie,
        SessionToken::Cookie(Cookie::Permanent) => Token::PermanentCookie,
        SessionToken::Header => Token::Header,
    };
    wire::Persistence {
        name: domain.name.to_string(),
        token: token.into(),
        absolute_timeout_nanos: domain.absolute_timeout.map(nanos),
        idle_timeout_nanos: domain.idle_timeout.map(nanos),
    }
}
