//! Routes at their parents, and policies with targets.

mod filter;

use std::sync::Arc;
use std::time::Duration;

use mesh::policy::targeted::{PolicyTarget, TargetedPolicy};
use mesh::route::matching::{GrpcMatch, PathMatch, TextMatch, ValueMatch};
use mesh::route::pattern::Pattern;
use mesh::route::stream::{StreamBackend, StreamRoute, StreamRule};
use mesh::route::{
    Backend, Cookie, HostPattern, MATCHES_MAX, Persistence, RULES_MAX, RequestMatch, Retry, Route,
    RouteKey, RouteKind, Rule, SessionToken, Target, Timeouts, WEIGHT_MAX, path,
};
use mesh::route::{GatewayKey, ParentKey};
use mesh::service::ServiceKey;

use super::fault::{At, Fault, Problem, each, port, required, value, whole};
use crate::names;
use crate::routed::{AnyRoute, Routed, kind_of};
use crate::wire::route as wire;
use filter::filters;

/// Most backends of a rule (Gateway API).
const BACKENDS_MAX: usize = 16;
/// Most items of any other list: no list of the Gateway API has more than 64.
const ITEMS_MAX: usize = 128;
/// Longest text in bytes: a header's value of the Gateway API has 4,096, an expression as many.
const TEXT_BYTES_MAX: usize = 4_096;
/// Most services and gateways of one policy: a policy for a class is for all its gateways.
const TARGETS_MAX: usize = 65_536;

pub(super) fn route(message: wire::Route) -> Result<Routed, Fault> {
    let parent = message.parent.as_str();
    let parent: ParentKey = parent
        .parse()
        .map_err(|_| Problem::form(parent, "a port of a service or a gateway"))
        .at("parent")?;
    let kind = kind_of(&message.kind)
        .ok_or_else(|| Problem::form(&message.kind, "a kind of route"))
        .at("kind")?;
    let key = RouteKey {
        kind,
        namespace: required(message.namespace).at("namespace")?,
        name: required(message.name).at("name")?,
    };
    at_most("hostnames", &message.hostnames, ITEMS_MAX)?;
    let hostnames = each("hostnames", message.hostnames, |text| {
        let host = HostPattern::parse(&text);
        whole(host.map_err(|_| Problem::form(&text, "a host name")))
    })?;
    let created = message.created;
    let is_http = matches!(kind, RouteKind::Http | RouteKind::Grpc);
    let (own, other) = match is_http {
        true => (message.rules.len(), message.stream_rules.len()),
        false => (message.stream_rules.len(), message.rules.len()),
    };
    if own == 0 || other > 0 {
        return Err(Fault::new("rules", Problem::Missing));
    }
    let route = if is_http {
        let rules = http_rules(message.rules)?;
        AnyRoute::Http(Arc::new(Route {
            key,
            created,
            hostnames,
            rules,
        }))
    } else {
        at_most("stream_rules", &message.stream_rules, RULES_MAX)?;
        let rules = each("stream_rules", message.stream_rules, stream_rule)?;
        AnyRoute::Stream(Arc::new(StreamRoute {
            key,
            created,
            hostnames,
            rules,
        }))
    };
    Ok(Routed { parent, route })
}

pub(super) fn target_policy(message: wire::TargetPolicy) -> Result<TargetedPolicy, Fault> {
    use wire::policy_target::Target as Wire;
    at_most("targets", &message.targets, TARGETS_MAX)?;
    let targets = each("targets", message.targets, |message| {
        match message.target.ok_or(Problem::Missing).at("target")? {
            Wire::Service(name) => {
                let key = names::service_key(&name).map_err(Problem::from);
                key.map(PolicyTarget::Service).at("service")
            }
            Wire::Gateway(name) => {
                let key = names::service_key(&name).map_err(Problem::from);
                let key = key.at("gateway")?;
                Ok(PolicyTarget::Gateway(GatewayKey {
                    namespace: key.namespace,
                    name: key.hostname,
                }))
            }
        }
    })?;
    let policy = super::policy(&message.policy)
        .map_err(|error| Fault::new(format!("policy.{}", error.field), error.problem))?;
    Ok(TargetedPolicy {
        policy,
        targets,
        unenforceable: optional(message.unenforceable).at("unenforceable")?,
        audit: message.audit,
    })
}

/// A list within its bound.
fn at_most<T>(field: &str, list: &[T], bound: usize) -> Result<(), Fault> {
    match list.len() > bound {
        true => Err(Fault::new(field, Problem::Many { bound })),
        false => Ok(()),
    }
}

fn bounded(text: String) -> Result<Arc<str>, Problem> {
    match text.len() > TEXT_BYTES_MAX {
        true => Err(Problem::Long {
            bytes: text.len(),
            bound: TEXT_BYTES_MAX,
        }),
        false => Ok(text.into()),
    }
}

/// A text within its bound; empty: none.
fn optional(text: String) -> Result<Option<Arc<str>>, Problem> {
    match text.is_empty() {
        true => Ok(None),
        false => bounded(text).map(Some),
    }
}

fn stream_rule(message: wire::StreamRule) -> Result<StreamRule, Fault> {
    at_most("backends", &message.backends, BACKENDS_MAX)?;
    let backends = each("backends", message.backends, |message| {
        if message.filters.is_some() {
            let problem = Problem::Unsupported("a filter of a stream");
            return Err(Fault::new("filters", problem));
        }
        Ok(StreamBackend {
            target: target(message.target)?,
            weight: weight(message.weight)?,
        })
    })?;
    Ok(StreamRule {
        place: place(message.place)?,
        name: optional(message.name).at("name")?,
        backends,
    })
}

fn http_rules(messages: Vec<wire::Rule>) -> Result<Vec<Rule>, Fault> {
    at_most("rules", &messages, RULES_MAX)?;
    let matches: usize = messages.iter().map(|rule| rule.matches.len()).sum();
    if matches > MATCHES_MAX {
        return Err(Fault::new("rules", Problem::Many { bound: MATCHES_MAX }));
    }
    each("rules", messages, rule)
}

fn rule(message: wire::Rule) -> Result<Rule, Fault> {
    at_most("backends", &message.backends, BACKENDS_MAX)?;
    let backends = each("backends", message.backends, |message| {
        Ok(Backend {
            target: target(message.target)?,
            weight: weight(message.weight)?,
            filters: filters(message.filters).at("filters")?,
        })
    })?;
    Ok(Rule {
        place: place(message.place)?,
        name: optional(message.name).at("name")?,
        matches: each("matches", message.matches, one_match)?,
        filters: filters(message.filters).at("filters")?,
        backends,
        timeouts: Timeouts {
            request: message.request_timeout_nanos.map(Duration::from_nanos),
            backend_request: message
                .backend_request_timeout_nanos
                .map(Duration::from_nanos),
        },
        retry: message.retry.map(retry).transpose().at("retry")?,
        persistence: message
            .persistence
            .map(persistence)
            .transpose()
            .at("persistence")?,
    })
}

fn place(number: u32) -> Result<usize, Fault> {
    match usize::try_from(number) {
        Ok(place) if place < RULES_MAX => Ok(place),
        _ => Err(Fault::new("place", Problem::Many { bound: RULES_MAX })),
    }
}

fn weight(number: u32) -> Result<u32, Fault> {
    match number > WEIGHT_MAX {
        true => Err(Fault::new("weight", Problem::Number(number))),
        false => Ok(number),
    }
}

fn target(message: Option<wire::Target>) -> Result<Target, Fault> {
    use wire::target::Target as Wire;
    let target = message.and_then(|message| message.target);
    match target.ok_or(Problem::Missing).at("target")? {
        Wire::Service(message) => Ok(Target::Service {
            service: ServiceKey {
                namespace: required(message.namespace).at("target.namespace")?,
                hostname: required(message.hostname).at("target.hostname")?,
            },
            port: port(message.port).at("target.port")?,
        }),
        Wire::Invalid(why) => bounded(why).map(Target::Invalid).at("target.invalid"),
    }
}

fn one_match(message: wire::Match) -> Result<RequestMatch, Fault> {
    use wire::r#match::Path;
    let path = match message.path.ok_or(Problem::Missing).at("path")? {
        Path::Exact(text) => {
            let checked = path::check(&text).map_err(|_| Problem::form(&text, "a path"));
            checked.at("exact")?;
            PathMatch::Exact(text.into())
        }
        Path::Prefix(text) => {
            let fine = text.is_empty() || (path::check(&text).is_ok() && !text.ends_with('/'));
            match fine {
                true => PathMatch::Prefix(text.into()),
                false => {
                    let problem = Problem::form(&text, "a prefix without its trailing slash");
                    return Err(Fault::new("prefix", problem));
                }
            }
        }
        Path::Regex(text) => PathMatch::Regex(pattern(&text).at("regex")?),
        Path::Grpc(message) => PathMatch::Grpc(GrpcMatch {
            service: message.service.map(text_match).transpose().at("service")?,
            method: message.method.map(text_match).transpose().at("method")?,
        }),
    };
    at_most("headers", &message.headers, ITEMS_MAX)?;
    at_most("query", &message.query, ITEMS_MAX)?;
    Ok(RequestMatch {
        path,
        method: optional(message.method).at("method")?,
        headers: each("headers", message.headers, |message| {
            let name = filter::header_name(&message.name).at("name")?;
            value_match(name, message.value)
        })?,
        query: each("query", message.query, |message| {
            let name = required(message.name).at("name")?;
            value_match(name, message.value)
        })?,
    })
}

fn value_match(name: Arc<str>, message: Option<wire::TextMatch>) -> Result<ValueMatch, Fault> {
    let message = message.ok_or(Problem::Missing).at("value")?;
    let value = text_match(message).at("value")?;
    Ok(ValueMatch { name, value })
}

fn text_match(message: wire::TextMatch) -> Result<TextMatch, Fault> {
    use wire::text_match::Text;
    match message.text.ok_or(Problem::Missing).at("text")? {
        Text::Exact(text) => bounded(text).map(TextMatch::Exact).at("exact"),
        Text::Regex(text) => pattern(&text).map(TextMatch::Regex).at("regex"),
    }
}

fn pattern(text: &str) -> Result<Pattern, Problem> {
    if text.len() > TEXT_BYTES_MAX {
        return bounded(text.to_owned()).and(Err(Problem::Missing));
    }
    Pattern::new(text).map_err(|_| Problem::form(text, "a regular expression"))
}

fn retry(message: wire::Retry) -> Result<Retry, Fault> {
    at_most("codes", &message.codes, 200)?;
    let codes = each("codes", message.codes, |code| {
        let code = u16::try_from(code).ok().filter(|c| (400..600).contains(c));
        whole(code.ok_or(Problem::Unsupported("a status outside of 400 to 599")))
    })?;
    Ok(Retry {
        codes,
        attempts: message.attempts,
        backoff: Duration::from_nanos(message.backoff_nanos),
    })
}

fn persistence(message: wire::Persistence) -> Result<Persistence, Fault> {
    use wire::persistence::Token;
    let token = match value(message.token).at("token")? {
        Token::SessionCookie => SessionToken::Cookie(Cookie::Session),
        Token::PermanentCookie => SessionToken::Cookie(Cookie::Permanent),
        Token::Header => SessionToken::Header,
        Token::Unspecified => return Err(Fault::new("token", Problem::Missing)),
    };
    Ok(Persistence {
        name: required(message.name).at("name")?,
        token,
        absolute_timeout: message.absolute_timeout_nanos.map(Duration::from_nanos),
        idle_timeout: message.idle_timeout_nanos.map(Duration::from_nanos),
    })
}
