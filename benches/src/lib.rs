//! Benches: the same load over several paths, interleaved in one run, told as ratios.
//!
//! Rates of a shared machine differ from hour to hour; what counts is the ratio within one round.
//! What is measured and how is told in docs/performance.md.

mod axes;
mod bed;
mod counted;
mod document;
mod figures;
mod goals;
mod machine;
pub mod peers;
mod report;
mod run;
pub mod tools;
mod usage;
pub mod waypoint;

pub use bed::Options;
pub use document::write as write_document;
pub use figures::Figure;
pub use peers::certificates::Certificates;
pub use report::{Report, Row};
pub use run::{Plan, run};
