//! One endpoint on one worker: how busy it is, and the connections to it that are kept.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use mesh::workload::Workload;

/// One endpoint and target port on one worker. Dropping the last one closes its idle connections.
pub struct Upstream {
    workload: Arc<Workload>,
    port: u16,
    token: u64,
    load: Cell<u32>,
}

impl Upstream {
    /// Of that workload, at that port of it.
    #[must_use]
    pub fn new(workload: Arc<Workload>, port: u16) -> Rc<Self> {
        let token = token(&workload.uid.0, port);
        Rc::new(Self {
            workload,
            port,
            token,
            load: Cell::new(0),
        })
    }

    /// The endpoint, as it was when this was made.
    #[must_use]
    pub fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    /// The port on the endpoint.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Requests and upgraded connections that it serves for this worker now.
    #[must_use]
    pub fn load(&self) -> u32 {
        self.load.get()
    }

    /// What a client's session names it by: the same on every worker and after a restart.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Counts one more request until the result is dropped.
    #[must_use]
    pub(super) fn enter(self: &Rc<Self>) -> Load {
        self.load.set(self.load.get() + 1);
        Load(self.clone())
    }
}

/// A request that an endpoint serves.
pub(super) struct Load(Rc<Upstream>);

impl Load {
    pub(super) fn upstream(&self) -> &Rc<Upstream> {
        &self.0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.load.set(self.0.load.get() - 1);
    }
}

/// FNV-1a: it must be the same in every version, and hides nothing that a client may not know.
fn token(uid: &str, port: u16) -> u64 {
    let bytes = uid.bytes().chain(port.to_be_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
