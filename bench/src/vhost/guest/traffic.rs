//! What a guest sends: which bytes are where, and which of them differ from flow to flow.

use std::net::{IpAddr, Ipv4Addr};

use policy::Mac;

use super::{
    SLOTS,
    front_end::{FrontEnd, feature},
    ring::{HEADER_BYTES, Layout},
};
use crate::generator::{
    flow::{Flow, FlowSpace},
    template::{Headers, Template, Transport},
};

/// The largest frame with its header, in whole pages.
pub(super) const LARGEST_BYTES: usize = 17 * 4096;

/// Payload of the segments that a super-segment stands for: of an MTU of 1500.
const SEGMENT_BYTES: u16 = 1448;

/// The first flow of testpmd's.
pub(super) const FLOW: Flow = Flow {
    src: IpAddr::V4(Ipv4Addr::new(10, 254, 0, 0)),
    dst: IpAddr::V4(Ipv4Addr::new(10, 253, 0, 0)),
    src_port: 1000,
    dst_port: 1001,
};

/// The router that takes away what a device of that number sends.
pub(in super::super) fn router_mac(device: u8) -> Mac {
    Mac([0, 1, 2, 3, 5, device])
}

/// What a guest sends, and what for it negotiates and how its buffers lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Traffic {
    /// Frames as they are on the wire, UDP, in buffers as DPDK has them.
    Frames,
    /// The same, from a driver that negotiates that buffers are used in order.
    InOrder,
    /// As [`Traffic::Frames`], for the router of the device's network: see [`router_mac`].
    Routed,
    /// As [`Traffic::Frames`], each of a flow that was not there before: of 2^30 flows.
    NewFlows,
    /// TCP frames of up to 64 KiB that somebody behind the switch would have to cut (virtio 1.2,
    /// §5.1.6.2), in buffers that take the largest whole.
    Segments,
}

impl Traffic {
    pub(in super::super) fn features(self) -> u64 {
        match self {
            Self::Frames | Self::Routed | Self::NewFlows => feature::MRG_RXBUF,
            Self::InOrder => feature::MRG_RXBUF | feature::IN_ORDER,
            Self::Segments => {
                let sends = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6;
                let takes = feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6;
                feature::MRG_RXBUF | sends | takes
            }
        }
    }

    pub(in super::super) fn layout(self) -> Layout {
        let (stride, buffer_bytes) = match self {
            Self::Frames | Self::InOrder | Self::Routed | Self::NewFlows => (2304, 2048),
            Self::Segments => (LARGEST_BYTES, LARGEST_BYTES),
        };
        Layout {
            slots: SLOTS,
            stride_bytes: [stride; 2],
            buffer_bytes,
        }
    }

    /// The header before each frame.
    pub(in super::super) fn header(self) -> [u8; HEADER_BYTES] {
        const NEEDS_CSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        match self {
            Self::Frames | Self::InOrder | Self::Routed | Self::NewFlows => [0; HEADER_BYTES],
            Self::Segments => {
                let [len, segment, start, field] =
                    [54, SEGMENT_BYTES, 34, 16].map(u16::to_le_bytes);
                let numbers = [len, segment, start, field].concat();
                let mut header = [NEEDS_CSUM, GSO_TCPV4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                header[2..10].copy_from_slice(&numbers);
                header
            }
        }
    }

    /// Frames from the device of that number to the other.
    pub(super) fn template(self, device: u8, size_bytes: usize) -> anyhow::Result<Template> {
        let headers = Headers {
            eth_src: Mac([0, 1, 2, 3, 4, device]),
            eth_dst: match self {
                Self::Routed => router_mac(device),
                _ => Mac([0, 1, 2, 3, 4, 1 - device]),
            },
            vlan_tci: None,
            transport: match self {
                Self::Frames | Self::InOrder | Self::Routed | Self::NewFlows => Transport::Udp,
                Self::Segments => Transport::Tcp,
            },
            ipv6: false,
        };
        Ok(Template::new(&headers, size_bytes)?)
    }

    /// Writes a frame of a flow. Its TCP or UDP checksum is 0: "none" for UDP, and for TCP to be
    /// filled in by whoever cuts the frame, which nobody does here.
    pub(super) fn write(self, template: &Template, flow: &Flow, frame: &mut [u8]) {
        template.write(flow, &[], frame);
        let field = match self {
            Self::Frames | Self::InOrder | Self::Routed | Self::NewFlows => 40,
            Self::Segments => 50,
        };
        frame[field..][..2].fill(0);
    }

    /// What differs between the flows of frames of this size, in the order in which they are sent.
    pub(super) fn flows(self, flows: u32, size_bytes: usize) -> anyhow::Result<Flows> {
        let template = self.template(0, size_bytes)?;
        let fresh = self == Self::NewFlows;
        let (first, step, count) = match self {
            Self::NewFlows => (1, 2, FRESH_HOSTS),
            Self::Frames | Self::InOrder | Self::Routed | Self::Segments => (0, 1, flows),
        };
        let space = FlowSpace {
            first: FLOW,
            dst_ports: 1,
            dst_hosts: first + step * count,
            src_ports: 1,
        };
        let mut frame = vec![0; size_bytes];
        let bytes = (0..count).map(|flow| {
            let flow = space.flow(u64::from(first + step * flow));
            template.write(&flow, &[], &mut frame);
            let checksum = [frame[IP_CHECKSUM_AT], frame[IP_CHECKSUM_AT + 1]];
            let mut rest = [0; 8];
            rest.copy_from_slice(&frame[DST_AT..][..8]);
            FlowBytes {
                ip_checksum: u16::from_ne_bytes(checksum),
                dst_and_ports: u64::from_le_bytes(rest),
            }
        });
        Ok(Flows {
            each: bytes.collect(),
            next: 0,
            round: 0,
            fresh,
        })
    }
}

/// Destinations of [`Traffic::NewFlows`], all odd; each has as many source ports, odd too.
const FRESH_HOSTS: u32 = 1 << 15;

/// Flows, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Flows {
    each: Vec<FlowBytes>,
    next: usize,
    round: u64,
    /// Each comes with another source port each time.
    fresh: bool,
}

impl Flows {
    /// The next so many, again and again.
    pub(super) fn known(mut self, count: usize) -> Self {
        Self {
            each: (0..count).map(|_| self.next()).collect(),
            next: 0,
            round: 0,
            fresh: false,
        }
    }

    /// The next one.
    #[inline]
    pub(super) fn next(&mut self) -> FlowBytes {
        /// Where the source port is in [`FlowBytes::dst_and_ports`].
        const SRC_PORT: u32 = 32;
        let mut bytes = self.each[self.next];
        if self.fresh {
            // Odd, so that neighbours in time are not neighbours in number.
            let port = (self.next as u64 * 40_503 + self.round) % u64::from(FRESH_HOSTS) * 2 + 1;
            bytes.dst_and_ports &= !(0xffff << SRC_PORT);
            bytes.dst_and_ports |= u64::from((port as u16).to_be()) << SRC_PORT;
        }
        self.next += 1;
        if self.next == self.each.len() {
            (self.next, self.round) = (0, self.round + 1);
        }
        bytes
    }
}

/// What differs from flow to flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowBytes {
    ip_checksum: u16,
    /// IPv4 destination and the two ports.
    dst_and_ports: u64,
}

/// Where that is in a frame.
const IP_CHECKSUM_AT: usize = 24;
const DST_AT: usize = 30;

impl FlowBytes {
    /// Makes the frame in a transmit buffer one of this flow.
    #[inline]
    pub(super) fn write(self, device: &FrontEnd, slot: u16) {
        let frame = device.transmit.buffer(slot) + HEADER_BYTES;
        device
            .memory
            .store_u16(frame + IP_CHECKSUM_AT, self.ip_checksum);
        device.memory.write_u64(frame + DST_AT, self.dst_and_ports);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn flows_come_round_and_new_ones_never_do() {
        let mut known = Traffic::Frames.flows(10, 64).expect("flows");
        let all: HashSet<FlowBytes> = (0..30).map(|_| known.next()).collect();
        assert_eq!(all.len(), 10);
        let mut fresh = Traffic::NewFlows.flows(0, 64).expect("flows");
        let count = 3 * FRESH_HOSTS as usize;
        let all: HashSet<FlowBytes> = (0..count).map(|_| fresh.next()).collect();
        assert_eq!(all.len(), count);
        let [.., host, high, low, _, _] =
            all.iter().next().expect("one").dst_and_ports.to_le_bytes();
        assert_eq!((host % 2, low % 2), (1, 1), "{host} {high} {low}");
    }
}
