//! What is counted: so many passes of the walk, and nothing that a clock or a random source decides.

use anyhow::Context;
use pmd::clock::cycles;
use vswitch::worker::Worker;

use crate::walk::{self, Drive};

/// A case.
#[derive(Clone, Copy, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent switches of the bench"
)]
pub struct Case {
    /// Its name in the table.
    pub name: &'static str,
    /// What of it.
    pub about: &'static str,
    miss: bool,
    stateful: bool,
    routed: bool,
    mirrored: bool,
    burst: usize,
}

/// All cases: 1,000 flows, 64 outbound rules, 8 inbound ones, frames of 64 bytes.
pub const CASES: [Case; 7] = [
    Case {
        name: "hit",
        about: "a frame of a known flow, in bursts of 64",
        miss: false,
        stateful: false,
        routed: false,
        mirrored: false,
        burst: 64,
    },
    Case {
        name: "hit-alone",
        about: "a frame of a known flow, the only one of its turn, and an empty turn after it",
        miss: false,
        stateful: false,
        routed: false,
        mirrored: false,
        burst: 1,
    },
    Case {
        name: "miss",
        about: "the first frame of a flow, in bursts of 64",
        miss: true,
        stateful: false,
        routed: false,
        mirrored: false,
        burst: 64,
    },
    Case {
        name: "hit-stateful",
        about: "a frame of a known TCP connection, in bursts of 64",
        miss: false,
        stateful: true,
        routed: false,
        mirrored: false,
        burst: 64,
    },
    Case {
        name: "hit-routed",
        about: "a frame of a known flow to another network, in bursts of 64",
        miss: false,
        stateful: false,
        routed: true,
        mirrored: false,
        burst: 64,
    },
    Case {
        name: "miss-stateful",
        about: "the first frame of a TCP connection, in bursts of 64",
        miss: true,
        stateful: true,
        routed: false,
        mirrored: false,
        burst: 64,
    },
    Case {
        name: "hit-mirrored",
        about: "a frame of a known flow and its copy, in bursts of 64",
        miss: false,
        stateful: false,
        routed: false,
        mirrored: true,
        burst: 64,
    },
];

/// What callgrind knows the counted part by.
pub(super) const MARK: &str = "counted_turn";

/// Room in the flow cache: full before counting begins, so that each miss evicts.
const CACHE_ENTRIES: usize = 1 << 13;

/// Walks `passes` rings of 256 frames. Run under callgrind, which counts what the turns execute.
///
/// # Errors
/// When there is no such case, or the bed cannot be had.
pub fn run(name: &str, passes: u64) -> anyhow::Result<()> {
    let case = CASES.iter().find(|case| case.name == name);
    let case = case.with_context(|| format!("there is no case \"{name}\""))?;
    let options = walk::Options {
        flows: 1000,
        rules: 64,
        size_bytes: 64,
        miss: case.miss,
        seconds: 0.0,
        cache_entries: Some(CACHE_ENTRIES),
        core: None,
        stateful: case.stateful,
        routed: case.routed,
        mirrored: case.mirrored,
        burst: case.burst,
    };
    let mut drive = Drive::new(&options, CACHE_ENTRIES)?;
    if case.miss {
        for _ in 0..=2 * CACHE_ENTRIES / walk::RING_SLOTS as usize {
            drive.pass();
        }
    } else {
        drive.warm_up(options.flows)?;
    }
    // A clock that stands still: nothing ages and nothing is refreshed.
    let now = cycles();
    for _ in 0..passes {
        drive.pass_by(|worker| counted_turn(worker, now));
    }
    drive.check_accounts()
}

/// The mark. Its name is what callgrind looks for.
#[inline(never)]
fn counted_turn(worker: &mut Worker, now: u64) -> usize {
    worker.turn_at(now)
}
