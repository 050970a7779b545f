//! Bytes through pipes: exactness, the end, urgent data, and what does not fit.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;

use netio::executor::Scope;
use netio::{Backend, Pipe, TcpStream};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use socket2::SockRef;

use crate::{on_both_back_ends, pair, read_to_end, run};

on_both_back_ends!(who_can_splice_says_so_and_others_say_unsupported);

const TOTAL_BYTES: usize = 8 << 20;

fn is_blocked(result: &io::Result<usize>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Moves all from one socket to the other; the calls that moved something.
async fn splice_all(from: &TcpStream, to: &TcpStream) -> usize {
    let mut pipe = Pipe::new().unwrap();
    let mut calls = 0;
    loop {
        let moved = from.try_splice_in(&mut pipe, 256 << 10);
        if is_blocked(&moved) {
            poll_fn(|cx| from.poll_readable(cx)).await;
            continue;
        }
        if moved.unwrap() == 0 {
            to.shutdown_write().unwrap();
            return calls;
        }
        calls += 1;
        while pipe.held_bytes() > 0 {
            let sent = to.try_splice_out(&mut pipe);
            if is_blocked(&sent) {
                poll_fn(|cx| to.poll_writable(cx)).await;
            } else {
                assert!(sent.unwrap() > 0);
            }
        }
        netio::executor::yield_now().await;
    }
}

async fn who_can_splice_says_so_and_others_say_unsupported() {
    let (near, far) = pair().await;
    assert_eq!(near.can_splice(), near.backend() == Backend::Epoll);
    if near.can_splice() {
        return;
    }
    far.write_all(b"x".to_vec()).await.0.unwrap();
    let mut pipe = Pipe::new().unwrap();
    for result in [
        near.try_splice_in(&mut pipe, 1),
        near.try_splice_out(&mut pipe),
    ] {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}

#[test]
fn every_byte_comes_through_a_pipe_in_order_whoever_is_slow() {
    run(Backend::Epoll, async {
        let mut data = vec![0; TOTAL_BYTES];
        StdRng::seed_from_u64(1).fill_bytes(&mut data);
        let (client, near) = pair().await;
        let (far, server) = pair().await;
        let sent = data.clone();
        let calls = Rc::new(Cell::new(0));
        let scope = Scope::new(8);
        let seen = Rc::clone(&calls);
        scope
            .spawn(async move { seen.set(splice_all(&near, &far).await) })
            .unwrap();
        scope
            .spawn(async move {
                client.write_all(sent).await.0.unwrap();
                client.shutdown_write().unwrap();
            })
            .unwrap();
        let received = read_to_end(&server).await.unwrap();
        assert!(received == data, "{} bytes", received.len());
        assert!(calls.get() > 0);
    });
}

#[test]
fn a_pipe_waits_for_a_receiver_that_takes_nothing_and_no_call_does() {
    run(Backend::Epoll, async {
        let (client, near) = pair().await;
        let (far, server) = pair().await;
        let mut pipe = Pipe::new().unwrap();
        let mut taken = 0;
        let mut given = 0;
        // Until the send buffer is full.
        let blocked = loop {
            if taken == given {
                let block = vec![7; 64 << 10];
                given += block.len();
                client.write_all(block).await.0.unwrap();
            }
            let moved = near.try_splice_in(&mut pipe, 64 << 10);
            if is_blocked(&moved) {
                poll_fn(|cx| near.poll_readable(cx)).await;
                continue;
            }
            taken += moved.unwrap();
            while pipe.held_bytes() > 0 && far.try_splice_out(&mut pipe).is_ok() {}
            if pipe.held_bytes() > 0 {
                break far.try_splice_out(&mut pipe);
            }
        };
        assert!(is_blocked(&blocked), "{blocked:?}");
        let second = near.try_splice_in(&mut pipe, 1).unwrap_err();
        assert_eq!(
            second.kind(),
            io::ErrorKind::InvalidInput,
            "it is not empty"
        );
        let scope = Scope::new(8);
        let rest = pipe.held_bytes();
        let drained = scope.spawn(async move {
            // What the test did not move is lost with it: `taken` is what has to arrive.
            while pipe.held_bytes() > 0 {
                if is_blocked(&far.try_splice_out(&mut pipe)) {
                    poll_fn(|cx| far.poll_writable(cx)).await;
                }
            }
            far.shutdown_write().unwrap();
        });
        drained.unwrap();
        let received = read_to_end(&server).await.unwrap();
        assert!(rest > 0);
        assert_eq!(received.len(), taken);
    });
}

#[test]
fn urgent_data_is_not_taken_for_the_end() {
    run(Backend::Epoll, async {
        let (client, near) = pair().await;
        client.write_all(b"before".to_vec()).await.0.unwrap();
        SockRef::from(&*client).send_out_of_band(b"!").unwrap();
        client.write_all(b"behind".to_vec()).await.0.unwrap();
        client.shutdown_write().unwrap();
        let (far, server) = pair().await;
        let mut pipe = Pipe::new().unwrap();
        loop {
            let moved = near.try_splice_in(&mut pipe, 64 << 10);
            if is_blocked(&moved) {
                poll_fn(|cx| near.poll_readable(cx)).await;
                continue;
            }
            if moved.unwrap() > 0 {
                while pipe.held_bytes() > 0 {
                    far.try_splice_out(&mut pipe).unwrap();
                }
                continue;
            }
            // What no pipe takes: a read has the last word.
            let mut buffer = Vec::with_capacity(64);
            if near.try_read(&mut buffer).unwrap() == 0 {
                break;
            }
            far.write_all(buffer).await.0.unwrap();
        }
        far.shutdown_write().unwrap();
        let received = read_to_end(&server).await.unwrap();
        assert_eq!(received, b"beforebehind");
    });
}

#[test]
fn a_connection_that_is_reset_says_so_in_both_directions() {
    run(Backend::Epoll, async {
        let (client, near) = pair().await;
        let (other, feeder) = pair().await;
        feeder.write_all(b"x".to_vec()).await.0.unwrap();
        let mut pipe = Pipe::new().unwrap();
        poll_fn(|cx| other.poll_readable(cx)).await;
        assert_eq!(other.try_splice_in(&mut pipe, 1).unwrap(), 1);
        client.reset().unwrap();
        poll_fn(|cx| near.poll_readable(cx)).await;
        let mut empty = Pipe::new().unwrap();
        let read = near.try_splice_in(&mut empty, 1).unwrap_err();
        assert_eq!(read.raw_os_error(), Some(104), "ECONNRESET");
        let write = near.try_splice_out(&mut pipe).unwrap_err();
        assert_eq!(write.raw_os_error(), Some(32), "EPIPE");
    });
}
