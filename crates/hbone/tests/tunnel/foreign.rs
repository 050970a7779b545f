//! Foreign ends: the `h2` crate in both roles and python's `h2`, over TLS stacks that are not
//! driven by our code.

mod crate_h2;
mod python;
pub mod tls;
