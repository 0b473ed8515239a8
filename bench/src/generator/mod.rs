//! The packet generator: frames of many flows, made to measure.
//!
//! Rooms: [`flow`] (which flows, in which order), [`template`] (their bytes).

pub mod flow;
pub mod random;
pub mod template;
