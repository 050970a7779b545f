//! Data through the tunnel, byte-exact, however it is cut.

use std::time::Duration;

use hbone::{Config, ErrorCode, FRAME_HEADROOM, Mono, StreamId};

use crate::dice::Dice;
use crate::driver::Plan;
use crate::pair::{Cut, Pair};

/// What a plan sends, as its driver makes it.
fn assert_same(pair: &Pair, stream: StreamId) {
    let (client, server) = (pair.client.flow(stream), pair.server.flow(stream));
    assert_eq!(
        client.sent.bytes, client.plan.bytes as u64,
        "stream {stream}"
    );
    assert_eq!(
        server.sent.bytes, server.plan.bytes as u64,
        "stream {stream}"
    );
    assert_eq!(client.sent.hex(), server.got.hex(), "stream {stream} up");
    assert_eq!(server.sent.hex(), client.got.hex(), "stream {stream} down");
    assert!(client.finished && server.finished);
}

fn run(mut pair: Pair, plans: &[(Plan, Plan)]) -> Pair {
    let mut streams = Vec::new();
    for (index, (up, down)) in plans.iter().enumerate() {
        let authority = format!("10.0.0.1:{}", index + 1);
        pair.server.plans.insert(authority.clone(), down.clone());
        streams.push(pair.client.open(&authority, up.clone()));
    }
    pair.run_until(|p| {
        p.client.all_done() && p.server.all_done() && p.server.flows.len() == plans.len()
    });
    for stream in streams {
        assert_same(&pair, stream);
    }
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.client.conn.open_streams(), 0);
    assert_eq!(pair.server.conn.open_streams(), 0);
    pair
}

#[test]
fn one_byte_at_a_time_arrives_whole() {
    let pair = Pair::new(1, Cut::Bytes).established();
    run(
        pair,
        &[
            (Plan::of(1, 30_000), Plan::of(2, 20_000)),
            (Plan::of(3, 0), Plan::of(4, 1)),
        ],
    );
}

#[test]
fn many_streams_both_ways_in_pieces_of_any_size() {
    for seed in 1..=6 {
        let mut dice = Dice::new(seed);
        let mut plans = Vec::new();
        for index in 0..dice.within(1, 40) as u64 {
            let mut bytes = || dice.size(600_000) - 1;
            let (up, down) = (bytes(), bytes());
            plans.push((
                Plan::of(seed * 1000 + index, up),
                Plan::of(seed * 2000 + index, down),
            ));
        }
        let cut = if seed % 3 == 0 {
            Cut::Whole
        } else {
            Cut::UpTo(1 << 20)
        };
        run(Pair::new(seed, cut).established(), &plans);
    }
}

#[test]
fn bulk_both_ways_moves_through_full_windows() {
    let plans = [(Plan::of(1, 12 << 20), Plan::of(2, 12 << 20))];
    let pair = run(Pair::new(3, Cut::UpTo(1 << 20)).established(), &plans);
    // Records of 16 KiB and frames of up to 256 KiB cost less than half a percent.
    let payload = 24 << 20;
    assert!(
        pair.wire_bytes() < payload + payload / 200,
        "{}",
        pair.wire_bytes()
    );
}

#[test]
fn a_peer_with_small_windows_and_small_frames_is_respected() {
    let small = Config {
        stream_window_bytes: 65_535,
        stream_window_max_bytes: 65_535,
        connection_window_bytes: 65_535,
        max_frame_bytes: 16_384,
        ..Config::default()
    };
    let plans: Vec<_> = (0..5)
        .map(|i| (Plan::of(i, 700_000), Plan::of(i + 50, 300_000)))
        .collect();
    run(
        Pair::with(4, Cut::UpTo(5000), &small, &small).established(),
        &plans,
    );
}

#[test]
fn a_tiny_window_still_moves_everything() {
    let tiny = Config {
        stream_window_bytes: 100,
        stream_window_max_bytes: 100,
        ..Config::default()
    };
    let plans = [
        (Plan::of(1, 20_000), Plan::of(2, 20_000)),
        (Plan::of(3, 5_000), Plan::of(4, 9)),
    ];
    run(
        Pair::with(5, Cut::UpTo(5000), &tiny, &tiny).established(),
        &plans,
    );
}

#[test]
fn a_stalled_reader_holds_up_nobody_else_and_resumes() {
    let mut pair = Pair::new(6, Cut::UpTo(1 << 20)).established();
    let resume = pair.now.plus(Duration::from_secs(60));
    let stalled = Plan {
        stalled_until: resume,
        ..Plan::of(2, 10)
    };
    for (port, plan) in [(1, stalled.clone()), (2, Plan::of(4, 3 << 20))] {
        pair.server.plans.insert(format!("10.0.0.1:{port}"), plan);
    }
    let slow = pair.client.open("10.0.0.1:1", Plan::of(1, 5 << 20));
    let fast = pair.client.open("10.0.0.1:2", Plan::of(3, 3 << 20));
    pair.run_until(|p| p.client.flow(fast).done() && p.server.flow(fast).done());
    assert!(pair.now < resume);
    assert_same(&pair, fast);
    pair.run_for(Duration::from_secs(20));
    let sent = pair.client.flow(slow).sent.bytes;
    // The window of the stream and the backlog in front of it, no more.
    assert!(
        sent <= (512 << 10) + (256 << 10),
        "{sent} bytes were taken for a stalled reader"
    );
    assert_eq!(pair.server.flow(slow).got.bytes, 0);
    pair.run_until(|p| p.client.flow(slow).done() && p.server.flow(slow).done());
    assert_same(&pair, slow);
}

#[test]
fn stalled_readers_on_all_streams_resume_behind_a_full_connection_window() {
    let small = Config {
        connection_window_bytes: 200_000,
        ..Config::default()
    };
    let mut pair = Pair::with(7, Cut::UpTo(1 << 20), &small, &small).established();
    let resume = pair.now.plus(Duration::from_secs(30));
    let mut streams = Vec::new();
    for port in 1..=10 {
        let authority = format!("10.0.0.1:{port}");
        let stalled_until = resume.plus(Duration::from_secs(port));
        pair.server.plans.insert(
            authority.clone(),
            Plan {
                stalled_until,
                ..Plan::of(port, 100)
            },
        );
        streams.push(pair.client.open(&authority, Plan::of(100 + port, 300_000)));
    }
    pair.run_for(Duration::from_secs(20));
    let taken: u64 = streams
        .iter()
        .map(|s| pair.client.flow(*s).sent.bytes)
        .sum();
    assert!(taken <= 200_000, "{taken}");
    pair.run_until(|p| p.client.all_done() && p.server.all_done());
    for stream in streams {
        assert_same(&pair, stream);
    }
}

#[test]
fn a_half_closed_stream_still_carries_the_other_way() {
    let mut pair = Pair::new(8, Cut::UpTo(1000)).established();
    pair.server.plans.insert(
        "10.0.0.1:1".into(),
        Plan {
            keep_open: true,
            ..Plan::of(2, 50_000)
        },
    );
    let stream = pair.client.open("10.0.0.1:1", Plan::of(1, 5));
    pair.run_until(|p| {
        p.server.flows.get(&stream).is_some_and(|f| f.finished)
            && p.client.flow(stream).got.bytes == 50_000
    });
    assert!(pair.client.flow(stream).finish_sent && !pair.client.flow(stream).finished);
    pair.server.conn.write(stream, b"late").unwrap();
    pair.server.conn.finish(stream);
    pair.run_until(|p| p.client.flow(stream).finished);
    assert_eq!(pair.client.flow(stream).got.bytes, 50_004);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.client.conn.open_streams(), 0);
}

#[test]
fn a_reset_from_either_end_reaches_the_other_and_frees_the_windows() {
    for seed in 1..=4 {
        let small = Config {
            connection_window_bytes: 300_000,
            ..Config::default()
        };
        let mut pair = Pair::with(seed, Cut::UpTo(100_000), &small, &small).established();
        for round in 1..=20_u64 {
            let authority = format!("10.0.0.1:{round}");
            let ours = round % 2 == 0;
            let reset = |mine: bool| mine.then_some(50_000);
            let down = Plan {
                reset_after: reset(!ours),
                ..Plan::of(round, 1 << 20)
            };
            let up = Plan {
                reset_after: reset(ours),
                ..Plan::of(round + 50, 1 << 20)
            };
            pair.server.plans.insert(authority.clone(), down);
            let stream = pair.client.open(&authority, up);
            pair.run_until(|p| {
                p.client.flow(stream).reset.is_some()
                    && p.server
                        .flows
                        .get(&stream)
                        .is_some_and(|f| f.reset.is_some())
            });
            assert_eq!(pair.client.flow(stream).reset, Some(ErrorCode::CANCEL));
            assert_eq!(pair.server.flow(stream).reset, Some(ErrorCode::CANCEL));
        }
        // All credit has come back: a long transfer still passes.
        pair.server
            .plans
            .insert("10.0.0.9:9".into(), Plan::of(1, 2 << 20));
        let last = pair.client.open("10.0.0.9:9", Plan::of(2, 2 << 20));
        pair.run_until(|p| p.client.flow(last).done() && p.server.flow(last).done());
        assert_same(&pair, last);
    }
}

#[test]
fn small_flows_pass_beside_a_bulk_transfer() {
    let mut pair = Pair::new(9, Cut::UpTo(1 << 20)).established();
    pair.server
        .plans
        .insert("10.0.0.1:1".into(), Plan::of(1, 0));
    let bulk = pair.client.open("10.0.0.1:1", Plan::of(2, 30 << 20));
    pair.run_until(|p| p.client.flow(bulk).sent.bytes > 1 << 20);
    for port in 2..=30 {
        let authority = format!("10.0.0.1:{port}");
        pair.server
            .plans
            .insert(authority.clone(), Plan::of(port, 100));
        let small = pair.client.open(&authority, Plan::of(port + 100, 100));
        let sent = pair.client.flow(bulk).sent.bytes;
        pair.run_until(|p| p.client.flow(small).done());
        // One round trip: not behind what the bulk transfer still has.
        let meanwhile = pair.client.flow(bulk).sent.bytes - sent;
        assert!(meanwhile <= 8 << 20, "{meanwhile} bytes passed before 100");
    }
    assert!(
        !pair.client.flow(bulk).done(),
        "the bulk transfer ended too early to prove anything"
    );
}

#[test]
fn the_window_grows_on_a_long_path_only_while_one_stream_is_alone() {
    let measure = |others: u64| {
        let mut pair = Pair::new(10, Cut::Whole)
            .established()
            .latency(Duration::from_millis(20));
        for port in 0..=others {
            pair.server
                .plans
                .insert(format!("10.0.0.1:{}", port + 1), Plan::of(port, 40 << 20));
            pair.client
                .open(&format!("10.0.0.1:{}", port + 1), Plan::of(port, 0));
        }
        pair.run_for(Duration::from_secs(1));
        let got = pair
            .client
            .flows
            .values()
            .map(|f| f.got.bytes)
            .max()
            .unwrap();
        // Windows per round trip of 40 ms.
        got / 25
    };
    let alone = measure(0);
    assert!(alone > 1 << 20, "{alone} bytes per round trip alone");
    let together = measure(3);
    assert!(
        together <= 600 << 10,
        "{together} bytes per round trip beside others"
    );
}

/// Of two large buffers in turns each piece begins with a record of its own, so that it is sealed
/// from where it lies: what is left of a buffer goes along with its last piece, and what fills no
/// record is not filled up.
#[test]
fn pieces_of_bulk_begin_with_records_of_their_own() {
    const RECORD: usize = 16 << 10;
    const BUFFER: usize = 16 * RECORD;
    let mut pair = Pair::new(7, Cut::Whole).established();
    let plan = Plan {
        keep_open: true,
        ..Plan::of(1, 0)
    };
    let streams = ["10.0.0.1:1", "10.0.0.1:2"].map(|to| {
        pair.server.plans.insert(to.to_owned(), plan.clone());
        pair.client.open(to, plan.clone())
    });
    pair.run_for(Duration::from_secs(1));
    let (connection, now) = (&mut pair.client.conn, pair.now);
    for stream in streams {
        connection.write_buffer(stream, vec![1; BUFFER]).unwrap();
    }
    let mut out = Vec::new();
    connection.poll_transmit(now, &mut out, 4 * BUFFER);
    let mut sealed = Vec::new();
    let mut rest = &out[..];
    while let [23, 3, 3, high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        // Less its kind and its tag.
        sealed.push(length - 17);
        rest = &more[length..];
    }
    // Eight frames, whose heads are nine bytes each: the first stands in the room before the data.
    let over = 3 * FRAME_HEADROOM;
    let mut expected = vec![RECORD; 28];
    expected.push(over);
    expected.extend([RECORD; 4]);
    expected.push(over);
    assert_eq!(sealed, expected);
}

#[test]
fn an_idle_tunnel_holds_no_buffers() {
    let mut pair = Pair::new(11, Cut::UpTo(1 << 20)).established();
    pair.server.plans.insert(
        "10.0.0.1:1".into(),
        Plan {
            keep_open: true,
            ..Plan::of(1, 1 << 20)
        },
    );
    let up = Plan {
        keep_open: true,
        ..Plan::of(2, 1 << 20)
    };
    let stream = pair.client.open("10.0.0.1:1", up);
    pair.run_until(|p| {
        p.client.flow(stream).got.bytes == 1 << 20 && p.server.flow(stream).got.bytes == 1 << 20
    });
    assert_eq!(pair.client.conn.stats().backlog_bytes, 0);
    assert_eq!(pair.client.conn.read(stream), None);
    assert!(
        size_of::<hbone::Connection>() <= 2048,
        "{}",
        size_of::<hbone::Connection>()
    );
    assert!(pair.now < Mono(Duration::from_secs(1100)));
}
