//! The trace of one request: whose child it is, whether it is sampled, the spans of its tries.
//! Costs nothing where nothing is traced, and allocates only for what is sampled. It must not know
//! what spans are sent as.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Response, Uri};
use mesh::route::Rule;
use mesh::route::matching::PathMatch;
use mesh::service::ServiceKey;

use super::exchange::Exchange;
use super::grpc;
use super::headers::{TRACEPARENT, TRACESTATE, is_traceparent, put_hex};
use super::incoming::Incoming;
use super::site::{Chosen, Reason, RequestRecord, Site, Upstream};
use crate::connection::Party;
use crate::trace::{Context, STATE_BYTES_MAX, Served, Side, Span, Tried, bounded};

/// The bits of W3C's flags that are known (Trace Context, level 2); others end here.
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

impl Context {
    /// Of the one valid `traceparent`.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(TRACEPARENT).iter();
        let (field, None) = (fields.next()?, fields.next()) else {
            return None;
        };
        let text = field.to_str().ok()?;
        is_traceparent(text.as_bytes()).then_some(())?;
        Some(Self {
            trace: u128::from_str_radix(&text[3..35], 16).ok()?,
            span: u64::from_str_radix(&text[36..52], 16).ok()?,
            flags: u8::from_str_radix(&text[53..55], 16).ok()?,
        })
    }

    fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// As `traceparent`, version 00.
    fn header(self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(&mut text[3..19], (self.trace >> 64) as u64);
        put_hex(&mut text[19..35], self.trace as u64);
        put_hex(&mut text[36..52], self.span);
        put_hex(&mut text[53..55], u64::from(self.flags) << 56);
        HeaderValue::from_bytes(&text).expect("digits and dashes are a value")
    }
}

/// What the spans of a request have in common.
#[derive(Clone)]
pub(super) struct Seed {
    site: Rc<dyn Site>,
    /// The span of the request itself.
    own: Context,
    state: Option<Arc<str>>,
    /// When the request came, by both clocks: spans are as long as the steady one says.
    began: (Instant, u64),
}

/// The trace of a request that is sampled, or whose client says that it is though it is not.
pub struct Trace {
    seed: Seed,
    parent: Option<u64>,
    user_agent: Option<String>,
    /// The try that is under way.
    pub(super) attempt: Option<Attempt>,
}

impl Trace {
    /// None: nobody samples it, and its `traceparent` goes on as it came or is made.
    pub fn begin(site: &Rc<dyn Site>, headers: &HeaderMap, now: Instant) -> Option<Box<Self>> {
        let sampler = site.tracing()?.sampler;
        let parent = Context::of(headers);
        let low = parent.map_or_else(|| site.random(), |parent| parent.trace as u64);
        let said = parent.map(Context::is_sampled);
        let is_sampled = sampler.samples(low, said);
        if !is_sampled && said != Some(true) {
            return None;
        }
        let new = || u128::from(site.random() | 1) << 64 | u128::from(low);
        let kept = parent.map_or(0, |parent| parent.flags & RANDOM);
        let own = Context {
            trace: parent.map_or_else(new, |parent| parent.trace),
            span: site.random() | 1,
            flags: kept | if is_sampled { SAMPLED } else { 0 },
        };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        // 64 bits are enough until the year 2554.
        let wall = wall.map_or(0, |since| since.as_nanos() as u64);
        let state = parent.filter(|_| is_sampled).and_then(|_| state(headers));
        let agent = headers.get(USER_AGENT).filter(|_| is_sampled);
        Some(Box::new(Self {
            seed: Seed {
                site: site.clone(),
                own,
                state,
                began: (now, wall),
            },
            parent: parent.map(|parent| parent.span),
            user_agent: agent.map(|agent| bounded(&String::from_utf8_lossy(agent.as_bytes()))),
            attempt: None,
        }))
    }

    /// For who sends more than one request on; None: they are not sampled.
    pub(super) fn seed(&self) -> Option<&Seed> {
        Some(&self.seed).filter(|seed| seed.own.is_sampled())
    }

    /// Puts the try under way into the head of its request, which may have no parent to replace:
    /// the route took it out.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let of_try = self.attempt.as_ref().and_then(Attempt::context);
        tell(headers, of_try.unwrap_or(self.seed.own));
    }

    /// The try under way is over, and is not what the client gets.
    pub(super) fn leave(&mut self) {
        if let Some(mut attempt) = self.attempt.take() {
            attempt.ended = attempt.ended.or(attempt.heard);
        }
    }

    /// The request is over.
    pub fn end(mut self, now: Instant, record: &RequestRecord<'_>, rule: Option<&Rule>) {
        let failed = record.reason.filter(|reason| *reason != Reason::Route);
        if let Some(mut attempt) = self.attempt.take() {
            attempt.end(record, failed);
        }
        let (Some(tracing), true) = (self.seed.site.tracing(), self.seed.own.is_sampled()) else {
            return;
        };
        let asked = record.asked;
        let service = record.backend.map(|(service, _)| service);
        let target = record.uri.path_and_query();
        let served = Served {
            client: asked.client,
            source: Party {
                workload: asked.client_workload.clone(),
                identity: asked.client_identity.clone(),
            },
            port: asked.port,
            route: record.route.map(|(route, rule)| (route.clone(), rule)),
            template: rule.and_then(template),
            tries: record.tries,
            bytes: record.bytes,
            request_id: bounded(record.request_id),
            user_agent: self.user_agent.take(),
        };
        tracing.spans.put(Box::new(Span {
            context: self.seed.own,
            parent: self.parent,
            state: self.seed.state.clone(),
            time: (self.seed.began.1, self.seed.at(now)),
            method: record.method.clone(),
            authority: bounded(record.authority),
            target: target.map_or_else(String::new, |target| bounded(target.as_str())),
            version: Some(record.version),
            status: record.status.map(|status| status.as_u16()),
            grpc_status: record.grpc_status,
            is_grpc: record.is_grpc,
            error: failed.map(Reason::as_str),
            service: service.or(asked.service.as_ref()).cloned(),
            destination: record.endpoint.cloned(),
            side: Side::Server(Box::new(served)),
        }));
    }
}

/// Joined, if that is not too long.
fn state(headers: &HeaderMap) -> Option<Arc<str>> {
    let fields = headers.get_all(TRACESTATE).iter();
    let fields: Option<Vec<&str>> = fields.map(|field| field.to_str().ok()).collect();
    let joined = fields?.join(",");
    let is_kept = !joined.is_empty() && joined.len() <= STATE_BYTES_MAX;
    is_kept.then(|| joined.into())
}

/// The path that a rule is for, if that is one.
fn template(rule: &Rule) -> Option<String> {
    let [only] = &*rule.matches else { return None };
    match &only.path {
        PathMatch::Exact(path) => Some(path.to_string()),
        PathMatch::Prefix(path) => Some(format!("{}/*", path.trim_end_matches('/'))),
        _ => None,
    }
}

fn tell(headers: &mut HeaderMap, context: Context) {
    if let Some(parent) = headers.get_mut(TRACEPARENT) {
        *parent = context.header();
    }
}

/// What is sent to an endpoint.
pub(super) struct Sent<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) is_grpc: bool,
    pub(super) upstream: &'a Upstream,
    pub(super) service: Option<&'a ServiceKey>,
    /// Of the tries, from 1; 0: a copy.
    pub(super) number: u32,
}

impl Seed {
    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began.0);
        self.began.1.saturating_add(since.as_nanos() as u64)
    }

    /// The span of one try begins; it ends with the result.
    pub(super) fn attempt(&self, sent: &Sent<'_>) -> Attempt {
        let host = sent.headers.get(HOST);
        let host = host.and_then(|host| host.to_str().ok());
        let target = sent.uri.path_and_query();
        let began = self.at(self.site.now());
        let span = Span {
            context: Context {
                span: self.site.random() | 1,
                ..self.own
            },
            parent: Some(self.own.span),
            state: self.state.clone(),
            time: (began, began),
            method: sent.method.clone(),
            authority: bounded(host.unwrap_or_default()),
            target: target.map_or_else(String::new, |target| bounded(target.as_str())),
            version: None,
            status: None,
            grpc_status: None,
            is_grpc: sent.is_grpc,
            error: None,
            service: sent.service.cloned(),
            destination: Some(sent.upstream.workload().clone()),
            side: Side::Client(Tried {
                port: sent.upstream.port(),
                number: sent.number,
                is_mirror: sent.number == 0,
                why: None,
            }),
        };
        Attempt {
            seed: self.clone(),
            span: Some(Box::new(span)),
            heard: None,
            ended: None,
        }
    }
}

/// The span of one try, or of a copy. Dropping it is its end.
pub(super) struct Attempt {
    seed: Seed,
    span: Option<Box<Span>>,
    /// When the head of its answer came.
    heard: Option<Instant>,
    ended: Option<Instant>,
}

impl Attempt {
    fn context(&self) -> Option<Context> {
        self.span.as_ref().map(|span| span.context)
    }

    /// Puts it into the head of its request.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(context) = self.context() {
            tell(headers, context);
        }
    }

    /// The head of its answer has come.
    pub(super) fn answered(&mut self, answer: &Response<Incoming>) {
        self.heard = Some(self.seed.site.now());
        if let Some(span) = &mut self.span {
            span.version = Some(answer.version());
            span.status = Some(answer.status().as_u16());
            span.grpc_status = grpc::status(answer.headers());
        }
    }

    /// It is over, and failed for that.
    pub(super) fn failed(&mut self, error: &'static str, reason: Option<&str>) {
        self.ended = Some(self.seed.site.now());
        if let Some(span) = &mut self.span {
            span.error = Some(error);
            if let Side::Client(tried) = &mut span.side {
                tried.why = reason.map(bounded);
            }
        }
    }

    /// It is over, and has not failed.
    pub(super) fn over(&mut self) {
        self.ended = Some(self.seed.site.now());
    }

    /// The request is over with it.
    fn end(&mut self, record: &RequestRecord<'_>, failed: Option<Reason>) {
        let Some(span) = self.span.as_mut().filter(|_| self.ended.is_none()) else {
            return;
        };
        if self.heard.is_some() {
            span.grpc_status = record.grpc_status.or(span.grpc_status);
        }
        span.error = failed.map(Reason::as_str);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (Some(mut span), Some(tracing)) = (self.span.take(), self.seed.site.tracing()) else {
            return;
        };
        if self.ended.is_none() && matches!(&span.side, Side::Client(tried) if tried.is_mirror) {
            // Nobody waited for it any longer.
            span.error = Some(Reason::TimedOut.as_str());
        }
        let ended = self.ended.unwrap_or_else(|| self.seed.site.now());
        span.time.1 = self.seed.at(ended);
        tracing.spans.put(span);
    }
}

impl Exchange {
    /// A try begins.
    pub(super) fn begin_try(&mut self, chosen: &Chosen) {
        let Some(trace) = &mut self.log.trace else {
            return;
        };
        let Some(seed) = trace.seed() else { return };
        let backend = self.plan.backend().map(|(service, _)| service);
        let attempt = seed.attempt(&Sent {
            method: &self.head.method,
            uri: &self.head.uri,
            headers: &self.head.headers,
            is_grpc: self.log.is_grpc,
            upstream: &chosen.upstream,
            service: backend.or(self.client.asked.service.as_ref()),
            number: self.log.tries,
        });
        trace.attempt = Some(attempt);
    }
}
