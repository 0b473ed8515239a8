//! What a port may offer its guest, under the names that the configuration and people use.
//!
//! Bits: virtio 1.2 §5.1.3 (network device), §6 (reserved), and vhost-user for bits 26 and 30.

use std::fmt;

pub(super) const CSUM: u64 = 1 << 0;
pub(super) const GUEST_CSUM: u64 = 1 << 1;
pub(super) const GUEST_TSO4: u64 = 1 << 7;
pub(super) const GUEST_TSO6: u64 = 1 << 8;
pub(super) const HOST_TSO4: u64 = 1 << 11;
pub(super) const HOST_TSO6: u64 = 1 << 12;
pub(super) const MRG_RXBUF: u64 = 1 << 15;
const CTRL_VQ: u64 = 1 << 17;
const CTRL_RX: u64 = 1 << 18;
const GUEST_ANNOUNCE: u64 = 1 << 21;
const MQ: u64 = 1 << 22;
pub(super) const LOG_ALL: u64 = 1 << 26;
pub(super) const INDIRECT_DESC: u64 = 1 << 28;
pub(super) const EVENT_IDX: u64 = 1 << 29;
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;
pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const IN_ORDER: u64 = 1 << 35;

/// What is always offered.
const ALWAYS: u64 = VERSION_1 | PROTOCOL_FEATURES;

/// Name, what it stands for, bits.
const NAMED: [(&str, &str, u64); 10] = [
    (
        "mergeable_buffers",
        "a long frame may fill several receive buffers",
        MRG_RXBUF,
    ),
    (
        "indirect_descriptors",
        "a frame of many pieces takes one ring entry",
        INDIRECT_DESC,
    ),
    (
        "event_index",
        "notifications are suppressed by index",
        EVENT_IDX,
    ),
    (
        "in_order",
        "a burst of transmitted frames is given back by one entry",
        IN_ORDER,
    ),
    ("multiqueue", "more than one queue pair", MQ),
    (
        "control_queue",
        "the guest may choose its number of queues",
        CTRL_VQ | CTRL_RX,
    ),
    (
        "announce",
        "the guest announces itself after a migration",
        GUEST_ANNOUNCE,
    ),
    (
        "checksum",
        "checksums between guests are left out",
        CSUM | GUEST_CSUM,
    ),
    (
        "segmentation",
        "TCP segments of up to 64 KiB",
        HOST_TSO4 | HOST_TSO6 | GUEST_TSO4 | GUEST_TSO6,
    ),
    (
        "migration_log",
        "live migration, for which written pages are logged",
        LOG_ALL,
    ),
];

/// A set of features that a port may offer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Features(u64);

impl Default for Features {
    /// Everything the driver knows.
    fn default() -> Self {
        Self(NAMED.iter().fold(0, |all, (_, _, bits)| all | bits))
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Features {
    /// Nothing but what virtio 1 itself asks for.
    pub const NONE: Self = Self(0);

    /// Every name there is, with a word of explanation.
    pub fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
        NAMED.iter().map(|(name, meaning, _)| (*name, *meaning))
    }

    /// This set and the feature of that name; `None` when there is no such name.
    #[must_use]
    pub fn with(self, name: &str) -> Option<Self> {
        bits_of(name).map(|bits| Self(self.0 | bits))
    }

    /// This set without the feature of that name; `None` when there is no such name.
    #[must_use]
    pub fn without(self, name: &str) -> Option<Self> {
        bits_of(name).map(|bits| Self(self.0 & !bits))
    }

    /// The names of this set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let has = move |bits: u64| self.0 & bits == bits;
        let named = NAMED.iter().filter(move |(_, _, bits)| has(*bits));
        named.map(|(name, _, _)| *name)
    }

    /// The virtio bits that are offered. Segmentation needs checksums (virtio 1.2 §5.1.3.1).
    pub(super) fn bits(self) -> u64 {
        let segmentation = HOST_TSO4 | HOST_TSO6 | GUEST_TSO4 | GUEST_TSO6;
        let checksums = self.0 & (CSUM | GUEST_CSUM) != 0;
        let bits = if checksums {
            self.0
        } else {
            self.0 & !segmentation
        };
        bits | ALWAYS
    }
}

fn bits_of(name: &str) -> Option<u64> {
    let found = NAMED.iter().find(|(it, _, _)| *it == name);
    found.map(|(_, _, bits)| *bits)
}

/// The virtio names of the bits that were negotiated, as the specification writes them.
pub(super) fn bit_names(bits: u64) -> String {
    const NAMES: [(u64, &str); 17] = [
        (CSUM, "CSUM"),
        (GUEST_CSUM, "GUEST_CSUM"),
        (GUEST_TSO4, "GUEST_TSO4"),
        (GUEST_TSO6, "GUEST_TSO6"),
        (HOST_TSO4, "HOST_TSO4"),
        (HOST_TSO6, "HOST_TSO6"),
        (MRG_RXBUF, "MRG_RXBUF"),
        (CTRL_VQ, "CTRL_VQ"),
        (CTRL_RX, "CTRL_RX"),
        (GUEST_ANNOUNCE, "GUEST_ANNOUNCE"),
        (MQ, "MQ"),
        (LOG_ALL, "LOG_ALL"),
        (INDIRECT_DESC, "INDIRECT_DESC"),
        (EVENT_IDX, "EVENT_IDX"),
        (PROTOCOL_FEATURES, "PROTOCOL_FEATURES"),
        (VERSION_1, "VERSION_1"),
        (IN_ORDER, "IN_ORDER"),
    ];
    let set = NAMES.iter().filter(|(bit, _)| bits & bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

/// What was negotiated, as the rings need it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Negotiated {
    pub(super) bits: u64,
}

impl Negotiated {
    #[inline(always)]
    pub(super) fn has(self, bit: u64) -> bool {
        self.bits & bit != 0
    }

    /// Bytes of the virtio-net header before each frame (virtio 1.2 §5.1.6.1).
    #[inline(always)]
    pub(super) fn header_bytes(self) -> u32 {
        if self.has(VERSION_1 | MRG_RXBUF) {
            12
        } else {
            10
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_adds_and_removes_its_own_bits() {
        for (name, _) in Features::known() {
            let only = Features::NONE.with(name).expect("known");
            assert_eq!(only.names().collect::<Vec<_>>(), [name]);
            assert_eq!(only.without(name), Some(Features::NONE));
        }
        assert_eq!(Features::NONE.with("no such thing"), None);
        assert_eq!(
            Features::default().names().count(),
            Features::known().count()
        );
    }

    #[test]
    fn segmentation_is_not_offered_without_checksums() {
        let odd = Features::NONE.with("segmentation").expect("known");
        assert_eq!(odd.bits(), Features::NONE.bits());
    }
}
