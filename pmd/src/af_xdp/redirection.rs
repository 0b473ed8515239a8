//! Frames from one interface to another within the kernel, unread: what XDP itself can do, for
//! measurements to hold a switch against.

use std::{io, os::fd::OwnedFd};

use super::{interface::Interface, program};
use crate::OpenError;

/// Sends every frame that arrives at one interface out of another, until this is dropped.
#[derive(Debug)]
pub struct Redirection {
    _link: OwnedFd,
}

impl Redirection {
    /// Between interfaces of the calling thread's network namespace, in native mode. A veth takes
    /// such frames while its peer has an XDP program too.
    ///
    /// # Errors
    /// When one of them does not exist, or `from` takes no XDP program in native mode.
    pub fn new(from: &str, to: &str) -> Result<Self, OpenError> {
        let [ingress, egress] = [Interface::find(from)?, Interface::find(to)?];
        let attached = program::redirect(ingress.index, egress.index);
        let failed = |error: io::Error| {
            OpenError::system(
                format!("{from}: attach an XDP program that redirects"),
                error,
            )
        };
        Ok(Self {
            _link: attached.map_err(failed)?,
        })
    }
}
