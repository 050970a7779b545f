//! One request from its head to the head of its answer: checked, routed, made ready to go on, sent
//! (by [`super::tries`]), and its answer made ready to go back.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use futures::future::{Either, select};
use h2::RecvStream;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Body;
use mesh::route::Failure;

use super::answer::{AnswerBody, Own};
use super::client::{Client, Interims};
use super::guard::{Violation, is_authority};
use super::incoming::Incoming;
use super::limits::{FIELDS_MAX, HEAD_BYTES_MAX, REQUEST_LINE_BYTES_MAX};
use super::log::Log;
use super::plan::{Answered, Arrived, Plan, plan};
use super::sent::Source;
use super::session::{self, Session};
use super::site::Reason;
use super::tries::{Answered as Sent, Tries};
use super::upgrade::{Upgrade, change};
use super::{grpc, headers, mirror, target};

/// A request on its way.
pub(super) struct Exchange {
    pub(super) client: Rc<Client>,
    pub(super) log: Box<Log>,
    pub(super) head: Parts,
    /// None: it has no body.
    pub(super) source: Option<Rc<RefCell<Source>>>,
    /// What a CONNECT of HTTP/2 has in place of a body.
    pub(super) stream: Option<RecvStream>,
    /// Where interim answers go; None: the client knows none.
    pub(super) interims: Option<Interims>,
    pub(super) plan: Plan,
    pub(super) session: Option<Session>,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) deadline: Option<Instant>,
}

/// Answers a request.
pub(super) async fn answer(
    client: Rc<Client>,
    request: Request<Incoming>,
    interims: Option<Interims>,
) -> Response<AnswerBody> {
    let (head, body) = request.into_parts();
    if client.proxy.is_full() {
        return overflow(&client, &head);
    }
    let log = Box::new(Log::new(&client, &head));
    let (mut stream, mut source) = (None, None);
    match body {
        Incoming::Http2(body) if head.method == Method::CONNECT => {
            stream = Some(body.into_stream());
        }
        body if body.is_end_stream() => {}
        body => {
            let has_length = head.headers.contains_key(CONTENT_LENGTH);
            source = Some(Source::new(body, log.pace.clone(), has_length));
        }
    }
    let mut exchange = Exchange {
        client,
        log,
        head,
        source,
        stream,
        interims,
        plan: Plan::default(),
        session: None,
        upgrade: None,
        deadline: None,
    };
    exchange.log.source = exchange.source.clone();
    let sent = match exchange.prepare() {
        Ok(()) => exchange.send().await,
        Err(own) => Err(own),
    };
    match sent {
        Ok(answered) => exchange.pass(answered),
        Err(own) => own.into_answer(exchange.log),
    }
}

/// Of a request that is one too many.
pub(super) fn overflow(client: &Rc<Client>, head: &Parts) -> Response<AnswerBody> {
    let why = "too many requests are under way";
    let own = Own::error(StatusCode::SERVICE_UNAVAILABLE, Reason::Overflow, why);
    own.into_answer(Box::new(Log::new(client, head)))
}

/// Of a request that is over since nothing moved.
fn stalled(reason: Reason) -> Own {
    let (status, why) = match reason {
        Reason::ClientStalled => (
            StatusCode::REQUEST_TIMEOUT,
            "the body of the request did not come in time",
        ),
        Reason::EndpointStalled => (
            StatusCode::GATEWAY_TIMEOUT,
            "the endpoint takes nothing and answers nothing",
        ),
        _ => (StatusCode::GATEWAY_TIMEOUT, "the request's time is over"),
    };
    let mut own = Own::error(status, reason, why);
    own.closes = true;
    own
}

impl Exchange {
    fn prepare(&mut self) -> Result<(), Own> {
        if self.client.asked.revoked.is_cancelled() {
            let why = "this waypoint serves the address no longer";
            let mut own = Own::error(StatusCode::SERVICE_UNAVAILABLE, Reason::Unbound, why);
            own.closes = true;
            return Err(own);
        }
        self.check()?;
        self.upgrade = Upgrade::of(&mut self.head)?;
        headers::end_named(&mut self.head.headers);
        self.route()?;
        let timeout = self.plan.timeouts().request;
        let timeout = timeout.or(self.client.site().limits().request_timeout);
        let asked = grpc::timeout(&self.head.headers).filter(|_| self.log.is_grpc);
        let shortest = [timeout, asked].into_iter().flatten().min();
        self.deadline = shortest.and_then(|one| self.log.started().checked_add(one));
        self.change()?;
        for (service, port) in std::mem::take(&mut self.plan.mirrors) {
            mirror::start(self, (service, port));
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<Sent, Own> {
        let pace = self.log.pace.clone();
        let tries = std::pin::pin!(Tries::run(self));
        match select(tries, std::pin::pin!(pace.end())).await {
            Either::Left((sent, _)) => sent,
            Either::Right((reason, _)) => Err(stalled(reason)),
        }
    }

    /// What holds for every request, and hyper does not see to.
    fn check(&mut self) -> Result<(), Own> {
        let bad = |why| Own::error(StatusCode::BAD_REQUEST, Reason::BadRequest, why);
        let head = &mut self.head;
        let target = head
            .uri
            .path_and_query()
            .map_or(0, |path| path.as_str().len());
        for (is_over, violation) in [
            (target > REQUEST_LINE_BYTES_MAX, Violation::TargetTooLong),
            (head.headers.len() > FIELDS_MAX, Violation::FieldsTooLarge),
            (is_too_large(&head.headers), Violation::FieldsTooLarge),
        ] {
            if is_over {
                let status = violation.status();
                return Err(Own::error(status, Reason::BadRequest, violation.why()));
            }
        }
        if head.headers.get_all(HOST).iter().nth(1).is_some() {
            return Err(bad("more than one Host"));
        }
        if !target::is_proper(head) {
            return Err(bad("the target is not of a form that its method has"));
        }
        let (authority, host) = (head.uri.authority(), head.headers.get(HOST));
        if head.version == Version::HTTP_2 {
            let of_host = host.map(HeaderValue::as_bytes);
            let is_same = |one: &http::uri::Authority| {
                of_host.is_none_or(|host| host.eq_ignore_ascii_case(one.as_str().as_bytes()))
            };
            if authority.is_some_and(|one| !is_same(one)) {
                return Err(bad("Host is not what :authority is"));
            }
            // The guard of HTTP/1 has looked at each character.
            if authority.is_none() && !of_host.is_some_and(is_authority) {
                return Err(bad("Host is no authority"));
            }
            if !headers::has_one_length(&head.headers, self.source.is_some()) {
                return Err(bad(
                    "Content-Length is not one number, or there is no such body",
                ));
            }
        }
        // From here on the authority is in `Host`, whichever way it came (RFC 9112 3.2.2).
        if let Some(authority) = authority {
            if !is_authority(authority.as_str().as_bytes()) {
                return Err(bad("the authority is no host and port alone"));
            }
            let host = HeaderValue::from_str(authority.as_str());
            let host = host.map_err(|_| bad("the authority is no value"))?;
            head.headers.insert(HOST, host);
        }
        Ok(())
    }

    fn route(&mut self) -> Result<(), Own> {
        let client = self.client.clone();
        let Some(table) = client.site().routes(&client.asked) else {
            return self.check_connect();
        };
        let arrived = Arrived {
            method: &self.head.method,
            uri: &self.head.uri,
            authority: self.log.authority(),
            port: client.asked.port,
            headers: &self.head.headers,
        };
        let session = RefCell::new(None);
        let planned = plan(
            &table,
            &arrived,
            &|| client.site().random(),
            &|persistence| {
                let read = session::read(persistence, &self.head.headers, session::now());
                session.replace(read);
                read.map(|session| session.backend)
            },
        );
        self.log.route = planned.route;
        self.session = session.into_inner();
        self.plan = planned.outcome.map_err(own)?;
        self.log.backend = self.plan.backend_index();
        self.check_connect()
    }

    /// A tunnel goes past all that routes see: it takes a route that is for tunnels.
    fn check_connect(&self) -> Result<(), Own> {
        if self.head.method != Method::CONNECT || self.plan.is_for_method("CONNECT") {
            return Ok(());
        }
        let why = "CONNECT takes a route that matches this method";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut own = Own::error(status, Reason::NoRoute, why);
        let others = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        own.headers = vec![("allow", others.to_owned())];
        Err(own)
    }

    /// The head as it goes on.
    fn change(&mut self) -> Result<(), Own> {
        let headers = &mut self.head.headers;
        headers::end_connection(headers);
        headers::join_cookies(headers);
        headers::tell_of_client(headers, &self.client.address);
        let site = self.client.site();
        let id = headers::name_request(headers, &|| site.random());
        self.log.id = Some(id);
        for changes in self.plan.request_changes() {
            headers::change(headers, changes);
        }
        if let Some(host) = self
            .plan
            .host()
            .and_then(|host| HeaderValue::from_str(host).ok())
        {
            headers.insert(HOST, host);
        }
        if self.source.is_none() {
            // Nothing is to be waited for.
            headers.remove(EXPECT);
        }
        if let Some(upgrade) = &self.upgrade {
            upgrade.ask(&mut self.head, self.client.site().as_ref());
        }
        if let Some(path) = self.plan.path.take() {
            self.head.uri = with_path(&self.head.uri, path)?;
        }
        Ok(())
    }

    /// The answer as it goes back.
    fn pass(mut self, answered: Sent) -> Response<AnswerBody> {
        let Sent {
            answer,
            lease,
            taken,
            deadline,
        } = answered;
        let (mut head, body) = answer.into_parts();
        if !headers::is_plain(&head.headers) {
            let why = "the endpoint answers in a coding that it was not asked for";
            return Own::error(StatusCode::BAD_GATEWAY, Reason::Broken, why).into_answer(self.log);
        }
        let asked = &self.head.headers;
        let upgrade = self.upgrade.take();
        let upgrade = upgrade.filter(|one| one.is_accepted(asked, &head));
        let protocol = head.headers.get(UPGRADE).cloned();
        headers::settle_length(head.status, &mut head.headers);
        headers::end_connection(&mut head.headers);
        for changes in self.plan.response_changes() {
            headers::change(&mut head.headers, changes);
        }
        headers::share(&mut head.headers, std::mem::take(&mut self.plan.cors));
        self.keep_session(&mut head.headers);
        if self.log.is_grpc {
            self.log.grpc_status = grpc::status(&head.headers);
        }
        head.version = Version::HTTP_11;
        if let (Some(taken), Some(upgrade)) = (taken, upgrade) {
            upgrade.settle(&mut head, &self.head.headers, protocol);
            self.log.status = Some(head.status);
            return change(head, (taken, lease), (self.stream, self.log));
        }
        self.log.status = Some(head.status);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let why = "the endpoint changed to a protocol that it was not asked for";
            return Own::error(StatusCode::BAD_GATEWAY, Reason::Broken, why).into_answer(self.log);
        }
        self.log.pace.on_head(deadline);
        if let Some(deadline) = deadline {
            self.client.judge_by(deadline);
        }
        Response::from_parts(head, AnswerBody::passed(body, lease, self.log))
    }

    fn keep_session(&self, headers: &mut http::HeaderMap) {
        let Some(persistence) = self.plan.persistence() else {
            return;
        };
        let (Some(load), Some(backend)) = (&self.log.load, self.plan.backend_token()) else {
            return;
        };
        let served = (load.upstream().token(), backend);
        let path = self.plan.match_path().unwrap_or("/");
        let field = session::write(persistence, self.session, served, path, session::now());
        if let Some((name, value)) = field {
            headers.append(name, value);
        }
    }
}

/// Of HTTP/2; the guard of HTTP/1 has counted each byte.
fn is_too_large(headers: &http::HeaderMap) -> bool {
    let fields = headers.iter();
    let bytes = fields.map(|(name, value)| name.as_str().len() + value.len());
    bytes.sum::<usize>() > HEAD_BYTES_MAX
}

fn own(answered: Answered) -> Own {
    match answered {
        Answered::Redirect(status, location) => Own::by_route(status, vec![("location", location)]),
        Answered::Preflight(headers) => Own::by_route(StatusCode::NO_CONTENT, headers),
        Answered::Failed(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> Own {
    let status = StatusCode::from_u16(failure.status());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Own::error(status, Reason::NoRoute, failure.to_string())
}

fn with_path(uri: &Uri, mut path: String) -> Result<Uri, Own> {
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    path.parse().map_err(|_| {
        let why = "the rewritten path is no path";
        Own::error(StatusCode::BAD_REQUEST, Reason::BadRequest, why)
    })
}

/// Whether bodies of such requests may be left out on HTTP/1 when their length is not known.
pub(super) fn is_bare(method: &Method) -> bool {
    *method == Method::CONNECT
}
