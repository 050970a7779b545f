//! The fuzz targets of this crate's parsers in short: the committed seeds, and what a fixed
//! generator makes of them. `fuzz/run.sh` runs the same properties for longer.

#[path = "../../../fuzz/fuzz_targets/properties/frames.rs"]
mod frames;
#[path = "../../../fuzz/fuzz_targets/properties/handshake.rs"]
mod handshake;
#[path = "../../../fuzz/fuzz_targets/properties/headers.rs"]
mod headers;
#[path = "../../../fuzz/fuzz_targets/properties/pair.rs"]
mod pair;
#[path = "../../../fuzz/fuzz_targets/properties/records.rs"]
mod records;
#[path = "../../../fuzz/fuzz_targets/properties/replay.rs"]
mod replay;
#[path = "../../../fuzz/fuzz_targets/properties/texts.rs"]
mod texts;

#[test]
fn frames_in_any_state_hold() {
    replay::replay("frames", 300, frames::holds);
}

#[test]
fn bytes_before_a_handshake_hold() {
    replay::replay("handshake", 20, handshake::holds);
}

#[test]
fn header_blocks_hold() {
    replay::replay("headers", 1000, headers::holds);
}

#[test]
fn two_codecs_hold_whatever_their_drivers_do() {
    replay::replay("pair", 300, pair::holds);
}

#[test]
fn records_hold_against_a_stranger_on_any_link() {
    replay::replay("records", 6, records::holds);
}

#[test]
fn authority_baggage_and_forwarded_hold() {
    replay::replay("texts", 1000, texts::holds);
}
