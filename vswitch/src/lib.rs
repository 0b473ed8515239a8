//! The switch.
//!
//! Datapath, in the order of a frame's walk: [`worker`] (the walk itself; read it first),
//! [`intake`], [`flow_cache`], [`slow_path`], [`bridge`], [`verdict`], [`outbox`]; beside it
//! [`budget`], [`counters`], [`drop_ledger`], [`drop_watch`], [`mirroring`], [`storm`], [`published`],
//! [`explain`](mod@explain) (the slow path for frames that are not there). Around it: [`runner`] (a worker's
//! thread), [`sleep`], and [`engine`], which control sees.
//!
//! What the switch itself says to VMs: [`services`] (DHCP, router advertisements, ARP and neighbour
//! discovery), off the walk and without I/O.
//!
//! What receives mirrored frames and hands them to sniffers: [`decap`], threads of its own that share
//! nothing with the workers.
//!
//! Control, from the outside in: [`cli`] (what a person types), [`api`] (what it speaks to),
//! [`control`] (brings the datapath to the desired state and keeps it there), [`config`] (the
//! desired state); beside it [`host_routes`] (the kernel's routes to VMs), [`metrics`], [`decode`] and [`doctor`].
#![forbid(unsafe_code)]

pub mod adjacency;
pub mod bridge;
pub mod budget;
pub mod counters;
pub mod desk;
pub mod drop_ledger;
pub mod drop_watch;
pub mod engine;
pub mod explain;
pub mod flow_cache;
pub mod guard;
pub mod handoff;
pub mod intake;
pub mod meter;
pub mod mirroring;
pub mod neighbors;
pub mod outbox;
pub mod published;
mod rewrite;
pub mod router;
pub mod rule_ledger;
pub mod rule_log;
pub mod runner;
pub mod services;
pub mod sleep;
pub mod slow_path;
pub mod storm;
mod trail;
pub mod verdict;
pub mod worker;

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod decap;
pub mod decode;
pub mod doctor;
pub mod host_routes;
pub mod metrics;
