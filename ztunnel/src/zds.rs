//! The client of the node agent: told which pods there are, and handed their listeners.
//!
//! Speaks ZDS (protocol.md 5) and checks every descriptor against what its place says. Losing the
//! agent makes the proxy unready and nothing else: what it serves goes on.

mod session;

use std::path::PathBuf;
use std::sync::Arc;

use process::admin::Condition;
use process::retry;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::DataPath;
use crate::pods::Pods;
use carrier::limits::{ZDS_RETRY_FIRST, ZDS_RETRY_MAX};
use session::Session;

/// What the client needs.
pub struct Client {
    /// Where the agent listens.
    pub socket: PathBuf,
    /// Names and trust domain of this mesh.
    pub config: DataPath,
    /// Whether the snapshot of the current connection is complete.
    pub ready: Condition,
}

impl Client {
    /// Connects, and connects again, until `stop`.
    pub async fn run(self, mut pods: Pods, stop: CancellationToken) {
        let client = Arc::new(self);
        let mut pauses = retry::pauses(ZDS_RETRY_FIRST, ZDS_RETRY_MAX);
        // The same reason again is no news.
        let mut said = String::new();
        loop {
            let begun = Instant::now();
            let session = Session::run(&client, &mut pods);
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = session => ended,
            };
            let ended = ended.to_string();
            let missing = format!("not connected to the node agent: {ended}");
            client.ready.missing(missing);
            // A session that lasted was no failed attempt.
            if begun.elapsed() > ZDS_RETRY_MAX {
                pauses = retry::pauses(ZDS_RETRY_FIRST, ZDS_RETRY_MAX);
                tracing::warn!(why = %ended, "connection to the node agent lost");
            } else if said != ended {
                let socket = client.socket.display();
                tracing::info!(%socket, why = %ended, "waiting for the node agent");
            }
            said = ended;
            let pause = pauses.next().unwrap_or(ZDS_RETRY_MAX);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }
}
