//! The services of vNICs: conversations as their RFCs tell them, without a switch around them.

mod bed;
mod bytes;
mod clients;
mod dhcp4;
mod dhcp6;
mod link;
mod neighbors;
#[path = "../../../pmd/tests/netns/mod.rs"]
mod netns;
mod plans;
mod ra;
mod relay;
mod tshark;
