//! Command lines that have a file of their own.

pub(crate) mod decap;
pub(crate) mod instructions;
pub(crate) mod pktgen;
pub(crate) mod routes;
pub(crate) mod suite;
