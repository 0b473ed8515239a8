//! Copies that stay in memory, for a capture.

use std::sync::Arc;

use mirror::session::{Limits, Rate, Session as Wanted, Skip};
use policy::PortId;
use vswitch::mirroring::{
    Memory, Session, SessionShared, Way,
    memory::{Note, Reader},
};

use super::mirroring::{answer, bed, counts, datagram, put, ready, wanted};
use crate::bed::{Bed, build::*, frames::*};

/// Sessions of one capture, one for each port, whose number is its interface's, too.
fn capture(bed: &mut Bed, wanted: &Wanted, ports: &[u16], bytes: usize) -> (Vec<Session>, Reader) {
    let (memory, reader) = Memory::with_room(2, bytes);
    let wanted = Wanted {
        tunnel: None,
        ..wanted.clone()
    };
    let ready = ready(&wanted);
    let sessions = ports.iter().enumerate().map(|(slot, port)| Session {
        ready: ready.clone(),
        shared: Arc::new(SessionShared::new(2, 0x5eed)),
        slot,
        ports: vec![PortId(*port)],
        way: Some(Way::Memory(Arc::clone(&memory), (*port).into())),
    });
    let sessions: Vec<Session> = sessions.collect();
    put(bed, sessions.clone());
    (sessions, reader)
}

fn read(reader: &mut Reader) -> Vec<(Note, Vec<u8>)> {
    let mut copies = Vec::new();
    while let Some((note, bytes)) = reader.next_copy(u64::MAX) {
        copies.push((note, bytes.to_vec()));
    }
    copies
}

#[test]
fn a_capture_has_each_frame_as_it_was_received_and_as_it_left() {
    let mut bed = bed();
    let (sessions, mut reader) = capture(&mut bed, &wanted(), &[0, 1], 1 << 20);
    bed.pass(0, &datagram(1, 60));
    bed.pass(1, &answer(600));
    let copies = read(&mut reader);
    let seen: Vec<_> = copies
        .iter()
        .map(|(note, bytes)| (note.interface, note.sent, note.accepted, bytes.clone()))
        .collect();
    let (there, back) = (datagram(1, 60), answer(600));
    let expected = [
        (0, false, true, there.clone()),
        (1, true, true, there),
        (1, false, true, back.clone()),
        (0, true, true, back),
    ];
    assert_eq!(seen.len(), 4);
    assert!(expected.iter().all(|copy| seen.contains(copy)), "{seen:?}");
    assert!(copies.iter().all(|(note, bytes)| note.original_len as usize == bytes.len()));
    assert!(copies.is_sorted_by_key(|(note, _)| note.time_ns));
    for session in &sessions {
        assert_eq!(counts(session), (2, 2, vec![]));
    }
    assert_eq!(bed.received(1), [datagram(1, 60)]);
    assert_eq!(bed.received(0), [answer(600)]);
}

#[test]
fn a_tag_that_came_beside_a_frame_stands_in_its_copy_and_a_cut_one_says_how_long_it_was() {
    let mut model = super::mirroring::world();
    model.networks[0].vlan = policy::VlanId::new(10);
    model.ports[2] = trunk(2, &[0], None);
    let mut bed = Bed::new(&model);
    let short = Wanted {
        truncate_bytes: Some(78),
        ..wanted()
    };
    let (_sessions, mut reader) = capture(&mut bed, &short, &[2], 1 << 20);
    let frame = ether(BROADCAST, mac(9), 0x88b5, &[7; 200]);
    bed.send_tagged(2, &frame, 0x600a);
    bed.run();
    bed.pass(1, &ether(BROADCAST, mac(2), 0x88b5, &[8; 50]));
    let copies = read(&mut reader);
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].1, tag(&frame, 0x600a)[..78]);
    assert_eq!(copies[0].0.original_len, 14 + 4 + 200);
    let left = tag(&ether(BROADCAST, mac(2), 0x88b5, &[8; 50]), 10);
    assert_eq!(copies[1].1, left);
}

#[test]
fn rejected_frames_are_told_apart() {
    let mut bed = bed();
    let rejected = Wanted {
        rejected: true,
        ..wanted()
    };
    let (sessions, mut reader) = capture(&mut bed, &rejected, &[0, 1], 1 << 20);
    // One that the sender may not send, one that the receiver may not have.
    for port in [98, 99] {
        bed.pass(0, &datagram(port, 60));
    }
    let seen: Vec<_> = read(&mut reader)
        .into_iter()
        .map(|(note, bytes)| (note.interface, note.sent, note.accepted, bytes))
        .collect();
    let expected = [
        (0, false, false, datagram(98, 60)),
        (0, false, true, datagram(99, 60)),
        (1, true, false, datagram(99, 60)),
    ];
    assert_eq!(seen, expected);
    assert_eq!(counts(&sessions[1]), (1, 1, vec![]));
}

#[test]
fn a_memory_that_is_full_loses_copies_and_nothing_else() {
    let mut bed = bed();
    let (sessions, mut reader) = capture(&mut bed, &wanted(), &[0], 10_000);
    for _ in 0..200 {
        bed.send(0, &datagram(1, 600));
    }
    bed.run();
    assert_eq!(bed.received(1), vec![datagram(1, 600); 200]);
    let copies = read(&mut reader);
    let (wanted, copied, skips) = counts(&sessions[0]);
    assert_eq!((wanted, copied), (200, copies.len() as u64));
    assert_eq!(skips, [(Skip::NoRoom, 200 - copied)]);
    assert!(copied > 10 && copied < 20, "{copied}");
    bed.pass(0, &datagram(1, 600));
    assert_eq!(read(&mut reader).len(), 1, "what was read made room");
}

#[test]
fn a_capture_keeps_to_its_budget() {
    let mut bed = bed();
    let limited = Wanted {
        limits: Limits {
            frames: Some(Rate {
                per_second: 1,
                burst: 5,
            }),
            bits: None,
        },
        ..wanted()
    };
    let (sessions, mut reader) = capture(&mut bed, &limited, &[0], 1 << 20);
    for _ in 0..20 {
        bed.send(0, &datagram(1, 60));
    }
    bed.run();
    assert_eq!(read(&mut reader).len(), 5);
    assert_eq!(counts(&sessions[0]), (20, 5, vec![(Skip::OverBudget, 15)]));
    assert_eq!(bed.received(1).len(), 20);
}
