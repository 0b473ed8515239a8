//! The switch as a person runs it: the real program, real AF_XDP, real network stacks as peers.
//! Needs root; without it each test says that it skipped.
#![allow(clippy::doc_markdown, reason = "names of protocols in prose")]

mod capturing;
#[path = "../decap/laws.rs"]
mod decap_laws;
mod drivers;
mod explaining;
mod frames;
mod host_routes;
mod hostile;
mod http;
mod interfaces;
mod lab;
mod laws;
mod lifecycle;
mod limiting;
mod loops;
mod mirroring;
mod monitoring;
#[path = "../../../pmd/tests/netns/mod.rs"]
mod netns;

mod policing;
mod reloading;
mod routing;
mod talking;
mod tcp;
mod topologies;
mod vlans;
