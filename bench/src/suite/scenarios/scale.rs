//! What many rules, flows and ports take: memory, and time to start.

use std::{
    fmt::Write,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use vswitch::flow_cache::Entry;

use super::{Axis, Scenario};
use crate::{
    process::{Directory, Process, interrupt},
    suite::{Better, Load, Run, results::grouped},
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "scale",
    title: "Many rules, flows and ports",
    about: "The switch process with memory ports of 64 buffers of 256 bytes and one worker. \"s to start\" \
            is from the start of the process until its control socket answers. Memory is what is \
            resident (VmRSS); what one rule, flow or port takes is the difference between two starts \
            by that of their numbers. A rule has a prefix, a protocol and a port; all ports with a \
            vNIC share one list. Of a flow it is its place in the flow cache, used or not.",
    axis: Axis::Case,
    measure,
};

const START: Duration = Duration::from_secs(60);

/// How long after that its memory is looked at.
const SETTLE: Duration = Duration::from_millis(500);

/// How large a switch is.
#[derive(Clone, Copy, Debug)]
struct Size {
    rules: u64,
    ports: u64,
}

const SMALL: Size = Size { rules: 1, ports: 2 };

/// An entry of the flow cache, and its part of a set, one line for sixteen. From outside it is not to be
/// seen: the kernel gives the memory as it is first used.
const FLOW_BYTES: f64 = (size_of::<Entry>() + 64 / 16) as f64;

/// What a start took.
#[derive(Clone, Copy, Debug)]
struct Start {
    seconds: f64,
    resident_bytes: f64,
}

fn measure(run: &mut Run<'_>) -> anyhow::Result<()> {
    let (rules, ports) = run.pick((100_000, 1000), (1000, 50));
    let sizes = [
        SMALL,
        Size { rules, ..SMALL },
        Size { ports, ..SMALL },
        Size { rules, ports },
    ];
    let mut starts = [const { Vec::new() }; 4];
    for _ in 0..run.pick(3, 1) {
        for (size, starts) in sizes.iter().zip(&mut starts) {
            starts.push(start(run, *size).with_context(|| format!("{size:?}"))?);
        }
    }
    let [small, many_rules, many_ports, _] = &starts;
    let each = |many: &[Start], more: u64| -> Vec<f64> {
        let pairs = small.iter().zip(many);
        let each = pairs.map(|(small, many)| many.resident_bytes - small.resident_bytes);
        each.map(|bytes| bytes / more as f64).collect()
    };
    for (case, values) in [
        ("one rule", each(many_rules, rules - SMALL.rules)),
        ("one flow", vec![FLOW_BYTES]),
        ("one port", each(many_ports, ports - SMALL.ports)),
    ] {
        let load = Load {
            case: Some(case.to_owned()),
            cores: 1,
            ..Load::default()
        };
        run.found("vswitch", ("bytes of memory", Better::Lower), load, &values);
    }
    for (size, starts) in sizes.iter().zip(&starts) {
        let load = Load {
            case: Some(format!(
                "{} rules, {} ports",
                grouped(size.rules),
                grouped(size.ports)
            )),
            cores: 1,
            ..Load::default()
        };
        let seconds: Vec<f64> = starts.iter().map(|start| start.seconds).collect();
        run.found("vswitch", ("s to start", Better::Lower), load, &seconds);
    }
    Ok(())
}

fn start(run: &Run<'_>, size: Size) -> anyhow::Result<Start> {
    let directory = Directory::new()?;
    let file = directory.join("vswitch.toml");
    let socket = directory.join("socket");
    fs::write(&file, config(&directory, run.options.switch_core, size))?;
    let mut command = Command::new(&run.options.switch);
    command.arg("run").arg("--config").arg(&file);
    let began = Instant::now();
    let mut process = Process::start_deaf(&mut command, directory.join("log"), None)?;
    let seconds = interrupt::wait_for("the switch answering", START, || {
        process.check()?;
        let there = std::os::unix::net::UnixStream::connect(&socket).is_ok();
        Ok(there.then(|| began.elapsed().as_secs_f64()))
    })?;
    // Its workers make their tables after it answers.
    interrupt::sleep(SETTLE)?;
    Ok(Start {
        seconds,
        resident_bytes: process.memory_bytes("VmRSS")? as f64,
    })
}

fn config(directory: &Directory, core: usize, size: Size) -> String {
    let mut text = format!(
        "[switch]\nsocket = \"{}\"\n\n[workers]\ncores = [{core}]\n\n\
         [[network]]\nname = \"bench\"\ntenant = \"bench\"\n\n[[acl]]\nname = \"many\"\nrules = [\n",
        directory.join("socket").display(),
    );
    for rule in 0..size.rules {
        let [.., high, middle, low] = rule.to_be_bytes();
        let _ = writeln!(
            text,
            "  {{ action = \"deny\", dst = \"10.{high}.{middle}.{low}\", protocol = \"udp\", dst_ports = [{}] }},",
            rule % 60_000 + 1
        );
    }
    text += "]\n";
    for port in 0..size.ports {
        let [.., high, low] = port.to_be_bytes();
        let _ = write!(
            text,
            "\n[[port]]\nname = \"p{port}\"\ndriver = \"memory\"\nslots = 64\nmax_frame_bytes = 256\n\
             network = \"bench\"\n\n[[vnic]]\nname = \"p{port}\"\nvm = \"p{port}\"\nport = \"p{port}\"\n\
             mac = \"02:00:00:00:{high:02x}:{low:02x}\"\nipv4 = [\"10.200.{high}.{low}\"]\n\
             outbound = {{ acl = \"many\", default = \"allow\" }}\n"
        );
    }
    text
}
