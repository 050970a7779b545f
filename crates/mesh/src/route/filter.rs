//! What a rule or a backend does to a request and to its answer.

use std::ops::Deref;
use std::sync::Arc;

use super::Target;
use super::cors::Cors;
use super::matching::PathMatch;
use super::path::{normal_prefix, replace_prefix};
use super::table::Selected;

/// The filters of a rule or of a backend. Each kind at most once, but mirrors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Headers of the request.
    pub request_headers: HeaderChanges,
    /// Headers of the answer.
    pub response_headers: HeaderChanges,
    /// Answers with a redirect instead of forwarding. Never together with a rewrite.
    pub redirect: Option<Redirect>,
    /// Another host or path on the way on.
    pub rewrite: Option<Rewrite>,
    /// Copies of the request; what they are answered is dropped.
    pub mirrors: Vec<Mirror>,
    /// Answers preflight requests and marks answers.
    pub cors: Option<Cors>,
    /// A filter that is not known or not to be had, with its name: it must not be skipped, so the
    /// request fails with 500.
    pub unusable: Option<Arc<str>>,
}

impl Filters {
    /// Nothing is done.
    pub const NONE: Self = Self {
        request_headers: HeaderChanges::NONE,
        response_headers: HeaderChanges::NONE,
        redirect: None,
        rewrite: None,
        mirrors: Vec::new(),
        cors: None,
        unusable: None,
    };

    /// Whether a redirect or rewrite replaces the prefix that a rule matched.
    #[must_use]
    pub fn replaces_prefix(&self) -> bool {
        let redirect = self.redirect.as_ref().and_then(|r| r.path.as_ref());
        let rewrite = self.rewrite.as_ref().and_then(|r| r.path.as_ref());
        let is_prefix = |change: &PathChange| matches!(change, PathChange::Prefix(_));
        redirect.is_some_and(is_prefix) || rewrite.is_some_and(is_prefix)
    }
}

/// The filters of one rule or backend. Nearly none has any: then this is a pointer to nothing, and
/// reads as [`Filters::NONE`].
#[derive(Clone, Debug, Default)]
pub struct OwnFilters(Option<Arc<Filters>>);

impl OwnFilters {
    /// The filters, if there are any.
    #[must_use]
    pub fn get(&self) -> Option<&Filters> {
        self.0.as_deref()
    }
}

impl From<Filters> for OwnFilters {
    fn from(filters: Filters) -> Self {
        Self((filters != Filters::NONE).then(|| Arc::new(filters)))
    }
}

impl Deref for OwnFilters {
    type Target = Filters;

    fn deref(&self) -> &Filters {
        static NONE: Filters = Filters::NONE;
        self.get().unwrap_or(&NONE)
    }
}

impl PartialEq for OwnFilters {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// Changes of headers, in this order: set, add, remove. A name is in one list only, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Replaces all values, or adds the header.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// One more value.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Takes the header away.
    pub remove: Vec<Arc<str>>,
}

impl HeaderChanges {
    const NONE: Self = Self {
        set: Vec::new(),
        add: Vec::new(),
        remove: Vec::new(),
    };

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// This one, whatever it was.
    Full(Arc<str>),
    /// In place of the prefix that the rule matched.
    Prefix(Arc<str>),
}

impl PathChange {
    /// The changed path; `matched` is the prefix (normal form) that the rule matched.
    #[must_use]
    pub fn apply(&self, path: &str, matched: &str) -> String {
        match self {
            Self::Full(full) => full.to_string(),
            Self::Prefix(replacement) => replace_prefix(path, matched, replacement),
        }
    }
}

/// An answer that sends the client elsewhere. Fields that are None stay as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// Host without port.
    pub host: Option<Arc<str>>,
    /// Port; without it the scheme's own if a scheme is given, else the parent's.
    pub port: Option<u16>,
    /// Path; the query stays.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308; 302 by default.
    pub status: u16,
}

/// Schemes of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// As in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that needs no mention.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Redirect {
    /// The `Location` for a request whose rule matched the prefix `matched` (normal form).
    #[must_use]
    pub fn location(&self, request: &super::Request<'_>, matched: &str) -> String {
        let of_request = match request.scheme {
            "https" => Scheme::Https,
            _ => Scheme::Http,
        };
        let scheme = self.scheme.unwrap_or(of_request);
        let port = self
            .port
            .or(self.scheme.map(Scheme::port))
            .unwrap_or(request.port);
        let host = match &self.host {
            Some(host) => host.to_string(),
            None => request.host().into_owned(),
        };
        let path = match &self.path {
            Some(change) => change.apply(request.path, matched),
            None => request.path.to_owned(),
        };
        let mut location = format!("{}://{host}", scheme.as_str());
        if port != scheme.port() {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(&path);
        if let Some(query) = request.query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

/// Another host or path on the way on. None stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Host of the request.
    pub host: Option<Arc<str>>,
    /// Path; the query stays.
    pub path: Option<PathChange>,
}

/// A copy of some requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where the copies go.
    pub target: Target,
    /// Share of the requests that is copied.
    pub share: Share,
}

/// A share of requests, `numerator` of `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// At most the denominator.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}

impl Share {
    /// All.
    pub const ALL: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// Whether a drawn number is in the share.
    #[must_use]
    pub fn has(self, drawn: u64) -> bool {
        drawn % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

/// The prefix that a rule matched: the normal form, or the empty one where it matched otherwise.
pub(super) fn matched_prefix<'a>(selected: &Selected<'a>) -> &'a str {
    match selected.matched().map(|(_, matched)| &matched.path) {
        Some(PathMatch::Prefix(prefix)) => normal_prefix(prefix),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Request;

    #[test]
    fn a_redirect_says_the_port_only_where_it_must() {
        let none: Vec<(String, String)> = Vec::new();
        let request = |port| Request {
            method: "GET",
            scheme: "http",
            authority: "shop:8080",
            port,
            path: "/a/b",
            query: Some("q=1"),
            headers: &none,
        };
        let plain = Redirect {
            scheme: None,
            host: None,
            port: None,
            path: None,
            status: 302,
        };
        let with = |change: fn(&mut Redirect)| {
            let mut redirect = plain.clone();
            change(&mut redirect);
            redirect
        };
        let https = with(|r| r.scheme = Some(Scheme::Https));
        let host = with(|r| r.host = Some("example.org".into()));
        let port = with(|r| r.port = Some(8443));
        let full = with(|r| r.path = Some(PathChange::Full("/x".into())));
        let prefix = with(|r| r.path = Some(PathChange::Prefix("/x".into())));
        for (redirect, port, location) in [
            (&plain, 80, "http://shop/a/b?q=1"),
            (&plain, 8080, "http://shop:8080/a/b?q=1"),
            (&https, 8080, "https://shop/a/b?q=1"),
            (&host, 80, "http://example.org/a/b?q=1"),
            (&port, 80, "http://shop:8443/a/b?q=1"),
            (&full, 80, "http://shop/x?q=1"),
            (&prefix, 80, "http://shop/x/b?q=1"),
        ] {
            assert_eq!(redirect.location(&request(port), "/a"), location);
        }
    }

    #[test]
    fn a_share_of_the_drawn_numbers_is_mirrored() {
        let share = |numerator, denominator| Share {
            numerator,
            denominator,
        };
        let among = |share: Share| (0..1_000).filter(|drawn| share.has(*drawn)).count();
        assert_eq!(among(Share::ALL), 1_000);
        assert_eq!(among(share(0, 100)), 0);
        assert_eq!(among(share(25, 100)), 250);
        assert_eq!(among(share(1, 1_000)), 1);
    }
}
