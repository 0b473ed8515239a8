//! Nothing is allocated for a frame, whatever comes: not to make a copy, not to deliver, hold or
//! refuse one. Alone in its program, because only a whole program has an allocator that counts.

use std::{hint::black_box, sync::Arc};

use mirror::{
    decap::{Decapsulator, FanOut, Options, Reception, Sniffer, SnifferId},
    wire::{
        Addresses, Carrier, Fields, Granularity, Link, MAX_PREFIX_BYTES, Oversize, SessionId,
        Template, Tunnel,
    },
};
use pmd::allocations::{self, Counting};
use policy::Mac;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn template(last: u8, oversize: Oversize) -> Template {
    let tunnel = Tunnel {
        link: Link {
            destination: Mac([2, 0, 0, 0, 0, 9]),
            source: Mac([2, 0, 0, 0, 0, 1]),
            tci: None,
        },
        addresses: Addresses::V4 {
            source: [192, 0, 2, last].into(),
            destination: [192, 0, 2, 99].into(),
        },
        dscp: 0,
        ttl: 64,
        dont_fragment: false,
        carrier: Carrier::ErspanIII {
            session: SessionId::new(5).expect("10 bits"),
            granularity: Granularity::Nanoseconds100,
            hardware: 0,
            sequence: true,
            port: Some(3),
        },
        mtu_bytes: 1500,
        oversize,
    };
    Template::new(&tunnel).expect("valid")
}

#[test]
fn nothing_is_allocated_for_a_frame() {
    let mut inner = vec![0; 3000];
    inner[..6].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    let templates = [1, 2].map(|last| template(last, Oversize::Fragment));
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for template in &templates {
        for len in [60, 1000, 3000] {
            let fields = Fields {
                inner_len: len,
                ip_id: len,
                ..Fields::default()
            };
            let inner = &inner[..len as usize];
            let mut prefix = [0; MAX_PREFIX_BYTES];
            if len < 1400 {
                let at = template.write(&fields, &mut prefix);
                frames.push([&prefix[..at], inner].concat());
            }
            for number in 0..3 {
                if let Some(piece) = template.piece(&fields, number, &mut prefix) {
                    let rest = &inner[piece.skip as usize..(piece.skip + piece.len) as usize];
                    frames.push([&prefix[..piece.prefix_len], rest].concat());
                }
            }
        }
    }
    // Cut off anywhere.
    for len in 0..frames[0].len() {
        frames.push(frames[0][..len].to_vec());
    }

    let options = Options {
        sessions: 4,
        ..Options::default()
    };
    let mut decap = Decapsulator::new(&options);
    // The other sender is unknown.
    let session = Reception {
        name: "s".into(),
        tenant: "blue".into(),
        identity: templates[0].identity(),
        sniffers: vec![SnifferId(1), SnifferId(2)],
        fan_out: FanOut::Spread,
        once: true,
    };
    let sniffers = [1, 2].map(|number| Sniffer {
        id: SnifferId(number),
        tenant: "blue".into(),
        mac: Mac([2, 0, 0, 0, 1, number as u8]),
    });
    let table = decap.table().next(&[session], &sniffers).expect("a table");
    decap.adopt(Arc::new(table)).expect("room");

    let before = allocations::count();
    let mut prefix = [0; MAX_PREFIX_BYTES];
    for turn in 0..100u32 {
        let fields = Fields {
            inner_len: 64,
            sequence: turn,
            ..Fields::default()
        };
        black_box(templates[0].write(&fields, &mut prefix));
        for frame in &frames {
            black_box(decap.receive(frame, u64::from(turn) * 1_000_000));
        }
    }
    assert_eq!(allocations::count() - before, 0);
    let totals = &decap.counters().totals;
    assert!(totals.delivered.get() >= 100 && totals.reassembled.get() >= 100);
    assert!(totals.refused.sum() > 1000);
}
