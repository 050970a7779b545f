//! KeyUpdate, in the middle of everything and in both directions.

use hbone::Config;

use crate::driver::Plan;
use crate::pair::{Cut, Pair};

#[test]
fn keys_change_both_ways_in_the_middle_of_streams() {
    let often = Config {
        key_update_records: 7,
        ..Config::default()
    };
    let mut pair = Pair::with(1, Cut::UpTo(50_000), &often, &often).established();
    for port in 1..=8 {
        let authority = format!("10.0.0.1:{port}");
        pair.server
            .plans
            .insert(authority.clone(), Plan::of(port, 700_000));
        pair.client.open(&authority, Plan::of(port + 50, 700_000));
    }
    pair.run_until(|p| p.client.all_done() && p.server.all_done() && p.server.flows.len() == 8);
    for (stream, flow) in &pair.client.flows {
        let other = pair.server.flow(*stream);
        assert_eq!((flow.reset, other.reset), (None, None));
        assert_eq!(flow.sent.hex(), other.got.hex());
        assert_eq!(other.sent.hex(), flow.got.hex());
    }
    for end in [&pair.client, &pair.server] {
        // 5.6 MB are at least 350 records.
        assert!(end.conn.stats().key_updates >= 50, "{:?}", end.conn.stats());
        assert_eq!(end.closed, None);
    }
}

#[test]
fn one_end_alone_may_change_its_keys() {
    let often = Config {
        key_update_records: 1,
        ..Config::default()
    };
    let mut pair = Pair::with(2, Cut::Bytes, &often, &Config::default()).established();
    pair.server
        .plans
        .insert("10.0.0.1:1".into(), Plan::of(1, 20_000));
    let stream = pair.client.open("10.0.0.1:1", Plan::of(2, 20_000));
    pair.run_until(|p| p.client.all_done() && p.server.all_done() && !p.server.flows.is_empty());
    assert_eq!(
        pair.client.flow(stream).sent.hex(),
        pair.server.flow(stream).got.hex()
    );
    assert!(pair.client.conn.stats().key_updates > 0);
    assert_eq!(pair.server.conn.stats().key_updates, 0);
}
