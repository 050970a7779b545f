//! The admin servers: small HTTP/1 servers for operators, kubelet and Prometheus, with a bound on
//! everything a caller can make them hold.
//!
//! Knows sockets and limits. What is served is in [`routes`]; programs merge their own axum
//! routes into the same router.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

pub mod domain;
pub mod routes;

pub use routes::{Condition, Readiness, json, logging, metrics, readiness};

/// Connections that one server holds at once: probes, a scraper or two and a person; more wait in
/// the backlog.
const MAX_CONNECTIONS: usize = 64;
/// Connections waiting to be accepted, per listener.
const BACKLOG: i32 = 64;
/// Time for a request head to arrive, also between requests on one connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for one answer: a dump of 50,000 workloads takes well under a second.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest life of a connection: a caller that reads nothing must not hold its place for ever.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes of a request head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// Bytes of a request body; no route of ours reads one.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Pause after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a server could not listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {name}: {source}")]
pub struct BindError {
    /// Name of the server.
    pub name: &'static str,
    /// The address asked for.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// Listens on `address` with SO_REUSEPORT, so that the next version of the process can listen
/// before this one has ended, and serves `router` until the tasks are told to stop. Returns the
/// address bound (the port is chosen when it was 0).
///
/// `[::]` takes IPv4 too.
///
/// # Errors
/// The address could not be bound.
pub fn serve(
    tasks: &Tasks,
    name: &'static str,
    address: SocketAddr,
    router: Router,
) -> Result<SocketAddr, BindError> {
    let bind_error = |source| BindError {
        name,
        address,
        source,
    };
    let listener = listen(address).map_err(bind_error)?;
    let bound = listener.local_addr().map_err(bind_error)?;
    let listener = TcpListener::from_std(listener).map_err(bind_error)?;
    let router = router
        .layer(from_fn(answer_in_time))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    tracing::info!(server = name, address = %bound, "listening");
    tasks.spawn(name, accept_loop(tasks.clone(), name, listener, router));
    Ok(bound)
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn accept_loop(tasks: Tasks, name: &'static str, listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let stop = tasks.stop();
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = accepted => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = converse(stream, router.clone(), stop.clone());
                tasks.spawn(format!("{name} connection"), async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(server = name, %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let conversation = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.as_mut().await
    };
    match tokio::time::timeout(CONNECTION_TIMEOUT, conversation).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection ended"),
        Err(_) => tracing::debug!("admin connection ended: open for too long"),
    }
}

async fn answer_in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "took too long\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const GRACE: Duration = Duration::from_secs(5);

    fn loopback() -> SocketAddr {
        // Not .1: a connect from there to a port that is closed again may meet itself.
        "127.0.0.2:0".parse().unwrap()
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that refuses while we still write may reset; what it said first counts.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_route_is_served_until_the_process_stops() {
        let tasks = Tasks::new();
        let router = Router::new().route("/x", get(|| async { "here" }));
        let address = serve(&tasks, "admin", loopback(), router).unwrap();
        let answer = ask(
            address,
            "GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"),
            "{answer}"
        );
        // An idle connection does not hold up the stop.
        let idle = TcpStream::connect(address).await.unwrap();
        assert_eq!(tasks.shutdown(GRACE).await.forced, Vec::<String>::new());
        drop(idle);
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn two_processes_may_listen_on_one_port() {
        let tasks = Tasks::new();
        let address = serve(&tasks, "admin", loopback(), Router::new()).unwrap();
        serve(&tasks, "admin", address, Router::new()).unwrap();
        tasks.shutdown(GRACE).await;
    }

    #[tokio::test]
    async fn an_address_that_is_not_ours_is_named_in_the_error() {
        let tasks = Tasks::new();
        let address = "192.0.2.1:15000".parse().unwrap();
        let error = serve(&tasks, "admin", address, Router::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("192.0.2.1:15000") && error.contains("admin"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let tasks = Tasks::new();
        let address = serve(&tasks, "admin", loopback(), Router::new()).unwrap();
        let long = "a".repeat(2 * MAX_HEAD_BYTES);
        let answer = ask(address, &format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        tasks.shutdown(GRACE).await;
    }
}
