//! Kubernetes objects in, what proxies need out: workloads, services and policies of the mesh, with
//! a status for every object.
//!
//! Pure: `translate` knows no files, sockets, clocks or async code. A directory of manifests or an
//! API server hands in text or objects, and the same input gives the same output whatever its
//! order. [`document`] reads text, [`collection`] keeps the last good state of every document,
//! [`translate()`] makes the mesh of it.

mod admit;
pub mod collection;
pub mod deployment;
pub mod document;
pub mod enrolment;
pub mod gateway;
mod gateways;
mod identifier;
pub mod object;
mod policies;
pub mod routes;
pub mod security;
mod services;
pub mod status;
mod translation;
mod vips;
mod waypoint_only;
mod waypoints;
mod workloads;

pub use collection::{Collection, SourceError};
pub use document::{Document, parse};
pub use object::{Object, ObjectKey, Objects};
pub use routes::{AtParent, Routes, book};
pub use status::{Condition, ListenerStatus, Status};
pub use translation::{Input, Options, Output, PodReport, Translator, WaypointReport, translate};
pub use vips::{Allocations, VipRanges};
