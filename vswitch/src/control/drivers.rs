//! Opening a port with the driver that the configuration names.

use std::collections::HashMap;

use parking_lot::Mutex;
use pmd::{OpenError, Port};

use crate::config::types;

/// How control opens a port.
pub type Opener = dyn Fn(&types::Port) -> Result<Port, OpenError> + Send + Sync;

/// The drivers, and the far ends of the `memory` ports they opened.
#[derive(Debug, Default)]
pub struct Drivers {
    far_ends: Mutex<HashMap<String, Port>>,
}

impl Drivers {
    /// Opens a port.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn open(&self, port: &types::Port) -> Result<Port, OpenError> {
        Ok(faulty(self.open_driver(&port.name, &port.driver)?, port))
    }

    /// Opens a port by its driver's settings alone.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn open_driver(&self, name: &str, driver: &types::Driver) -> Result<Port, OpenError> {
        let opened = match driver {
            types::Driver::AfXdp(config) => pmd::af_xdp::open(&pmd::af_xdp::Config {
                interface: config.interface.clone(),
                queues: config.queues,
                mode: config.mode,
                zero_copy: config.zero_copy,
                ring_size: config.ring_size,
                frame_bytes: config.frame_bytes,
            }),
            types::Driver::Tap(config) => pmd::tap::open(config),
            types::Driver::Pcap(config) => pmd::pcap::open(&pmd::pcap::Config {
                replay: config.replay.clone(),
                pace: config.pace,
                repeat: config.repeat,
                write: config.write.clone(),
            }),
            types::Driver::Memory(config) => self.memory(name, *config),
            // Carries super-segments as they are, or cuts them itself where its guest cannot.
            types::Driver::VhostUser(config) => return vhost_user(config),
        }?;
        // VMs leave TCP segmentation to whatever sends to a wire.
        Ok(pmd::segment::wrap(opened))
    }

    /// The far end of a `memory` port that is open, for a program that embeds the switch. It can
    /// be taken once.
    pub fn take_far_end(&self, port: &str) -> Option<Port> {
        self.far_ends.lock().remove(port)
    }

    fn memory(&self, name: &str, config: types::Memory) -> Result<Port, OpenError> {
        let (near, far) = pmd::memory::pair(pmd::memory::Config {
            slots: config.slots,
            max_frame_bytes: config.max_frame_bytes,
            ..pmd::memory::Config::default()
        })?;
        let mut far_ends = self.far_ends.lock();
        // Those of ports that were closed since are of no use any more.
        far_ends.retain(|_, far| far.monitor.health() == pmd::Health::Up);
        far_ends.insert(name.to_owned(), far);
        Ok(near)
    }
}

fn vhost_user(config: &types::VhostUser) -> Result<Port, OpenError> {
    pmd::vhost_user::open(&pmd::vhost_user::Config {
        socket: config.socket.clone(),
        role: config.role,
        socket_mode: config.socket_mode,
        queue_pairs: config.queues,
        features: config.features,
        max_frame_bytes: config.max_frame_bytes,
    })
}

/// The port with the faults that are to be injected.
fn faulty(opened: Port, port: &types::Port) -> Port {
    match port.fault {
        Some(fault) => pmd::fault::wrap(opened, fault),
        None => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Machine};

    #[test]
    fn a_far_end_is_kept_while_its_port_is_open() {
        let text = super::super::tests::text(&["a", "b"]);
        let machine = Machine {
            cores: vec![0],
            memory_bytes: 0,
        };
        let config = config::parse("a.toml", &text, &machine).expect("valid");
        let drivers = Drivers::default();
        let a = drivers.open(&config.ports[0]).expect("opened");
        drop(a);
        let _b = drivers.open(&config.ports[1]).expect("opened");
        assert!(drivers.take_far_end("a").is_none(), "its port was closed");
        assert!(drivers.take_far_end("b").is_some());
        assert!(drivers.take_far_end("b").is_none(), "it is taken once");
    }
}
