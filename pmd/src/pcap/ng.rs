//! Reading pcapng (draft-ietf-opsawg-pcapng): sections, interfaces and the packet blocks; every
//! other block is passed over.
//!
//! What must hold: a block is one piece of at most [`MAX_BLOCK_BYTES`], its two lengths agree,
//! and nothing within reaches beyond it.

use std::io::Read;

use super::read::{ByteOrder, Error, Input, LinkType, MAX_RECORD_BYTES, Record, too_long};

/// The type of a section header block, the same in both byte orders.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE_DESCRIPTION: u32 = 1;
/// Obsolete, but old files have it: an enhanced block with a 16-bit interface and a drop count.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// The longest block that is read into memory, in bytes.
const MAX_BLOCK_BYTES: u32 = 16 << 20;
/// The most interfaces one section may describe.
const MAX_INTERFACES: usize = 65_536;
/// Type, length and trailing length.
const FRAMING_BYTES: u32 = 12;

/// The state of the section that is being read.
#[derive(Debug)]
pub(super) struct Section {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    /// The block in hand; kept so that a long file does not allocate for each.
    body: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: LinkType,
    /// 0 for no limit.
    snap_len: u32,
    units_per_s: u64,
    offset_s: i64,
}

impl Section {
    /// Reads the rest of the first section header, whose type was read already.
    pub(super) fn first(input: &mut Input<impl Read>) -> Result<Self, Error> {
        let mut section = Self {
            order: ByteOrder::Little,
            interfaces: Vec::new(),
            body: Vec::new(),
        };
        let mut length = [0; 4];
        input.fill(&mut length, "section header")?;
        section.begin(input, length, 0)?;
        Ok(section)
    }

    /// The next packet, or `None` at the end of the file.
    pub(super) fn next(&mut self, input: &mut Input<impl Read>) -> Result<Option<Record>, Error> {
        loop {
            let start = input.offset;
            let mut header = [0; 8];
            if !input.fill_or_end(&mut header, "block header")? {
                return Ok(None);
            }
            if header[..4] == SECTION_HEADER {
                self.begin(input, [header[4], header[5], header[6], header[7]], start)?;
                continue;
            }
            let kind = self.order.u32(&header, 0);
            let total = self.order.u32(&header, 4);
            check_length(input, total, FRAMING_BYTES, start)?;
            let body_bytes = total - FRAMING_BYTES;
            if !matches!(
                kind,
                INTERFACE_DESCRIPTION | PACKET | SIMPLE_PACKET | ENHANCED_PACKET
            ) {
                input.skip(body_bytes, "block")?;
                self.end(input, total, start)?;
                continue;
            }
            self.read_body(input, body_bytes, start)?;
            self.end(input, total, start)?;
            let record = match kind {
                INTERFACE_DESCRIPTION => self.describe_interface().map(|()| None),
                SIMPLE_PACKET => self.simple_packet().map(Some),
                PACKET => self.timed_packet(true).map(Some),
                _ => self.timed_packet(false).map(Some),
            };
            match record {
                Ok(None) => {}
                Ok(record) => return Ok(record),
                Err(what) => return Err(input.error_at(start, what)),
            }
        }
    }

    /// Begins a section: its header may change the byte order and forgets all interfaces.
    fn begin(
        &mut self,
        input: &mut Input<impl Read>,
        length: [u8; 4],
        start: u64,
    ) -> Result<(), Error> {
        let mut magic = [0; 4];
        input.fill(&mut magic, "section header")?;
        self.order = match magic {
            [0x4d, 0x3c, 0x2b, 0x1a] => ByteOrder::Little,
            [0x1a, 0x2b, 0x3c, 0x4d] => ByteOrder::Big,
            _ => return Err(input.error_at(start, "a section header without byte-order magic")),
        };
        self.interfaces.clear();
        let total = self.order.u32(&length, 0);
        check_length(input, total, 28, start)?;
        self.read_body(input, total - FRAMING_BYTES - 4, start)?;
        self.end(input, total, start)?;
        match self.order.u16(&self.body, 0) {
            1 => Ok(()),
            major => Err(input.error_at(start, format!("pcapng version {major}, only 1 is known"))),
        }
    }

    fn read_body(
        &mut self,
        input: &mut Input<impl Read>,
        len: u32,
        start: u64,
    ) -> Result<(), Error> {
        if len > MAX_BLOCK_BYTES {
            let what = format!(
                "a block of {len} bytes; longer than {MAX_BLOCK_BYTES} is taken for damage"
            );
            return Err(input.error_at(start, what));
        }
        input.read_vec(&mut self.body, len, "block")
    }

    /// Reads a block's trailing length.
    fn end(&self, input: &mut Input<impl Read>, total: u32, start: u64) -> Result<(), Error> {
        let mut trailer = [0; 4];
        input.fill(&mut trailer, "block")?;
        let again = self.order.u32(&trailer, 0);
        if again == total {
            Ok(())
        } else {
            let what = format!("a block whose lengths disagree: {total} before, {again} after it");
            Err(input.error_at(start, what))
        }
    }

    fn describe_interface(&mut self) -> Result<(), String> {
        let body = self.fixed(8, "interface description")?;
        let mut interface = Interface {
            link_type: LinkType(self.order.u16(body, 0)),
            snap_len: self.order.u32(body, 4),
            units_per_s: 1_000_000,
            offset_s: 0,
        };
        let mut options = &body[8..];
        while options.len() >= 4 {
            let (code, len) = (
                self.order.u16(options, 0),
                self.order.u16(options, 2) as usize,
            );
            let value = options
                .get(4..4 + len)
                .ok_or("an interface option that reaches beyond its block")?;
            match (code, value) {
                (0, _) => break,
                (9, &[resolution]) => interface.units_per_s = units_per_s(resolution)?,
                (14, &[_, _, _, _, _, _, _, _]) => {
                    let halves = [self.order.u32(value, 0), self.order.u32(value, 4)];
                    let (low, high) = match self.order {
                        ByteOrder::Little => (halves[0], halves[1]),
                        ByteOrder::Big => (halves[1], halves[0]),
                    };
                    interface.offset_s = ((u64::from(high) << 32) | u64::from(low)).cast_signed();
                }
                _ => {}
            }
            options = options
                .get(4 + len.next_multiple_of(4)..)
                .unwrap_or_default();
        }
        if self.interfaces.len() == MAX_INTERFACES {
            return Err(format!("more than {MAX_INTERFACES} interfaces"));
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn timed_packet(&self, obsolete: bool) -> Result<Record, String> {
        let body = self.fixed(20, "packet")?;
        let id = if obsolete {
            u32::from(self.order.u16(body, 0))
        } else {
            self.order.u32(body, 0)
        };
        let [high, low, captured, original] = [4, 8, 12, 16].map(|at| self.order.u32(body, at));
        let interface = self.interface(id)?;
        Ok(Record {
            timestamp_ns: interface.timestamp_ns((u64::from(high) << 32) | u64::from(low)),
            original_len: original,
            bytes: captured_bytes(&body[20..], captured)?,
            link_type: interface.link_type,
        })
    }

    fn simple_packet(&self) -> Result<Record, String> {
        let body = self.fixed(4, "simple packet")?;
        let original = self.order.u32(body, 0);
        let interface = self.interface(0)?;
        let captured = match interface.snap_len {
            0 => original,
            limit => original.min(limit),
        };
        Ok(Record {
            timestamp_ns: 0,
            original_len: original,
            bytes: captured_bytes(&body[4..], captured)?,
            link_type: interface.link_type,
        })
    }

    fn fixed(&self, len: usize, what: &str) -> Result<&[u8], String> {
        if self.body.len() < len {
            return Err(format!("a {what} block too short for its fixed part"));
        }
        Ok(&self.body)
    }

    fn interface(&self, id: u32) -> Result<&Interface, String> {
        self.interfaces
            .get(id as usize)
            .ok_or_else(|| format!("a packet of interface {id}, which no block describes"))
    }
}

impl Interface {
    fn timestamp_ns(&self, units: u64) -> u64 {
        let ns = u128::from(units) * 1_000_000_000 / u128::from(self.units_per_s);
        // At most 2^64 * 10^9 on one side and 2^63 * 10^9 on the other: far from i128's ends.
        let ns = ns.cast_signed() + i128::from(self.offset_s) * 1_000_000_000;
        ns.clamp(0, i128::from(u64::MAX)) as u64
    }
}

fn check_length(input: &Input<impl Read>, total: u32, least: u32, start: u64) -> Result<(), Error> {
    if total >= least && total.is_multiple_of(4) {
        Ok(())
    } else {
        let what = format!("a block of {total} bytes; at least {least} and a multiple of 4 are");
        Err(input.error_at(start, what + " possible"))
    }
}

/// Time units in a second, from an `if_tsresol` option: a power of ten, or with the highest bit
/// set of two.
fn units_per_s(resolution: u8) -> Result<u64, String> {
    let exponent = u32::from(resolution & 0x7f);
    let base: u64 = if resolution & 0x80 == 0 { 10 } else { 2 };
    base.checked_pow(exponent)
        .ok_or_else(|| format!("a time resolution of {base}^-{exponent} s, too fine to count"))
}

fn captured_bytes(data: &[u8], captured: u32) -> Result<Vec<u8>, String> {
    if captured > MAX_RECORD_BYTES {
        return Err(too_long(captured));
    }
    data.get(..captured as usize)
        .map(<[u8]>::to_vec)
        .ok_or_else(|| format!("a packet of {captured} bytes in a block too short for it"))
}
