//! Where the generator's frames leave and arrive.

use std::{fs::File, os::fd::AsFd, path::PathBuf, str::FromStr, thread};

use anyhow::{Context, bail, ensure};
use pmd::{Port, af_xdp, memory};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::vhost::port;

/// One end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// An interface, in a named network namespace or here.
    AfXdp {
        /// Its name.
        interface: String,
        /// A name that `ip netns` knows.
        namespace: Option<String>,
    },
    /// A network device without a VM: a switch connects to this socket.
    VhostUser(PathBuf),
    /// Memory of this process: both ends, or none.
    Memory,
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        match (name, rest) {
            ("memory", "") => Ok(Self::Memory),
            ("vhost_user", path) if !path.is_empty() => Ok(Self::VhostUser(path.into())),
            ("af_xdp", rest) if !rest.is_empty() => {
                let (interface, namespace) = match rest.split_once('@') {
                    Some((interface, namespace)) => (interface, Some(namespace.to_owned())),
                    None => (rest, None),
                };
                Ok(Self::AfXdp {
                    interface: interface.to_owned(),
                    namespace,
                })
            }
            _ => Err(format!(
                "\"{text}\": write af_xdp:INTERFACE, af_xdp:INTERFACE@NAMESPACE, vhost_user:SOCKET or memory"
            )),
        }
    }
}

/// Opens both ends. A switch that is to connect may do so in any order.
///
/// # Errors
/// When one cannot be had.
pub fn open(from: &Driver, to: &Driver) -> anyhow::Result<(Port, Port)> {
    let memory = [from, to].map(|driver| *driver == Driver::Memory);
    ensure!(
        memory[0] == memory[1],
        "memory is both ends, or none: what goes into it comes out of it"
    );
    if memory[0] {
        return Ok(memory::pair(memory::Config::default())?);
    }
    let listen = |driver: &Driver| match driver {
        Driver::VhostUser(socket) => port::listen(socket).map(Some),
        _ => Ok(None),
    };
    let listeners = (listen(from)?, listen(to)?);
    let open = |driver: &Driver, listener| match driver {
        Driver::AfXdp {
            interface,
            namespace,
        } => af_xdp_port(interface, namespace.as_deref()),
        _ => match listener {
            Some(listener) => port::open(&listener),
            None => bail!("memory is both ends, or none"),
        },
    };
    Ok((open(from, listeners.0)?, open(to, listeners.1)?))
}

/// Opens an interface, in a namespace if one is named.
fn af_xdp_port(interface: &str, namespace: Option<&str>) -> anyhow::Result<Port> {
    let config = af_xdp::Config::new(interface);
    let Some(namespace) = namespace else {
        return Ok(af_xdp::open(&config)?);
    };
    let path = format!("/run/netns/{namespace}");
    // A thread of its own, because a thread does not come back from a namespace.
    let opened = thread::spawn(move || -> anyhow::Result<Port> {
        let file = File::open(&path).with_context(|| path.clone())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("{path}: setns"))?;
        Ok(af_xdp::open(&config)?)
    });
    match opened.join() {
        Ok(port) => port,
        Err(_) => bail!("the thread that opened the port panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_named_by_driver_and_place() {
        let af_xdp = |interface: &str, namespace: Option<&str>| Driver::AfXdp {
            interface: interface.to_owned(),
            namespace: namespace.map(str::to_owned),
        };
        assert_eq!("memory".parse(), Ok(Driver::Memory));
        assert_eq!("af_xdp:eth1".parse(), Ok(af_xdp("eth1", None)));
        assert_eq!("af_xdp:eth1@blue".parse(), Ok(af_xdp("eth1", Some("blue"))));
        assert_eq!(
            "vhost_user:/a:b".parse(),
            Ok(Driver::VhostUser("/a:b".into()))
        );
        for bad in ["memory:x", "af_xdp:", "vhost_user", "tap:x", ""] {
            assert!(bad.parse::<Driver>().is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_both_ends_or_none() {
        let socket = Driver::VhostUser("/nowhere/x".into());
        assert!(open(&Driver::Memory, &socket).is_err());
        assert!(open(&Driver::Memory, &Driver::Memory).is_ok());
    }
}
