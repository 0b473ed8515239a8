//! Frames that a worker and the services thread hand to each other.
//!
//! In: frames that the switch answers itself, or that wait for a neighbour; and back, frames of the
//! switch's own and those that waited. What must hold: a worker never waits and never allocates
//! here: buffers are made at start and go round; when none is free the frame is dropped by name.

use std::{net::IpAddr, sync::OnceLock, thread::Thread};

use crossbeam::queue::ArrayQueue;
use pmd::{Frame, PartialChecksum};
use policy::{DropReason, NetworkId, PortId};

use crate::verdict::VlanTag;

/// Buffers of a worker.
const PARCELS: usize = 256;
/// The longest frame that is handed over.
pub const MAX_PARCEL_BYTES: usize = 9216 + 18;

/// What is to be done with a handed frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Errand {
    /// To the services: one of them answers it.
    #[default]
    Serve,
    /// To the services: keep it until the neighbour's address is known.
    Wait {
        /// The neighbour's network.
        network: NetworkId,
        /// The neighbour.
        neighbor: IpAddr,
    },
    /// To the worker: send it as it is.
    Send {
        /// Where.
        port: PortId,
        /// The tag that it leaves with.
        tag: Option<VlanTag>,
    },
    /// To the worker: judge it as if it had come just now.
    Judge,
    /// To the worker: drop it.
    Drop(DropReason),
}

/// A frame on its way between a worker and the services.
#[derive(Debug, Default)]
pub struct Parcel {
    /// What is to be done with it.
    pub errand: Errand,
    /// The port that it came in by.
    pub ingress: PortId,
    /// The network that it came in by.
    pub network: NetworkId,
    /// Its bytes, those of a tag that stood in it included.
    pub bytes: Vec<u8>,
    /// See [`Frame::vlan_tci`].
    pub vlan_tci: Option<u16>,
    /// See [`Frame::partial_checksum`].
    pub partial_checksum: Option<PartialChecksum>,
    /// See [`Frame::segment_bytes`].
    pub segment_bytes: u16,
}

impl Parcel {
    /// The frame that it holds.
    pub fn frame(&self) -> Frame<'_> {
        let mut frame = Frame::contiguous(&self.bytes);
        frame.vlan_tci = self.vlan_tci;
        frame.partial_checksum = self.partial_checksum;
        frame.segment_bytes = self.segment_bytes;
        frame
    }
}

/// The two ways between one worker and the services, and the empty buffers.
#[derive(Debug)]
pub struct Handoff {
    empty: ArrayQueue<Box<Parcel>>,
    to_services: ArrayQueue<Box<Parcel>>,
    to_worker: ArrayQueue<Box<Parcel>>,
    /// Who is woken when something is there for the services.
    services: OnceLock<Thread>,
}

impl Default for Handoff {
    fn default() -> Self {
        let empty = ArrayQueue::new(PARCELS);
        for _ in 0..PARCELS {
            // As many as there is room for.
            let _ = empty.push(Box::default());
        }
        Self {
            empty,
            to_services: ArrayQueue::new(PARCELS),
            to_worker: ArrayQueue::new(PARCELS),
            services: OnceLock::new(),
        }
    }
}

impl Handoff {
    /// The buffers have room for frames from now on.
    pub fn make_room(&self) {
        for _ in 0..PARCELS {
            let Some(mut parcel) = self.empty.pop() else {
                return;
            };
            parcel.bytes.reserve(MAX_PARCEL_BYTES);
            self.give_back(parcel);
        }
    }

    /// From now on `services` is woken when there is something for it.
    pub fn serve_by(&self, services: Thread) {
        let _ = self.services.set(services);
    }

    /// Hands a frame to the services. False when it cannot be taken.
    pub fn take(
        &self,
        errand: Errand,
        (ingress, network): (PortId, NetworkId),
        frame: &Frame<'_>,
    ) -> bool {
        if frame.len() > MAX_PARCEL_BYTES {
            return false;
        }
        let Some(mut parcel) = self.empty.pop() else {
            return false;
        };
        parcel.errand = errand;
        (parcel.ingress, parcel.network) = (ingress, network);
        parcel.bytes.resize(frame.len(), 0);
        frame.copy_to(0, &mut parcel.bytes);
        parcel.vlan_tci = frame.vlan_tci;
        parcel.partial_checksum = frame.partial_checksum;
        parcel.segment_bytes = frame.segment_bytes;
        if let Err(parcel) = self.to_services.push(parcel) {
            self.give_back(parcel);
            return false;
        }
        if let Some(services) = self.services.get() {
            services.unpark();
        }
        true
    }

    /// The next frame for the services.
    pub fn next_for_services(&self) -> Option<Box<Parcel>> {
        self.to_services.pop()
    }

    /// An empty buffer, for a frame of the switch's own.
    pub fn empty(&self) -> Option<Box<Parcel>> {
        self.empty.pop()
    }

    /// Hands a frame to the worker. There is room for every buffer.
    pub fn send(&self, parcel: Box<Parcel>) {
        if let Err(parcel) = self.to_worker.push(parcel) {
            self.give_back(parcel);
        }
    }

    /// Whether something is there for the worker.
    #[inline]
    pub fn is_pending(&self) -> bool {
        !self.to_worker.is_empty()
    }

    /// The next frame for the worker.
    pub fn next_for_worker(&self) -> Option<Box<Parcel>> {
        self.to_worker.pop()
    }

    /// A buffer is empty again.
    pub fn give_back(&self, parcel: Box<Parcel>) {
        // There is room for all that were made.
        let _ = self.empty.push(parcel);
    }
}
