//! Requests of a worker that wait for a connection: bounded, since each holds its client's memory.

use std::rc::Rc;

use super::Proxy;

/// One of them, until it is dropped.
pub(super) struct Pending(Rc<Proxy>);

impl Pending {
    /// None: there are too many.
    pub(super) fn new(proxy: &Rc<Proxy>) -> Option<Self> {
        let count = proxy.pending.get();
        if count >= proxy.site.limits().pending_max {
            return None;
        }
        proxy.pending.set(count + 1);
        Some(Self(proxy.clone()))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get() - 1);
    }
}
