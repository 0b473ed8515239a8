//! Instructions a frame: the figure that no neighbour disturbs.

use super::{Axis, Scenario};
use crate::{
    instructions,
    suite::{Better, Load, Run},
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "instructions",
    title: "Inside the switch: instructions a frame",
    about: "Counted by valgrind's callgrind inside Worker::turn, on the release build: 1,000 flows, 64 \
            outbound and 8 inbound rules, frames of 64 bytes. The same on every machine with the same \
            compiler; CI holds them against bench/instructions.toml.",
    axis: Axis::Case,
    measure,
};

fn measure(run: &mut Run<'_>) -> anyhow::Result<()> {
    for count in instructions::count(&std::env::current_exe()?)? {
        let load = Load {
            case: Some(count.name),
            frame_bytes: Some(64),
            flows: Some(1000),
            rules: Some(64),
            cores: 1,
            ..Load::default()
        };
        let metric = ("instructions/frame", Better::Lower);
        run.found("vswitch", metric, load, &[count.instructions]);
    }
    Ok(())
}
