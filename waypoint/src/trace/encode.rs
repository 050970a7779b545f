//! Spans as OTLP has them: names of attributes are those of OpenTelemetry's semantic conventions
//! for HTTP and gRPC, then Istio's, then ours. Knows no worker.

use http::{Method, Version};
use mesh::workload::Workload;
use process::otlp::{
    Encode, KeyValue, SpanKind, Status, StatusCode, Value, attribute, number, text,
};

use super::{Served, Side, Span, Tried};
use crate::site::identity_of;

/// Methods that are shown as they are; others would be as many as clients think of.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

/// Statuses of gRPC that are the server's fault: unknown, deadline exceeded, unimplemented,
/// internal, unavailable, data loss.
const GRPC_FAULTS: [u16; 6] = [2, 4, 12, 13, 14, 15];
/// Bits of a span's flags: whether its parent is of another process, and whether that is told.
const PARENT_IS_REMOTE: u32 = 0x200;
const REMOTE_IS_TOLD: u32 = 0x100;

impl Encode for Box<Span> {
    fn encode(self) -> process::otlp::Span {
        let (kind, is_remote) = match &self.side {
            Side::Server(_) => (SpanKind::Server, self.parent.is_some()),
            Side::Client(_) => (SpanKind::Client, false),
        };
        let mut all = Attributes(Vec::with_capacity(32));
        let name = self.name();
        self.http(&mut all);
        let error = self.error();
        if let Some(error) = &error {
            all.text("error.type", error.as_str());
        }
        match &self.side {
            Side::Server(served) => self.server(served, &mut all),
            Side::Client(tried) => self.client(tried, &mut all),
        }
        let message = match &self.side {
            Side::Client(tried) => tried.why.clone(),
            Side::Server(_) => None,
        };
        let remote = if is_remote { PARENT_IS_REMOTE } else { 0 };
        process::otlp::Span {
            trace_id: self.context.trace.to_be_bytes().to_vec(),
            span_id: self.context.span.to_be_bytes().to_vec(),
            trace_state: self.state.as_deref().unwrap_or_default().to_owned(),
            parent_span_id: self
                .parent
                .map(|parent| parent.to_be_bytes().to_vec())
                .unwrap_or_default(),
            flags: u32::from(self.context.flags) | REMOTE_IS_TOLD | remote,
            name,
            kind: kind.into(),
            start_time_unix_nano: self.time.0,
            end_time_unix_nano: self.time.1,
            attributes: all.0,
            status: error.map(|_| Status {
                message: message.unwrap_or_default(),
                code: StatusCode::Error.into(),
            }),
            ..process::otlp::Span::default()
        }
    }
}

impl Span {
    fn is_usual(&self) -> bool {
        METHODS.contains(&self.method)
    }

    /// Of few different texts, as the conventions want it.
    fn name(&self) -> String {
        if let Some((service, method)) = self.called() {
            return format!("{service}/{method}");
        }
        let method = match self.is_usual() {
            true => self.method.as_str(),
            false => "HTTP",
        };
        match &self.side {
            Side::Server(served) => match &served.template {
                Some(template) => format!("{method} {template}"),
                None => method.to_owned(),
            },
            Side::Client(_) => method.to_owned(),
        }
    }

    /// Service and method of gRPC.
    fn called(&self) -> Option<(&str, &str)> {
        let path = self.path().strip_prefix('/').filter(|_| self.is_grpc)?;
        let (service, method) = path.split_once('/')?;
        let is_one = !service.is_empty() && !method.is_empty() && !method.contains('/');
        is_one.then_some((service, method))
    }

    fn path(&self) -> &str {
        let end = self.target.find('?').unwrap_or(self.target.len());
        &self.target[..end]
    }

    /// What failed: the waypoint's word, else a status that is a failure to the side that it is.
    fn error(&self) -> Option<String> {
        let is_server = matches!(self.side, Side::Server(_));
        let status = self.status.filter(|status| match is_server {
            true => *status >= 500,
            false => *status >= 400,
        });
        let grpc = self.grpc_status.filter(|status| match is_server {
            true => GRPC_FAULTS.contains(status),
            false => *status != 0,
        });
        let grpc = grpc.filter(|_| self.is_grpc);
        // The waypoint's answer to what a client did wrong is no failure of a server.
        let is_answered = self
            .status
            .is_some_and(|status| (300..500).contains(&status));
        let word = self.error.filter(|_| !is_server || !is_answered);
        word.map(str::to_owned)
            .or_else(|| status.or(grpc).map(|status| status.to_string()))
    }

    fn http(&self, all: &mut Attributes) {
        match self.is_usual() {
            true => all.text("http.request.method", self.method.as_str()),
            false => {
                all.text("http.request.method", "_OTHER");
                all.text("http.request.method_original", self.method.as_str());
            }
        }
        if let Some(status) = self.status {
            all.0.push(number("http.response.status_code", status));
        }
        if let Some(version) = self.version.and_then(version) {
            all.text("network.protocol.name", "http");
            all.text("network.protocol.version", version);
        }
        if self.is_grpc {
            all.text("rpc.system", "grpc");
            if let Some((service, method)) = self.called() {
                all.text("rpc.service", service);
                all.text("rpc.method", method);
            }
            if let Some(status) = self.grpc_status {
                all.0.push(number("rpc.grpc.status_code", status));
            }
        }
        if let Some(service) = &self.service {
            all.text("istio.destination_service", &*service.hostname);
        }
        if let Some(workload) = &self.destination {
            all.workload(&DESTINATION, workload);
            let identity = identity_of(workload);
            let identity = identity.map(|identity| identity.to_string());
            all.maybe("istio.destination_principal", identity);
        }
    }

    fn server(&self, served: &Served, all: &mut Attributes) {
        all.text("url.scheme", "http");
        all.text("url.path", self.path());
        let query = self.target.split_once('?').map(|(_, query)| query);
        all.maybe("url.query", query);
        let (host, port) = host_and_port(&self.authority);
        all.maybe("server.address", Some(host).filter(|host| !host.is_empty()));
        all.0
            .push(number("server.port", port.unwrap_or(served.port)));
        let client = served.client;
        all.text("client.address", client.ip().to_canonical().to_string());
        all.0.push(number("client.port", client.port()));
        all.maybe("http.route", served.template.as_deref());
        all.maybe("user_agent.original", served.user_agent.as_deref());
        let (asked, answered) = served.bytes;
        all.size("http.request.body.size", asked);
        all.size("http.response.body.size", answered);
        if !served.request_id.is_empty() {
            all.text("guid:x-request-id", served.request_id.as_str());
        }
        all.text("response_flags", self.error.unwrap_or("-"));
        if let Some(workload) = &served.source.workload {
            all.workload(&SOURCE, workload);
        }
        let identity = served.source.identity.as_ref();
        let identity = identity.map(ToString::to_string);
        all.maybe("istio.source_principal", identity);
        if let Some((route, rule)) = &served.route {
            all.text("culvert.route", route.to_string());
            all.size("culvert.route.rule", *rule as u64);
        }
        all.0.push(number("culvert.tries", served.tries));
    }

    fn client(&self, tried: &Tried, all: &mut Attributes) {
        all.text(
            "url.full",
            format!("http://{}{}", self.authority, self.target),
        );
        let (host, port) = host_and_port(&self.authority);
        all.maybe("server.address", Some(host).filter(|host| !host.is_empty()));
        if let Some(port) = port {
            all.0.push(number("server.port", port));
        }
        if let Some(workload) = &self.destination {
            let address = workload.addresses.first().map(ToString::to_string);
            all.maybe("network.peer.address", address);
            all.0.push(number("network.peer.port", tried.port));
            let pod = format!("{}/{}", workload.namespace, workload.name);
            all.text("culvert.endpoint", pod);
        }
        if tried.number > 1 {
            all.0
                .push(number("http.request.resend_count", tried.number - 1));
        }
        if tried.is_mirror {
            let mirror = attribute("culvert.mirror", Value::BoolValue(true));
            all.0.push(mirror);
        }
    }
}

/// Names of what a workload is told by, on one side.
struct Names {
    workload: &'static str,
    namespace: &'static str,
    canonical_service: &'static str,
    canonical_revision: &'static str,
    cluster: &'static str,
}

const SOURCE: Names = Names {
    workload: "istio.source_workload",
    namespace: "istio.source_namespace",
    canonical_service: "istio.source_canonical_service",
    canonical_revision: "istio.source_canonical_revision",
    cluster: "istio.source_cluster_id",
};

const DESTINATION: Names = Names {
    workload: "istio.destination_workload",
    namespace: "istio.destination_namespace",
    canonical_service: "istio.destination_canonical_service",
    canonical_revision: "istio.destination_canonical_revision",
    cluster: "istio.destination_cluster_id",
};

struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &'static str, value: impl Into<String>) {
        self.0.push(text(key, value));
    }

    fn maybe(&mut self, key: &'static str, value: Option<impl Into<String>>) {
        self.0.extend(value.map(|value| text(key, value)));
    }

    fn size(&mut self, key: &'static str, value: u64) {
        self.0
            .push(number(key, i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn workload(&mut self, names: &Names, workload: &Workload) {
        self.text(names.workload, &*workload.workload_name);
        self.text(names.namespace, &*workload.namespace);
        self.text(names.canonical_service, &*workload.canonical_name);
        self.text(names.canonical_revision, &*workload.canonical_revision);
        self.text(names.cluster, &*workload.cluster);
    }
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}

/// Of an authority; brackets of IPv6 are left out.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    (bare.unwrap_or(host), port)
}

#[cfg(test)]
mod tests;
