//! Namespaces and veth pairs for one run, gone when dropped.
//!
//! ```text
//!   namespace A            host                           namespace B
//!     sw0 ═══════════ {name}sa   switch   {name}sb ═══════════ sw0
//!     br0 ═══════════ {name}ba ─{name}br─ {name}bb ═══════════ br0
//!     di0 ═════════════════════════════════════════════════════ di0
//! ```

use std::{
    fs::{self, File},
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use anyhow::{Context, bail};
use pmd::{Port, af_xdp};
use policy::Mac;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process;

/// A side of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the load comes from.
    A,
    /// Where it goes.
    B,
}

impl Side {
    fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    /// The address of its interfaces.
    pub fn mac(self) -> Mac {
        Mac([2, 0xbe, 0, 0, 0, self.letter() as u8])
    }
}

/// What stands between the two namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Nothing: one veth pair.
    Direct,
    /// Two veth pairs whose host ends a switch process takes.
    Switch,
    /// Two veth pairs whose host ends are in a Linux bridge.
    Bridge,
    /// The same, with rules of nftables.
    BridgeNftables,
    /// Two veth pairs, and a program in the kernel that passes on what arrives at one host end.
    XdpRedirect,
    /// Two veth pairs whose host ends an Open vSwitch takes with `AF_XDP`.
    OpenVswitch,
}

impl Path {
    fn letter(self) -> char {
        match self {
            Self::Direct => 'd',
            Self::Switch => 's',
            Self::Bridge => 'b',
            Self::BridgeNftables => 'n',
            Self::XdpRedirect => 'x',
            Self::OpenVswitch => 'o',
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Switch => "switch",
            Self::Bridge => "bridge",
            Self::BridgeNftables => "bridge-nftables",
            Self::XdpRedirect => "xdp-redirect",
            Self::OpenVswitch => "openvswitch-afxdp",
        }
    }

    fn is_bridge(self) -> bool {
        matches!(self, Self::Bridge | Self::BridgeNftables)
    }

    /// The interface in both namespaces.
    fn interface(self) -> &'static str {
        match self {
            Self::Direct => "di0",
            Self::Switch => "sw0",
            Self::Bridge => "br0",
            Self::BridgeNftables => "nf0",
            Self::XdpRedirect => "xr0",
            Self::OpenVswitch => "ov0",
        }
    }
}

/// Two namespaces and the paths between them.
#[derive(Debug)]
pub struct Lab {
    name: String,
    bridges: Vec<Path>,
}

impl Lab {
    /// Two namespaces with the paths asked for.
    ///
    /// # Errors
    /// When the process may not make namespaces, or `ip` is missing or refuses a step.
    pub fn new(paths: &[Path]) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vb{:x}n{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        // From here on dropping it takes down whatever was made.
        let lab = Self {
            name,
            bridges: paths
                .iter()
                .copied()
                .filter(|path| path.is_bridge())
                .collect(),
        };
        for side in [Side::A, Side::B] {
            ip(&["netns", "add", &lab.namespace(side)])?;
        }
        for path in paths {
            lab.make(*path)
                .with_context(|| format!("making the {path:?} path"))?;
        }
        Ok(lab)
    }

    fn make(&self, path: Path) -> anyhow::Result<()> {
        let (a, b) = (self.namespace(Side::A), self.namespace(Side::B));
        let inside = path.interface();
        // One queue each way: a native XDP program needs as many as its peer sends with.
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        if path == Path::Direct {
            let ends = [&["link", "add", inside, "netns", &a][..], &queues].concat();
            let peer = ["type", "veth", "peer", "name", inside, "netns", &b];
            ip(&[&ends[..], &peer, &queues].concat())?;
        } else {
            for side in [Side::A, Side::B] {
                let (host, namespace) = (self.host_end(path, side), self.namespace(side));
                let ends = [&["link", "add", &host][..], &queues].concat();
                let peer = ["type", "veth", "peer", "name", inside, "netns", &namespace];
                ip(&[&ends[..], &peer, &queues].concat())?;
                // The host's own stack would mix its neighbour discovery into the load.
                quiet(&host)?;
                ip(&["link", "set", &host, "up"])?;
            }
        }
        for side in [Side::A, Side::B] {
            let (namespace, mac) = (self.namespace(side), side.mac().to_string());
            let set = ["-n", &namespace, "link", "set", inside];
            ip(&[&set[..], &["address", &mac, "addrgenmode", "none"]].concat())?;
            ip(&[&set[..], &["up"]].concat())?;
        }
        if path == Path::OpenVswitch {
            let room = self.room();
            ip(&["netns", "add", &room])?;
            for side in [Side::A, Side::B] {
                let host = self.host_end(path, side);
                ip(&["link", "set", &host, "netns", &room])?;
                ip(&["-n", &room, "link", "set", &host, "up"])?;
            }
        }
        if path.is_bridge() {
            let bridge = self.bridge_name(path);
            ip(&["link", "add", &bridge, "type", "bridge", "stp_state", "0"])?;
            quiet(&bridge)?;
            for side in [Side::A, Side::B] {
                ip(&["link", "set", &self.host_end(path, side), "master", &bridge])?;
            }
            ip(&["link", "set", &bridge, "up"])?;
            // Each side's place, as the bridge would learn it.
            for side in [Side::A, Side::B] {
                let (mac, host) = (side.mac().to_string(), self.host_end(path, side));
                run(
                    "bridge",
                    &["fdb", "replace", &mac, "dev", &host, "master", "static"],
                )?;
            }
        }
        Ok(())
    }

    fn namespace(&self, side: Side) -> String {
        format!("{}-{}", self.name, side.letter())
    }

    fn bridge_name(&self, path: Path) -> String {
        format!("{}{}r", self.name, path.letter())
    }

    /// The namespace that has the host ends of [`Path::OpenVswitch`]: it makes interfaces of fixed
    /// names, and leaves them behind.
    pub fn room(&self) -> String {
        format!("{}-o", self.name)
    }

    /// The name of this lab, unique on the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface at the host that leads to `side`.
    pub fn host_end(&self, path: Path, side: Side) -> String {
        format!("{}{}{}", self.name, path.letter(), side.letter())
    }

    /// Opens the interface of `path` in the namespace of `side`.
    ///
    /// # Errors
    /// When the kernel or the driver refuses.
    pub fn open(&self, path: Path, side: Side) -> anyhow::Result<Port> {
        let namespace = format!("/run/netns/{}", self.namespace(side));
        let config = af_xdp::Config::new(path.interface());
        // A thread of its own, because a thread does not come back from a namespace.
        let opened = thread::spawn(move || -> anyhow::Result<Port> {
            let file = File::open(&namespace).with_context(|| namespace.clone())?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("{namespace}: setns"))?;
            Ok(af_xdp::open(&config)?)
        });
        match opened.join() {
            Ok(port) => port,
            Err(_) => bail!("the thread that opened the generator's port panicked"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for path in &self.bridges {
            let _ = ip(&["link", "del", &self.bridge_name(*path)]);
        }
        let _ = ip(&["netns", "del", &self.room()]);
        // The veth pairs go with the end that is inside.
        for side in [Side::A, Side::B] {
            let _ = ip(&["netns", "del", &self.namespace(side)]);
        }
    }
}

fn quiet(interface: &str) -> anyhow::Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    match fs::write(&path, "1") {
        // A kernel without IPv6 is quiet already.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(path),
        _ => Ok(()),
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    process::run(Command::new(program).args(arguments)).map(drop)
}
