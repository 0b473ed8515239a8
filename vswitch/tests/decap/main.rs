//! The decapsulator's threads: what sniffers get, and what they do not.
#![allow(clippy::doc_markdown, reason = "names of programs in prose")]

mod bed;
mod captures;
mod files;
mod isolation;
mod laws;
#[path = "../../../mirror/tests/common/mod.rs"]
mod mirrored;
#[path = "../../../pmd/tests/netns/mod.rs"]
mod netns;
mod openvswitch;
mod process;
