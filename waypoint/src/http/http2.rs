//! HTTP/2 on one connection, on either side: what both sides share.

mod duplex;
mod hints;
mod pump;
mod serve;

pub(super) use duplex::Duplex;
pub(super) use hints::Hints;
pub(super) use pump::Pump;
pub(super) use serve::serve;
