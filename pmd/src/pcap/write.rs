//! Writing classic pcap: little-endian, Ethernet, nanosecond stamps.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use super::read::MAX_RECORD_BYTES;

/// Writes a capture file that every tool reads.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl Writer<BufWriter<File>> {
    /// Creates the file, or empties it, and writes its header.
    ///
    /// # Errors
    ///
    /// What the system answers, and [`io::ErrorKind::InvalidInput`] for what is neither a regular
    /// file nor a character device such as `/dev/null`.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        let file = super::open_file(&mut options, path.as_ref(), true)?;
        Self::new(BufWriter::with_capacity(1 << 18, file))
    }
}

impl<W: Write> Writer<W> {
    /// Writes a file header to `output`.
    ///
    /// # Errors
    ///
    /// What `output` answers.
    pub fn new(mut output: W) -> io::Result<Self> {
        let mut header = [0; 24];
        header[0..4].copy_from_slice(&0xa1b2_3c4d_u32.to_le_bytes());
        header[4..6].copy_from_slice(&2_u16.to_le_bytes());
        header[6..8].copy_from_slice(&4_u16.to_le_bytes());
        header[16..20].copy_from_slice(&MAX_RECORD_BYTES.to_le_bytes());
        header[20..24].copy_from_slice(&1_u32.to_le_bytes());
        output.write_all(&header)?;
        Ok(Self { output })
    }

    /// Writes one record: `bytes` of a frame that was `original_len` bytes long. The format's
    /// seconds end in 2106; later stamps wrap.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for more than [`MAX_RECORD_BYTES`], else what the output
    /// answers, after which the file's end is undefined.
    pub fn write(&mut self, timestamp_ns: u64, original_len: u32, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > MAX_RECORD_BYTES as usize {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a frame longer than a capture record may be",
            ));
        }
        let mut header = [0; 16];
        let fields = [
            (timestamp_ns / 1_000_000_000) as u32,
            (timestamp_ns % 1_000_000_000) as u32,
            bytes.len() as u32,
            original_len,
        ];
        for (slot, field) in header.chunks_exact_mut(4).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        self.output.write_all(&header)?;
        self.output.write_all(bytes)
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    ///
    /// What the output answers.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
