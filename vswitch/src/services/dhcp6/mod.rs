//! DHCP for IPv6 (RFC 8415): [`message`] (what is said), [`server`] (a vNIC's own addresses and settings),
//! [`relay`] (servers elsewhere are asked).

pub mod message;
pub mod relay;
pub mod server;
