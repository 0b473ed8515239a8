//! What a guest must not do with its rings, by name.

/// A rule that a guest broke. Its port stops until the guest's driver is reset, or a front end
/// connects anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Violation {
    AvailIndex,
    HeadIndex,
    NextIndex,
    Loop,
    TooManyDescriptors,
    Address,
    ZeroLength,
    Direction,
    IndirectNotNegotiated,
    IndirectNested,
    IndirectNext,
    IndirectLength,
    ShorterThanHeader,
    FrameTooLong,
    OffloadNotNegotiated,
    Checksum,
    Segmentation,
    MemoryLost,
    CallBlocks,
}

impl Violation {
    const ALL: [(Self, &'static str); 19] = [
        (
            Self::AvailIndex,
            "the available index ran ahead by more than the ring's size",
        ),
        (
            Self::HeadIndex,
            "an available entry names a descriptor beyond the ring's size",
        ),
        (
            Self::NextIndex,
            "a descriptor's next names one beyond the table's size",
        ),
        (Self::Loop, "a descriptor chain runs in a circle"),
        (
            Self::TooManyDescriptors,
            "a descriptor chain has more pieces than the switch takes",
        ),
        (
            Self::Address,
            "a buffer or table lies outside the guest's shared memory",
        ),
        (Self::ZeroLength, "a descriptor has length 0"),
        (
            Self::Direction,
            "a descriptor is for writing where the switch reads, or for reading where it writes",
        ),
        (
            Self::IndirectNotNegotiated,
            "an indirect descriptor, which was not negotiated",
        ),
        (
            Self::IndirectNested,
            "an indirect descriptor within an indirect table",
        ),
        (
            Self::IndirectNext,
            "an indirect descriptor that has a next one",
        ),
        (
            Self::IndirectLength,
            "an indirect table whose length is 0, too great or not a multiple of 16",
        ),
        (
            Self::ShorterThanHeader,
            "a descriptor chain too short for the virtio-net header and a frame",
        ),
        (Self::FrameTooLong, "a frame longer than 65,550 bytes"),
        (
            Self::OffloadNotNegotiated,
            "a frame that asks for an offload which was not negotiated",
        ),
        (
            Self::Checksum,
            "a checksum offload that points outside its frame",
        ),
        (
            Self::Segmentation,
            "a segmentation offload that does not fit its frame",
        ),
        (
            Self::MemoryLost,
            "the file of the guest's memory shrank while it was in use",
        ),
        (
            Self::CallBlocks,
            "the front end let a notification wait, which held up the switch",
        ),
    ];

    /// What to tell of a violation of number `code` on queue number `queue`.
    pub(super) fn text(code: u32, queue: u32) -> String {
        let known = Self::ALL.iter().find(|(it, _)| *it as u32 == code);
        let text = known.map_or("an unknown rule", |(_, text)| text);
        format!("virtqueue {queue}: {text}")
    }
}
