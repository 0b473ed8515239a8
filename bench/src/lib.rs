//! How fast the switch is, and how anyone can measure it again.
//!
//! Rooms: [`walk`] drives the real worker over memory ports on one core; [`generator`] makes
//! frames of many flows and judges at the far end what became of them. The binary
//! `vswitch-bench` is their command line.
#![forbid(unsafe_code)]

pub mod generator;
pub mod walk;
