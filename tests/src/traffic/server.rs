//! The server side: answers every connection as its header says.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::SILENT_FOR;
use super::content::{
    HEADER_BYTES, Header, Kind, QUESTION_BYTES, Running, expect_end, receive, send,
};

/// Connections waiting for accept: more than all our clients have workers.
const BACKLOG: i32 = 1024;

/// Listens on both families and serves until it is dropped.
pub async fn serve(port: u16) -> io::Result<()> {
    let listener = listen(port)?;
    println!("listening on {port}");
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(answer(stream));
            }
            // A client that reset before accept, or no descriptor for a moment.
            Err(error) => eprintln!("accept: {error}"),
        }
        while connections.try_join_next().is_some() {}
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What goes wrong is the client's to count.
async fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut header = [0; HEADER_BYTES];
    let read = timeout(SILENT_FOR, stream.read_exact(&mut header)).await;
    let (Ok(Ok(_)), Some(header)) = (read, Header::decode(&header)) else {
        return;
    };
    let _ = match header.kind {
        Kind::Hold => questions(stream).await,
        Kind::Both | Kind::Aborted => both(stream, header).await,
        Kind::HalfClosed => after_the_end(stream, header).await,
    };
}

/// Answers each question with itself and the sum of all that came.
async fn questions(mut stream: TcpStream) -> io::Result<()> {
    let mut running = Running::default();
    let mut answer = [0; QUESTION_BYTES + 8];
    loop {
        match stream.read_exact(&mut answer[..QUESTION_BYTES]).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e),
        }
        let sum = running.add(&answer[..QUESTION_BYTES]);
        answer[QUESTION_BYTES..].copy_from_slice(&sum);
        stream.write_all(&answer).await?;
    }
    stream.shutdown().await
}

async fn both(mut stream: TcpStream, header: Header) -> io::Result<()> {
    let (mut reading, mut writing) = stream.split();
    let (received, sent) = tokio::try_join!(
        receive(&mut reading, header.up),
        send(&mut writing, header.seed_down(), header.down),
    )?;
    writing.write_all(&sent).await?;
    writing.write_all(&received).await?;
    writing.shutdown().await
}

async fn after_the_end(mut stream: TcpStream, header: Header) -> io::Result<()> {
    let received = receive(&mut stream, header.up).await?;
    expect_end(&mut stream).await?;
    let sent = send(&mut stream, header.seed_down(), header.down).await?;
    stream.write_all(&sent).await?;
    stream.write_all(&received).await?;
    stream.shutdown().await
}
