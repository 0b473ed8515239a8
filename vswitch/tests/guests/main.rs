//! The switch with real guests: Linux in QEMU machines (scripts/vm), and DPDK's testpmd. Needs root
//! and Debian's packages of scripts/setup; without root each test says that it skipped.
#![allow(clippy::doc_markdown, reason = "names of protocols in prose")]

mod migration;
mod policing;
mod restarts;
mod routing;
mod talking;
mod testpmd;
mod vm;

// The same lab as for tests with namespaces alone, of which these tests need less.
#[allow(dead_code, reason = "a part is used here")]
#[path = "../namespaces/frames.rs"]
mod frames;
#[allow(dead_code, reason = "a part is used here")]
#[path = "../namespaces/http.rs"]
mod http;
#[allow(dead_code, reason = "a part is used here")]
#[path = "../namespaces/lab.rs"]
mod lab;
#[path = "../namespaces/laws.rs"]
mod laws;
#[path = "../../../pmd/tests/netns/mod.rs"]
mod netns;
