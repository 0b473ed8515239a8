//! Copies for sniffers: who may have which, how they are carried, and what becomes of them at the
//! other end. Does no I/O, and allocates nothing per frame.
//!
//! ```text
//!   worker:        frame ──Selection──► Sampler ──► Budget ──► Template ──► prefix ++ frame
//!   decapsulator:  prefix ++ frame ──Decapsulator──► session ──► sniffers, or a Refusal
//! ```
//!
//! Rooms: [`wire`] (the formats), [`decap`] (the decapsulator's core), [`flow`] (both directions of a
//! flow as one number).
#![forbid(unsafe_code)]

pub mod decap;
pub mod flow;
pub mod wire;
