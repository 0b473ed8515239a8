//! Nothing piles up, however often guests come, go, and misbehave. A binary of its own, because
//! descriptors and mappings are counted for the whole process.

mod front_end;

use std::os::fd::AsFd;

use front_end::{
    Bed, FrontEnd, GUEST_BASE, Options, USER_BASE, feature, frame, request, take_frames, wait_for,
};

/// CVE-2019-14818, CVE-2020-10726, CVE-2022-0669.
const REPETITIONS: u32 = 10_000;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter(|line| line.contains("vhost-user-test"))
        .count()
}

#[test]
fn nothing_piles_up_in_ten_thousand_repetitions() {
    let mut bed = Bed::new();
    let options = Options {
        memory_bytes: 1 << 20,
        ring_size: 16,
        features: feature::PLAIN | feature::MRG_RXBUF | feature::LOG_ALL,
        ..Options::default()
    };
    let log_bytes = (GUEST_BASE + (1 << 41)) / 4096 / 8;
    let log = front_end::Memory::new(log_bytes);
    let idle = descriptors();
    // Within one connection: tables, regions, descriptors, logs, stops and starts.
    let mut guest = bed.guest(options);
    let table = guest.regions();
    let words = [0, GUEST_BASE + (1 << 40), 4096, USER_BASE + (1 << 40), 0];
    let region: Vec<u8> = words
        .iter()
        .flat_map(|word: &u64| word.to_le_bytes())
        .collect();
    let log_body = [log_bytes.to_le_bytes(), [0; 8]].concat();
    let more = guest.memory.file.try_clone().expect("clone");
    let mut steady = None;
    for round in 0..REPETITIONS {
        if round == 10 {
            steady = Some((descriptors(), mappings()));
        }
        assert_eq!(guest.set_memory(&table), Ok(0));
        assert_eq!(
            guest.set(request::ADD_MEM_REG, &region, &[more.as_fd()]),
            Ok(0)
        );
        guest.send(request::SET_LOG_BASE, 1, &log_body, &[log.file.as_fd()]);
        guest.reply().expect("a reply");
        assert_eq!(guest.set(request::REM_MEM_REG, &region, &[]), Ok(0));
        guest.stop_queue(1).expect("stopped");
        guest.start_queue(1);
    }
    assert_eq!(Some((descriptors(), mappings())), steady);
    drop((guest, more));
    let at_rest = || (descriptors() == idle && mappings() == 0).then_some(());
    wait_for("the first connection to end", at_rest);
    // Whole connections: good ones, ones cut off in the middle, ones that break a rule.
    for round in 0..REPETITIONS {
        let mut guest = FrontEnd::connect(&bed.socket, options);
        match round % 4 {
            0 => {
                guest.start();
                guest.transmit(0, &frame(64, 0));
                assert_eq!(take_frames(&mut bed.port).len(), 1);
            }
            1 => {
                guest.negotiate();
                guest.share_memory();
            }
            2 => {
                guest.negotiate();
                let mut table = guest.regions();
                table[0][1] *= 2;
                assert_ne!(guest.set_memory(&table), Ok(0));
            }
            _ => {
                guest.start();
                guest.make_available(1, 0xffff);
                assert!(take_frames(&mut bed.port).is_empty());
            }
        }
    }
    wait_for("the last connection to end", at_rest);
}
