//! What many rules, flows and ports take: memory, and time to start.

use std::{
    fmt::Write,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;

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
            vNIC share one list. Of a flow it is its place in the flow cache, used or not (VmSize).",
    axis: Axis::Case,
    measure,
};

const START: Duration = Duration::from_secs(60);

/// How large a switch is.
#[derive(Clone, Copy, Debug)]
struct Size {
    rules: u64,
    ports: u64,
    cache_entries: u64,
}

const SMALL: Size = Size {
    rules: 1,
    ports: 2,
    cache_entries: 1 << 16,
};

const MANY_ENTRIES: u64 = 1 << 20;

/// What a start took.
#[derive(Clone, Copy, Debug)]
struct Start {
    seconds: f64,
    resident_bytes: f64,
    asked_bytes: f64,
}

fn measure(run: &mut Run<'_>) -> anyhow::Result<()> {
    let (rules, ports) = run.pick((100_000, 1000), (1000, 50));
    let sizes = [
        SMALL,
        Size { rules, ..SMALL },
        Size { ports, ..SMALL },
        Size {
            cache_entries: MANY_ENTRIES,
            ..SMALL
        },
        Size {
            rules,
            ports,
            ..SMALL
        },
    ];
    let mut starts = [const { Vec::new() }; 5];
    for _ in 0..run.pick(3, 1) {
        for (size, starts) in sizes.iter().zip(&mut starts) {
            starts.push(start(run, *size).with_context(|| format!("{size:?}"))?);
        }
    }
    let [small, many_rules, many_ports, many_flows, _] = &starts;
    let each = |many: &[Start], more: u64, bytes: fn(&Start) -> f64| -> Vec<f64> {
        let pairs = small.iter().zip(many);
        let each = pairs.map(|(small, many)| (bytes(many) - bytes(small)) / more as f64);
        each.collect()
    };
    let resident = |start: &Start| start.resident_bytes;
    for (case, values) in [
        ("one rule", each(many_rules, rules - SMALL.rules, resident)),
        // The kernel gives the cache's memory when it is first used.
        (
            "one flow",
            each(many_flows, MANY_ENTRIES - SMALL.cache_entries, |start| {
                start.asked_bytes
            }),
        ),
        ("one port", each(many_ports, ports - SMALL.ports, resident)),
    ] {
        let load = Load {
            case: Some(case.to_owned()),
            cores: 1,
            ..Load::default()
        };
        run.found("vswitch", ("bytes of memory", Better::Lower), load, &values);
    }
    for (size, starts) in sizes.iter().zip(&starts) {
        if size.cache_entries != SMALL.cache_entries {
            continue;
        }
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
    Ok(Start {
        seconds,
        resident_bytes: process.memory_bytes("VmRSS")? as f64,
        asked_bytes: process.memory_bytes("VmSize")? as f64,
    })
}

fn config(directory: &Directory, core: usize, size: Size) -> String {
    let mut text = format!(
        "[switch]\nsocket = \"{}\"\n\n[workers]\ncores = [{core}]\nflow_cache_entries = {}\n\n\
         [[network]]\nname = \"bench\"\ntenant = \"bench\"\n\n[[acl]]\nname = \"many\"\nrules = [\n",
        directory.join("socket").display(),
        size.cache_entries,
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
