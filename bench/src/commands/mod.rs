//! Command lines that have a file of their own.

pub(crate) mod suite;
