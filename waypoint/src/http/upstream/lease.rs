//! A connection for one request.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::{Request, Response};
use hyper::client::conn::http1;
use tokio::sync::oneshot;

use super::channel::{Counted, Upload};
use super::{Taken, Upstream};
use crate::http::client::Interims;
use crate::http::incoming::Incoming;
use crate::http::sent::SentBody;
use crate::http::site::{Io, Site};

/// A connection, or a stream of a shared one.
pub(in crate::http) struct Lease {
    pub(super) sender: Sender,
    pub(super) upstream: Rc<Upstream>,
    /// Whether it carried requests before: it may be closing just now.
    pub(in crate::http) is_reused: bool,
}

pub(super) enum Sender {
    Http1(http1::SendRequest<SentBody>),
    Http2(Rc<Counted>, Option<Upload>),
}

/// Why a request has no answer.
pub(in crate::http) struct Unanswered {
    pub(in crate::http) error: Box<dyn std::error::Error + Send + Sync>,
    /// Whether surely no byte of it was sent.
    pub(in crate::http) is_unsent: bool,
    /// Whether it is a bound of the worker that was reached.
    pub(in crate::http) is_limit: bool,
}

impl Unanswered {
    pub(super) fn new(error: h2::Error, is_unsent: bool) -> Self {
        Self {
            error: error.into(),
            is_unsent,
            is_limit: false,
        }
    }

    /// The worker takes no task more, to send its body.
    pub(super) fn too_many() -> Self {
        Self {
            error: "the waypoint has too much to do".into(),
            is_unsent: false,
            is_limit: true,
        }
    }
}

impl Lease {
    /// Whether absolute targets are sent.
    pub(in crate::http) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(..))
    }

    /// Whether the endpoint lets clients wait in vain for `100 Continue`.
    pub(in crate::http) fn ignores_expect(&self) -> &Arc<AtomicBool> {
        &self.upstream.ignores_expect
    }

    /// Sends a request and waits for the head of its answer. hyper tells of interim answers through
    /// the request, h2 here.
    pub(in crate::http) async fn send(
        &mut self,
        site: &Rc<dyn Site>,
        request: Request<SentBody>,
        interims: Option<&Interims>,
    ) -> Result<Response<Incoming>, Unanswered> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                let outcome = sender.try_send_request(request).await;
                let answer = outcome.map_err(|mut error| Unanswered {
                    is_unsent: error.take_message().is_some(),
                    is_limit: false,
                    error: error.into_error().into(),
                })?;
                Ok(answer.map(Incoming::Http1))
            }
            Sender::Http2(counted, upload) => {
                let (answer, rest) = counted.send(site, request, interims).await?;
                *upload = rest;
                Ok(answer)
            }
        }
    }

    /// Whether the endpoint's HTTP/2 carries other protocols in streams (RFC 8441).
    pub(in crate::http) async fn takes_protocols(&self, site: &Rc<dyn Site>) -> bool {
        match &self.sender {
            Sender::Http1(_) => false,
            Sender::Http2(counted, _) => counted.takes_protocols(site).await,
        }
    }

    /// Asks for a stream of bytes on a connection of HTTP/2, which outlives the lease. None beside
    /// an answer that does not agree.
    pub(in crate::http) async fn connect(
        &self,
        request: Request<()>,
    ) -> Result<(Response<Incoming>, Option<oneshot::Receiver<Taken>>), Unanswered> {
        let Sender::Http2(counted, _) = &self.sender else {
            return Err(Unanswered {
                error: "HTTP/1 has no streams".into(),
                is_unsent: true,
                is_limit: false,
            });
        };
        let (answer, duplex) = counted.connect(request).await?;
        let taken = duplex.map(|duplex| {
            let (give, taken) = oneshot::channel();
            let io: Box<dyn Io> = Box::new(duplex);
            // The other end is here.
            let _ = give.send((io, Bytes::new()));
            taken
        });
        Ok((answer, taken))
    }

    /// The answer has come whole: the connection can serve another request, and a body that is
    /// still being sent goes on.
    pub(in crate::http) fn give_back(self, site: &Rc<dyn Site>) {
        match self.sender {
            Sender::Http1(sender) => self.upstream.keep(sender, site),
            Sender::Http2(_, upload) => {
                if let Some(upload) = upload {
                    upload.leave();
                }
            }
        }
    }
}
