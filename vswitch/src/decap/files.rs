//! Rotating pcapng files of a sniffer: `NAME-YYYYMMDDThhmmss-NNNNNN.pcapng`, times in UTC.
//!
//! What must hold: a file is closed when it is long or old enough, with what was lost until then in its
//! last block; all files of the sniffer together take no more than was allowed, the oldest going first;
//! no file is removed that this sniffer did not name so.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use pmd::pcap::Blocks;
use policy::Mac;

use super::{
    attachment::State,
    counts::{Fate, SnifferCounters},
    sink::{APPLICATION, Mirrored, encode, statistics},
};
use crate::config::decapsulator::Files;

const SUFFIX: &str = ".pcapng";

/// A file that is being written.
struct Open {
    file: File,
    bytes: u64,
    began_ns: u64,
}

/// The files of a sniffer.
pub(super) struct FileSink {
    config: Files,
    name: String,
    open: Option<Open>,
    /// How many files this sink has made: two of one second differ.
    number: u64,
    now_ns: u64,
    blocks: Blocks,
    counters: Arc<SnifferCounters>,
    pub(super) mac: Mac,
    pub(super) state: State,
}

impl FileSink {
    pub(super) fn new(
        config: &Files,
        name: &str,
        (mac, max_frame_bytes): (Mac, usize),
        counters: Arc<SnifferCounters>,
        now_ns: u64,
    ) -> Self {
        let mut sink = Self {
            config: config.clone(),
            name: name.to_owned(),
            open: None,
            number: 0,
            now_ns,
            blocks: Blocks::new(max_frame_bytes),
            counters,
            mac,
            state: State::default(),
        };
        sink.begin();
        sink
    }

    /// Begins a file, and notes whether that went well.
    fn begin(&mut self) {
        let begun = self.make_room().and_then(|()| self.create());
        let done = begun.map(|open| self.open = Some(open));
        self.note(done);
        if self.open.is_some() {
            self.blocks.clear();
            self.blocks.begin(APPLICATION, &self.name);
            self.write();
        }
    }

    fn create(&mut self) -> io::Result<Open> {
        fs::create_dir_all(&self.config.folder)?;
        self.number += 1;
        let stamp = time_text(self.now_ns);
        let name = format!(
            "{}-{stamp}-{:06}{SUFFIX}",
            self.name,
            self.number % 1_000_000
        );
        let path = self.config.folder.join(name);
        Ok(Open {
            file: File::options().write(true).create_new(true).open(path)?,
            bytes: 0,
            began_ns: self.now_ns,
        })
    }

    /// Removes the oldest files until there is room for one more.
    fn make_room(&self) -> io::Result<()> {
        let mut own = self.own_files()?;
        own.sort();
        let mut total: u64 = own.iter().map(|(_, bytes)| bytes).sum();
        for (path, bytes) in own {
            if total + self.config.file_bytes <= self.config.total_bytes {
                break;
            }
            fs::remove_file(path)?;
            total -= bytes;
        }
        Ok(())
    }

    /// The sniffer's files and their lengths.
    fn own_files(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let entries = match fs::read_dir(&self.config.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut own = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| self.is_own(name)) {
                own.push((entry.path(), entry.metadata()?.len()));
            }
        }
        Ok(own)
    }

    /// Whether a file's name is one that this sniffer gives.
    fn is_own(&self, name: &str) -> bool {
        let stem = name
            .strip_prefix(&self.name)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(SUFFIX));
        let pattern = b"00000000T000000-000000";
        stem.is_some_and(|stem| {
            stem.len() == pattern.len()
                && stem.bytes().zip(pattern).all(|(found, wanted)| {
                    found == *wanted || *wanted == b'0' && found.is_ascii_digit()
                })
        })
    }

    fn note(&self, result: io::Result<()>) {
        let why = result.err().map(|error| {
            format!(
                "cannot write into {}: {error}",
                self.config.folder.display()
            )
        });
        let mut state = self.state.lock();
        if *state != why {
            if let Some(why) = &why {
                tracing::warn!(sniffer = self.name, "{why}");
            } else {
                tracing::info!(sniffer = self.name, "its files are written");
            }
            *state = why;
        }
    }

    /// Hands the blocks to the system; a file that fails is given up.
    fn write(&mut self) -> bool {
        let Some(open) = &mut self.open else {
            self.blocks.clear();
            return false;
        };
        let bytes = self.blocks.bytes();
        let written = open.file.write_all(bytes);
        open.bytes += bytes.len() as u64;
        self.blocks.clear();
        let good = written.is_ok();
        if !good {
            self.open = None;
        }
        self.note(written);
        good
    }

    pub(super) fn send(&mut self, own: &[Mirrored<'_>], fate: &mut Fate) {
        let bytes = encode(&mut self.blocks, self.mac, own);
        if self.write() {
            fate.sent += own.len() as u64;
            fate.sent_bytes += bytes;
        } else {
            fate.down += own.len() as u64;
        }
        if let Some(last) = own.last().filter(|_| self.is_due()) {
            self.tend(last.meta.time_ns);
        }
    }

    /// Whether the file in hand is long or old enough.
    fn is_due(&self) -> bool {
        let file_ns = self.config.file_s.saturating_mul(1_000_000_000);
        self.open.as_ref().is_some_and(|open| {
            let old = self.now_ns.saturating_sub(open.began_ns) >= file_ns;
            open.bytes >= self.config.file_bytes || old
        })
    }

    /// Begins the next file if it is time, or tries again after a failure.
    pub(super) fn tend(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        if self.is_due() {
            self.close(now_ns);
        }
        if self.open.is_none() {
            self.begin();
        }
    }

    pub(super) fn close(&mut self, now_ns: u64) {
        self.blocks.statistics(&statistics(now_ns, &self.counters));
        self.write();
        self.open = None;
    }
}

/// Nanoseconds since 1970 as `YYYYMMDDThhmmss`.
fn time_text(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar, in eras of 400 years that begin on a first of March.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (
        day - (153 * month + 2) / 5 + 1,
        if month < 10 { month + 3 } else { month - 9 },
    );
    let year = year + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_in_utc() {
        for (seconds, text) in [
            (0, "19700101T000000"),
            (951_782_400, "20000229T000000"),
            (1_700_000_000, "20231114T221320"),
            (4_102_444_799, "20991231T235959"),
        ] {
            assert_eq!(time_text(seconds * 1_000_000_000), text);
        }
    }
}
