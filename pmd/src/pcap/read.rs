//! Reading capture files: classic pcap here, pcapng in [`super::ng`].
//!
//! In: bytes from anywhere, trusted in nothing. Out: records in file order, or one error that
//! names the file and the byte where it went wrong, after which the reader is at its end. What
//! must hold: memory is bounded by what the file really holds, never by a length it claims.
//!
//! Sources: draft-ietf-opsawg-pcap (classic), draft-ietf-opsawg-pcaplinktype (link types).

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use super::ng;

/// The longest record a reader takes, in bytes: the largest snapshot length that capture tools
/// write for Ethernet.
pub const MAX_RECORD_BYTES: u32 = 262_144;

const RECORD_HEADER_BYTES: usize = 16;

/// What a record's bytes begin with (LINKTYPE_ value).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkType(pub u16);

impl LinkType {
    /// Ethernet without preamble and FCS, the only one a port can replay.
    pub const ETHERNET: Self = Self(1);

    fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "BSD loopback (NULL)",
            1 => "Ethernet (EN10MB)",
            6 => "token ring (IEEE802_5)",
            7 => "ARCNET",
            8 => "SLIP",
            9 => "PPP",
            50 => "PPP in HDLC framing (PPP_HDLC)",
            51 => "PPP over Ethernet (PPP_ETHER)",
            101 => "bare IP (RAW)",
            104 => "Cisco HDLC (C_HDLC)",
            105 => "802.11 (IEEE802_11)",
            107 => "frame relay (FRELAY)",
            108 => "OpenBSD loopback (LOOP)",
            113 => "Linux cooked (LINUX_SLL)",
            117 => "pf log (PFLOG)",
            127 => "802.11 with radiotap (IEEE802_11_RADIOTAP)",
            195 => "802.15.4 (IEEE802_15_4_WITHFCS)",
            228 => "bare IPv4 (IPV4)",
            229 => "bare IPv6 (IPV6)",
            239 => "netfilter log (NFLOG)",
            276 => "Linux cooked v2 (LINUX_SLL2)",
            _ => return None,
        })
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "link type {}, {name}", self.0),
            None => write!(f, "link type {}", self.0),
        }
    }
}

/// One captured packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was captured, in nanoseconds since 1970; 0 where the file does not say.
    pub timestamp_ns: u64,
    /// How long it was on the wire, in bytes.
    pub original_len: u32,
    /// What was captured of it, at most [`MAX_RECORD_BYTES`].
    pub bytes: Vec<u8>,
    /// What the bytes begin with.
    pub link_type: LinkType,
}

/// Why a capture file cannot be read (on).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused to open or read it.
    #[error("{file}: cannot read at byte {offset}: {source}")]
    Io {
        /// The file's name.
        file: String,
        /// How far reading came.
        offset: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// It is not what its format says it should be.
    #[error("{file}: at byte {offset}: {what}")]
    Format {
        /// The file's name.
        file: String,
        /// Where the item that is wrong begins.
        offset: u64,
        /// What is wrong, and where it helps what to do.
        what: String,
    },
}

/// The records of a capture file, classic pcap (microseconds or nanoseconds) or pcapng, of either
/// byte order.
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    format: Format,
    finished: bool,
}

#[derive(Debug)]
enum Format {
    Classic(Classic),
    Ng(ng::Section),
}

impl Reader<BufReader<File>> {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be opened or is no regular file, [`Error::Format`] when it is no capture file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match super::open_file(File::options().read(true), path, false) {
            Ok(file) => Self::new(BufReader::with_capacity(1 << 16, file), name),
            Err(source) => Err(Error::Io {
                file: name,
                offset: 0,
                source,
            }),
        }
    }
}

impl<R: Read> Reader<R> {
    /// Reads a capture from `input`, which errors call `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] when it does not begin like a capture file, [`Error::Io`] when reading
    /// fails.
    pub fn new(input: R, name: impl Into<String>) -> Result<Self, Error> {
        let mut input = Input {
            inner: input,
            file: name.into(),
            offset: 0,
        };
        let mut magic = [0; 4];
        if !input.fill_or_end(&mut magic, "file header")? {
            return Err(input.error_at(0, "the file is empty"));
        }
        let format = if magic == ng::SECTION_HEADER {
            Format::Ng(ng::Section::first(&mut input)?)
        } else {
            Format::Classic(Classic::open(&mut input, magic)?)
        };
        Ok(Self {
            input,
            format,
            finished: false,
        })
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let next = match &mut self.format {
            Format::Classic(classic) => classic.next(&mut self.input),
            Format::Ng(section) => section.next(&mut self.input),
        };
        self.finished = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// A classic file after its header.
#[derive(Debug)]
struct Classic {
    order: ByteOrder,
    ns_per_unit: u64,
    link_type: LinkType,
}

impl Classic {
    fn open(input: &mut Input<impl Read>, magic: [u8; 4]) -> Result<Self, Error> {
        let (order, ns_per_unit) = match magic {
            [0xa1, 0xb2, 0xc3, 0xd4] => (ByteOrder::Big, 1000),
            [0xd4, 0xc3, 0xb2, 0xa1] => (ByteOrder::Little, 1000),
            [0xa1, 0xb2, 0x3c, 0x4d] => (ByteOrder::Big, 1),
            [0x4d, 0x3c, 0xb2, 0xa1] => (ByteOrder::Little, 1),
            [a, b, c, d] => {
                let what = format!(
                    "begins with {a:02x} {b:02x} {c:02x} {d:02x}, which neither pcap nor pcapng does"
                );
                return Err(input.error_at(0, what));
            }
        };
        let mut header = [0; 20];
        input.fill(&mut header, "file header")?;
        let major = order.u16(&header, 0);
        if major != 2 {
            return Err(input.error_at(4, format!("pcap version {major}, only 2 is known")));
        }
        // The upper half says whether frames end in an FCS; it changes nothing here.
        let link_type = LinkType(order.u32(&header, 16) as u16);
        Ok(Self {
            order,
            ns_per_unit,
            link_type,
        })
    }

    fn next(&mut self, input: &mut Input<impl Read>) -> Result<Option<Record>, Error> {
        let start = input.offset;
        let mut header = [0; RECORD_HEADER_BYTES];
        if !input.fill_or_end(&mut header, "record header")? {
            return Ok(None);
        }
        let [seconds, fraction, captured, original] =
            [0, 4, 8, 12].map(|at| self.order.u32(&header, at));
        if captured > MAX_RECORD_BYTES {
            return Err(input.error_at(start, too_long(captured)));
        }
        let mut bytes = Vec::new();
        input.read_vec(&mut bytes, captured, "record")?;
        Ok(Some(Record {
            timestamp_ns: u64::from(seconds) * 1_000_000_000
                + u64::from(fraction) * self.ns_per_unit,
            original_len: original,
            bytes,
            link_type: self.link_type,
        }))
    }
}

pub(super) fn too_long(captured: u32) -> String {
    format!("a record of {captured} bytes; longer than {MAX_RECORD_BYTES} is taken for damage")
}

/// The order of bytes in a file's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// The number at `bytes[at..at + 2]`, which the caller knows to exist.
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let raw = [bytes[at], bytes[at + 1]];
        match self {
            Self::Little => u16::from_le_bytes(raw),
            Self::Big => u16::from_be_bytes(raw),
        }
    }

    /// The number at `bytes[at..at + 4]`, which the caller knows to exist.
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let raw = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        match self {
            Self::Little => u32::from_le_bytes(raw),
            Self::Big => u32::from_be_bytes(raw),
        }
    }
}

/// A source of bytes that knows its name and how far it was read.
#[derive(Debug)]
pub(super) struct Input<R> {
    inner: R,
    file: String,
    pub(super) offset: u64,
}

impl<R: Read> Input<R> {
    /// Fills `buffer`; false when the input ended cleanly before its first byte.
    pub(super) fn fill_or_end(&mut self, buffer: &mut [u8], what: &str) -> Result<bool, Error> {
        let start = self.offset;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.inner.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.cut_short(start, what)),
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.io(e)),
            }
        }
        Ok(true)
    }

    /// Fills `buffer`; the input's end is an error.
    pub(super) fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<(), Error> {
        let start = self.offset;
        if buffer.is_empty() || self.fill_or_end(buffer, what)? {
            Ok(())
        } else {
            Err(self.cut_short(start, what))
        }
    }

    /// Replaces what `bytes` holds by the next `len` bytes, growing it only as they come.
    pub(super) fn read_vec(
        &mut self,
        bytes: &mut Vec<u8>,
        len: u32,
        what: &str,
    ) -> Result<(), Error> {
        let start = self.offset;
        bytes.clear();
        let mut rest = self.inner.by_ref().take(u64::from(len));
        let count = rest.read_to_end(bytes).map_err(|e| self.io(e))?;
        self.offset += count as u64;
        if count == len as usize {
            Ok(())
        } else {
            Err(self.cut_short(start, what))
        }
    }

    /// Passes over `len` bytes.
    pub(super) fn skip(&mut self, len: u32, what: &str) -> Result<(), Error> {
        let start = self.offset;
        let mut rest = self.inner.by_ref().take(u64::from(len));
        let count = io::copy(&mut rest, &mut io::sink()).map_err(|e| self.io(e))?;
        self.offset += count;
        if count == u64::from(len) {
            Ok(())
        } else {
            Err(self.cut_short(start, what))
        }
    }

    pub(super) fn error_at(&self, offset: u64, what: impl Into<String>) -> Error {
        Error::Format {
            file: self.file.clone(),
            offset,
            what: what.into(),
        }
    }

    fn cut_short(&self, start: u64, what: &str) -> Error {
        self.error_at(
            start,
            format!("the file ends within a {what}; it was cut short"),
        )
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io {
            file: self.file.clone(),
            offset: self.offset,
            source,
        }
    }
}
