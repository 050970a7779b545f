//! Bytes through streams: exactness, half-close, pooled reads, fairness.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use netio::TcpStream;
use netio::buffer::Pool;
use netio::executor::Scope;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::{on_both_back_ends, pair, read_to_end};

on_both_back_ends!(
    an_echo_returns_every_byte_whatever_the_chunks,
    a_pooled_echo_returns_every_byte_whatever_the_chunks,
    a_write_larger_than_any_socket_buffer_arrives_whole,
    a_half_closed_client_still_gets_the_answer,
    a_half_closed_server_still_gets_the_rest,
    an_idle_pooled_read_holds_no_buffer,
    readable_returns_for_data_and_for_the_end,
    a_read_appends_behind_what_the_buffer_holds,
    a_read_without_room_is_an_error_and_not_the_end,
    a_dropped_read_loses_nothing,
    a_dropped_read_keeps_the_next_buffers_headroom,
    a_busy_connection_does_not_keep_others_waiting,
    more_connections_than_the_ring_has_entries_all_complete,
    the_futures_of_a_connection_are_small,
);

const TOTAL_BYTES: usize = 4 << 20;

fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut data = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data.into()
}

async fn write_in_random_chunks(stream: &TcpStream, data: Bytes, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut rest = data;
    while !rest.is_empty() {
        let largest = if random.random_bool(0.5) { 64 } else { 300_000 };
        let chunk = rest.split_to(random.random_range(1..=largest.min(rest.len())));
        stream.write_all(chunk).await.0.unwrap();
    }
    stream.shutdown_write().unwrap();
}

async fn echo(stream: Rc<TcpStream>) {
    let mut random = StdRng::seed_from_u64(7);
    loop {
        let capacity = random.random_range(1..100_000);
        let (result, buffer) = stream.read(Vec::with_capacity(capacity)).await;
        if result.unwrap() == 0 {
            return stream.shutdown_write().unwrap();
        }
        stream.write_all(buffer).await.0.unwrap();
    }
}

async fn an_echo_returns_every_byte_whatever_the_chunks() {
    for seed in 0..3 {
        let (client, server) = pair().await;
        let scope = Scope::new(2);
        scope.spawn(echo(server)).unwrap();
        let data = noise(seed, TOTAL_BYTES);
        let (writer, copy) = (Rc::clone(&client), data.clone());
        scope
            .spawn(async move { write_in_random_chunks(&writer, copy, seed).await })
            .unwrap();
        let back = read_to_end(&client).await.unwrap();
        assert!(
            back == data,
            "seed {seed}: {} of {} bytes differ",
            back.len(),
            data.len()
        );
        scope.join_all().await;
        assert_eq!(scope.panicked(), 0);
    }
}

async fn a_pooled_echo_returns_every_byte_whatever_the_chunks() {
    let (client, server) = pair().await;
    let scope = Scope::new(2);
    let pool = Pool::new(32 * 1024, 4);
    let stock = pool.clone();
    scope
        .spawn(async move {
            loop {
                let (count, buffer) = server.read_pooled(&stock, 9).await.unwrap();
                assert_eq!(buffer[..9], [0; 9]);
                assert_eq!(buffer.len(), 9 + count);
                if count == 0 {
                    return server.shutdown_write().unwrap();
                }
                let data = Bytes::copy_from_slice(&buffer[9..]);
                stock.put(buffer);
                server.write_all(data).await.0.unwrap();
            }
        })
        .unwrap();
    let data = noise(5, TOTAL_BYTES);
    let (writer, copy) = (Rc::clone(&client), data.clone());
    scope
        .spawn(async move { write_in_random_chunks(&writer, copy, 5).await })
        .unwrap();
    assert!(read_to_end(&client).await.unwrap() == data);
    scope.join_all().await;
    assert_eq!(scope.panicked(), 0);
}

async fn a_write_larger_than_any_socket_buffer_arrives_whole() {
    let (client, server) = pair().await;
    let data = noise(11, 16 << 20);
    let copy = data.clone();
    let scope = Scope::new(1);
    scope
        .spawn(async move {
            client.write_all(copy).await.0.unwrap();
            client.shutdown_write().unwrap();
        })
        .unwrap();
    // The writer must come to wait before anybody reads.
    netio::time::sleep(Duration::from_millis(20)).await;
    assert!(read_to_end(&server).await.unwrap() == data);
    scope.join_all().await;
}

async fn a_half_closed_client_still_gets_the_answer() {
    let (client, server) = pair().await;
    client.write_all(&b"question"[..]).await.0.unwrap();
    client.shutdown_write().unwrap();
    assert_eq!(read_to_end(&server).await.unwrap(), b"question");
    server.write_all(&b"answer"[..]).await.0.unwrap();
    drop(server);
    assert_eq!(read_to_end(&client).await.unwrap(), b"answer");
}

async fn a_half_closed_server_still_gets_the_rest() {
    let (client, server) = pair().await;
    server.write_all(&b"greeting"[..]).await.0.unwrap();
    server.shutdown_write().unwrap();
    assert_eq!(read_to_end(&client).await.unwrap(), b"greeting");
    client.write_all(&b"late"[..]).await.0.unwrap();
    client.shutdown_write().unwrap();
    assert_eq!(read_to_end(&server).await.unwrap(), b"late");
}

async fn an_idle_pooled_read_holds_no_buffer() {
    let (client, server) = pair().await;
    let pool = Pool::new(4096, 1);
    pool.put(pool.take());
    let (stock, scope) = (pool.clone(), Scope::new(1));
    scope
        .spawn(async move {
            for _ in 0..2 {
                let (count, buffer) = server.read_pooled(&stock, 0).await.unwrap();
                assert_eq!((count, buffer.as_slice()), (1, &b"x"[..]));
                stock.put(buffer);
            }
            server.read_pooled(&stock, 0).await.unwrap();
        })
        .unwrap();
    for _ in 0..2 {
        netio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(
            pool.kept(),
            1,
            "the only buffer lies in the stock while nothing comes"
        );
        client.write_all(&b"x"[..]).await.0.unwrap();
    }
    netio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!((pool.kept(), scope.len(), scope.panicked()), (1, 1, 0));
}

async fn readable_returns_for_data_and_for_the_end() {
    let (client, server) = pair().await;
    let wait = netio::time::timeout(Duration::from_millis(20), server.readable());
    assert!(wait.await.is_err(), "nothing was sent");
    client.write_all(&b"x"[..]).await.0.unwrap();
    server.readable().await.unwrap();
    assert_eq!(server.read(Vec::with_capacity(10)).await.0.unwrap(), 1);
    drop(client);
    server.readable().await.unwrap();
    assert_eq!(server.read(Vec::with_capacity(10)).await.0.unwrap(), 0);
    server.readable().await.unwrap();
}

async fn a_read_appends_behind_what_the_buffer_holds() {
    let (client, server) = pair().await;
    for _ in 0..2 {
        client.write_all(&b"body"[..]).await.0.unwrap();
        let mut buffer = Vec::with_capacity(64);
        buffer.extend_from_slice(b"head:");
        let (count, buffer) = server.read(buffer).await;
        assert_eq!((count.unwrap(), buffer.as_slice()), (4, &b"head:body"[..]));
    }
}

async fn a_read_without_room_is_an_error_and_not_the_end() {
    let (client, server) = pair().await;
    client.write_all(&b"x"[..]).await.0.unwrap();
    let (result, _) = server.read(Vec::new()).await;
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

async fn a_dropped_read_loses_nothing() {
    let (client, server) = pair().await;
    for round in 0..5u8 {
        let read = server.read(Vec::with_capacity(100));
        assert!(
            netio::time::timeout(Duration::from_millis(5), read)
                .await
                .is_err()
        );
        client.write_all(vec![round; 3]).await.0.unwrap();
        let (count, buffer) = server.read(Vec::with_capacity(100)).await;
        assert_eq!((count.unwrap(), buffer.as_slice()), (3, &[round; 3][..]));
    }
}

async fn a_dropped_read_keeps_the_next_buffers_headroom() {
    let (client, server) = pair().await;
    let read = server.read(Vec::with_capacity(100));
    assert!(
        netio::time::timeout(Duration::from_millis(5), read)
            .await
            .is_err()
    );
    client.write_all(&b"data"[..]).await.0.unwrap();
    let pool = Pool::new(64, 1);
    let (count, buffer) = server.read_pooled(&pool, 3).await.unwrap();
    assert_eq!((count, buffer.as_slice()), (4, &b"\0\0\0data"[..]));
}

async fn a_busy_connection_does_not_keep_others_waiting() {
    let scope = Scope::new(3);
    let busy = Rc::new(Cell::new(true));
    let (source, sink) = pair().await;
    let on = Rc::clone(&busy);
    scope
        .spawn(async move {
            while on.get() {
                source.write_all(vec![0; 16 * 1024]).await.0.unwrap();
            }
        })
        .unwrap();
    scope
        .spawn(async move { while sink.read(vec_of(16)).await.0.unwrap() > 0 {} })
        .unwrap();
    let (client, server) = pair().await;
    scope.spawn(echo(server)).unwrap();
    for round in 0..200u8 {
        client.write_all(vec![round]).await.0.unwrap();
        let (count, buffer) = client.read(Vec::with_capacity(10)).await;
        assert_eq!((count.unwrap(), buffer[0]), (1, round));
    }
    drop(client);
    busy.set(false);
    scope.join_all().await;
    assert_eq!(scope.panicked(), 0);
}

fn vec_of(kibibytes: usize) -> Vec<u8> {
    Vec::with_capacity(kibibytes * 1024)
}

async fn more_connections_than_the_ring_has_entries_all_complete() {
    crate::raise_descriptor_limit();
    const CONNECTIONS: usize = 1500;
    let scope = Scope::new(CONNECTIONS);
    let seen = Rc::new(Cell::new(0));
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let (client, server) = pair().await;
        clients.push(client);
        let seen = Rc::clone(&seen);
        scope
            .spawn(async move {
                while server.read(Vec::with_capacity(16)).await.0.unwrap() > 0 {
                    seen.set(seen.get() + 1);
                }
            })
            .unwrap();
    }
    netio::time::sleep(Duration::from_millis(20)).await;
    for client in &clients {
        client.write_all(&b"x"[..]).await.0.unwrap();
    }
    while seen.get() < CONNECTIONS {
        netio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(clients);
    scope.join_all().await;
    assert_eq!((seen.get(), scope.panicked()), (CONNECTIONS, 0));
}

/// A relay holds two of each for as long as the connection lives.
async fn the_futures_of_a_connection_are_small() {
    const LIMIT_BYTES: usize = 1024;
    let (client, _server) = pair().await;
    let pool = Pool::new(1, 0);
    assert!(size_of_val(&client.read(Vec::new())) <= LIMIT_BYTES);
    assert!(size_of_val(&client.read_pooled(&pool, 0)) <= LIMIT_BYTES);
    assert!(size_of_val(&client.write_all(Vec::new())) <= LIMIT_BYTES);
    assert!(size_of::<TcpStream>() <= 160);
}
