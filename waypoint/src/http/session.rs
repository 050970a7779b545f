//! Session persistence (GEP-1619): the client carries which backend and endpoint it was served by.
//!
//! The token is `endpoint-backend-created-used`, in hexadecimal; seconds since 1970. It is no
//! secret and needs no signature: it can only name an endpoint that the route leads to anyhow.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh::route::{Cookie, Persistence, SessionToken};

use super::limits::TOKEN_BYTES_MAX;

/// A client's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Token of the endpoint.
    pub endpoint: u64,
    /// Place of the backend in its rule.
    pub backend: usize,
    created: u64,
    used: u64,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The session that a request belongs to; None: none, or one that is over.
pub fn read(persistence: &Persistence, headers: &HeaderMap, now: u64) -> Option<Session> {
    let text = match persistence.token {
        SessionToken::Cookie(_) => cookie(headers, &persistence.name)?,
        SessionToken::Header => headers.get(&*persistence.name)?.to_str().ok()?,
    };
    let session = parse(text)?;
    let is_within = |since: u64, limit: Option<Duration>| {
        let age = now.checked_sub(since);
        age.is_some_and(|age| limit.is_none_or(|limit| age <= limit.as_secs()))
    };
    let lives = is_within(session.created, persistence.absolute_timeout)
        && is_within(session.used, persistence.idle_timeout);
    lives.then_some(session)
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(COOKIE).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut pairs = texts.flat_map(|text| text.split(';'));
    pairs.find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        // Names of routes are in lower case; cookies have case, ours are made so.
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

fn parse(text: &str) -> Option<Session> {
    if text.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let mut parts = text.split('-').map(|part| u64::from_str_radix(part, 16));
    let mut next = || parts.next()?.ok();
    let session = Session {
        endpoint: next()?,
        backend: usize::try_from(next()?).ok()?,
        created: next()?,
        used: next()?,
    };
    parts.next().is_none().then_some(session)
}

/// The field that gives the client its session; None: it has it already.
pub fn write(
    persistence: &Persistence,
    before: Option<Session>,
    served: (u64, usize),
    path: &str,
    now: u64,
) -> Option<(HeaderName, HeaderValue)> {
    let (endpoint, backend) = served;
    let same = before.filter(|one| (one.endpoint, one.backend) == served);
    if same.is_some() && persistence.idle_timeout.is_none() {
        return None;
    }
    let created = same.map_or(now, |one| one.created);
    let token = format!("{endpoint:x}-{backend:x}-{created:x}-{now:x}");
    let name = &persistence.name;
    let (field, value) = match persistence.token {
        SessionToken::Header => (HeaderName::from_bytes(name.as_bytes()).ok()?, token),
        SessionToken::Cookie(cookie) => {
            let path = if path.is_empty() { "/" } else { path };
            let mut value = format!("{name}={token}; Path={path}; HttpOnly");
            if let (Cookie::Permanent, Some(whole)) = (cookie, persistence.absolute_timeout) {
                let left = (created + whole.as_secs()).saturating_sub(now);
                value.push_str(&format!("; Max-Age={left}"));
            }
            (SET_COOKIE, value)
        }
    };
    Some((field, HeaderValue::try_from(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persistence(token: SessionToken) -> Persistence {
        Persistence {
            name: "sid".into(),
            token,
            absolute_timeout: Some(Duration::from_secs(100)),
            idle_timeout: None,
        }
    }

    fn with_cookie(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(text).unwrap())])
    }

    #[test]
    fn a_cookie_comes_back_as_the_session_that_it_was() {
        let persistence = persistence(SessionToken::Cookie(Cookie::Permanent));
        let (name, value) = write(&persistence, None, (0xabc, 2), "/a", 1_000).unwrap();
        assert_eq!(name, SET_COOKIE);
        let text = value.to_str().unwrap();
        assert_eq!(text, "sid=abc-2-3e8-3e8; Path=/a; HttpOnly; Max-Age=100");
        let headers = with_cookie("a=b; sid=abc-2-3e8-3e8; c=d");
        let session = read(&persistence, &headers, 1_100).unwrap();
        assert_eq!((session.endpoint, session.backend), (0xabc, 2));
        assert_eq!(read(&persistence, &headers, 1_101), None, "it is over");
        assert_eq!(read(&persistence, &headers, 999), None, "from the future");
        let again = write(&persistence, Some(session), (0xabc, 2), "/a", 1_050);
        assert_eq!(again, None, "the client has it");
        assert!(write(&persistence, Some(session), (0xabd, 2), "/a", 1_050).is_some());
    }

    #[test]
    fn an_idle_session_ends_and_a_used_one_is_renewed() {
        let persistence = Persistence {
            idle_timeout: Some(Duration::from_secs(10)),
            ..persistence(SessionToken::Header)
        };
        let headers = |text: &str| {
            let name = HeaderName::from_static("sid");
            HeaderMap::from_iter([(name, HeaderValue::from_str(text).unwrap())])
        };
        let session = read(&persistence, &headers("1-0-3e8-3f2"), 1_020);
        assert!(session.is_some());
        assert_eq!(read(&persistence, &headers("1-0-3e8-3f2"), 1_021), None);
        let (name, value) = write(&persistence, session, (1, 0), "", 1_020).unwrap();
        assert_eq!(
            (name.as_str(), value),
            ("sid", HeaderValue::from_static("1-0-3e8-3fc"))
        );
    }

    #[test]
    fn what_is_no_token_is_no_session() {
        let persistence = persistence(SessionToken::Cookie(Cookie::Session));
        for text in [
            "sid=",
            "sid=1-2-3",
            "sid=1-2-3-4-5",
            "sid=x-0-0-0",
            "sidx=1-0-0-0",
        ] {
            assert_eq!(read(&persistence, &with_cookie(text), 0), None, "{text}");
        }
    }
}
