//! Session persistence (GEP-1619): the client carries which backend and endpoint it was served by.
//!
//! The token is `endpoint-backend-created-used`, in hexadecimal; seconds since 1970. Endpoint and
//! backend are hashes of their names, so that a session outlives a change of the other backends and
//! of their order. It is no secret and needs no signature: it can only name an endpoint that the
//! route leads to anyhow.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh::route::{Backend, Cookie, Persistence, SessionToken, Target};

use super::limits::TOKEN_BYTES_MAX;

/// A client's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Token of the endpoint.
    pub endpoint: u64,
    /// Token of the backend: see [`backend_token`].
    pub backend: u64,
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
        backend: next()?,
        created: next()?,
        used: next()?,
    };
    parts.next().is_none().then_some(session)
}

/// What a session names a backend by: service, port, and how many before it lead there too. None:
/// it leads nowhere.
pub fn backend_token(backends: &[Backend], at: usize) -> Option<u64> {
    let target = &backends.get(at)?.target;
    let Target::Service { service, port } = target else {
        return None;
    };
    let before = backends[..at].iter().filter(|one| one.target == *target);
    let names = [&*service.namespace, "/", &*service.hostname];
    let names = names.into_iter().flat_map(str::bytes);
    let bytes = names.chain(port.to_be_bytes());
    Some(hash(bytes.chain(before.map(|_| b'/'))))
}

/// Place of the backend that a session names so.
pub fn backend_place(backends: &[Backend], token: u64) -> Option<usize> {
    (0..backends.len()).find(|at| backend_token(backends, *at) == Some(token))
}

/// FNV-1a: it must be the same in every version, and hides nothing that a client may not know.
pub fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The field that gives the client its session; None: it has it already.
pub fn write(
    persistence: &Persistence,
    before: Option<Session>,
    served: (u64, u64),
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
    use mesh::service::ServiceKey;

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
    fn a_backend_is_known_in_any_order_and_one_that_leads_nowhere_is_not() {
        let backend = |name: &str, port| Backend {
            target: Target::Service {
                service: ServiceKey {
                    namespace: "shop".into(),
                    hostname: name.into(),
                },
                port,
            },
            weight: 1,
            filters: Default::default(),
        };
        let nowhere = Backend {
            target: Target::Invalid("gone".into()),
            ..backend("", 1)
        };
        // Twice the same: they may have different filters.
        let same = backend("v1", 80);
        let all = [same.clone(), backend("v2", 80), backend("v1", 81), same];
        let tokens: Vec<_> = (0..4).map(|at| backend_token(&all, at).unwrap()).collect();
        let places: Vec<_> = tokens.iter().map(|one| backend_place(&all, *one)).collect();
        assert_eq!(places, [Some(0), Some(1), Some(2), Some(3)]);
        let other = [nowhere, all[2].clone(), all[1].clone(), all[0].clone()];
        let places: Vec<_> = tokens
            .iter()
            .map(|one| backend_place(&other, *one))
            .collect();
        assert_eq!(places, [Some(3), Some(2), Some(1), None]);
        assert_eq!(
            (backend_token(&other, 0), backend_token(&other, 4)),
            (None, None)
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
