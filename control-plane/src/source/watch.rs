//! When to look at the directory again: soon after the kernel says that something changed, and at
//! times without being told, since a watch can be lost with its file system.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use process::manifests::Directory;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::EngineHandle;

/// Pause after the first sign of a change, so that a set of files written together is read once.
const SETTLE: Duration = Duration::from_millis(100);

/// How often the directory is looked at without a sign.
const RESCAN: Duration = Duration::from_secs(5);

/// The same while it is not there or cannot be watched: it may come back at any time, and what is
/// served meanwhile grows old.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(1);

/// Looks at the directory and hands what changed to the engine, until told to stop.
pub async fn follow(mut directory: Directory, engine: EngineHandle, stop: CancellationToken) {
    let (sign, mut signs) = mpsc::channel::<()>(1);
    // Which directory is watched; dropping the watcher ends the watch.
    let mut watched = None;
    let mut watching = None;
    loop {
        // Another directory may have come into its place: the kernel watches the one before.
        let present = identity(directory.path());
        if present != watched || present.is_none() {
            watching = present.and_then(|_| watcher(directory.path(), sign.clone()));
            watched = present;
        }
        // A sign from here on is about something that this look may miss; the first look is for
        // what changed before there was a watch.
        while signs.try_recv().is_ok() {}
        match directory.read_changed() {
            Ok(None) => {}
            Ok(Some(files)) => engine.files(Ok(files)).await,
            Err(error) => engine.files(Err(error.to_string())).await,
        }
        let rescan = watching.as_ref().map_or(RESCAN_UNWATCHED, |_| RESCAN);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = signs.recv() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(rescan) => {}
        }
    }
}

/// Device and inode of the directory that is there now.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn watcher(path: &Path, sign: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let on_event = move |event: notify::Result<notify::Event>| {
        // Reading the directory is itself an event of the kind Access.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // A full queue has a sign in it already.
            let _ = sign.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watcher {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            let every = RESCAN_UNWATCHED;
            tracing::warn!(%error, ?every, "no watch on the manifests, only a rescan");
            None
        }
    }
}
