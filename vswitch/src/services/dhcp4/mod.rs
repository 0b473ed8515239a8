//! DHCP for IPv4: [`message`] (what is said), [`server`] (a vNIC's own address as a lease),
//! [`relay`] (a server elsewhere is asked).

pub mod message;
pub mod relay;
pub mod server;
