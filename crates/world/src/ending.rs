//! The end of a process by SIGINT or SIGTERM: its worlds go first.
//!
//! A world is more than its process: namespaces, mounts and programs that a signal would leave
//! behind. It must not know who holds a world, nor wait for them: a test may wait for anything.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::WorldError;
use crate::interrupt::Interrupt;
use crate::state::{Recorder, remove};

/// Exit code of a process that a signal ended, without the signal's number.
const BY_SIGNAL: i32 = 128;

/// Whether the process ends: who makes something of a world reads it and holds it meanwhile, so
/// that nothing is made behind the back of the removal.
static ENDING: RwLock<bool> = RwLock::new(false);
/// The worlds to remove, and the waits to end.
static WORLDS: Mutex<Vec<(Weak<Recorder>, Interrupt)>> = Mutex::new(Vec::new());
/// The listener is there, or why it is not.
static LISTENER: OnceLock<Result<(), io::ErrorKind>> = OnceLock::new();

/// Held while something of a world is made.
pub(crate) struct Making(RwLockReadGuard<'static, bool>);

/// Permission to make something of a world; `Interrupted` once the process ends.
pub(crate) fn making() -> Result<Making, WorldError> {
    let making = Making(ENDING.read().unwrap_or_else(PoisonError::into_inner));
    match *making.0 {
        true => Err(WorldError::Interrupted),
        false => Ok(making),
    }
}

/// From now on SIGINT and SIGTERM remove the worlds that are [`guard`]ed and end the process.
pub(crate) fn listen() -> Result<(), WorldError> {
    let listening = LISTENER.get_or_init(|| listener().map_err(|error| error.kind()));
    listening.map_err(|kind| WorldError::io("listen to signals")(kind.into()))
}

/// A world that a signal is to remove, and whose waits it is to end.
pub(crate) fn guard(_: &Making, recorder: &Arc<Recorder>, interrupt: &Interrupt) {
    let mut worlds = WORLDS.lock().unwrap_or_else(PoisonError::into_inner);
    // Those that are gone make room.
    worlds.retain(|(recorder, _)| recorder.strong_count() > 0);
    worlds.push((Arc::downgrade(recorder), interrupt.clone()));
}

/// A thread for the rest of the process: the signals may come at any time.
fn listener() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut term, mut int) = {
        let _inside = runtime.enter();
        let term = signal(SignalKind::terminate())?;
        (term, signal(SignalKind::interrupt())?)
    };
    let wait = move || {
        let kind = runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => SignalKind::terminate(),
                _ = int.recv() => SignalKind::interrupt(),
            }
        });
        end(kind.as_raw_value())
    };
    let thread = std::thread::Builder::new().name("world-signals".to_owned());
    thread.spawn(wait).map(drop)
}

fn end(signal: i32) {
    // What is being made is awaited, and removed with the rest.
    *ENDING.write().unwrap_or_else(PoisonError::into_inner) = true;
    let worlds = WORLDS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let pid = std::process::id();
    eprintln!("signal {signal}: the worlds of process {pid} are removed");
    for (_, interrupt) in &worlds {
        interrupt.raise();
    }
    for recorder in worlds.iter().filter_map(|(recorder, _)| recorder.upgrade()) {
        let state = recorder.state();
        if state.kept {
            continue;
        }
        if let Err(error) = remove(&state) {
            eprintln!("the world {} could not be removed: {error}", state.id);
        }
    }
    std::process::exit(BY_SIGNAL + signal);
}
