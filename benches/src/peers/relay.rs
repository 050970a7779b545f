//! The practical limit: a plain TCP relay, no TLS, no tunnel; one on each side.
//!
//! One thread per core with its own epoll set and listener, large reads into a buffer that is held
//! only while bytes are in flight. It must not know what it carries.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::task::TaskTracker;

use super::{Forward, WORKERS, shared_listener};

/// One read: what a bulk stream has ready between two turns of the loop.
const READ_BYTES: usize = 256 << 10;
/// Buffers kept per thread; more are given back to the allocator.
const KEPT_BUFFERS: usize = 8;

/// Serves the forwards until the process is ended.
///
/// # Errors
/// When an address cannot be bound.
pub fn run(forwards: &[Forward]) -> anyhow::Result<()> {
    let threads = (0..WORKERS).map(|index| {
        let forwards = forwards.to_vec();
        std::thread::Builder::new()
            .name(format!("relay-{index}"))
            .spawn(move || worker(&forwards))
    });
    for thread in threads.collect::<Result<Vec<_>, _>>()? {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of the relay panicked"))??;
    }
    Ok(())
}

fn worker(forwards: &[Forward]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let buffers = Buffers::default();
    local.block_on(&runtime, async {
        let tasks = TaskTracker::new();
        for forward in forwards {
            let listener = shared_listener(forward.listen)?;
            let (to, buffers, streams) = (forward.to, buffers.clone(), tasks.clone());
            tasks.spawn_local(async move {
                while let Ok((near, _)) = listener.accept().await {
                    streams.spawn_local(relay(near, to, buffers.clone()));
                }
            });
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    })
}

#[derive(Clone, Default)]
struct Buffers(Rc<RefCell<Vec<Vec<u8>>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        let kept = self.0.borrow_mut().pop();
        kept.unwrap_or_else(|| vec![0; READ_BYTES])
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT_BUFFERS {
            kept.push(buffer);
        }
    }
}

async fn relay(near: TcpStream, to: SocketAddr, buffers: Buffers) {
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    // Small messages go at once, as through the proxies it is compared with.
    let _ = near.set_nodelay(true).and(far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    // An end that fails has closed its socket, which the other direction sees.
    let _ = tokio::join!(
        copy(near_read, far_write, &buffers),
        copy(far_read, near_write, &buffers)
    );
}

async fn copy(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    buffers: &Buffers,
) -> std::io::Result<()> {
    loop {
        from.readable().await?;
        let mut buffer = buffers.take();
        let read = from.try_read(&mut buffer);
        let written = match &read {
            Ok(0) => to.shutdown().await,
            Ok(bytes) => to.write_all(&buffer[..*bytes]).await,
            Err(_) => Ok(()),
        };
        buffers.put(buffer);
        written?;
        match read {
            Ok(0) => return Ok(()),
            Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => return Err(e),
            _ => {}
        }
    }
}
