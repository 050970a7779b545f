//! How connections end: by FIN, by RST, by a dropped owner, with operations in flight.

use std::rc::Rc;
use std::time::Duration;

use netio::TcpStream;
use netio::executor::Scope;

use crate::{errno, on_both_back_ends, pair, read_to_end};

on_both_back_ends!(
    shutdown_both_ends_a_pending_read,
    shutdown_both_ends_a_pending_write,
    shutdown_both_ends_a_wait_for_readability,
    reset_ends_a_pending_read_and_is_seen_by_the_peer,
    reset_ends_a_pending_write,
    a_stream_that_is_set_to_reset_sends_rst_when_dropped,
    a_stream_that_is_set_to_reset_sends_rst_though_a_read_is_pending,
    the_peer_of_a_dropped_stream_sees_the_end,
    the_peer_of_an_aborted_task_sees_the_end,
    the_peer_of_an_aborted_wait_sees_the_end,
    a_peers_reset_is_an_error_of_the_read,
    writing_to_a_closed_peer_fails_without_a_signal,
    shutting_down_what_is_gone_is_no_error,
    the_peers_address_is_known_after_it_is_gone,
);

/// Lets spawned tasks come to wait.
async fn settle() {
    netio::time::sleep(Duration::from_millis(10)).await;
}

fn spawn_read(scope: &Scope, stream: &Rc<TcpStream>) -> tokio::sync::oneshot::Receiver<Outcome> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let stream = Rc::clone(stream);
    scope
        .spawn(async move {
            let (result, _) = stream.read(Vec::with_capacity(100)).await;
            let _ = done.send(result.map_err(|error| error.raw_os_error()));
        })
        .unwrap();
    outcome
}

type Outcome = Result<usize, Option<i32>>;

fn spawn_large_write(
    scope: &Scope,
    stream: &Rc<TcpStream>,
) -> tokio::sync::oneshot::Receiver<Outcome> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let stream = Rc::clone(stream);
    scope
        .spawn(async move {
            let (result, _) = stream.write_all(vec![1; 64 << 20]).await;
            let _ = done.send(result.map(|()| 0).map_err(|error| error.raw_os_error()));
        })
        .unwrap();
    outcome
}

async fn shutdown_both_ends_a_pending_read() {
    let (client, server) = pair().await;
    let scope = Scope::new(1);
    let outcome = spawn_read(&scope, &client);
    settle().await;
    client.shutdown_both().unwrap();
    assert_eq!(outcome.await.unwrap(), Ok(0));
    assert_eq!(server.read(Vec::with_capacity(1)).await.0.unwrap(), 0);
}

async fn shutdown_both_ends_a_pending_write() {
    let (client, _server) = pair().await;
    let scope = Scope::new(1);
    let outcome = spawn_large_write(&scope, &client);
    settle().await;
    client.shutdown_both().unwrap();
    assert_eq!(outcome.await.unwrap(), Err(Some(libc::EPIPE)));
}

async fn shutdown_both_ends_a_wait_for_readability() {
    let (client, _server) = pair().await;
    let scope = Scope::new(1);
    let waiting = Rc::clone(&client);
    scope
        .spawn(async move { waiting.readable().await.unwrap() })
        .unwrap();
    settle().await;
    assert_eq!(scope.len(), 1);
    client.shutdown_both().unwrap();
    scope.join_all().await;
}

async fn reset_ends_a_pending_read_and_is_seen_by_the_peer() {
    let (client, server) = pair().await;
    let scope = Scope::new(1);
    let outcome = spawn_read(&scope, &client);
    settle().await;
    client.reset().unwrap();
    assert_eq!(outcome.await.unwrap(), Err(Some(libc::ECONNRESET)));
    assert_eq!(
        errno(server.read(Vec::with_capacity(1)).await.0),
        Some(libc::ECONNRESET)
    );
}

async fn reset_ends_a_pending_write() {
    let (client, _server) = pair().await;
    let scope = Scope::new(1);
    let outcome = spawn_large_write(&scope, &client);
    settle().await;
    client.reset().unwrap();
    assert!(outcome.await.unwrap().is_err());
}

async fn a_stream_that_is_set_to_reset_sends_rst_when_dropped() {
    let (client, server) = pair().await;
    client.set_reset_on_close().unwrap();
    drop(client);
    assert_eq!(
        errno(server.read(Vec::with_capacity(1)).await.0),
        Some(libc::ECONNRESET)
    );
}

async fn a_stream_that_is_set_to_reset_sends_rst_though_a_read_is_pending() {
    let (client, server) = pair().await;
    client.set_reset_on_close().unwrap();
    let scope = Scope::new(1);
    let _outcome = spawn_read(&scope, &client);
    settle().await;
    drop(client);
    drop(scope);
    assert_eq!(
        errno(server.read(Vec::with_capacity(1)).await.0),
        Some(libc::ECONNRESET)
    );
}

async fn the_peer_of_a_dropped_stream_sees_the_end() {
    let (client, server) = pair().await;
    client.write_all(&b"bye"[..]).await.0.unwrap();
    drop(client);
    assert_eq!(read_to_end(&server).await.unwrap(), b"bye");
}

async fn the_peer_of_an_aborted_task_sees_the_end() {
    let (client, server) = pair().await;
    let scope = Scope::new(1);
    let _outcome = spawn_read(&scope, &client);
    settle().await;
    drop(client);
    scope.abort_all();
    assert_eq!(read_to_end(&server).await.unwrap(), b"");
    scope.join_all().await;
}

async fn the_peer_of_an_aborted_wait_sees_the_end() {
    let (client, server) = pair().await;
    let scope = Scope::new(1);
    scope
        .spawn(async move { client.readable().await.unwrap() })
        .unwrap();
    settle().await;
    drop(scope);
    assert_eq!(read_to_end(&server).await.unwrap(), b"");
}

async fn a_peers_reset_is_an_error_of_the_read() {
    let (client, server) = pair().await;
    let scope = Scope::new(1);
    let outcome = spawn_read(&scope, &server);
    settle().await;
    client.set_reset_on_close().unwrap();
    drop(client);
    assert_eq!(outcome.await.unwrap(), Err(Some(libc::ECONNRESET)));
}

async fn writing_to_a_closed_peer_fails_without_a_signal() {
    let (client, server) = pair().await;
    drop(server);
    assert_eq!(client.read(Vec::with_capacity(1)).await.0.unwrap(), 0);
    let mut last = Ok(());
    while last.is_ok() {
        last = client.write_all(&b"anybody?"[..]).await.0;
    }
    let errno = last.unwrap_err().raw_os_error();
    assert!(
        matches!(errno, Some(libc::EPIPE | libc::ECONNRESET)),
        "{errno:?}"
    );
}

async fn shutting_down_what_is_gone_is_no_error() {
    let (client, server) = pair().await;
    client.reset().unwrap();
    assert!(server.read(Vec::with_capacity(1)).await.0.is_err());
    for stream in [client, server] {
        stream.shutdown_write().unwrap();
        stream.shutdown_both().unwrap();
        stream.reset().unwrap();
    }
}

async fn the_peers_address_is_known_after_it_is_gone() {
    let (client, server) = pair().await;
    let expected = client.local_addr().unwrap();
    client.reset().unwrap();
    assert!(server.read(Vec::with_capacity(1)).await.0.is_err());
    assert_eq!(server.peer_addr().unwrap(), expected);
}
