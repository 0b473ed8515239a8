//! How fast the switch is, and how anyone can measure it again.
//!
//! Rooms: [`walk`] drives the real worker over memory ports on one core; [`generator`] makes
//! frames of many flows and judges at the far end what became of them; [`veth`] lets it do so
//! between namespaces, through the switch and through a Linux bridge; [`vhost`] lets a DPDK guest
//! do so through the switch and through Open vSwitch; [`classify`] looks up headers in long rule
//! lists; [`routes`] looks up addresses in long route tables; [`decap`] drives the decapsulator from
//! memory; [`pktgen`] is the generator as a tool; [`instructions`] counts what timing cannot tell
//! apart; [`suite`] runs them all side by side and draws what they found; [`process`] holds what is
//! started meanwhile.
//! The binary `vswitch-bench` is their command line.
#![forbid(unsafe_code)]

pub mod classify;
pub mod decap;
pub mod generator;
pub mod instructions;
pub mod pktgen;
pub mod process;
pub mod routes;
pub mod spread;
pub mod suite;
pub mod veth;
pub mod vhost;
pub mod walk;
