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

/// What a guest sends, and what for it negotiates and how its buffers lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Traffic {
    /// Frames as they are on the wire, UDP, in buffers as DPDK has them.
    Frames,
    /// TCP frames of up to 64 KiB that somebody behind the switch would have to cut (virtio 1.2,
    /// §5.1.6.2), in buffers that take the largest whole.
    Segments,
}

impl Traffic {
    pub(super) fn features(self) -> u64 {
        match self {
            Self::Frames => feature::MRG_RXBUF,
            Self::Segments => {
                let sends = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6;
                let takes = feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6;
                feature::MRG_RXBUF | sends | takes
            }
        }
    }

    pub(super) fn layout(self) -> Layout {
        let (stride, buffer_bytes) = match self {
            Self::Frames => (2304, 2048),
            Self::Segments => (LARGEST_BYTES, LARGEST_BYTES),
        };
        Layout {
            slots: SLOTS,
            stride_bytes: [stride; 2],
            buffer_bytes,
        }
    }

    /// The header before each frame.
    pub(super) fn header(self) -> [u8; HEADER_BYTES] {
        const NEEDS_CSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        match self {
            Self::Frames => [0; HEADER_BYTES],
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
            eth_dst: Mac([0, 1, 2, 3, 4, 1 - device]),
            vlan_tci: None,
            transport: match self {
                Self::Frames => Transport::Udp,
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
            Self::Frames => 40,
            Self::Segments => 50,
        };
        frame[field..][..2].fill(0);
    }

    /// What differs between the flows of frames of this size.
    pub(super) fn flows(self, flows: u32, size_bytes: usize) -> anyhow::Result<Vec<FlowBytes>> {
        let template = self.template(0, size_bytes)?;
        let space = FlowSpace {
            first: FLOW,
            dst_ports: 1,
            dst_hosts: flows,
            src_ports: 1,
        };
        let mut frame = vec![0; size_bytes];
        let bytes = (0..flows).map(|flow| {
            template.write(&space.flow(flow.into()), &[], &mut frame);
            let checksum = [frame[IP_CHECKSUM_AT], frame[IP_CHECKSUM_AT + 1]];
            let mut rest = [0; 8];
            rest.copy_from_slice(&frame[DST_AT..][..8]);
            FlowBytes {
                ip_checksum: u16::from_ne_bytes(checksum),
                dst_and_ports: u64::from_le_bytes(rest),
            }
        });
        Ok(bytes.collect())
    }
}

/// What differs from flow to flow.
#[derive(Clone, Copy, Debug)]
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
