//! What is exported and where to: flags, and the environment variables of OpenTelemetry's
//! specification. Touches no network.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde::Serialize;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use super::{KeyValue, Value, attribute, text};

/// Port of OTLP over gRPC.
const DEFAULT_PORT: u16 = 4317;
/// For one batch, with all its tries: the specification's.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest such time: spans wait in the queue meanwhile.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Share of requests that are sampled of their own, when nothing says otherwise: Istio's.
const DEFAULT_RATIO: f64 = 0.01;
/// Entries of a list (headers, resource attributes) that are taken.
const LIST_MAX: usize = 128;

/// The variables that are read; `TRACES` ones go before the general ones.
pub const VARIABLES: [&str; 16] = [
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
];

/// The flags; they go before the environment.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize)]
pub struct TracingFlags {
    /// Export spans there by OTLP over gRPC, `http://HOST:PORT` (port 4317 when not given) [env:
    /// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT] [default: no spans].
    #[arg(long, value_name = "URL")]
    pub tracing_endpoint: Option<String>,
    /// Percent of the requests without a trace of their client's that are sampled; a client's
    /// trace is sampled if the client says so [env: OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG]
    /// [default: 1].
    #[arg(long, value_name = "PERCENT")]
    pub tracing_sampling: Option<f64>,
}

/// A flag or variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct SettingsError {
    /// Of the flag or variable.
    pub name: String,
    /// What is wrong, and what to write.
    pub reason: String,
}

/// Which requests are sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a client's trace is sampled exactly if the client says so.
    pub is_parent_based: bool,
    /// Share of the others, 0 to 1.
    pub ratio: f64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            is_parent_based: true,
            ratio: DEFAULT_RATIO,
        }
    }
}

impl Sampler {
    /// Whether a request is sampled: `low` are the last 64 bits of its trace id, by which all who
    /// sample by ratio decide alike; `parent` is what the client said of its own trace.
    #[must_use]
    pub fn samples(&self, low: u64, parent: Option<bool>) -> bool {
        match parent {
            Some(is_sampled) if self.is_parent_based => is_sampled,
            // 2^63 has no digit too many for f64; a ratio of 1 takes all.
            _ => ((low >> 1) as f64) < self.ratio * (1_u64 << 63) as f64 || self.ratio >= 1.0,
        }
    }
}

/// Where to and what of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector, with its port.
    pub(super) endpoint: Uri,
    /// Roots that the collector's certificate is checked against; for `https` alone.
    pub(super) root_cert: Option<PathBuf>,
    /// Sent with each message; they may be secrets.
    pub(super) headers: MetadataMap,
    /// For one batch, with all its tries.
    pub(super) timeout: Duration,
    /// What is sampled.
    pub sampler: Sampler,
    /// What the environment says of the resource.
    pub(super) resource: Vec<KeyValue>,
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

impl TracingFlags {
    /// What the flags and the environment say together, where `variable` reads the latter; None:
    /// there is no collector, and nothing is to be traced.
    ///
    /// # Errors
    /// Which flag or variable cannot be used.
    pub fn settings(&self, variable: Variable<'_>) -> Result<Option<Settings>, SettingsError> {
        // An empty variable is as good as none, says the specification.
        let said = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let of_traces = |name: &str| {
            let first = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
            let second = format!("OTEL_EXPORTER_OTLP_{name}");
            let found = [first, second].into_iter();
            let mut found = found.filter_map(|name| Some((said(&name)?, name)));
            found.next()
        };
        let flag = self.tracing_endpoint.clone();
        let flag = flag.map(|url| (url, "--tracing-endpoint".to_owned()));
        let Some((url, name)) = flag.clone().or_else(|| of_traces("ENDPOINT")) else {
            return Ok(None);
        };
        if flag.is_none() && is_off(&said)? {
            return Ok(None);
        }
        if let Some((protocol, name)) = of_traces("PROTOCOL")
            && protocol != "grpc"
        {
            let reason = format!("`{protocol}` is not spoken here; write grpc");
            return Err(SettingsError { name, reason });
        }
        let endpoint = endpoint(&url).map_err(|reason| SettingsError { name, reason })?;
        let root_cert = of_traces("CERTIFICATE").map(|(path, _)| PathBuf::from(path));
        let is_tls = endpoint.scheme_str() == Some("https");
        if is_tls && root_cert.is_none() {
            return Err(SettingsError {
                name: "OTEL_EXPORTER_OTLP_CERTIFICATE".to_owned(),
                reason: format!("{url} needs a PEM file with the root of its certificate"),
            });
        }
        Ok(Some(Settings {
            endpoint,
            root_cert: root_cert.filter(|_| is_tls),
            headers: match of_traces("HEADERS") {
                Some((list, name)) => headers(&list, &name)?,
                None => MetadataMap::new(),
            },
            timeout: match of_traces("TIMEOUT") {
                Some((text, name)) => timeout(&text, name)?,
                None => DEFAULT_TIMEOUT,
            },
            sampler: self.sampler(&said)?,
            resource: resource(&said)?,
        }))
    }

    fn sampler(&self, said: Variable<'_>) -> Result<Sampler, SettingsError> {
        let ratio = |text: Option<String>| match text {
            None => Ok(1.0),
            Some(text) => match text.trim().parse() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
                _ => Err(SettingsError {
                    name: "OTEL_TRACES_SAMPLER_ARG".to_owned(),
                    reason: format!("`{text}` is no ratio; write a number from 0 to 1"),
                }),
            },
        };
        if let Some(percent) = self.tracing_sampling {
            if !(0.0..=100.0).contains(&percent) {
                return Err(SettingsError {
                    name: "--tracing-sampling".to_owned(),
                    reason: format!("`{percent}` is no share; write a percentage from 0 to 100"),
                });
            }
            return Ok(Sampler {
                is_parent_based: true,
                ratio: percent / 100.0,
            });
        }
        let Some(name) = said("OTEL_TRACES_SAMPLER") else {
            return Ok(Sampler::default());
        };
        let argument = || ratio(said("OTEL_TRACES_SAMPLER_ARG"));
        let (is_parent_based, ratio) = match name.trim() {
            "always_on" => (false, 1.0),
            "always_off" => (false, 0.0),
            "traceidratio" => (false, argument()?),
            "parentbased_always_on" => (true, 1.0),
            "parentbased_always_off" => (true, 0.0),
            "parentbased_traceidratio" => (true, argument()?),
            other => {
                let known = "always_on, always_off, traceidratio, or one of them behind \
                             `parentbased_`";
                return Err(SettingsError {
                    name: "OTEL_TRACES_SAMPLER".to_owned(),
                    reason: format!("`{other}` is not known; write {known}"),
                });
            }
        };
        Ok(Sampler {
            is_parent_based,
            ratio,
        })
    }
}

/// Whether the environment says that there shall be no spans though it names a collector.
fn is_off(said: Variable<'_>) -> Result<bool, SettingsError> {
    if said("OTEL_SDK_DISABLED").is_some_and(|text| text.trim().eq_ignore_ascii_case("true")) {
        return Ok(true);
    }
    match said("OTEL_TRACES_EXPORTER").as_deref().map(str::trim) {
        None | Some("otlp") => Ok(false),
        Some("none") => Ok(true),
        Some(other) => Err(SettingsError {
            name: "OTEL_TRACES_EXPORTER".to_owned(),
            reason: format!("`{other}` is not known here; write otlp or none"),
        }),
    }
}

fn endpoint(url: &str) -> Result<Uri, String> {
    let wrong = |why: &str| format!("`{url}` {why}; write http://HOST:{DEFAULT_PORT}");
    let uri: Uri = url.trim().parse().map_err(|_| wrong("is no URL"))?;
    let scheme = uri
        .scheme_str()
        .filter(|one| ["http", "https"].contains(one));
    let scheme = scheme.ok_or_else(|| wrong("begins with neither http:// nor https://"))?;
    if uri.path() != "/" || uri.query().is_some() {
        return Err(wrong("has a path, which OTLP over gRPC has not"));
    }
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| wrong("has no host"))?;
    if uri
        .authority()
        .is_some_and(|one| one.as_str().contains('@'))
    {
        return Err(wrong("holds user information"));
    }
    let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
    let whole = format!("{scheme}://{host}:{port}");
    whole.parse().map_err(|_| wrong("is no URL"))
}

fn timeout(text: &str, name: String) -> Result<Duration, SettingsError> {
    let read = text.trim().parse().ok().map(Duration::from_millis);
    let is_good = |time: &Duration| (Duration::from_millis(1)..=TIMEOUT_MAX).contains(time);
    read.filter(is_good).ok_or_else(|| SettingsError {
        name,
        reason: format!(
            "`{text}` is no timeout; write milliseconds from 1 to {}",
            TIMEOUT_MAX.as_millis()
        ),
    })
}

/// `key=value,key=value`, values percent-encoded. What is wrong is not shown: it may be a secret.
fn list(text: &str, name: &str) -> Result<Vec<(String, String)>, SettingsError> {
    let wrong = |reason: String| SettingsError {
        name: name.to_owned(),
        reason,
    };
    let entries = text.split(',').map(str::trim);
    let entries: Vec<&str> = entries.filter(|entry| !entry.is_empty()).collect();
    if entries.len() > LIST_MAX {
        return Err(wrong(format!("has more than {LIST_MAX} entries")));
    }
    let read = |(at, entry): (usize, &&str)| {
        let (key, value) = entry.split_once('=')?;
        let key = Some(key.trim()).filter(|key| !key.is_empty());
        Some((key?.to_owned(), decoded(value.trim())?)).filter(|_| at < LIST_MAX)
    };
    let all = entries.iter().enumerate().map(|one| {
        let number = one.0 + 1;
        read(one).ok_or_else(|| wrong(format!("entry {number} is not key=value")))
    });
    all.collect()
}

/// Without `%41` and the like; None: it is not properly encoded.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

fn headers(text: &str, name: &str) -> Result<MetadataMap, SettingsError> {
    let mut map = MetadataMap::new();
    for (number, (key, value)) in list(text, name)?.into_iter().enumerate() {
        let key = AsciiMetadataKey::from_bytes(key.to_ascii_lowercase().as_bytes()).ok();
        let mut value = AsciiMetadataValue::try_from(value).ok();
        if let Some(value) = &mut value {
            value.set_sensitive(true);
        }
        let (Some(key), Some(value)) = (key, value) else {
            return Err(SettingsError {
                name: name.to_owned(),
                reason: format!("entry {} is no header of gRPC", number + 1),
            });
        };
        map.append(key, value);
    }
    Ok(map)
}

fn resource(said: Variable<'_>) -> Result<Vec<KeyValue>, SettingsError> {
    const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let mut all = match said(NAME) {
        Some(text) => list(&text, NAME)?,
        None => Vec::new(),
    };
    let service = said("OTEL_SERVICE_NAME");
    if service.is_some() {
        all.retain(|(key, _)| key != "service.name");
    }
    let service = service.map(|name| text("service.name", name));
    let all = all
        .into_iter()
        .map(|(key, value)| attribute(key, Value::StringValue(value)));
    Ok(all.chain(service).collect())
}

#[cfg(test)]
mod tests;
