//! A request as it is written on the command line.

use std::net::IpAddr;

use http::Uri;
use mesh::Service;
use mesh::route::Request;

/// Method when none is given.
const GET: &str = "GET";

/// A request to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    method: String,
    scheme: String,
    authority: String,
    host: String,
    port: u16,
    path: String,
    query: Option<String>,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

/// Why a text is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The URL.
    #[error("`{text}` is no request such as `GET http://web.shop/cart`: {why}")]
    Request {
        /// As given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A header.
    #[error("`{0}` is no header such as `version: v2`")]
    Header(String),
}

impl Ask {
    /// Reads a request and its headers.
    ///
    /// # Errors
    /// No absolute http or https URL, or a header without a colon.
    pub fn read(text: &str, headers: &[String]) -> Result<Self, AskError> {
        let error = |why: String| AskError::Request {
            text: text.to_owned(),
            why,
        };
        let (method, url) = match text.trim().split_once(char::is_whitespace) {
            Some((method, url)) => (method, url.trim()),
            None => (GET, text.trim()),
        };
        if url.is_empty() {
            return Err(error("it is empty".to_owned()));
        }
        let rest = url.split_once("://").map(|(_, rest)| rest);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#', ':'])) {
            return Err(error("the URL names no host".to_owned()));
        }
        let uri: Uri = url
            .parse()
            .map_err(|e: http::uri::InvalidUri| error(e.to_string()))?;
        let (scheme, default) = match uri.scheme_str() {
            Some("http") => ("http", 80),
            Some("https") => ("https", 443),
            _ => {
                return Err(error(
                    "it begins with neither http:// nor https://".to_owned(),
                ));
            }
        };
        let authority = uri.authority().map(ToString::to_string);
        let headers = headers.iter().map(|header| {
            let (name, value) = header
                .split_once(':')
                .filter(|(name, _)| !name.trim().is_empty())
                .ok_or_else(|| AskError::Header(header.clone()))?;
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        });
        Ok(Self {
            method: method.to_ascii_uppercase(),
            scheme: scheme.to_owned(),
            authority: authority.unwrap_or_default(),
            host: uri.host().unwrap_or_default().to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(default),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
            headers: headers.collect::<Result<_, _>>()?,
        })
    }

    /// The host of the URL.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port of the URL, or the scheme's own.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As routes look at it. A `Host` header beats the URL's, as with curl.
    pub fn request(&self) -> Request<'_> {
        let host = self.headers.iter().find(|(name, _)| name == "host");
        Request {
            method: &self.method,
            scheme: &self.scheme,
            authority: host.map_or(&self.authority, |(_, value)| value),
            port: self.port,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }

    /// The service that the URL's host names, for a client in namespace `from`.
    pub fn service<'a>(
        &self,
        mut services: impl Iterator<Item = &'a Service>,
        from: &str,
    ) -> Option<&'a Service> {
        let address: Option<IpAddr> = self
            .host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .ok();
        let labels: Vec<_> = self.host.trim_end_matches('.').split('.').collect();
        services.find(|service| match (address, &labels[..]) {
            (Some(ip), _) => service.addresses.iter().any(|own| own.cidr.contains(&ip)),
            (None, [name]) => *service.name == **name && *service.key.namespace == *from,
            (None, [name, namespace] | [name, namespace, "svc"]) => {
                *service.name == **name && *service.key.namespace == **namespace
            }
            (None, _) => *service.key.hostname == *self.host.trim_end_matches('.'),
        })
    }

    /// The first line of the answer.
    pub fn line(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}"));
        let Self {
            method,
            scheme,
            authority,
            path,
            ..
        } = self;
        format!(
            "{method} {scheme}://{authority}{path}{}",
            query.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_method_and_a_url() {
        let ask = Ask::read("post http://Web.shop:8080/a/b?c=d", &["X-A:  1 ".into()]).unwrap();
        let request = ask.request();
        assert_eq!((request.method, request.path), ("POST", "/a/b"));
        assert_eq!((request.query, request.port), (Some("c=d"), 8080));
        assert_eq!(request.header("x-a").as_deref(), Some("1"));
        assert_eq!((ask.host(), &*request.host()), ("web.shop", "web.shop"));
        assert_eq!(Ask::read("http://a", &[]).unwrap().line(), "GET http://a/");
        let port = Ask::read("https://a/", &[]).unwrap().port();
        assert_eq!(port, 443);
    }

    #[test]
    fn a_request_without_a_host_is_told_that_it_has_none() {
        for text in [
            "GET http://",
            "http:///a",
            "https://:8080/",
            "GET http://?a=b",
        ] {
            let error = Ask::read(text, &[]).unwrap_err().to_string();
            assert!(error.contains("names no host"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_an_example() {
        for text in ["", "web.shop/a", "GET /a", "GET ftp://a/", "GET http://"] {
            let error = Ask::read(text, &[]).unwrap_err().to_string();
            assert!(error.contains("GET http://web.shop/cart"), "{error}");
        }
        let error = Ask::read("http://a", &["novalue".into()]).unwrap_err();
        assert_eq!(error, AskError::Header("novalue".into()));
    }
}
