//! Filters of rules and backends.

use std::sync::Arc;

use mesh::route::cors::{Cors, Origin};
use mesh::route::filter::{HeaderChanges, Mirror, PathChange, Redirect, Rewrite, Scheme, Share};
use mesh::route::{Filters, HostPattern, OwnFilters};

use super::{ITEMS_MAX, at_most, bounded, optional, target};
use crate::decode::fault::{At, Fault, Problem, each, port, whole};
use crate::wire::route as wire;

/// Absent: nothing is done.
pub(super) fn filters(message: Option<wire::Filters>) -> Result<OwnFilters, Fault> {
    let Some(message) = message else {
        return Ok(OwnFilters::default());
    };
    at_most("mirrors", &message.mirrors, ITEMS_MAX)?;
    let filters = Filters {
        request_headers: changes(message.request_headers).at("request_headers")?,
        response_headers: changes(message.response_headers).at("response_headers")?,
        redirect: message.redirect.map(redirect).transpose().at("redirect")?,
        rewrite: message.rewrite.map(rewrite).transpose().at("rewrite")?,
        mirrors: each("mirrors", message.mirrors, mirror)?,
        cors: message.cors.map(cors).transpose().at("cors")?,
        unusable: optional(message.unusable).at("unusable")?,
    };
    Ok(filters.into())
}

/// A name in lower case that a header can have (RFC 9110 5.6.2).
pub(super) fn header_name(text: &str) -> Result<Arc<str>, Problem> {
    let fine =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(&byte);
    match !text.is_empty() && text.len() <= 256 && text.bytes().all(fine) {
        true => Ok(text.into()),
        false => Err(Problem::form(text, "a header name in lower case")),
    }
}

fn changes(message: Option<wire::HeaderChanges>) -> Result<HeaderChanges, Fault> {
    let message = message.unwrap_or_default();
    at_most("set", &message.set, ITEMS_MAX)?;
    at_most("add", &message.add, ITEMS_MAX)?;
    Ok(HeaderChanges {
        set: each("set", message.set, header)?,
        add: each("add", message.add, header)?,
        remove: names("remove", message.remove, header_name)?,
    })
}

/// A value cannot begin another header or a body: it has no control character.
fn header(message: wire::Header) -> Result<(Arc<str>, Arc<str>), Fault> {
    let name = header_name(&message.name).at("name")?;
    let is_control = |byte: u8| (byte < 0x20 && byte != b'\t') || byte == 0x7f;
    if message.value.bytes().any(is_control) {
        let problem = Problem::form(&message.value, "a header value");
        return Err(Fault::new("value", problem));
    }
    Ok((name, bounded(message.value).at("value")?))
}

fn names(
    field: &str,
    list: Vec<String>,
    read: impl Fn(&str) -> Result<Arc<str>, Problem>,
) -> Result<Vec<Arc<str>>, Fault> {
    at_most(field, &list, ITEMS_MAX)?;
    each(field, list, |text| whole(read(&text)))
}

fn path_change(message: wire::PathChange) -> Result<PathChange, Fault> {
    use wire::path_change::Change;
    match message.change.ok_or(Problem::Missing).at("change")? {
        Change::Full(text) => bounded(text).map(PathChange::Full).at("full"),
        Change::Prefix(text) => bounded(text).map(PathChange::Prefix).at("prefix"),
    }
}

fn host(text: String) -> Result<Option<Arc<str>>, Problem> {
    match HostPattern::parse(&text) {
        _ if text.is_empty() => Ok(None),
        Ok(HostPattern::Exact(_)) => Ok(Some(text.into())),
        _ => Err(Problem::form(&text, "a host name")),
    }
}

fn redirect(message: wire::Redirect) -> Result<Redirect, Fault> {
    let scheme = match &*message.scheme {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => return Err(Fault::new("scheme", Problem::form(other, "http or https"))),
    };
    let status = match message.status {
        status @ (301 | 302 | 303 | 307 | 308) => status as u16,
        other => return Err(Fault::new("status", Problem::Number(other))),
    };
    let port = match message.port {
        0 => None,
        number => Some(port(number).at("port")?),
    };
    Ok(Redirect {
        scheme,
        host: host(message.host).at("host")?,
        port,
        path: message.path.map(path_change).transpose().at("path")?,
        status,
    })
}

fn rewrite(message: wire::Rewrite) -> Result<Rewrite, Fault> {
    Ok(Rewrite {
        host: host(message.host).at("host")?,
        path: message.path.map(path_change).transpose().at("path")?,
    })
}

fn mirror(message: wire::Mirror) -> Result<Mirror, Fault> {
    let (numerator, denominator) = (message.numerator, message.denominator);
    if denominator == 0 || numerator > denominator {
        return Err(Fault::new("denominator", Problem::Number(denominator)));
    }
    Ok(Mirror {
        target: target(message.target)?,
        share: Share {
            numerator,
            denominator,
        },
    })
}

fn cors(message: wire::Cors) -> Result<Cors, Fault> {
    at_most("origins", &message.origins, ITEMS_MAX)?;
    let origins = each("origins", message.origins, |message| {
        Ok(match message.any {
            true => Origin::Any,
            false => Origin::Like {
                before: bounded(message.before).at("before")?,
                behind: message.behind.map(bounded).transpose().at("behind")?,
            },
        })
    })?;
    let text = |text: &str| bounded(text.to_owned());
    Ok(Cors {
        origins,
        credentials: message.credentials,
        methods: names("methods", message.methods, text)?,
        headers: names("headers", message.headers, text)?,
        expose: names("expose", message.expose, text)?,
        max_age_seconds: message.max_age_seconds,
    })
}
