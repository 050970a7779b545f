//! What only a ring has to promise, in a process of its own: the counts are the whole process's.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "tests: named by what they show, and meant to panic"
)]

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netio::executor::{self, Scope};
use netio::time::{sleep, timeout};
use netio::{Backend, TcpListener, TcpStream, memory};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// One test at a time: they count what belongs to the process.
static ALONE: Mutex<()> = Mutex::new(());

const HANG: Duration = Duration::from_secs(100);

fn run(test: impl Future<Output = ()>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let test = async { timeout(HANG, test).await.expect("the test hangs") };
    executor::run(Backend::IoUring, test).unwrap();
}

async fn pair() -> (Rc<TcpStream>, Rc<TcpStream>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    pair_by(&listener).await
}

async fn pair_by(listener: &TcpListener) -> (Rc<TcpStream>, Rc<TcpStream>) {
    let near = std::net::TcpStream::connect(listener.local_addr()).unwrap();
    let far = listener.accept().await.unwrap();
    (Rc::new(TcpStream::from_std(near).unwrap()), Rc::new(far))
}

#[test]
fn the_ring_back_end_really_uses_its_ring() {
    run(async {
        let before = submitted();
        let (client, server) = pair().await;
        let scope = Scope::new(1);
        scope
            .spawn(async move { drop(server.read(Vec::with_capacity(1)).await) })
            .unwrap();
        sleep(Duration::from_millis(5)).await;
        client.write_all(&b"x"[..]).await.0.unwrap();
        scope.join_all().await;
        assert!(submitted() > before);
    });
}

/// Entries that the rings of this process have taken.
fn submitted() -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().contains("io_uring") {
            let number = entry.file_name().into_string().unwrap();
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
            let info = info.unwrap_or_default();
            let tail = info.lines().find_map(|line| line.strip_prefix("SqTail:"));
            sum += tail.map_or(0, |text| text.trim().parse().unwrap());
        }
    }
    sum
}

#[test]
fn the_memory_of_used_buffers_is_given_back_when_all_is_read() {
    run(async {
        let (client, server) = pair().await;
        assert!(!memory::release_buffers(), "none was used");
        for _ in 0..3 {
            // The first is polled for; those behind it come into provided buffers.
            for _ in 0..8 {
                client.write_all(&b"x"[..]).await.0.unwrap();
                let (outcome, buffer) = server.read(Vec::with_capacity(10)).await;
                assert_eq!((outcome.unwrap(), buffer), (1, b"x".to_vec()));
            }
            client.write_all(&b"unread"[..]).await.0.unwrap();
            server.readable().await.unwrap();
            assert!(!memory::release_buffers(), "one holds something");
            let (outcome, buffer) = server.read(Vec::with_capacity(10)).await;
            assert_eq!((outcome.unwrap(), buffer), (6, b"unread".to_vec()));
            assert!(memory::release_buffers());
            assert!(!memory::release_buffers(), "none was used since");
        }
    });
}

/// A stream whose reader gives up at every kind of moment loses, doubles and swaps no byte.
#[test]
fn a_read_may_be_given_up_at_any_point() {
    for seed in 0..8 {
        run(async move {
            let (client, server) = pair().await;
            let data = noise(seed, 1 << 20);
            let scope = Scope::new(1);
            let copy = data.clone();
            scope
                .spawn(async move { write_in_bursts(&client, copy, seed).await })
                .unwrap();
            let mut random = StdRng::seed_from_u64(seed);
            let mut all = Vec::new();
            loop {
                let room = [1, 100, 5000, 100_000][random.random_range(0..4)];
                let patience = Duration::from_micros(random.random_range(0..300));
                // Of no buffer with something in it.
                memory::release_buffers();
                let end = match random.random_range(0..4) {
                    0 => {
                        let _ = timeout(patience, server.readable()).await;
                        false
                    }
                    1 => {
                        let mut buffer = Vec::with_capacity(room);
                        let outcome = server.try_read(&mut buffer);
                        all.extend_from_slice(&buffer);
                        matches!(outcome, Ok(0))
                    }
                    _ => match timeout(patience, server.read(Vec::with_capacity(room))).await {
                        Ok((outcome, buffer)) => {
                            all.extend_from_slice(&buffer);
                            outcome.unwrap() == 0
                        }
                        Err(netio::time::Elapsed) => false,
                    },
                };
                if end {
                    break;
                }
                executor::yield_now().await;
            }
            assert!(all == data, "seed {seed}: {} of {}", all.len(), data.len());
            scope.join_all().await;
            assert_eq!(scope.panicked(), 0);
        });
    }
}

/// What comes after its reader has gone lies with the stream, in order, whatever came in between.
#[test]
fn what_comes_while_nobody_reads_waits_for_the_next_reader() {
    run(async {
        let (client, server) = pair().await;
        let mut expected = Vec::new();
        for round in 0..200u8 {
            let given_up = timeout(Duration::from_micros(50), server.read(vec_of(100))).await;
            if let Ok((outcome, buffer)) = given_up {
                assert_eq!(outcome.unwrap(), buffer.len());
                assert_eq!(buffer, expected.drain(..buffer.len()).collect::<Vec<u8>>());
            }
            let message = vec![round; 1 + usize::from(round) * 7];
            client.write_all(message.clone()).await.0.unwrap();
            expected.extend_from_slice(&message);
            if round % 5 == 0 {
                sleep(Duration::from_micros(200)).await;
            }
        }
        client.shutdown_write().unwrap();
        let mut rest = Vec::new();
        loop {
            let (outcome, buffer) = server.read(vec_of(3000)).await;
            rest.extend_from_slice(&buffer);
            if outcome.unwrap() == 0 {
                break;
            }
        }
        assert!(rest == expected);
    });
}

/// Every one of more messages than there are provided buffers arrives, again and again.
#[test]
fn more_messages_at_once_than_provided_buffers_all_arrive() {
    const STREAMS: usize = 600;
    run(async {
        let pairs = many(STREAMS).await;
        let scope = Scope::new(STREAMS);
        let echoes = pairs.iter().map(|(_, server)| Rc::clone(server));
        for server in echoes {
            scope
                .spawn(async move {
                    loop {
                        let (outcome, buffer) = server.read(vec_of(5000)).await;
                        if outcome.unwrap() == 0 {
                            return;
                        }
                        server.write_all(buffer).await.0.unwrap();
                    }
                })
                .unwrap();
        }
        for round in 0..6u8 {
            // All of them lie in the sockets before the executor looks at its ring.
            for (client, _) in &pairs {
                assert_eq!(client.try_write(&[round; 700]).unwrap(), 700);
            }
            for (client, _) in &pairs {
                let mut answer = Vec::new();
                while answer.len() < 700 {
                    let (outcome, buffer) = client.read(vec_of(1000)).await;
                    assert!(outcome.unwrap() > 0);
                    answer.extend_from_slice(&buffer);
                }
                assert_eq!(answer, [round; 700]);
            }
        }
        drop(pairs);
        scope.abort_all();
        scope.join_all().await;
        assert_eq!(scope.panicked(), 0);
    });
}

/// Streams that got something and whose readers stay away hold neither each other nor the worker.
#[test]
fn readers_that_stay_away_leave_the_others_provided_buffers() {
    const STREAMS: usize = 400;
    run(async {
        let pairs = many(STREAMS).await;
        for (client, server) in &pairs {
            client.write_all(&b"hello"[..]).await.0.unwrap();
            assert_eq!(server.read(vec_of(100)).await.0.unwrap(), 5);
            let given_up = timeout(Duration::from_micros(1), server.readable()).await;
            assert!(given_up.is_err());
            client.write_all(vec![7; 100]).await.0.unwrap();
        }
        sleep(Duration::from_millis(5)).await;
        let (client, server) = pair().await;
        for round in 0..1000u32 {
            client
                .write_all(round.to_be_bytes().to_vec())
                .await
                .0
                .unwrap();
            let (outcome, buffer) = server.read(vec_of(10)).await;
            assert_eq!(
                (outcome.unwrap(), buffer),
                (4, round.to_be_bytes().to_vec())
            );
        }
        for (_, server) in &pairs {
            let (outcome, buffer) = server.read(vec_of(200)).await;
            assert_eq!((outcome.unwrap(), buffer), (100, vec![7; 100]));
        }
    });
}

/// The window of a peer whose bytes nobody reads closes, and this side holds a bounded part.
#[test]
fn a_reader_that_stays_away_holds_the_peer_back_and_little_memory() {
    const STREAMS: usize = 40;
    // The turn of the kernel's in which the limit is reached may bring all buffers of the worker.
    const HELD_MAX_BYTES: usize = STREAMS * (600 << 10);
    run(async {
        let pairs = many(STREAMS).await;
        for (client, server) in &pairs {
            // Messages first, so that the streams have multishot receives in the ring.
            for _ in 0..3 {
                client.write_all(&b"hello"[..]).await.0.unwrap();
                assert_eq!(server.read(vec_of(100)).await.0.unwrap(), 5);
            }
        }
        let before = resident_bytes();
        let mut sent = 0;
        for (client, server) in &pairs {
            assert!(
                timeout(Duration::from_micros(1), server.readable())
                    .await
                    .is_err()
            );
            let mut quiet = 0;
            // As long as the kernel or the other side takes something.
            while quiet < 20 {
                match client.try_write(&[1; 64 << 10]) {
                    Ok(count) => (sent, quiet) = (sent + count, 0),
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                        quiet += 1;
                        sleep(Duration::from_micros(300)).await;
                    }
                }
            }
        }
        let grown = resident_bytes().saturating_sub(before);
        assert!(
            grown < HELD_MAX_BYTES,
            "{grown} bytes after {sent} were sent"
        );
        let mut read = 0;
        for (client, server) in &pairs {
            client.shutdown_write().unwrap();
            loop {
                let (outcome, buffer) = server.read(vec_of(256 << 10)).await;
                assert!(buffer.iter().all(|byte| *byte == 1));
                match outcome.unwrap() {
                    0 => break,
                    count => read += count,
                }
            }
        }
        assert_eq!(read, sent);
    });
}

/// Idle streams, after they carried something, hold no buffer.
#[test]
fn ten_thousand_idle_ends_hold_no_buffer() {
    // Both ends in this process, so 10,000 descriptors of the 20,000 that are allowed here.
    const STREAMS: usize = 4900;
    run(async {
        let pairs = many(STREAMS).await;
        let scope = Scope::new(2 * STREAMS);
        let before = resident_bytes();
        for (client, server) in &pairs {
            for stream in [client, server] {
                let stream = Rc::clone(stream);
                scope
                    .spawn(async move {
                        loop {
                            stream.readable().await.unwrap();
                            if stream.read(vec_of(16 << 10)).await.0.unwrap_or(0) == 0 {
                                return;
                            }
                        }
                    })
                    .unwrap();
            }
        }
        sleep(Duration::from_millis(5)).await;
        for bytes in [&[1; 300][..], &[1; 3000][..]] {
            for (client, server) in &pairs {
                client.write_all(bytes).await.0.unwrap();
                server.write_all(bytes).await.0.unwrap();
            }
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(scope.len(), 2 * STREAMS);
        let each = resident_bytes().saturating_sub(before) / (2 * STREAMS);
        println!("{each} bytes of memory a stream and task");
        assert!(each < 2048, "{each} bytes of memory a stream");
    });
}

/// Dropping a stream while a send, a receive and a poll of it are in the ring closes it, and frees
/// what the operations held.
#[test]
fn dropping_streams_with_operations_in_flight_leaks_nothing() {
    run(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        drop(pair_by(&listener).await);
        settle().await;
        let before = descriptors();
        for round in 0..100 {
            let (client, server) = pair_by(&listener).await;
            let stream = Rc::clone(&client);
            let both = async {
                let read = timeout(Duration::from_micros(300), stream.readable());
                let write = timeout(
                    Duration::from_micros(300),
                    stream.write_all(vec![1; 32 << 20]),
                );
                let (_, written) = tokio::join!(read, write);
                assert!(written.is_err());
            };
            both.await;
            if round % 2 == 0 {
                client.set_reset_on_close().unwrap();
            }
            drop(stream);
            drop(client);
            settle().await;
            let mut end = Ok(1);
            while matches!(end, Ok(1..)) {
                end = server.read(vec_of(1 << 20)).await.0;
            }
            assert_eq!(end.is_err(), round % 2 == 0);
        }
        settle().await;
        assert_eq!(descriptors(), before);
    });
}

/// One future may write by hand and wait for room.
#[test]
fn what_is_written_by_hand_arrives_whole() {
    run(async {
        let (client, server) = pair().await;
        let data = noise(3, 8 << 20);
        let (scope, copy) = (Scope::new(1), data.clone());
        scope
            .spawn(async move {
                let mut sent = 0;
                while sent < copy.len() {
                    match client.try_write(&copy[sent..]) {
                        Ok(count) => sent += count,
                        Err(error) => {
                            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                            poll_fn(|cx| client.poll_writable(cx)).await;
                        }
                    }
                }
            })
            .unwrap();
        let mut all = Vec::new();
        while all.len() < data.len() {
            let mut buffer = vec_of(100_000);
            match server.try_read(&mut buffer) {
                Ok(count) => assert_eq!(count, buffer.len()),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    poll_fn(|cx| server.poll_readable(cx)).await;
                }
            }
            all.extend_from_slice(&buffer);
        }
        assert!(all == data);
    });
}

async fn settle() {
    sleep(Duration::from_millis(3)).await;
}

async fn many(count: usize) -> Vec<(Rc<TcpStream>, Rc<TcpStream>)> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        pairs.push(pair_by(&listener).await);
    }
    pairs
}

async fn write_in_bursts(stream: &TcpStream, data: Vec<u8>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed ^ 1);
    let mut rest = &data[..];
    while !rest.is_empty() {
        let largest = [40, 4000, 4097, 200_000][random.random_range(0..4)];
        let (now, later) = rest.split_at(random.random_range(1..=largest.min(rest.len())));
        stream.write_all(now.to_vec()).await.0.unwrap();
        if random.random_bool(0.3) {
            sleep(Duration::from_micros(random.random_range(0..500))).await;
        }
        rest = later;
    }
    stream.shutdown_write().unwrap();
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

fn vec_of(bytes: usize) -> Vec<u8> {
    Vec::with_capacity(bytes)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Of the whole process; pages of 4 KiB.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
