//! A server that speaks TLS and HTTP/2 as culvertd does, and answers discovery with what no gRPC
//! server would: one lie for each connection, in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{Response, StatusCode};
use process::tasks::Tasks;
use scenarios::faults::Bed;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::door::{Door, tls};

/// What it does to a stream.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    /// Announces a message of nearly 4 GiB.
    Huge,
    /// Announces 100 bytes, sends half, and ends the stream.
    Half,
    /// Sends bytes that are no message.
    Garbage,
    /// Ends the stream without a word.
    Ended,
    /// Resets the stream after half a message.
    Reset,
    /// Says goodbye in the middle of a message, and closes.
    Goodbye,
    /// Answers 500 with a page.
    Page,
}

impl Lie {
    /// All of them.
    pub const ALL: [Lie; 7] = [
        Lie::Huge,
        Lie::Half,
        Lie::Garbage,
        Lie::Ended,
        Lie::Reset,
        Lie::Goodbye,
        Lie::Page,
    ];
}

/// A running liar.
pub struct Liar {
    /// Where it listens.
    pub door: Door,
    told: Arc<AtomicUsize>,
}

impl Liar {
    /// Begins to lie.
    pub fn start(bed: &Bed) -> anyhow::Result<Self> {
        let tls = tls(bed)?;
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let door = Door::open(bed, |listener, tasks| serve(listener, (tls, count), tasks))?;
        Ok(Liar { door, told })
    }

    /// How many lies were told.
    pub fn told(&self) -> usize {
        self.told.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: TcpListener,
    (tls, told): (TlsAcceptor, Arc<AtomicUsize>),
    tasks: Tasks,
) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let (tls, told) = (tls.clone(), Arc::clone(&told));
        tasks.spawn("liar", async move {
            // The client ends most of these connections in anger.
            let _ = answer(stream, tls, &told).await;
        });
    }
}

async fn answer(stream: TcpStream, tls: TlsAcceptor, told: &AtomicUsize) -> anyhow::Result<()> {
    let stream = tls.accept(stream).await?;
    let mut connection = h2::server::handshake(stream).await?;
    // One that is dropped is reset; most lies leave their stream open.
    let mut open = Vec::new();
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        if !request.uri().path().contains("AggregatedDiscovery") {
            continue;
        }
        let lie = Lie::ALL[told.fetch_add(1, Ordering::Relaxed) % Lie::ALL.len()];
        open.push(tell(lie, respond)?);
        if matches!(lie, Lie::Goodbye) {
            connection.abrupt_shutdown(h2::Reason::PROTOCOL_ERROR);
        }
    }
    Ok(())
}

fn tell(lie: Lie, mut respond: SendResponse<Bytes>) -> anyhow::Result<SendStream<Bytes>> {
    let ok = Response::builder()
        .status(StatusCode::OK)
        .header("content-type", "application/grpc");
    match lie {
        Lie::Page => {
            let page = Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR);
            let mut body = respond.send_response(page.body(())?, false)?;
            body.send_data(Bytes::from_static(b"<h1>oops</h1>"), true)?;
            Ok(body)
        }
        _ => {
            let mut body = respond.send_response(ok.body(())?, false)?;
            let (bytes, end) = said(lie);
            body.send_data(Bytes::from(bytes), end)?;
            if matches!(lie, Lie::Reset) {
                body.send_reset(h2::Reason::INTERNAL_ERROR);
            }
            Ok(body)
        }
    }
}

/// The bytes of a body, and whether they are its end: flag, length (4 bytes), message.
fn said(lie: Lie) -> (Vec<u8>, bool) {
    match lie {
        Lie::Huge => ([&[0, 0xff, 0xff, 0xff, 0xf0][..], &[7; 64]].concat(), false),
        Lie::Half => ([&[0, 0, 0, 0, 100][..], &[7; 50]].concat(), true),
        Lie::Reset | Lie::Goodbye => ([&[0, 0, 0, 0, 100][..], &[7; 50]].concat(), false),
        Lie::Garbage => ([&[0, 0, 0, 0, 64][..], &[0xff; 64]].concat(), false),
        Lie::Ended | Lie::Page => (Vec::new(), true),
    }
}
