//! Copies of requests. A copy never slows its request: it lags within a bound or is given up, and
//! what it is answered is thrown away.

use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Version};
use http_body_util::BodyExt;
use mesh::service::{AppProtocol, ServiceKey};

use super::client::Client;
use super::exchange::Exchange;
use super::limits::MIRRORS_MAX;
use super::sent::SentBody;
use super::site::{Choose, Chosen, Reason};
use super::target::{absolute, relative};
use super::trace::{Attempt, Seed, Sent};
use super::upstream::Speak;

/// How long a copy may take: nobody waits for it.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of its answer that are read, so that its connection can serve again.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Sends a copy of the request to a port of a service, beside it.
pub(super) fn start(exchange: &Exchange, to: (ServiceKey, u16)) {
    let client = exchange.client.clone();
    let mirrors = client.proxy.mirrors.get();
    if mirrors >= MIRRORS_MAX || exchange.upgrade.is_some() {
        return;
    }
    client.proxy.mirrors.set(mirrors + 1);
    let counted = Counted(client.clone());
    let body = match &exchange.source {
        Some(source) => SentBody::mirror(source),
        None => SentBody::empty(),
    };
    let has_body = exchange.source.is_some();
    let mut request = Request::new(body);
    *request.method_mut() = exchange.head.method.clone();
    *request.uri_mut() = exchange.head.uri.clone();
    *request.headers_mut() = exchange.head.headers.clone();
    request.headers_mut().remove(EXPECT);
    let trace = exchange.log.trace.as_ref();
    if let Some(trace) = trace {
        trace.tell(request.headers_mut());
    }
    let is_http2 = exchange.log.is_grpc || exchange.log.version() == Version::HTTP_2;
    let copy = Copied {
        to,
        request,
        has_body,
        is_grpc: exchange.log.is_grpc,
        is_http2,
        seed: trace.and_then(|trace| trace.seed()).cloned(),
    };
    let site = client.site().clone();
    site.clone().spawn(Box::pin(async move {
        let sent = std::pin::pin!(copy.send(&counted.0));
        let late = site.sleep_until(site.now() + TIMEOUT);
        if let Either::Right(_) = select(sent, late).await {
            tracing::debug!("a mirrored request took too long");
        }
    }));
}

struct Counted(Rc<Client>);

impl Drop for Counted {
    fn drop(&mut self) {
        let mirrors = &self.0.proxy.mirrors;
        mirrors.set(mirrors.get() - 1);
    }
}

struct Copied {
    to: (ServiceKey, u16),
    request: Request<SentBody>,
    has_body: bool,
    is_grpc: bool,
    is_http2: bool,
    /// Of the request's trace; None: it is not sampled.
    seed: Option<Seed>,
}

impl Copied {
    async fn send(mut self, client: &Rc<Client>) -> Option<()> {
        let (site, asked) = (client.site(), &client.asked);
        let choose = Choose {
            backend: Some((&self.to.0, self.to.1)),
            tried: &[],
            prefer: None,
        };
        let chosen = site.choose(asked, choose).ok()?;
        let _load = chosen.upstream.enter();
        let mut attempt = self.attempt(&chosen);
        let answered = self.exchange(client, &chosen, attempt.as_mut()).await;
        if let Some(attempt) = &mut attempt {
            match &answered {
                Ok(()) => attempt.over(),
                Err(why) => attempt.failed(Reason::Broken.as_str(), Some(why)),
            }
        }
        answered.ok()
    }

    /// Its span, told on in its head.
    fn attempt(&mut self, chosen: &Chosen) -> Option<Attempt> {
        let attempt = self.seed.take()?.attempt(&Sent {
            method: self.request.method(),
            uri: self.request.uri(),
            headers: self.request.headers(),
            is_grpc: self.is_grpc,
            upstream: &chosen.upstream,
            service: Some(&self.to.0),
            number: 0,
        });
        attempt.tell(self.request.headers_mut());
        Some(attempt)
    }

    async fn exchange(
        mut self,
        client: &Rc<Client>,
        chosen: &Chosen,
        attempt: Option<&mut Attempt>,
    ) -> Result<(), String> {
        let (site, asked) = (client.site(), &client.asked);
        let speak = match chosen.protocol {
            _ if self.is_grpc => Speak::Http2,
            AppProtocol::Http2 | AppProtocol::Grpc => Speak::Http2,
            AppProtocol::Http11 => Speak::Http1,
            _ if self.is_http2 => Speak::Http2,
            _ => Speak::Http1,
        };
        let leased = chosen.upstream.lease(site, asked, speak, false).await;
        let mut lease = leased.map_err(|error| error.to_string())?;
        self.address(lease.is_http2());
        let answer = lease.send(site, self.request, None).await;
        let answer = answer.map_err(|unanswered| unanswered.error.to_string())?;
        if let Some(attempt) = attempt {
            attempt.answered(&answer);
        }
        let mut body = answer.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| error.to_string())?;
            bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
            if bytes > ANSWER_BYTES_MAX {
                return Err("the answer to a copy is not read to its end".to_owned());
            }
        }
        lease.give_back(site);
        Ok(())
    }

    fn address(&mut self, is_http2: bool) {
        let request = &mut self.request;
        if is_http2 {
            let host = request.headers_mut().remove(HOST);
            *request.uri_mut() = absolute(request.uri(), host);
            *request.version_mut() = Version::HTTP_2;
            return;
        }
        *request.uri_mut() = relative(request.method(), request.uri());
        if self.has_body && !request.headers().contains_key(CONTENT_LENGTH) {
            let chunked = HeaderValue::from_static("chunked");
            request.headers_mut().insert(TRANSFER_ENCODING, chunked);
        }
    }
}
