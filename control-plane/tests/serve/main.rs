//! culvertd in this process, asked over TLS as nodes ask it.

mod agents;
mod certificates;
mod discovery;
mod harness;
mod source;
mod tokens;
