//! A cable of the test between proxies and a control plane: slow, cut, or one that flips bits.
//! Sees ciphertext only.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use process::tasks::Tasks;
use scenarios::faults::{Bed, Start};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::door::Door;

/// culvertd's port.
const CONTROL_PORT: u16 = 15012;
/// How often a slow cable carries something.
const TICK: Duration = Duration::from_millis(50);
/// Bytes that are read at once: more than a TLS record.
const CHUNK_BYTES: usize = 20 * 1024;

/// What the cable does to bytes from the control plane. From the proxy it carries everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Carries them.
    Through,
    /// Carries so many a second.
    Trickle(usize),
    /// Cuts the connection with RST instead of the next ones.
    Reset,
    /// Ends the direction with FIN instead of the next ones, and listens on.
    HalfClose,
    /// Flips a bit in the middle of the next ones.
    Flip,
}

/// A running cable.
pub struct Wire {
    door: Door,
    shared: Arc<Shared>,
    culvertd: SocketAddr,
}

struct Shared {
    mode: Mutex<Mode>,
    target: watch::Sender<SocketAddr>,
}

impl Wire {
    /// A cable to culvertd.
    pub fn start(bed: &Bed, mode: Mode) -> anyhow::Result<Self> {
        let culvertd = SocketAddr::new(bed.control.host().ipv4(), CONTROL_PORT);
        let shared = Arc::new(Shared {
            mode: Mutex::new(mode),
            target: watch::Sender::new(culvertd),
        });
        let carrying = Arc::clone(&shared);
        let door = Door::open(bed, |listener, tasks| carry_all(listener, carrying, tasks))?;
        Ok(Wire {
            door,
            shared,
            culvertd,
        })
    }

    /// A ztunnel whose control plane is at the other end.
    pub fn leads_here(&self) -> Start {
        self.door.leads_here()
    }

    /// From now on it does this.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode() = mode;
    }

    /// From now on it leads somewhere else; what it carries now is cut with RST.
    pub fn lead_to(&self, target: SocketAddr) {
        self.shared.target.send_replace(target);
    }

    /// From now on it leads to culvertd again.
    pub fn lead_to_culvertd(&self) {
        self.lead_to(self.culvertd);
    }
}

impl Shared {
    fn mode(&self) -> std::sync::MutexGuard<'_, Mode> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn carry_all(listener: TcpListener, shared: Arc<Shared>, tasks: Tasks) -> anyhow::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let shared = Arc::clone(&shared);
        tasks.spawn("cable", async move {
            // What ends a connection is what the scenario wants, or what it looks at.
            let _ = carry(client, &shared).await;
        });
    }
}

async fn carry(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut target = shared.target.subscribe();
    let to = *target.borrow_and_update();
    let mut server = TcpStream::connect(to).await?;
    let cut = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            _ = copy(&mut from_client, &mut to_server) => false,
            cut = deliver(&mut from_server, &mut to_client, shared) => cut?,
            _ = target.changed() => true,
        }
    };
    if cut {
        client.set_zero_linger()?;
    }
    Ok(())
}

/// Carries what comes from the control plane; whether the connection is to be reset.
async fn deliver(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    shared: &Shared,
) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(false);
        }
        let bytes = &mut chunk[..count];
        let mode = *shared.mode();
        match mode {
            Mode::Through => to.write_all(bytes).await?,
            Mode::Trickle(per_second) => trickle(to, bytes, (per_second, shared)).await?,
            Mode::Reset => return Ok(true),
            Mode::HalfClose => {
                to.shutdown().await?;
                // The other direction is carried until the proxy has enough of it.
                std::future::pending::<()>().await;
            }
            Mode::Flip => {
                bytes[count / 2] ^= 0x10;
                to.write_all(bytes).await?;
            }
        }
    }
}

async fn trickle(
    to: &mut (impl AsyncWriteExt + Unpin),
    bytes: &[u8],
    (per_second, shared): (usize, &Shared),
) -> io::Result<()> {
    let slow = Mode::Trickle(per_second);
    let ticks = usize::try_from(1000 / TICK.as_millis().max(1)).unwrap_or(1);
    for part in bytes.chunks((per_second / ticks).max(1)) {
        // Until it is told to be slow no more.
        if *shared.mode() == slow {
            sleep(TICK).await;
        }
        to.write_all(part).await?;
    }
    Ok(())
}
