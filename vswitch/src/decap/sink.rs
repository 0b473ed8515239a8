//! Where a sniffer's frames go: a port, files, or a stream.
//!
//! In: mirrored frames as they stand in the queue, and what is told of them. Out: what became of each.
//! What must hold: nothing here waits; `sent` frames are the port's or the system's.

use std::os::fd::OwnedFd;

use arrayvec::ArrayVec;
use pmd::{
    BURST, Frame, PrefixArena, TxBurst, TxPlan,
    pcap::{Blocks, Statistics},
};
use policy::Mac;

use super::{
    attachment::{Attachment, State},
    counts::{Fate, SnifferCounters},
    files::FileSink,
    meta::{META_BYTES, Meta},
    stream::StreamSink,
};
use crate::intake::Intake;

/// The application that captures name.
pub(super) const APPLICATION: &str = concat!("vswitch ", env!("CARGO_PKG_VERSION"));

/// A mirrored frame in the queue.
#[derive(Debug)]
pub(super) struct Mirrored<'q> {
    /// Its place in the burst.
    pub(super) index: usize,
    /// What is told of it.
    pub(super) meta: Meta,
    /// What stands behind the Ethernet destination.
    pub(super) rest: &'q [u8],
}

/// Where a sniffer's frames go.
pub(super) enum Sink {
    Port(Box<PortSink>),
    Files(Box<FileSink>),
    Stream(Box<StreamSink>),
}

impl Sink {
    /// Sends `own`, which are some of `frames`. What becomes of frames that a stream has not handed over
    /// when this returns, it counts itself.
    pub(super) fn send(
        &mut self,
        frames: &[Frame<'_>],
        own: &ArrayVec<Mirrored<'_>, BURST>,
        fate: &mut Fate,
    ) {
        if own.is_empty() {
            return;
        }
        match self {
            Self::Port(port) => port.send(frames, own, fate),
            Self::Files(files) => files.send(own, fate),
            Self::Stream(stream) => stream.send(own, fate),
        }
    }

    /// Writes what waits to be written; false when some of it must wait longer.
    pub(super) fn flush(&mut self) -> bool {
        match self {
            Self::Stream(stream) => stream.flush(),
            Self::Port(_) | Self::Files(_) => true,
        }
    }

    /// Waits until what waits to be written may be, or control asks for something.
    pub(super) fn wait(&self, wake: &OwnedFd) {
        if let Self::Stream(stream) = self {
            stream.wait(wake);
        }
    }

    /// Looks after the port, the files or the stream. To be called now and then.
    pub(super) fn tend(&mut self, now_ns: u64, intake: &mut Intake) {
        match self {
            Self::Port(port) => port.attachment.tend(intake),
            Self::Files(files) => files.tend(now_ns),
            Self::Stream(stream) => stream.tend(now_ns),
        }
    }

    /// Takes back what was not handed over yet: it is somebody else's now.
    pub(super) fn forget(&mut self) {
        if let Self::Stream(stream) = self {
            stream.forget();
        }
    }

    pub(super) fn set_mac(&mut self, mac: Mac) {
        match self {
            Self::Port(port) => port.set_mac(mac),
            Self::Files(files) => files.mac = mac,
            Self::Stream(stream) => stream.mac = mac,
        }
    }

    /// Ends well.
    pub(super) fn close(&mut self, now_ns: u64) {
        match self {
            Self::Port(_) => {}
            Self::Files(files) => files.close(now_ns),
            Self::Stream(stream) => stream.close(now_ns),
        }
    }

    /// How it is doing.
    pub(super) fn state(&self) -> State {
        match self {
            Self::Port(port) => port.attachment.state(),
            Self::Files(files) => State::clone(&files.state),
            Self::Stream(stream) => State::clone(&stream.state),
        }
    }
}

/// A sniffer's port.
pub(super) struct PortSink {
    attachment: Attachment,
    /// One prefix, the sniffer's address.
    prefixes: PrefixArena,
    plans: ArrayVec<TxPlan, BURST>,
}

impl PortSink {
    pub(super) fn new(attachment: Attachment, mac: Mac) -> Self {
        let mut sink = Self {
            attachment,
            prefixes: PrefixArena::default(),
            plans: ArrayVec::new(),
        };
        sink.set_mac(mac);
        sink
    }

    fn set_mac(&mut self, mac: Mac) {
        self.prefixes.clear();
        if let Some((_, prefix)) = self.prefixes.allocate() {
            prefix[..6].copy_from_slice(&mac.0);
        }
    }

    fn send(&mut self, frames: &[Frame<'_>], own: &[Mirrored<'_>], fate: &mut Fate) {
        let Some(queue) = self.attachment.tx() else {
            fate.down += own.len() as u64;
            return;
        };
        self.plans.clear();
        self.plans.extend(own.iter().map(|mirrored| TxPlan {
            frame: mirrored.index as u8,
            skip_bytes: (META_BYTES + 6) as u16,
            len_bytes: mirrored.rest.len() as u32,
            prefix: 0,
            prefix_len_bytes: 6,
            ..TxPlan::default()
        }));
        let report = queue.transmit(&TxBurst {
            frames,
            prefixes: &self.prefixes,
            plans: &self.plans,
        });
        fate.sent += u64::from(report.sent);
        fate.sent_bytes += report.sent_bytes;
        fate.full += u64::from(report.full);
        fate.too_long += u64::from(report.too_big);
        fate.down += u64::from(report.down);
    }
}

/// Writes frames as blocks; returns their bytes, without what the blocks add.
pub(super) fn encode(blocks: &mut Blocks, mac: Mac, own: &[Mirrored<'_>]) -> u64 {
    let mut bytes = 0;
    for mirrored in own {
        blocks.frame(&mirrored.meta.stamp(), &[&mac.0, mirrored.rest]);
        bytes += (mac.0.len() + mirrored.rest.len()) as u64;
    }
    bytes
}

/// What a capture is told of frames so far.
pub(super) fn statistics(now_ns: u64, counters: &SnifferCounters) -> Statistics<'static> {
    Statistics {
        time_ns: now_ns,
        received: counters.offered.frames.get(),
        dropped: counters.lost_total(),
        ..Statistics::default()
    }
}
