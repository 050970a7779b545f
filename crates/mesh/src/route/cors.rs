//! Cross-origin requests (Fetch standard, "HTTP-CORS protocol"; Gateway API, `HTTPCORSFilter`):
//! which answer a preflight gets, and which headers an answer carries.

use std::sync::Arc;

use super::request::Request;

/// What may be shared with other origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may; any of them.
    pub origins: Vec<Origin>,
    /// Whether requests may carry credentials.
    pub credentials: bool,
    /// Methods besides GET, HEAD and POST, which always may; `*` alone: all.
    pub methods: Vec<Arc<str>>,
    /// Request headers; `*` alone: all.
    pub headers: Vec<Arc<str>>,
    /// Answer headers that scripts may read; `*` alone: all.
    pub expose: Vec<Arc<str>>,
    /// How long a preflight's answer is good, in seconds; 5 by default.
    pub max_age_seconds: u32,
}

/// An origin: scheme, host and port; the host may hold one `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `*`: every one.
    Any,
    /// Before and behind the `*`, or all of it and nothing.
    Like {
        /// Up to the `*`.
        before: Arc<str>,
        /// Behind it; None: there is no `*`.
        behind: Option<Arc<str>>,
    },
}

impl Origin {
    /// Reads `*`, `https://shop.example.com` or `https://*.example.com:8443`; the scheme's own port
    /// is left out.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let text = normal_origin(text)?;
        Some(match text.split_once('*') {
            Some((before, behind)) if !behind.contains('*') => Self::Like {
                before: before.into(),
                behind: Some(behind.into()),
            },
            Some(_) => return None,
            None => Self::Like {
                before: text.into(),
                behind: None,
            },
        })
    }

    fn holds(&self, origin: &str) -> bool {
        let Self::Like { before, behind } = self else {
            return true;
        };
        let Some(origin) = normal_origin(origin) else {
            return false;
        };
        match behind {
            None => origin == **before,
            Some(behind) => origin
                .strip_prefix(&**before)
                .and_then(|rest| rest.strip_suffix(&**behind))
                // A `*` is part of a host: it never swallows the border to the port.
                .is_some_and(|middle| !middle.is_empty() && !middle.contains([':', '/'])),
        }
    }
}

/// In lower case and without the scheme's own port; None: no `http` or `https` origin.
fn normal_origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (scheme, host) = text.split_once("://")?;
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let host = host.strip_suffix(default).unwrap_or(host);
    let fine = !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
    fine.then(|| format!("{scheme}://{host}"))
}

/// Headers to set on an answer, names in lower case.
pub type AnswerHeaders = Vec<(&'static str, String)>;

impl Cors {
    /// Whether the request is a preflight: it is answered here and goes nowhere.
    #[must_use]
    pub fn is_preflight(request: &Request<'_>) -> bool {
        request.method == "OPTIONS"
            && request.header("origin").is_some()
            && request.header("access-control-request-method").is_some()
    }

    /// What the answer (status 204) to a preflight carries; empty for an origin that may not.
    #[must_use]
    pub fn preflight(&self, request: &Request<'_>) -> AnswerHeaders {
        let mut answer = self.common(request);
        if answer.is_empty() {
            return answer;
        }
        let asked = |name| request.header(name).map(|value| value.into_owned());
        let lists = [
            (
                "access-control-allow-methods",
                &self.methods,
                asked("access-control-request-method"),
            ),
            (
                "access-control-allow-headers",
                &self.headers,
                asked("access-control-request-headers"),
            ),
        ];
        for (name, list, asked) in lists {
            let value = match is_any(list) {
                // With credentials a `*` would mean a method or header of that name.
                true if self.credentials => asked,
                _ if list.is_empty() => None,
                _ => Some(list.join(", ")),
            };
            answer.extend(value.map(|value| (name, value)));
        }
        answer.push(("access-control-max-age", self.max_age_seconds.to_string()));
        answer
    }

    /// What the answer to any other request carries; empty for an origin that may not.
    #[must_use]
    pub fn answer(&self, request: &Request<'_>) -> AnswerHeaders {
        let mut answer = self.common(request);
        let wildcard_means_nothing = self.credentials && is_any(&self.expose);
        if !answer.is_empty() && !self.expose.is_empty() && !wildcard_means_nothing {
            answer.push(("access-control-expose-headers", self.expose.join(", ")));
        }
        answer
    }

    fn common(&self, request: &Request<'_>) -> AnswerHeaders {
        let Some(origin) = request.header("origin") else {
            return Vec::new();
        };
        if !self.origins.iter().any(|allowed| allowed.holds(&origin)) {
            return Vec::new();
        }
        let is_for_all = self.origins.contains(&Origin::Any) && !self.credentials;
        let (shown, varies) = match is_for_all {
            true => ("*".to_owned(), false),
            false => (origin.into_owned(), true),
        };
        let mut answer = vec![("access-control-allow-origin", shown)];
        if varies {
            // Caches must not give the answer for one origin to another (Fetch standard).
            answer.push(("vary", "Origin".to_owned()));
        }
        if self.credentials {
            answer.push(("access-control-allow-credentials", "true".to_owned()));
        }
        answer
    }
}

fn is_any(list: &[Arc<str>]) -> bool {
    list.iter().any(|one| &**one == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], any: &[&str], credentials: bool) -> Cors {
        let list: Vec<Arc<str>> = any.iter().map(|text| (*text).into()).collect();
        Cors {
            origins: origins.iter().filter_map(|o| Origin::parse(o)).collect(),
            credentials,
            methods: list.clone(),
            headers: list.clone(),
            expose: list,
            max_age_seconds: 5,
        }
    }

    fn asked(cors: &Cors, origin: &str) -> (AnswerHeaders, AnswerHeaders) {
        let headers = vec![
            ("origin".to_owned(), origin.to_owned()),
            ("access-control-request-method".to_owned(), "PUT".to_owned()),
            (
                "access-control-request-headers".to_owned(),
                "x-a".to_owned(),
            ),
        ];
        let request = Request {
            method: "OPTIONS",
            scheme: "http",
            authority: "shop",
            port: 80,
            path: "/",
            query: None,
            headers: &headers,
        };
        assert!(Cors::is_preflight(&request));
        (cors.preflight(&request), cors.answer(&request))
    }

    fn value<'a>(answer: &'a AnswerHeaders, name: &str) -> Option<&'a str> {
        let found = answer.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn an_origin_is_compared_by_scheme_host_and_port() {
        for (allowed, origin, holds) in [
            ("https://shop.example", "https://SHOP.example:443", true),
            ("http://shop.example:80", "http://shop.example", true),
            ("https://shop.example", "http://shop.example", false),
            ("https://shop.example", "https://shop.example:8443", false),
            ("https://*.example", "https://a.b.example", true),
            ("https://*.example", "https://example", false),
            ("https://*.example", "https://.example", false),
            ("https://*.example", "https://evil:1.example", false),
            ("https://*", "https://anything", true),
            ("*", "null", true),
            ("https://*", "null", false),
        ] {
            let allowed = Origin::parse(allowed).unwrap();
            assert_eq!(allowed.holds(origin), holds, "{allowed:?} {origin}");
        }
        for text in [
            "",
            "shop",
            "ftp://a",
            "https://",
            "https://a/b",
            "https://*.*",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_origin_that_may_not_gets_no_header() {
        let (preflight, answer) = asked(&cors(&["https://a.b"], &["*"], false), "https://c.d");
        assert_eq!((preflight, answer), (Vec::new(), Vec::new()));
    }

    #[test]
    fn with_credentials_no_wildcard_is_shown() {
        let (preflight, answer) = asked(&cors(&["*"], &["*"], true), "https://a.b");
        for (name, wanted) in [
            ("access-control-allow-origin", Some("https://a.b")),
            ("access-control-allow-credentials", Some("true")),
            ("access-control-allow-methods", Some("PUT")),
            ("access-control-allow-headers", Some("x-a")),
            ("access-control-max-age", Some("5")),
            ("vary", Some("Origin")),
        ] {
            assert_eq!(value(&preflight, name), wanted, "{name}");
        }
        assert_eq!(value(&answer, "access-control-expose-headers"), None);
    }

    #[test]
    fn without_credentials_a_wildcard_is_for_all() {
        let (preflight, answer) = asked(&cors(&["*"], &["*"], false), "https://a.b");
        assert_eq!(value(&preflight, "access-control-allow-origin"), Some("*"));
        assert_eq!(value(&preflight, "access-control-allow-methods"), Some("*"));
        assert_eq!(value(&preflight, "access-control-allow-credentials"), None);
        assert_eq!(value(&preflight, "vary"), None);
        assert_eq!(value(&answer, "access-control-expose-headers"), Some("*"));
    }

    #[test]
    fn lists_are_shown_as_they_are() {
        let (preflight, answer) =
            asked(&cors(&["https://a.b"], &["PUT", "x"], false), "https://a.b");
        let methods = value(&preflight, "access-control-allow-methods");
        assert_eq!(methods, Some("PUT, x"));
        assert_eq!(
            value(&answer, "access-control-expose-headers"),
            Some("PUT, x")
        );
        assert_eq!(value(&answer, "access-control-max-age"), None);
    }
}
