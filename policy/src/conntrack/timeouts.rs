//! How long a connection lives without frames.

use super::{
    tcp::{State, Tcp},
    tuple::Kind,
};

/// Seconds without a frame in either direction after which a connection is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// TCP: opened, not answered.
    pub tcp_syn_sent_s: u32,
    /// TCP: answered, the answer not acknowledged.
    pub tcp_syn_recv_s: u32,
    /// TCP: open both ways.
    pub tcp_established_s: u32,
    /// TCP: one side has ended, not acknowledged.
    pub tcp_fin_wait_s: u32,
    /// TCP: one side has ended, the other goes on.
    pub tcp_close_wait_s: u32,
    /// TCP: both sides have ended, not both acknowledged.
    pub tcp_last_ack_s: u32,
    /// TCP: both sides have ended.
    pub tcp_time_wait_s: u32,
    /// TCP: reset.
    pub tcp_close_s: u32,
    /// UDP: not answered.
    pub udp_unreplied_s: u32,
    /// UDP: answered.
    pub udp_replied_s: u32,
    /// ICMP echo.
    pub icmp_s: u32,
    /// Any other protocol.
    pub other_s: u32,
}

impl Default for Timeouts {
    /// For established TCP what RFC 5382 §5 and for UDP what RFC 4787 §4.3 ask of a middlebox at
    /// least; the others as firewalls commonly have them.
    fn default() -> Self {
        Self {
            tcp_syn_sent_s: 60,
            tcp_syn_recv_s: 60,
            tcp_established_s: 7440,
            tcp_fin_wait_s: 120,
            tcp_close_wait_s: 3600,
            tcp_last_ack_s: 30,
            tcp_time_wait_s: 60,
            tcp_close_s: 10,
            udp_unreplied_s: 30,
            udp_replied_s: 300,
            icmp_s: 30,
            other_s: 600,
        }
    }
}

impl Timeouts {
    pub(super) fn of(&self, kind: Kind, tcp: &Tcp) -> u32 {
        match kind {
            Kind::Tcp => match tcp.state() {
                State::SynSent => self.tcp_syn_sent_s,
                State::SynRecv => self.tcp_syn_recv_s,
                State::Established => self.tcp_established_s,
                State::FinWait => self.tcp_fin_wait_s,
                State::CloseWait => self.tcp_close_wait_s,
                State::LastAck => self.tcp_last_ack_s,
                State::TimeWait => self.tcp_time_wait_s,
                State::Close => self.tcp_close_s,
            },
            Kind::Udp if tcp.replied => self.udp_replied_s,
            Kind::Udp => self.udp_unreplied_s,
            Kind::Icmp => self.icmp_s,
            Kind::Other => self.other_s,
        }
    }
}
