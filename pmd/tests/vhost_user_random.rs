//! Random guests: whatever stands in rings, buffers and messages, the port answers with frames
//! that the guest could have sent, or stops with a reason, and works again for the next guest.
//!
//! Each run has a seed, which the failure names; `VHOST_USER_RUNS` asks for more runs than the
//! few that always take place. `scripts/fuzz` lets a fuzzer choose instead.

mod front_end;

use front_end::{
    Bed,
    random::{Seed, all_is_well, messages, rings},
};

fn runs(few: u64) -> u64 {
    let asked = std::env::var("VHOST_USER_RUNS");
    asked.ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

#[test]
fn random_rings_stop_the_port_or_carry_frames() {
    let mut bed = Bed::new();
    let mut stopped = 0;
    let mut carried = 0;
    for seed in 0..runs(400) {
        let outcome = rings(&mut bed, &mut Seed(seed), &format!("seed {seed}"));
        stopped += u32::from(outcome.stopped);
        carried += outcome.carried;
    }
    assert!(
        stopped > 0 && carried > 0,
        "{stopped} stopped, {carried} frames"
    );
}

#[test]
fn random_messages_end_the_connection_or_do_no_harm() {
    let mut bed = Bed::new();
    for seed in 0..runs(400) {
        messages(&mut bed, &mut Seed(seed ^ 0x5eed));
    }
    all_is_well(&mut bed);
}
