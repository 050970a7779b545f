//! A request as routes look at it. Knows no HTTP library: headers come through [`Headers`].

use std::borrow::Cow;

/// The header fields of a request.
pub trait Headers {
    /// The value of the field `name` (lower case); of a repeated one, the values joined by `,`
    /// (RFC 9110 5.3). None: it is not there.
    fn value(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// For tests and `culvert route explain`: names in lower case.
impl Headers for Vec<(String, String)> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut values = self.iter().filter(|(n, _)| n == name).map(|(_, v)| v);
        let first = values.next()?;
        Some(values.fold(Cow::Borrowed(first), |all, next| {
            Cow::Owned(format!("{all},{next}"))
        }))
    }
}

/// A request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// As sent, with case.
    pub method: &'a str,
    /// `http` or `https`, as the client meant it.
    pub scheme: &'a str,
    /// Host and port, as sent in `Host` or `:authority`; may be empty (HTTP/1.0).
    pub authority: &'a str,
    /// Port of the parent that it came to.
    pub port: u16,
    /// As sent, without the query; begins with `/`, or is `*`.
    pub path: &'a str,
    /// Behind the `?`, if there was one.
    pub query: Option<&'a str>,
    /// All others.
    pub headers: &'a dyn Headers,
}

impl<'a> Request<'a> {
    /// The host, in lower case and without its port.
    #[must_use]
    pub fn host(&self) -> Cow<'a, str> {
        let host = without_port(self.authority);
        // A trailing dot is the same name, spelt fully.
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Cow::Owned(host.to_ascii_lowercase());
        }
        Cow::Borrowed(host)
    }

    /// The value of a header; `host` is the authority, whichever way it came.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        if name == "host" && !self.authority.is_empty() {
            return Some(Cow::Borrowed(self.authority));
        }
        self.headers.value(name)
    }

    /// The first value of a query parameter, percent signs decoded where they are whole.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<Cow<'a, str>> {
        let pairs = self.query?.split('&');
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.find(|(key, _)| decoded(key) == name)?;
        Some(decoded(value))
    }
}

fn without_port(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority
            .find(']')
            .map_or(authority, |end| &authority[..=end]);
    }
    authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host)
}

/// `%20` and its like as the bytes they stand for, when the result is text; else as it was.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind
            .get(..2)
            .filter(|two| first == b'%' && two.iter().all(u8::is_ascii_hexdigit))
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match digits {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(authority: &'a str, query: &'a str, headers: &'a dyn Headers) -> Request<'a> {
        Request {
            method: "GET",
            scheme: "http",
            authority,
            port: 80,
            path: "/",
            query: Some(query),
            headers,
        }
    }

    #[test]
    fn the_host_is_the_authority_without_port_and_case() {
        let none = Vec::new();
        for (authority, host) in [
            ("Shop.Example.com:8080", "shop.example.com"),
            ("shop.example.com.", "shop.example.com"),
            ("shop", "shop"),
            ("[fd00::1]:80", "[fd00::1]"),
            ("", ""),
        ] {
            assert_eq!(request(authority, "", &none).host(), host);
        }
    }

    #[test]
    fn the_first_value_of_a_parameter_counts() {
        let none = Vec::new();
        let of = |query, name| {
            let none = &none;
            request("h", query, none)
                .query_value(name)
                .map(Cow::into_owned)
        };
        assert_eq!(of("a=1&a=2&b", "a").as_deref(), Some("1"));
        assert_eq!(of("a=1&a=2&b", "b").as_deref(), Some(""));
        assert_eq!(of("a=1", "c"), None);
        assert_eq!(of("na%6De=a%20b", "name").as_deref(), Some("a b"));
        assert_eq!(of("a=100%&b=%f", "a").as_deref(), Some("100%"));
        assert_eq!(of("a=%+f", "a").as_deref(), Some("%+f"));
        assert_eq!(of("a=%ff", "a").as_deref(), Some("%ff"), "no text");
    }

    #[test]
    fn a_repeated_header_is_one_list() {
        let headers = vec![
            ("x-a".to_owned(), "1".to_owned()),
            ("x-b".to_owned(), "2".to_owned()),
            ("x-a".to_owned(), "3".to_owned()),
        ];
        let request = request("h:80", "", &headers);
        assert_eq!(request.header("x-a").as_deref(), Some("1,3"));
        assert_eq!(request.header("x-c"), None);
        assert_eq!(request.header("host").as_deref(), Some("h:80"));
    }
}
