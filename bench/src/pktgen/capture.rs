//! Traffic as a capture has it: its flows, their sizes, their order.
//!
//! In: a pcap or pcapng file. Out: for each of its frames that is TCP or UDP over IP and long enough
//! for a stamp, one of the same size, addresses, ports and tag; payloads and other header fields are
//! the generator's own. The rest is left out, and counted.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::ensure;
use pmd::pcap::{LinkType, Reader};
use policy::{Mac, PortId};

use crate::generator::{
    flow::Flow,
    stamp::STAMP_BYTES,
    template::{Headers, Template, Transport},
};

/// The most frames that are taken from a file.
const MOST_FRAMES: usize = 1 << 22;

/// `LINKTYPE_ETHERNET` of the pcap registry.
const ETHERNET: LinkType = LinkType(1);

/// What a capture held.
#[derive(Debug)]
pub struct Capture {
    /// Templates, by what distinguishes them.
    pub templates: Vec<Template>,
    /// Flows.
    pub flows: Vec<Flow>,
    /// Flow and template of each frame, in order.
    pub frames: Vec<(u32, u32)>,
    /// Frames that cannot be sent.
    pub left_out: u64,
}

/// Reads a capture.
///
/// # Errors
/// When it cannot be read, or holds nothing that can be sent.
pub fn read(path: &Path) -> anyhow::Result<Capture> {
    let mut capture = Capture {
        templates: Vec::new(),
        flows: Vec::new(),
        frames: Vec::new(),
        left_out: 0,
    };
    let (mut templates, mut flows) = (HashMap::new(), HashMap::new());
    for record in Reader::open(path)? {
        let record = record?;
        let taken = (record.link_type == ETHERNET)
            .then(|| judge(&record.bytes))
            .flatten();
        let size = record.original_len as usize;
        let Some((headers, flow)) = taken else {
            capture.left_out += 1;
            continue;
        };
        let kind = (
            headers.eth_src,
            headers.eth_dst,
            headers.vlan_tci,
            headers.ipv6,
            flow_kind(&headers),
            size,
        );
        let template = match templates.get(&kind) {
            Some(template) => *template,
            None => match Template::new(&headers, size) {
                Ok(template) if template.payload_offset() + STAMP_BYTES <= size => {
                    let number = capture.templates.len() as u32;
                    capture.templates.push(template);
                    templates.insert(kind, number);
                    number
                }
                _ => {
                    capture.left_out += 1;
                    continue;
                }
            },
        };
        let number = *flows.entry(flow).or_insert_with(|| {
            capture.flows.push(flow);
            capture.flows.len() as u32 - 1
        });
        capture.frames.push((number, template));
        ensure!(
            capture.frames.len() <= MOST_FRAMES,
            "{}: more than {MOST_FRAMES} frames; cut it",
            path.display()
        );
    }
    ensure!(
        !capture.frames.is_empty(),
        "{}: none of its {} frames is TCP or UDP over IP with {STAMP_BYTES} bytes of payload",
        path.display(),
        capture.left_out
    );
    Ok(capture)
}

fn flow_kind(headers: &Headers) -> u8 {
    match headers.transport {
        Transport::Udp => 17,
        Transport::Tcp => 6,
    }
}

/// What a frame is, if it is one that the generator can make.
fn judge(bytes: &[u8]) -> Option<(Headers, Flow)> {
    let parsed = policy::parse(bytes, bytes.len(), None, PortId(0));
    let l4 = usize::from(parsed.l4_offset);
    let transport = match parsed.key.get(policy::Field::PROTOCOL) {
        17 if l4 > 0 => Transport::Udp,
        6 if l4 > 0 => Transport::Tcp,
        _ => return None,
    };
    let mac = |at: usize| Some(Mac(*bytes.get(at..)?.first_chunk()?));
    let number = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let vlan_tci = if number(12)? == 0x8100 {
        Some(number(14)?)
    } else {
        None
    };
    let l3 = if vlan_tci.is_some() { 18 } else { 14 };
    let ethertype = number(l3 - 2)?;
    let (src, dst): (IpAddr, IpAddr) = match ethertype {
        0x0800 => {
            let address = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
            (address(l3 + 12)?.into(), address(l3 + 16)?.into())
        }
        0x86dd => {
            let address = |at: usize| Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?));
            (address(l3 + 8)?.into(), address(l3 + 24)?.into())
        }
        _ => return None,
    };
    let headers = Headers {
        eth_src: mac(6)?,
        eth_dst: mac(0)?,
        vlan_tci,
        transport,
        ipv6: ethertype == 0x86dd,
    };
    let flow = Flow {
        src,
        dst,
        src_port: number(l4)?,
        dst_port: number(l4 + 2)?,
    };
    Some((headers, flow))
}

#[cfg(test)]
mod tests {
    use pmd::pcap::Writer;

    use super::*;
    use crate::process::Directory;

    #[test]
    fn a_capture_gives_its_flows_sizes_and_order_and_counts_the_rest() {
        let headers = Headers {
            eth_src: Mac([2, 0, 0, 0, 0, 1]),
            eth_dst: Mac([2, 0, 0, 0, 0, 2]),
            vlan_tci: Some(7),
            transport: Transport::Tcp,
            ipv6: true,
        };
        let flow = |port| Flow {
            src: Ipv6Addr::LOCALHOST.into(),
            dst: Ipv6Addr::UNSPECIFIED.into(),
            src_port: port,
            dst_port: 80,
        };
        let directory = Directory::new().expect("a directory");
        let path = directory.join("x.pcap");
        let mut writer = Writer::create(&path).expect("a file");
        let mut write = |bytes: &[u8]| writer.write(0, bytes.len() as u32, bytes).expect("writes");
        for (port, size) in [(1, 120), (2, 120), (1, 500)] {
            let mut bytes = vec![0; size];
            let template = Template::new(&headers, size).expect("fits");
            template.write(&flow(port), &[], &mut bytes);
            write(&bytes);
        }
        // ARP, and a frame without room for a stamp.
        write(&[&[0xff; 12][..], &[8, 6], &[0; 46]].concat());
        let mut short = vec![0; 80];
        let template = Template::new(&headers, 80).expect("fits");
        template.write(&flow(3), &[], &mut short);
        write(&short);
        writer.flush().expect("writes");

        let capture = read(&path).expect("a capture");
        assert_eq!(capture.flows, [flow(1), flow(2)]);
        assert_eq!(capture.frames, [(0, 0), (1, 0), (0, 1)]);
        let sizes: Vec<_> = capture.templates.iter().map(Template::size_bytes).collect();
        assert_eq!(sizes, [120, 500]);
        assert_eq!(capture.left_out, 2);
    }
}
