//! Copies for sniffers: who may have which, how they are carried, and what becomes of them at the
//! other end. Does no I/O, and allocates nothing per frame.
//!
//! ```text
//!   worker:        frame ──Filter──► Sampler ──► Budget ──► Template ──► prefix ++ frame
//!   decapsulator:  prefix ++ frame ──Decapsulator──► session ──► sniffers, or a Refusal
//! ```
//!
//! Rooms: [`session`] (who may have which copies, and how many), [`wire`] (the formats), [`decap`] (the
//! decapsulator's core), [`flow`] (both directions of a flow as one number), [`counter`].
#![forbid(unsafe_code)]

pub mod counter;
pub mod decap;
pub mod flow;
pub mod session;
pub mod wire;
