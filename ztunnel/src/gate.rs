//! When a starting process begins to accept: not before it can serve. Until then connections wait
//! in the agent's listeners, or a predecessor takes them. Once open it stays open.

use std::sync::Arc;

use process::admin::{Condition, Readiness};
use tokio::sync::watch;
use tokio::time::sleep;

use carrier::certificate::Certificates;
use carrier::limits::READY_LOOK;

/// The gate of all workers, closed.
pub struct Gate {
    readiness: Readiness,
    certificates: Arc<Certificates>,
    /// The last condition: there is something to prove who the pods are.
    have: Condition,
    open: watch::Sender<bool>,
}

/// Name of the gate's own condition.
const CONDITION: &str = "certificates";

impl Gate {
    /// Opens `open` when all conditions of `readiness` are met, its own included.
    pub fn new(
        readiness: &Readiness,
        certificates: Arc<Certificates>,
        open: watch::Sender<bool>,
    ) -> Self {
        Self {
            readiness: readiness.clone(),
            certificates,
            have: readiness.condition(CONDITION, "the pods are not known yet"),
            open,
        }
    }

    /// Waits until it is open.
    pub async fn opened(self) {
        while !self.look() {
            sleep(READY_LOOK).await;
        }
        tracing::info!("ready, connections are accepted");
        self.open.send_replace(true);
    }

    fn look(&self) -> bool {
        let missing = self.readiness.missing();
        let others = missing.iter().any(|(name, _)| name != CONDITION);
        match self.certificates.why_none() {
            // Which certificates are needed is known when the agent has named all pods.
            _ if others => {}
            Some(why) => self.have.missing(why),
            None => self.have.met(),
        }
        self.readiness.is_ready()
    }
}
