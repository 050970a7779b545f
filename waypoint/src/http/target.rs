//! Targets of requests: which forms there are (RFC 9112 3.2), and those that endpoints are sent.
//! Pure.

use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Uri};

/// Whether the target is an authority for CONNECT, `*` for OPTIONS alone, else a path, perhaps of
/// an HTTP URI (RFC 9112 3.2). Without its own protocol, CONNECT of HTTP/2 is that of HTTP/1.
pub(super) fn is_proper(head: &Parts) -> bool {
    let uri = &head.uri;
    let is_stream = head.extensions.get::<h2::ext::Protocol>().is_some();
    if head.method == Method::CONNECT && !is_stream {
        let has_port = uri.authority().is_some_and(|one| one.port().is_some());
        return has_port && uri.scheme().is_none() && uri.path_and_query().is_none();
    }
    let is_known = |scheme: &Scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme);
    let is_http = uri.scheme().is_none_or(is_known);
    is_http
        && uri
            .path_and_query()
            .is_some_and(|path| match path.as_str() {
                "*" => head.method == Method::OPTIONS,
                path => path.starts_with('/'),
            })
}

/// With that host, as HTTP/2 is sent it.
pub(super) fn absolute(uri: &Uri, host: Option<HeaderValue>) -> Uri {
    let path = uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let Some(authority) = authority else {
        return path.into();
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).unwrap_or_default()
}

/// Without the host, as HTTP/1 is sent it.
pub(super) fn relative(method: &Method, uri: &Uri) -> Uri {
    if *method == Method::CONNECT {
        return uri.clone();
    }
    match uri.path_and_query() {
        Some(path) if uri.authority().is_some() => path.clone().into(),
        Some(_) => uri.clone(),
        None => Uri::from_static("/"),
    }
}
