//! Who owns a UMEM frame.
//!
//! In: descriptors from a new UMEM or from a ring. Out: [`OwnedFrame`]s, which the compiler lets
//! exist once only. What must hold: at any time a frame is owned by one [`OwnedFrame`] or by the
//! kernel, which takes it with [`OwnedFrame::into_desc`] and gives it back with
//! [`OwnedFrame::claim`].

use std::num::NonZeroU32;

use xsk_rs::{
    FrameDesc, Umem,
    config::{FrameSize, QueueSize, UmemConfig},
};

use crate::OpenError;

/// The kernel keeps so many bytes before the data of each frame (`XDP_PACKET_HEADROOM`); metadata
/// of a received frame lies at their end.
pub(super) const HEADROOM_BYTES: usize = 256;

/// `XDP_PKT_CONTD`: the packet goes on in the next descriptor.
pub(super) const CONTINUED: u32 = 1;

pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What the XDP program writes before a frame, see `program.rs`.
pub(super) const META_UNTAGGED: u32 = 0x7673_7701;
pub(super) const META_TAGGED: u32 = 0x7673_7702;
pub(super) const META_OTHER_TAG: u32 = 0x7673_7703;
pub(super) const META_BYTES: u8 = 8;

/// A UMEM frame that user space owns. Neither `Copy` nor `Clone`.
#[derive(Debug)]
pub(super) struct OwnedFrame {
    desc: FrameDesc,
}

impl OwnedFrame {
    /// Takes ownership of the frame that `desc` describes.
    ///
    /// # Safety
    ///
    /// `desc` came from a new UMEM or from one of its rings, and nothing else claims it.
    pub(super) unsafe fn claim(desc: FrameDesc) -> Self {
        Self { desc }
    }

    /// Gives ownership up, for the kernel to take.
    pub(super) fn into_desc(self) -> FrameDesc {
        self.desc
    }

    /// True when the packet goes on in the next frame.
    pub(super) fn continued(&self) -> bool {
        self.desc.options() & CONTINUED != 0
    }

    /// Marks whether the packet goes on in the next frame.
    pub(super) fn set_continued(&mut self, continued: bool) {
        self.desc.set_options(if continued { CONTINUED } else { 0 });
    }

    /// Length of the data, in bytes.
    pub(super) fn len(&self) -> usize {
        self.desc.lengths().data()
    }
}

/// The tag that came beside a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// None, or nobody said.
    None,
    /// An 802.1Q tag with this tag control information.
    Vlan(u16),
    /// A tag of another kind, such as 802.1ad.
    Other,
}

/// The memory of one queue: both halves hold it, and each touches its own frames only.
#[derive(Clone, Debug)]
pub(super) struct FrameMemory {
    umem: Umem,
}

impl FrameMemory {
    /// The bytes of a received frame.
    pub(super) fn bytes<'a>(&'a self, frame: &'a OwnedFrame) -> &'a [u8] {
        // SAFETY: the frame is of this UMEM, its owner is borrowed for `'a`, so neither the
        // kernel nor anyone else writes it, and the kernel checked the length it reported.
        let data = unsafe { self.umem.data(&frame.desc) };
        // SAFETY: the same bytes; `Data` borrows `self.umem`, which is borrowed for `'a` too.
        unsafe { std::slice::from_raw_parts(data.contents().as_ptr(), data.contents().len()) }
    }

    /// The first `len` bytes of a frame to fill; sets its length.
    pub(super) fn fill(&self, frame: &mut OwnedFrame, len: usize, write: impl FnOnce(&mut [u8])) {
        // SAFETY: the frame is of this UMEM and its owner is borrowed exclusively.
        let mut data = unsafe { self.umem.data_mut(&mut frame.desc) };
        data.cursor().set_pos(len);
        write(data.contents_mut());
    }

    /// Takes the tag that the XDP program left before the frame, so that a frame without
    /// metadata that reuses this memory later does not show it again.
    pub(super) fn take_tag(&self, frame: &mut OwnedFrame) -> Tag {
        let data = self.bytes(frame).as_ptr().addr();
        let meta =
            std::ptr::with_exposed_provenance_mut::<[u32; 2]>(data - usize::from(META_BYTES));
        // SAFETY: a received frame's data lies `HEADROOM_BYTES` after the start of its chunk, or
        // at least after its metadata, so the bytes before it belong to the same chunk, which
        // `frame` owns; they are outside what `bytes` lends. The region comes from `mmap` and
        // went to the kernel by address, so its provenance is exposed.
        let [kind, tci] = unsafe {
            let words = meta.read_unaligned();
            meta.write_unaligned([0, 0]);
            words
        };
        match kind {
            META_TAGGED => Tag::Vlan(tci as u16),
            META_OTHER_TAG => Tag::Other,
            _ => Tag::None,
        }
    }
}

/// A UMEM and its frames, before they are divided.
pub(super) struct Allocation {
    pub(super) memory: FrameMemory,
    pub(super) umem: Umem,
    pub(super) frames: Vec<OwnedFrame>,
    pub(super) huge_pages: bool,
}

/// Allocates `2 * each_way` frames of `frame_bytes`, on huge pages when there are enough.
pub(super) fn allocate(
    name: &str,
    each_way: QueueSize,
    frame_bytes: u32,
) -> Result<Allocation, OpenError> {
    let refused = |text: String| OpenError::Unsupported(format!("{name}: {text}"));
    let size = FrameSize::new(frame_bytes).map_err(|e| refused(e.to_string()))?;
    // Twice the frames that could be in them, so that a ring never refuses a frame.
    let ring = QueueSize::new(each_way.get() * 2).map_err(|e| refused(e.to_string()))?;
    let config = UmemConfig::builder()
        .frame_size(size)
        .fill_queue_size(ring)
        .comp_queue_size(ring)
        .build()
        .map_err(|e| refused(e.to_string()))?;
    let count = NonZeroU32::new(each_way.get() * 2)
        .ok_or_else(|| refused("the ring size must not be 0".into()))?;
    let bytes = count.get() as usize * frame_bytes as usize;
    let huge = bytes
        .is_multiple_of(HUGE_PAGE_BYTES)
        .then(|| Umem::new(config, count, true).ok())
        .flatten();
    let huge_pages = huge.is_some();
    let (umem, descs) = match huge {
        Some(made) => made,
        None => Umem::new(config, count, false).map_err(|error| {
            let source = std::error::Error::source(&error)
                .and_then(|e| e.downcast_ref::<std::io::Error>())
                .and_then(std::io::Error::raw_os_error)
                .map_or_else(
                    || std::io::Error::other(error.to_string()),
                    std::io::Error::from_raw_os_error,
                );
            OpenError::system(
                format!(
                    "{name}: register {} KiB of frame memory (ENOBUFS means that RLIMIT_MEMLOCK is too low for a process without CAP_IPC_LOCK: raise LimitMEMLOCK; EPERM that CAP_NET_RAW is missing)",
                    bytes >> 10
                ),
                source,
            )
        })?,
    };
    let frames = descs
        .into_iter()
        // SAFETY: these are all the frames of a new UMEM, each claimed once.
        .map(|desc| unsafe { OwnedFrame::claim(desc) })
        .collect();
    Ok(Allocation {
        memory: FrameMemory { umem: umem.clone() },
        umem,
        frames,
        huge_pages,
    })
}
