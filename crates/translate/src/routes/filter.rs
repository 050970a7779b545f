//! Filters as written, to filters of the mesh.

use std::sync::Arc;

use mesh::route::cors::{Cors, Origin};
use mesh::route::filter::{HeaderChanges, Mirror, PathChange, Redirect, Rewrite, Scheme, Share};
use mesh::route::{Filters, OwnFilters};
use mesh::route::{HostPattern, path};

use super::rule::{Mistake, Resolve, check_port, invalid, unsupported};
use crate::gateway::{
    CorsFilter, HeaderFilter, HeaderSpec, HttpFilter, MirrorFilter, PathModifier, RedirectFilter,
    RewriteFilter,
};

/// Most filters of a rule or backend, most headers of one list (Gateway API).
const FILTERS_MAX: usize = 16;
const HEADERS_MAX: usize = 16;
/// How long a preflight's answer is good, when a filter does not say, in seconds (Gateway API).
const MAX_AGE_SECONDS: u32 = 5;

/// Headers that belong to the hop or frame the message: a route must not touch them
/// (RFC 9110 7.6.1, RFC 9112 6).
const OF_THE_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
];

/// Name and value.
type Pair = (Arc<str>, Arc<str>);

/// The filters of a rule or backend.
pub(super) fn filters(list: &[HttpFilter], resolve: Resolve<'_>) -> Result<OwnFilters, Mistake> {
    if list.len() > FILTERS_MAX {
        return invalid(format!("more than {FILTERS_MAX} filters"));
    }
    let mut made = Filters::default();
    let mut seen: Vec<&str> = Vec::new();
    for (at, filter) in list.iter().enumerate() {
        let kind = &*filter.kind;
        if seen.contains(&kind) && !matches!(kind, "RequestMirror" | "ExtensionRef") {
            return invalid(format!("filter {kind} is there twice"));
        }
        seen.push(kind);
        add(filter, &mut made, resolve).map_err(|mistake| {
            let place = |why| format!("filters[{at}] ({kind}): {why}");
            match mistake {
                Mistake::Invalid(why) => Mistake::Invalid(place(why)),
                Mistake::Unsupported(why) => Mistake::Unsupported(place(why)),
            }
        })?;
    }
    match made.redirect.is_some() && made.rewrite.is_some() {
        true => invalid("RequestRedirect and URLRewrite exclude each other"),
        false => Ok(made.into()),
    }
}

fn add(filter: &HttpFilter, made: &mut Filters, resolve: Resolve<'_>) -> Result<(), Mistake> {
    match &*filter.kind {
        "RequestHeaderModifier" => {
            made.request_headers = headers(given(filter.request_header_modifier.as_ref())?)?;
        }
        "ResponseHeaderModifier" => {
            made.response_headers = headers(given(filter.response_header_modifier.as_ref())?)?;
        }
        "RequestMirror" => {
            let mirror = mirror(given(filter.request_mirror.as_ref())?, resolve)?;
            made.mirrors.push(mirror);
        }
        "RequestRedirect" => {
            made.redirect = Some(redirect(given(filter.request_redirect.as_ref())?)?);
        }
        "URLRewrite" => made.rewrite = Some(rewrite(given(filter.url_rewrite.as_ref())?)?),
        "CORS" => made.cors = Some(cors(given(filter.cors.as_ref())?)?),
        "ExternalAuth" => made.unusable = Some("ExternalAuth".into()),
        "ExtensionRef" => {
            let to = given(filter.extension_ref.as_ref())?;
            made.unusable = Some(format!("ExtensionRef {} {}", to.kind, to.name).into());
        }
        other => return unsupported(format!("filter type `{other}` is not known")),
    }
    Ok(())
}

fn given<T>(field: Option<&T>) -> Result<&T, Mistake> {
    field.ok_or_else(|| Mistake::Invalid("the field that its type names is missing".to_owned()))
}

/// A header's name in lower case.
pub(super) fn header_name(name: &str) -> Result<Arc<str>, Mistake> {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match !name.is_empty() && name.len() <= 256 && name.bytes().all(is_token_byte) {
        true => Ok(name.to_ascii_lowercase().into()),
        false => invalid(format!("`{name}` is no name of a header")),
    }
}

fn changed_name(name: &str) -> Result<Arc<str>, Mistake> {
    let name = header_name(name)?;
    match OF_THE_HOP.contains(&&*name) {
        true => unsupported(format!("header `{name}` belongs to the connection")),
        false => Ok(name),
    }
}

fn pairs(list: &[HeaderSpec]) -> Result<Vec<Pair>, Mistake> {
    let pair = |header: &HeaderSpec| {
        let is_value_byte = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
        if header.value.is_empty() || !header.value.bytes().all(is_value_byte) {
            return invalid(format!("header `{}` has no printable value", header.name));
        }
        Ok((changed_name(&header.name)?, Arc::from(header.value.trim())))
    };
    list.iter().map(pair).collect()
}

fn headers(from: &HeaderFilter) -> Result<HeaderChanges, Mistake> {
    let made = HeaderChanges {
        set: pairs(&from.set)?,
        add: pairs(&from.add)?,
        remove: from
            .remove
            .iter()
            .map(|name| changed_name(name))
            .collect::<Result<_, _>>()?,
    };
    let lists = [made.set.len(), made.add.len(), made.remove.len()];
    if lists.iter().any(|length| *length > HEADERS_MAX) {
        return invalid(format!("a list has more than {HEADERS_MAX} headers"));
    }
    let pairs = made.set.iter().chain(&made.add).map(|(name, _)| name);
    let names: Vec<_> = pairs.chain(&made.remove).collect();
    match names
        .iter()
        .enumerate()
        .find(|(at, name)| names[..*at].contains(name))
    {
        Some((_, name)) => invalid(format!("header `{name}` is changed twice")),
        None => Ok(made),
    }
}

fn mirror(from: &MirrorFilter, resolve: Resolve<'_>) -> Result<Mirror, Mistake> {
    check_port(&from.backend_ref)?;
    let share = match (&from.percent, &from.fraction) {
        (None, None) => Share::ALL,
        (Some(percent), None) => Share {
            numerator: *percent,
            denominator: 100,
        },
        (None, Some(fraction)) => Share {
            numerator: fraction.numerator,
            denominator: fraction.denominator.unwrap_or(100),
        },
        (Some(_), Some(_)) => return invalid("percent and fraction exclude each other"),
    };
    if share.denominator == 0 || share.numerator > share.denominator {
        return invalid("the share is more than all");
    }
    Ok(Mirror {
        target: resolve(&from.backend_ref),
        share,
    })
}

fn precise_host(host: Option<&String>) -> Result<Option<Arc<str>>, Mistake> {
    let Some(host) = host else {
        return Ok(None);
    };
    match HostPattern::parse(host) {
        Ok(HostPattern::Exact(name)) => Ok(Some(name)),
        _ => invalid(format!("`{host}` is no host name")),
    }
}

fn path_change(from: Option<&PathModifier>) -> Result<Option<PathChange>, Mistake> {
    let Some(from) = from else {
        return Ok(None);
    };
    let (text, is_prefix) = match (
        &*from.kind,
        &from.replace_full_path,
        &from.replace_prefix_match,
    ) {
        ("ReplaceFullPath", Some(full), None) => (full, false),
        ("ReplacePrefixMatch", None, Some(prefix)) => (prefix, true),
        ("ReplaceFullPath" | "ReplacePrefixMatch", ..) => {
            return invalid("exactly the field that path.type names must be given");
        }
        (other, ..) => return unsupported(format!("path type `{other}` is not known")),
    };
    // The empty prefix takes the matched one away.
    if !(is_prefix && text.is_empty()) {
        path::check(text).map_err(|e| Mistake::Invalid(e.to_string()))?;
    }
    Ok(Some(match is_prefix {
        true => PathChange::Prefix(text.as_str().into()),
        false => PathChange::Full(text.as_str().into()),
    }))
}

fn redirect(from: &RedirectFilter) -> Result<Redirect, Mistake> {
    let scheme = match from.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => return unsupported(format!("scheme `{other}` is not known")),
    };
    let status = from.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return unsupported(format!("status code {status} is no redirect"));
    }
    if from.port == Some(0) {
        return invalid("port 0");
    }
    Ok(Redirect {
        scheme,
        host: precise_host(from.hostname.as_ref())?,
        port: from.port,
        path: path_change(from.path.as_ref())?,
        status,
    })
}

fn rewrite(from: &RewriteFilter) -> Result<Rewrite, Mistake> {
    Ok(Rewrite {
        host: precise_host(from.hostname.as_ref())?,
        path: path_change(from.path.as_ref())?,
    })
}

fn cors(from: &CorsFilter) -> Result<Cors, Mistake> {
    let origin = |text: &String| {
        Origin::parse(text).ok_or_else(|| Mistake::Invalid(format!("`{text}` is no origin")))
    };
    let lists = [
        &from.allow_methods,
        &from.allow_headers,
        &from.expose_headers,
    ];
    let mixed = |list: &&&Vec<String>| list.len() > 1 && list.iter().any(|one| one == "*");
    if lists.iter().find(mixed).is_some() || mixed(&&&from.allow_origins) {
        return invalid("`*` stands alone");
    }
    let names = |list: &[String]| -> Result<Vec<Arc<str>>, Mistake> {
        let name = |name: &String| header_name(name).map(|_| Arc::from(name.as_str()));
        list.iter().map(name).collect()
    };
    Ok(Cors {
        origins: from
            .allow_origins
            .iter()
            .map(origin)
            .collect::<Result<_, _>>()?,
        credentials: from.allow_credentials.unwrap_or(false),
        methods: names(&from.allow_methods)?,
        headers: names(&from.allow_headers)?,
        expose: names(&from.expose_headers)?,
        max_age_seconds: from.max_age.unwrap_or(MAX_AGE_SECONDS),
    })
}
