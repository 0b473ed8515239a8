//! What `vswitch` is compared with.

use std::path::Path;

use anyhow::ensure;

use super::{
    contender::{Contender, Settings},
    forwarder::Forwarder,
    open_vswitch::OpenVswitch,
};

/// Another switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Open vSwitch with DPDK.
    OpenVswitch,
    /// DPDK's testpmd, which passes on what it gets and looks at nothing.
    Testpmd,
}

impl Peer {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenVswitch => super::open_vswitch::NAME,
            Self::Testpmd => super::forwarder::NAME,
        }
    }

    /// Whether it is installed.
    ///
    /// # Errors
    /// When it is not, with what to install.
    pub fn check(self) -> anyhow::Result<()> {
        let (files, package): (&[&str], _) = match self {
            Self::OpenVswitch => (&super::open_vswitch::NEEDED, "openvswitch-switch-dpdk"),
            Self::Testpmd => (&super::forwarder::NEEDED, "dpdk-dev"),
        };
        for file in files {
            ensure!(
                Path::new(file).exists(),
                "{file} is not there; install {package}"
            );
        }
        Ok(())
    }

    /// 2 MiB pages that it takes for itself.
    pub(super) fn hugepages(self) -> u64 {
        match self {
            Self::OpenVswitch => super::open_vswitch::HUGEPAGES,
            Self::Testpmd => super::forwarder::MEMORY_MIB / 2,
        }
    }

    pub(super) fn start(self, settings: &Settings) -> anyhow::Result<Box<dyn Contender>> {
        self.check()?;
        Ok(match self {
            Self::OpenVswitch => Box::new(OpenVswitch::start(settings)?),
            Self::Testpmd => Box::new(Forwarder::start(settings)?),
        })
    }
}
