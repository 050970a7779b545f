//! The wire of HTTP/2 (RFC 9113) and of its header compression (RFC 7541): bytes to frames and
//! back. It must not know streams, windows or what a tunnel is.

pub mod frame;
pub mod hpack;
pub mod parser;
pub mod settings;
