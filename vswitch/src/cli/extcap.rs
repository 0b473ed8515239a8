//! `vswitch extcap`: what Wireshark calls to list the switch's ports and to capture at them (Wireshark's
//! Developer's Guide §8.2, "Adding Capture Interfaces And Log Sources Using Extcap").
//!
//! In: Wireshark's arguments. Out: sentences of its protocol on standard output, or a capture in its FIFO.
//! What must hold: where no switch can be asked, Wireshark is told of no interface, and a person why on
//! standard error.

use std::{ffi::OsString, fmt::Write, fs::OpenOptions, path::{Path, PathBuf}, process::ExitCode};

use anyhow::Context;
use clap::Args;

use super::{
    Shared,
    capturing::{self, Wanted},
    pipe, print,
};
use crate::api::{
    capture_types::{DEFAULT_BITS_PER_SECOND, DEFAULT_FRAMES_PER_SECOND},
    mirror_types::MirrorSource,
    types::Port,
};

/// What the program is called in Wireshark's folder.
const PROGRAM: &str = "vswitch-extcap";
/// What names of interfaces begin with, so that none is a host's.
const PREFIX: &str = "vswitch-";
/// LINKTYPE_ETHERNET.
const ETHERNET: &str = "dlt {number=1}{name=EN10MB}{display=Ethernet}";

/// The arguments, with the command's name if the program was called by that of the extcap program.
pub(super) fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.collect();
    let program = arguments.first().map(Path::new);
    if program.and_then(Path::file_name) == Some(PROGRAM.as_ref()) {
        arguments.insert(1, "extcap".into());
    }
    arguments
}

/// The command's arguments.
#[derive(Debug, Args)]
pub(super) struct Extcap {
    /// List the interfaces
    #[arg(long)]
    extcap_interfaces: bool,
    /// Wireshark's version
    #[arg(long, value_name = "VERSION", num_args = 0..=1)]
    extcap_version: Option<Option<String>>,
    /// The interface that is meant
    #[arg(long, value_name = "INTERFACE")]
    extcap_interface: Option<String>,
    /// List the interface's link types
    #[arg(long)]
    extcap_dlts: bool,
    /// List the interface's options
    #[arg(long)]
    extcap_config: bool,
    /// Capture
    #[arg(long)]
    capture: bool,
    /// The capture filter; without --capture it is checked only
    #[arg(long, value_name = "RULES")]
    extcap_capture_filter: Option<String>,
    /// Where the capture goes
    #[arg(long, value_name = "FIFO")]
    fifo: Option<PathBuf>,
    #[command(flatten)]
    wanted: Wanted,
}

impl Extcap {
    pub(super) fn execute(&self, shared: &Shared) -> anyhow::Result<ExitCode> {
        if self.extcap_interfaces {
            match shared.client().request("GET", "/v1/ports", None) {
                Ok(body) => print(&interfaces(&serde_json::from_str::<Vec<Port>>(&body)?))?,
                // Wireshark starts all the same, without the switch's ports.
                Err(error) => eprintln!("vswitch: {error:#}"),
            }
            return Ok(ExitCode::SUCCESS);
        }
        let port = self.extcap_interface.as_deref();
        let port = port.and_then(|interface| interface.strip_prefix(PREFIX));
        let port = port.with_context(|| {
            format!("which port? Give --extcap-interface {PREFIX}PORT; --extcap-interfaces lists them")
        })?;
        if self.extcap_dlts {
            print(ETHERNET)?;
        } else if self.extcap_config {
            print(&options())?;
        } else if self.capture {
            self.capture_at(port, shared)?;
        } else if let Some(filter) = &self.extcap_capture_filter {
            // Whatever is printed is what is wrong with it.
            if let Err(error) = capturing::rules(filter) {
                print(&error)?;
            }
        } else {
            anyhow::bail!("say what to do: --extcap-dlts, --extcap-config or --capture");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn capture_at(&self, port: &str, shared: &Shared) -> anyhow::Result<()> {
        let fifo = self.fifo.as_deref().context("where to? Give --fifo FIFO")?;
        let sources = vec![MirrorSource::Port(port.to_owned())];
        let filter = self.extcap_capture_filter.as_deref();
        let request = self.wanted.request(sources, filter)?;
        let output = OpenOptions::new().write(true).open(fifo);
        let output = output.with_context(|| format!("cannot write to {}", fifo.display()))?;
        let summary = pipe::run(&shared.client(), &request, output)?;
        eprintln!("{}", capturing::sentence(&summary));
        Ok(())
    }
}

/// A text as it may stand in a sentence.
fn quoted(text: &str) -> String {
    text.replace(['{', '}', '\n'], " ")
}

fn interfaces(ports: &[Port]) -> String {
    let mut text = format!(
        "extcap {{version={}}}{{display=vswitch}}\n",
        env!("CARGO_PKG_VERSION")
    );
    for port in ports {
        let (name, vm) = (quoted(&port.name), port.vm.as_deref().map(quoted));
        let vm = vm.map(|vm| format!(" of VM {vm}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "interface {{value={PREFIX}{name}}}{{display=vswitch port {name}{vm}}}"
        );
    }
    text
}

/// The options of every interface, by the names of `vswitch capture`'s.
fn options() -> String {
    let mut text = String::new();
    let options = [
        "{call=--direction}{display=Direction}{tooltip=As the VM sees it}{type=selector}".to_owned(),
        "{call=--rejected}{display=Rejected frames, too}{tooltip=Frames that policy rejects; they have a comment}{type=boolflag}{default=false}".to_owned(),
        "{call=--snap}{display=Bytes of each frame}{tooltip=At least 78; all when empty}{type=unsigned}{range=78,65557}".to_owned(),
        "{call=--sample}{display=One in so many}{tooltip=100: of frames; 100flows: of flows}{type=string}".to_owned(),
        format!("{{call=--frames-per-second}}{{display=Most frames a second}}{{type=unsigned}}{{default={DEFAULT_FRAMES_PER_SECOND}}}"),
        format!("{{call=--bits-per-second}}{{display=Most bits a second}}{{type=long}}{{default={DEFAULT_BITS_PER_SECOND}}}"),
    ];
    for (number, option) in options.iter().enumerate() {
        let _ = writeln!(text, "arg {{number={number}}}{option}");
    }
    for (value, display, default) in [
        ("both", "Both", true),
        ("in", "To the VM", false),
        ("out", "From the VM", false),
    ] {
        let _ = writeln!(
            text,
            "value {{arg=0}}{{value={value}}}{{display={display}}}{{default={default}}}"
        );
    }
    text
}
