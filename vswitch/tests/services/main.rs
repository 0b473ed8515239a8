//! The services of vNICs: conversations as their RFCs tell them, without a switch around them.

mod bed;
mod bytes;
mod dhcp4;
mod dhcp6;
mod neighbors;
mod plans;
mod ra;
mod relay;
mod tshark;
