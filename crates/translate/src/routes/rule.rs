//! Rules of routes as written, to rules of the mesh. Knows no parent and resolves no reference.

use std::sync::Arc;
use std::time::Duration;

use mesh::route::matching::{GrpcMatch, PathMatch, TextMatch, ValueMatch};
use mesh::route::path;
use mesh::route::pattern::Pattern;
use mesh::route::retry::{ATTEMPTS, BACKOFF};
use mesh::route::stream::{StreamBackend, StreamRule};
use mesh::route::{
    Backend, Cookie, Persistence, RequestMatch, Retry, Rule, SessionToken, Target, Timeouts,
    WEIGHT_MAX,
};

use super::filter::{filters, header_name};
use crate::gateway::{
    BackendRef, GrpcMatchSpec, GrpcRule, HttpBackendRef, HttpMatch, HttpRule, PathSpec,
    PersistenceSpec, RetrySpec, StreamRuleSpec, TimeoutsSpec, ValueSpec,
};

/// Why a rule is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// The API server would refuse the whole object.
    Invalid(String),
    /// Valid, and not served: the rule is dropped, and the status says so.
    Unsupported(String),
}

/// What a reference leads to.
pub(crate) type Resolve<'a> = &'a mut dyn FnMut(&BackendRef) -> Target;

/// Most matches of one rule, most backends of one rule (Gateway API).
const MATCHES_OF_RULE_MAX: usize = 64;
const BACKENDS_MAX: usize = 16;
/// Methods that a match may name (Gateway API).
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
/// Name of the session's cookie or header, when a rule does not say.
const SESSION_NAME: &str = "culvert-session";
/// Longest value of a condition in bytes (Gateway API).
const VALUE_BYTES_MAX: usize = 4_096;

pub(super) fn invalid<T>(why: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake::Invalid(why.into()))
}

pub(super) fn unsupported<T>(why: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake::Unsupported(why.into()))
}

/// A rule of an HTTPRoute.
pub(crate) fn http_rule(rule: &HttpRule, resolve: Resolve<'_>) -> Result<Rule, Mistake> {
    let matches = each(&rule.matches, "matches", http_match)?;
    let filters = filters(&rule.filters, resolve)?;
    let backends = backends(&rule.backend_refs, resolve)?;
    if filters.redirect.is_some() && !backends.is_empty() {
        return invalid("a RequestRedirect filter and backendRefs exclude each other");
    }
    let made = Rule {
        place: 0,
        name: rule.name.as_deref().map(Arc::from),
        matches,
        filters,
        backends,
        timeouts: timeouts(rule.timeouts.as_ref())?,
        retry: rule.retry.as_ref().map(retry).transpose()?,
        persistence: persistence(rule.session_persistence.as_ref())?,
    };
    replaced_prefix_is_one(&made)?;
    Ok(made)
}

/// A rule of a GRPCRoute.
pub(crate) fn grpc_rule(rule: &GrpcRule, resolve: Resolve<'_>) -> Result<Rule, Mistake> {
    let filters = filters(&rule.filters, resolve)?;
    if filters.redirect.is_some() || filters.rewrite.is_some() || filters.cors.is_some() {
        return invalid("a GRPCRoute has no RequestRedirect, URLRewrite or CORS filter");
    }
    Ok(Rule {
        name: rule.name.as_deref().map(Arc::from),
        matches: each(&rule.matches, "matches", grpc_match)?,
        filters,
        backends: backends(&rule.backend_refs, resolve)?,
        persistence: persistence(rule.session_persistence.as_ref())?,
        ..Rule::default()
    })
}

/// A rule of a TLSRoute or TCPRoute.
pub(crate) fn stream_rule(
    rule: &StreamRuleSpec,
    resolve: Resolve<'_>,
) -> Result<StreamRule, Mistake> {
    if rule.backend_refs.is_empty() {
        return invalid("backendRefs needs at least one backend");
    }
    if rule.backend_refs.iter().any(|one| !one.filters.is_empty()) {
        return invalid("a backend of a TLSRoute or TCPRoute has no filters");
    }
    let backends = backends(&rule.backend_refs, resolve)?.into_iter();
    let backends = backends.map(|backend| StreamBackend {
        target: backend.target,
        weight: backend.weight,
    });
    Ok(StreamRule {
        place: 0,
        name: rule.name.as_deref().map(Arc::from),
        backends: backends.collect(),
    })
}

fn each<S, T>(
    list: &[S],
    field: &str,
    make: impl Fn(&S) -> Result<T, Mistake>,
) -> Result<Vec<T>, Mistake> {
    if list.len() > MATCHES_OF_RULE_MAX {
        return invalid(format!("more than {MATCHES_OF_RULE_MAX} {field}"));
    }
    let made = list.iter().enumerate().map(|(at, one)| {
        make(one).map_err(|mistake| match mistake {
            Mistake::Invalid(why) => Mistake::Invalid(format!("{field}[{at}]: {why}")),
            Mistake::Unsupported(why) => Mistake::Unsupported(format!("{field}[{at}]: {why}")),
        })
    });
    made.collect()
}

/// `ReplacePrefixMatch` needs the one prefix that it replaces.
fn replaced_prefix_is_one(rule: &Rule) -> Result<(), Mistake> {
    let of_backends = rule.backends.iter().map(|backend| &backend.filters);
    let replaces = of_backends
        .chain([&rule.filters])
        .any(|filters| filters.replaces_prefix());
    let one_prefix = match &rule.matches[..] {
        [] => true,
        [one] => matches!(one.path, PathMatch::Prefix(_)),
        _ => false,
    };
    match replaces && !one_prefix {
        true => invalid("replacePrefixMatch needs exactly one match, of type PathPrefix"),
        false => Ok(()),
    }
}

fn http_match(from: &HttpMatch) -> Result<RequestMatch, Mistake> {
    if let Some(method) = from.method.as_deref().filter(|m| !METHODS.contains(m)) {
        return invalid(format!("method `{method}` is none that a match may name"));
    }
    Ok(RequestMatch {
        path: path_match(from.path.as_ref())?,
        method: from.method.as_deref().map(Arc::from),
        headers: values(&from.headers, true)?,
        query: values(&from.query_params, false)?,
    })
}

fn path_match(from: Option<&PathSpec>) -> Result<PathMatch, Mistake> {
    let value = from.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let kind = from.and_then(|path| path.kind.as_deref());
    let kind = kind.unwrap_or("PathPrefix");
    if matches!(kind, "PathPrefix" | "Exact") {
        path::check(value).map_err(|e| Mistake::Invalid(e.to_string()))?;
    }
    match kind {
        "PathPrefix" => Ok(PathMatch::prefix(value)),
        "Exact" => Ok(PathMatch::Exact(value.into())),
        "RegularExpression" => Ok(PathMatch::Regex(pattern(value)?)),
        other => unsupported(format!("path type `{other}` is not known")),
    }
}

fn pattern(text: &str) -> Result<Pattern, Mistake> {
    Pattern::new(text).map_err(|e| Mistake::Unsupported(e.to_string()))
}

fn text_match(kind: Option<&str>, value: &str) -> Result<TextMatch, Mistake> {
    if value.is_empty() || value.len() > VALUE_BYTES_MAX {
        return invalid(format!(
            "a value is empty or longer than {VALUE_BYTES_MAX} bytes"
        ));
    }
    match kind.unwrap_or("Exact") {
        "Exact" => Ok(TextMatch::Exact(value.into())),
        "RegularExpression" => Ok(TextMatch::Regex(pattern(value)?)),
        other => unsupported(format!("match type `{other}` is not known")),
    }
}

/// Conditions on values; of equal names the first counts (Gateway API, `HTTPHeaderMatch.name`).
fn values(list: &[ValueSpec], are_headers: bool) -> Result<Vec<ValueMatch>, Mistake> {
    let mut made: Vec<ValueMatch> = Vec::new();
    for one in list {
        let name = match are_headers {
            true => header_name(&one.name)?,
            false => Arc::from(&*one.name),
        };
        let value = text_match(one.kind.as_deref(), &one.value)?;
        if !made.iter().any(|earlier| earlier.name == name) {
            made.push(ValueMatch { name, value });
        }
    }
    Ok(made)
}

fn grpc_match(from: &GrpcMatchSpec) -> Result<RequestMatch, Mistake> {
    let mut call = GrpcMatch::default();
    if let Some(method) = &from.method {
        if method.service.is_none() && method.method.is_none() {
            return invalid("method needs a service or a method");
        }
        let text = |text: &Option<String>| {
            let made = text
                .as_deref()
                .map(|t| text_match(method.kind.as_deref(), t));
            made.transpose()
        };
        call.service = text(&method.service)?;
        call.method = text(&method.method)?;
    }
    Ok(RequestMatch {
        path: PathMatch::Grpc(call),
        headers: values(&from.headers, true)?,
        ..RequestMatch::default()
    })
}

fn backends(list: &[HttpBackendRef], resolve: Resolve<'_>) -> Result<Vec<Backend>, Mistake> {
    if list.len() > BACKENDS_MAX {
        return invalid(format!("more than {BACKENDS_MAX} backendRefs"));
    }
    let mut made = Vec::new();
    for (at, one) in list.iter().enumerate() {
        let weight = one.weight.unwrap_or(1);
        if weight > WEIGHT_MAX {
            return invalid(format!("backendRefs[{at}].weight is above {WEIGHT_MAX}"));
        }
        let reference = one.reference();
        check_port(&reference)?;
        made.push(Backend {
            target: resolve(&reference),
            weight,
            filters: filters(&one.filters, resolve)?,
        });
    }
    Ok(made)
}

/// A Service is referred to with a port.
pub(super) fn check_port(reference: &BackendRef) -> Result<(), Mistake> {
    let is_service = reference.kind.as_deref().unwrap_or("Service") == "Service";
    let has_port = reference.port.is_some_and(|port| port > 0);
    match is_service && !has_port {
        true => invalid(format!("backend `{}` needs a port", reference.name)),
        false => Ok(()),
    }
}

fn timeouts(from: Option<&TimeoutsSpec>) -> Result<Timeouts, Mistake> {
    let of = |text: Option<&String>| {
        let parsed = text.map(|text| duration(text)).transpose()?;
        // Zero disables.
        Ok::<_, Mistake>(parsed.filter(|duration| !duration.is_zero()))
    };
    let made = Timeouts {
        request: of(from.and_then(|t| t.request.as_ref()))?,
        backend_request: of(from.and_then(|t| t.backend_request.as_ref()))?,
    };
    match (made.request, made.backend_request) {
        (Some(whole), Some(one)) if one > whole => {
            invalid("timeouts.backendRequest is longer than timeouts.request")
        }
        _ => Ok(made),
    }
}

fn retry(from: &RetrySpec) -> Result<Retry, Mistake> {
    if let Some(code) = from.codes.iter().find(|code| !(400..600).contains(*code)) {
        return invalid(format!("retry.codes: {code} is not from 400 to 599"));
    }
    Ok(Retry {
        codes: from.codes.clone(),
        attempts: from.attempts.unwrap_or(ATTEMPTS),
        backoff: from.backoff.as_deref().map_or(Ok(BACKOFF), duration)?,
    })
}

fn persistence(from: Option<&PersistenceSpec>) -> Result<Option<Persistence>, Mistake> {
    let Some(from) = from else {
        return Ok(None);
    };
    let of = |text: &Option<String>| text.as_deref().map(duration).transpose();
    let lifetime = from.cookie_config.as_ref();
    let lifetime = lifetime.and_then(|cookie| cookie.lifetime_type.as_deref());
    let absolute_timeout = of(&from.absolute_timeout)?;
    let token = match (from.kind.as_deref().unwrap_or("Cookie"), lifetime) {
        ("Cookie", None | Some("Session")) => SessionToken::Cookie(Cookie::Session),
        ("Cookie", Some("Permanent")) if absolute_timeout.is_some() => {
            SessionToken::Cookie(Cookie::Permanent)
        }
        ("Cookie", Some("Permanent")) => {
            return invalid("sessionPersistence with a permanent cookie needs absoluteTimeout");
        }
        ("Header", None) => SessionToken::Header,
        ("Header", Some(_)) => return invalid("cookieConfig is for type Cookie"),
        (kind, lifetime) => {
            let lifetime = lifetime.unwrap_or("-");
            return unsupported(format!("sessionPersistence `{kind}` `{lifetime}`"));
        }
    };
    let name = from.session_name.as_deref().unwrap_or(SESSION_NAME);
    Ok(Some(Persistence {
        name: header_name(name)?,
        token,
        absolute_timeout,
        idle_timeout: of(&from.idle_timeout)?,
    }))
}

/// `1h2m3s4ms`: one to four parts of at most five digits each (GEP-2257).
pub(super) fn duration(text: &str) -> Result<Duration, Mistake> {
    let wrong = || Mistake::Invalid(format!("`{text}` is no duration such as 1h30m or 500ms"));
    let (mut rest, mut sum, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit());
        let end = unit.map_or(rest.len(), |unit| digits + unit);
        let milliseconds = match &rest[digits..end] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return Err(wrong()),
        };
        let count: u64 = match digits {
            1..=5 => rest[..digits].parse().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        };
        sum += Duration::from_millis(count * milliseconds);
        parts += 1;
        rest = &rest[end..];
    }
    match parts {
        1..=4 => Ok(sum),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1h2m3s4ms", 3_723_004),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "100000s",
            "1d",
            "1s1s1s1s1s",
            "1 s",
        ] {
            assert!(matches!(duration(text), Err(Mistake::Invalid(_))), "{text}");
        }
    }
}
