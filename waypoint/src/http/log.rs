//! What is known of one request when it is over. Dropping it is its end: it is told to the site
//! once, however the request ended.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri, Version, header};
use mesh::route::{Route, Target};

use super::client::Client;
use super::grpc;
use super::pace::Pace;
use super::sent::Source;
use super::site::{Reason, RequestRecord};
use super::trace::Trace;
use super::upstream::Load;

/// One request.
pub struct Log {
    pub client: Rc<Client>,
    pub pace: Rc<Pace>,
    /// Of the request among its connection's.
    place: usize,
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
    started: Instant,
    pub status: Option<StatusCode>,
    pub grpc_status: Option<u16>,
    pub is_grpc: bool,
    pub reason: Option<Reason>,
    pub route: Option<(Arc<Route>, usize)>,
    pub backend: Option<usize>,
    /// The endpoint, which counts this request until it is over.
    pub load: Option<Load>,
    pub tries: u32,
    pub source: Option<Rc<RefCell<Source>>>,
    pub answer_bytes: u64,
    pub id: Option<HeaderValue>,
    /// None: it is not sampled.
    pub trace: Option<Box<Trace>>,
}

impl Log {
    pub fn new(client: &Rc<Client>, head: &Parts) -> Self {
        let now = client.site().now();
        let pace = Rc::new(Pace::new(now));
        Self {
            place: client.on_request(now, &pace),
            pace,
            client: client.clone(),
            method: head.method.clone(),
            uri: head.uri.clone(),
            host: head.headers.get(header::HOST).cloned(),
            version: head.version,
            started: now,
            status: None,
            grpc_status: None,
            is_grpc: grpc::is_grpc(&head.headers),
            reason: None,
            route: None,
            backend: None,
            load: None,
            tries: 0,
            source: None,
            answer_bytes: 0,
            id: None,
            trace: Trace::begin(client.site(), &head.headers, now),
        }
    }

    /// Whether an answer has no body.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Version of the request.
    pub fn version(&self) -> Version {
        self.version
    }

    /// When the request came.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// `:authority`, or the authority of an absolute target, else `Host`; may be empty.
    pub fn authority(&self) -> &str {
        match (self.uri.authority(), &self.host) {
            (Some(authority), _) => authority.as_str(),
            (None, Some(host)) => host.to_str().unwrap_or_default(),
            (None, None) => "",
        }
    }
}

impl Log {
    /// Why it ended as it did; None: the endpoint's own answer.
    fn reason(&self) -> Option<Reason> {
        match (self.pace.ended(), self.reason) {
            // What broke then broke for that.
            (Some(ended), None | Some(Reason::ClientGone)) => Some(ended),
            (_, None) if self.status.is_none() => Some(Reason::ClientGone),
            (_, reason) => reason,
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let now = self.client.site().now();
        let trace = self.trace.take();
        let route = self.route.as_ref();
        let backend = route.zip(self.backend).and_then(|((route, rule), at)| {
            match &route.rules.get(*rule)?.backends.get(at)?.target {
                Target::Service { service, port } => Some((service, *port)),
                Target::Invalid(_) => None,
            }
        });
        let sent = self.source.as_ref().map(|source| source.borrow().bytes());
        let upstream = self.load.as_ref().map(Load::upstream);
        let record = RequestRecord {
            asked: &self.client.asked,
            method: &self.method,
            uri: &self.uri,
            authority: self.authority(),
            version: self.version,
            status: self.status,
            grpc_status: self.grpc_status,
            is_grpc: self.is_grpc,
            reason: self.reason(),
            route: route.map(|(route, rule)| (&route.key, *rule)),
            backend,
            endpoint: upstream.map(|upstream| upstream.workload()),
            tries: self.tries,
            duration: now.saturating_duration_since(self.started),
            bytes: (sent.unwrap_or(0), self.answer_bytes),
            request_id: self
                .id
                .as_ref()
                .and_then(|id| id.to_str().ok())
                .unwrap_or(""),
        };
        self.client.site().record(&record);
        if let Some(trace) = trace {
            let rule = route.and_then(|(route, rule)| route.rules.get(*rule));
            trace.end(now, &record, rule);
        }
        self.client.on_end(now, self.place);
    }
}
