//! Accepting: several executors on one socket, options of accepted sockets.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use netio::executor::Scope;
use netio::socket::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES};
use netio::{Backend, TcpListener};

use crate::on_both_back_ends;

on_both_back_ends!(
    an_accepted_socket_has_no_delay_and_keep_alive,
    a_dropped_accept_leaves_the_connection_to_the_next,
    a_connection_that_was_queued_before_the_listener_was_taken_is_accepted,
    what_a_guarded_listener_accepts_is_reset_when_dropped_and_closed_when_cleared,
);

async fn an_accepted_socket_has_no_delay_and_keep_alive() {
    let (client, server) = crate::pair().await;
    for stream in [client, server] {
        assert!(crate::is_nodelay(&*stream));
        let socket = socket2::SockRef::from(&*stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        assert!(!socket.nonblocking().unwrap() || stream.backend() == Backend::Epoll);
    }
}

async fn a_dropped_accept_leaves_the_connection_to_the_next() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let first = TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
    let wait = netio::time::timeout(Duration::from_millis(5), first.accept());
    assert!(wait.await.is_err());
    let second = TcpListener::from_std(listener).unwrap();
    let client = std::net::TcpStream::connect(first.local_addr()).unwrap();
    let accepted = second.accept().await.unwrap();
    assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
}

async fn a_connection_that_was_queued_before_the_listener_was_taken_is_accepted() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    listener.accept().await.unwrap();
}

async fn what_a_guarded_listener_accepts_is_reset_when_dropped_and_closed_when_cleared() {
    use std::io::{ErrorKind, Read};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut listener = TcpListener::from_std(listener).unwrap();
    listener.set_reset_on_close().unwrap();
    for is_cleared in [false, true] {
        let mut client = std::net::TcpStream::connect(listener.local_addr()).unwrap();
        let accepted = listener.accept().await.unwrap();
        if is_cleared {
            accepted.clear_reset_on_close().unwrap();
        }
        drop(accepted);
        match client.read(&mut [0; 8]) {
            Ok(0) => assert!(is_cleared),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => assert!(!is_cleared),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn two_executors_accept_from_duplicates_of_one_listener() {
    for backend in [Backend::IoUring, Backend::Epoll] {
        accept_on_two_executors(backend);
    }
}

fn accept_on_two_executors(backend: Backend) {
    const CLIENTS: usize = 200;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            let (listener, served) = (listener.try_clone().unwrap(), Arc::clone(&served));
            let mut stopped = stopped.clone();
            threads.spawn(move || {
                crate::run(backend, async move {
                    let scope = Rc::new(Scope::new(CLIENTS));
                    let listener = TcpListener::from_std(listener).unwrap();
                    loop {
                        let stream = tokio::select! {
                            stream = listener.accept() => stream.unwrap(),
                            _ = stopped.changed() => break,
                        };
                        served.fetch_add(1, Ordering::SeqCst);
                        scope
                            .spawn(async move {
                                let (result, buffer) = stream.read(Vec::with_capacity(8)).await;
                                result.unwrap();
                                stream.write_all(buffer).await.0.unwrap();
                            })
                            .unwrap();
                    }
                    scope.join_all().await;
                });
            });
        }
        for number in 0..CLIENTS {
            use std::io::{Read, Write};
            let mut client = std::net::TcpStream::connect(address).unwrap();
            let text = number.to_be_bytes();
            client.write_all(&text).unwrap();
            let mut answer = [0; 8];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, text);
        }
        stop.send(true).unwrap();
    });
    assert_eq!(served.load(Ordering::SeqCst), CLIENTS);
}
