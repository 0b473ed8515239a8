//! Nothing is allocated for a burst, whatever is cut in it. Alone in its program, because only a
//! whole program has an allocator that counts.

use std::hint::black_box;

use pmd::{
    BURST, Frame, PartialChecksum, PrefixArena, TxBurst, TxPlan, TxQueue, TxReport,
    allocations::{self, Counting},
    segment::Segmenter,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Copies every frame to the same place.
struct Sink([u8; 2048]);

impl TxQueue for Sink {
    fn transmit(&mut self, burst: &TxBurst<'_>) -> TxReport {
        let mut report = TxReport::default();
        for plan in burst.plans {
            report.sent += 1;
            report.sent_bytes += burst.write(plan, &mut self.0) as u64;
        }
        report
    }
}

#[test]
fn cutting_allocates_nothing() {
    let mut bytes = vec![0; 54 + 60_000];
    let total_bytes = (bytes.len() as u16 - 14).to_be_bytes();
    bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    bytes[16..18].copy_from_slice(&total_bytes);
    bytes[23] = 6;
    bytes[46] = 0x50;
    let mut cut = Frame::contiguous(&bytes);
    cut.segment_bytes = 1448;
    cut.partial_checksum = Some(PartialChecksum {
        start: 34,
        offset: 16,
    });
    let mut refused = cut;
    refused.segment_bytes = 1;
    let frames = [Frame::contiguous(&bytes[..60]), cut, refused];
    let plans: Vec<TxPlan> = (0..BURST)
        .map(|index| TxPlan::whole(index % 3, &frames[index % 3]))
        .collect();
    let prefixes = PrefixArena::default();
    let burst = TxBurst {
        frames: &frames,
        prefixes: &prefixes,
        plans: &plans,
    };
    let mut segmenter = Segmenter::default();
    let mut sink = Sink([0; 2048]);

    let before = allocations::count();
    assert!(before > 0, "the allocator is installed");
    let report = segmenter.transmit(&burst, black_box(&mut sink));
    assert_eq!(allocations::count(), before);
    assert_eq!((report.sent, report.too_big), (43, 21));
}
