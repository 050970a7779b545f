//! What a request must be for a rule to take it. All conditions of a [`RequestMatch`] must hold.

use std::fmt;
use std::sync::Arc;

use super::path::{has_prefix, normal_prefix};
use super::pattern::Pattern;
use super::request::Request;

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMatch {
    /// Of the path; by default every path.
    pub path: PathMatch,
    /// The method, compared with case; None: any.
    pub method: Option<Arc<str>>,
    /// Of headers: names in lower case, each at most once.
    pub headers: Vec<ValueMatch>,
    /// Of query parameters: names with case, each at most once.
    pub query: Vec<ValueMatch>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path.
    Exact(Arc<str>),
    /// This path and all below it, in normal form: see [`PathMatch::prefix`].
    Prefix(Arc<str>),
    /// The whole path, without the query.
    Regex(Pattern),
    /// A gRPC service, a method, or both.
    Grpc(GrpcMatch),
}

impl Default for PathMatch {
    /// The prefix of all paths.
    fn default() -> Self {
        Self::prefix("/")
    }
}

impl PathMatch {
    /// A prefix; its trailing slash says nothing.
    #[must_use]
    pub fn prefix(prefix: &str) -> Self {
        Self::Prefix(normal_prefix(prefix).into())
    }

    /// Whether the path meets it.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => has_prefix(path, prefix),
            Self::Regex(pattern) => pattern.matches(path),
            Self::Grpc(grpc) => grpc.holds(path),
        }
    }
}

/// A condition on a gRPC call, whose path is `/service/method`. Fields that are None hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcMatch {
    /// Of the service with its package.
    pub service: Option<TextMatch>,
    /// Of the method.
    pub method: Option<TextMatch>,
}

impl GrpcMatch {
    fn holds(&self, path: &str) -> bool {
        let Some((service, method)) = grpc_call(path) else {
            return self.service.is_none() && self.method.is_none();
        };
        let holds = |wanted: &Option<TextMatch>, text| {
            wanted.as_ref().is_none_or(|wanted| wanted.holds(text))
        };
        holds(&self.service, service) && holds(&self.method, method)
    }
}

/// Service and method of a path.
pub(super) fn grpc_call(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.rsplit_once('/')
}

/// A condition on a named value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMatch {
    /// Name of the header or query parameter.
    pub name: Arc<str>,
    /// Of its value; a value that is not there never meets it.
    pub value: TextMatch,
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// This text.
    Exact(Arc<str>),
    /// A text that this matches whole.
    Regex(Pattern),
}

impl TextMatch {
    /// Whether `text` meets it.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *text,
            Self::Regex(pattern) => pattern.matches(text),
        }
    }

    /// The text of the condition.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(exact) => exact,
            Self::Regex(pattern) => pattern.as_str(),
        }
    }
}

impl RequestMatch {
    /// Whether the request meets all conditions.
    #[must_use]
    pub fn holds(&self, request: &Request<'_>) -> bool {
        let any_or_this = |method: &Arc<str>| **method == *request.method;
        self.path.holds(request.path)
            && self.method.as_ref().is_none_or(any_or_this)
            && self.headers.iter().all(|header| {
                let value = request.header(&header.name);
                value.is_some_and(|value| header.value.holds(&value))
            })
            && self.query.iter().all(|parameter| {
                let value = request.query_value(&parameter.name);
                value.is_some_and(|value| parameter.value.holds(&value))
            })
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "path is {path}"),
            Self::Prefix(prefix) if prefix.is_empty() => f.write_str("any path"),
            Self::Prefix(prefix) => write!(f, "path is {prefix} or below"),
            Self::Regex(pattern) => write!(f, "path matches {pattern}"),
            Self::Grpc(grpc) => match (&grpc.service, &grpc.method) {
                (None, None) => f.write_str("any call"),
                (Some(service), None) => write!(f, "gRPC service {service}"),
                (None, Some(method)) => write!(f, "gRPC method {method}"),
                (Some(service), Some(method)) => {
                    write!(f, "gRPC service {service} and method {method}")
                }
            },
        }
    }
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "is {text}"),
            Self::Regex(pattern) => write!(f, "matches {pattern}"),
        }
    }
}

impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grpc(service: Option<TextMatch>, method: Option<TextMatch>) -> PathMatch {
        PathMatch::Grpc(GrpcMatch { service, method })
    }

    fn exact(text: &str) -> Option<TextMatch> {
        Some(TextMatch::Exact(text.into()))
    }

    #[test]
    fn a_grpc_condition_looks_at_service_and_method_alone() {
        let regex = |text| Some(TextMatch::Regex(Pattern::new(text).unwrap()));
        for (condition, holds) in [
            (grpc(exact("pkg.Echo"), exact("Ping")), true),
            (grpc(exact("pkg.Echo"), None), true),
            (grpc(None, exact("Ping")), true),
            (grpc(None, None), true),
            (grpc(regex(r"pkg\..*"), exact("Ping")), true),
            (grpc(exact("Echo"), None), false),
            (grpc(None, exact("ping")), false),
            (grpc(exact("pkg.Echo"), regex("P")), false),
        ] {
            assert_eq!(condition.holds("/pkg.Echo/Ping"), holds, "{condition}");
        }
        assert!(!grpc(exact("pkg.Echo"), None).holds("/pkg.Echo"));
    }

    #[test]
    fn all_conditions_have_to_hold() {
        let headers = vec![("version".to_owned(), "v2".to_owned())];
        let request = Request {
            method: "POST",
            scheme: "http",
            authority: "shop:80",
            port: 80,
            path: "/cart/7",
            query: Some("animal=whale"),
            headers: &headers,
        };
        let value = |name: &str, text: &str| ValueMatch {
            name: name.into(),
            value: TextMatch::Exact(text.into()),
        };
        let all = RequestMatch {
            path: PathMatch::prefix("/cart"),
            method: Some("POST".into()),
            headers: vec![value("version", "v2"), value("host", "shop:80")],
            query: vec![value("animal", "whale")],
        };
        assert!(all.holds(&request));
        let changes: [fn(&mut RequestMatch); 5] = [
            |m| m.path = PathMatch::prefix("/car"),
            |m| m.method = Some("post".into()),
            |m| m.headers[0].value = TextMatch::Exact("v1".into()),
            |m| m.headers[0].name = "absent".into(),
            |m| m.query[0].value = TextMatch::Exact("Whale".into()),
        ];
        for change in changes {
            let mut one_off = all.clone();
            change(&mut one_off);
            assert!(!one_off.holds(&request), "{one_off:?}");
        }
    }
}
