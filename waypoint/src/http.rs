//! HTTP in a stream: requests, routes, answers. Knows no tunnel and no socket.

pub mod limits;
pub mod site;
mod upstream;

use std::rc::Rc;

use site::{Asked, Io, Site};

/// HTTP on one worker: what its connections share.
pub struct Proxy {
    site: Rc<dyn Site>,
}

impl Proxy {
    /// With nothing pooled yet.
    #[must_use]
    pub fn new(site: Rc<dyn Site>) -> Rc<Self> {
        Rc::new(Self { site })
    }

    /// Serves one connection, HTTP/1.1 or HTTP/2, until it has ended. Dropping the future ends it
    /// at once.
    pub async fn serve(self: Rc<Self>, io: impl Io + 'static, asked: Rc<Asked>) {
        let _ = (&self.site, io, asked);
    }
}
