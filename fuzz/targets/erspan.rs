//! What reaches the tunnel port: any frames are delivered, held or refused, nothing reaches a sniffer
//! that is not its session's, and the laws of the counters hold.
//!
//! The input is a row of frames, each behind its length. The sessions are those of a few tunnels, so
//! that what differs from them little is known.

#![no_main]

use std::{cell::RefCell, net::IpAddr, sync::Arc};

use libfuzzer_sys::fuzz_target;
use mirror::{
    decap::{
        Decapsulator, FanOut, Options, Outcome, Reception, ReassemblyLimits, Sniffer, SnifferId,
        Table,
    },
    wire::{Identity, Refusal, TunnelKind, decode, refusal::Account},
};
use policy::Mac;

const SNIFFERS: u16 = 4;

fn sessions() -> Vec<Reception> {
    let v4 = |last| IpAddr::from([192, 0, 2, last]);
    let v6 = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
    let kinds = TunnelKind::ALL.into_iter().enumerate();
    let identities = kinds.flat_map(|(number, kind)| {
        let id = (kind != TunnelKind::ErspanI).then_some(number as u32);
        [
            Identity::new(v4(1), v4(99), kind, id),
            Identity::new(v6(1), v6(0x99), kind, id),
        ]
    });
    let receptions = identities.enumerate().map(|(number, identity)| Reception {
        name: number.to_string().into(),
        tenant: "blue".into(),
        identity,
        sniffers: (0..=number as u16 % SNIFFERS).map(SnifferId).collect(),
        fan_out: [FanOut::All, FanOut::Spread][number / 2 % 2],
        once: number.is_multiple_of(3),
    });
    receptions.collect()
}

fn bed() -> Decapsulator {
    let mut decap = Decapsulator::new(&Options {
        sessions: 16,
        reassembly: ReassemblyLimits {
            datagrams: 4,
            datagrams_of_sender: 3,
            datagram_bytes: 4096,
            timeout_ns: 1_000,
        },
        duplicate_entries: 16,
        duplicate_window_ns: 1_000,
        secret: 1,
    });
    let sniffers = (0..SNIFFERS).map(|number| Sniffer {
        id: SnifferId(number),
        tenant: "blue".into(),
        mac: Mac([2, 0, 0, 0, 0, number as u8]),
    });
    let sniffers: Vec<Sniffer> = sniffers.collect();
    let table = Table::empty(16).next(&sessions(), &sniffers).expect("a table");
    assert!(decap.adopt(Arc::new(table)).is_ok());
    decap
}

fn check_laws(decap: &Decapsulator) {
    let totals = &decap.counters().totals;
    let refused = |account| -> u64 {
        let all = Refusal::ALL.iter().filter(|refusal| refusal.account() == account);
        all.map(|refusal| totals.refused.get(*refusal)).sum()
    };
    let (whole, fragments) = (totals.whole.get(), totals.fragments.get());
    assert_eq!(totals.frames.get(), whole + fragments);
    let (joined, held) = (totals.joined.get(), totals.held.get());
    assert_eq!(fragments, joined + held + refused(Account::Fragment));
    let (received, delivered) = (totals.received.get(), totals.delivered.get());
    assert_eq!(whole + totals.reassembled.get(), received + refused(Account::Frame));
    assert_eq!(received, delivered + refused(Account::Session));
}

thread_local! {
    static BED: RefCell<(Decapsulator, u64)> = RefCell::new((bed(), 1));
}

fuzz_target!(|data: &[u8]| {
    BED.with_borrow_mut(|(decap, now_ns)| {
        let table = Arc::clone(decap.table());
        let mut rest = data;
        while let [high, low, behind @ ..] = rest {
            let len = usize::from(u16::from_be_bytes([*high & 7, *low])).min(behind.len());
            let (frame, behind) = behind.split_at(len);
            rest = behind;
            *now_ns += u64::from(*high >> 3) * 10;
            if let Ok(decoded) = decode(frame) {
                assert!(frame[decoded.inner].len() >= 14);
            }
            match decap.receive(frame, *now_ns) {
                Outcome::Delivered(delivery) => {
                    let owner = table.sessions().find(|(slot, _)| *slot == delivery.session);
                    let (_, owner) = owner.expect("a session");
                    let to_owner = |target: &mirror::decap::Target| {
                        owner.sniffers.contains(&target.sniffer)
                    };
                    assert!(!delivery.targets.is_empty() && delivery.targets.iter().all(to_owner));
                    assert_eq!(delivery.rest().len() + 6, delivery.inner.len());
                }
                Outcome::Held | Outcome::Refused(_) => {}
            }
        }
        check_laws(decap);
    });
});
