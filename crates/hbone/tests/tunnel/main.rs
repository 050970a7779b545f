//! The tunnel as its driver sees it: two ends on a simulated link and clock, foreign HTTP/2 ends,
//! hostile ends.

// What stands between the tests is test code too.
#![allow(clippy::unwrap_used)]

mod certificates;
mod dice;
mod drain;
mod driver;
mod floods;
mod foreign;
mod handshake;
mod keepalive;
mod keys;
mod mutation;
mod pair;
mod rules;
mod transfer;
mod wire;
