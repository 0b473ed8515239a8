//! Announcements: a vNIC's addresses are told to its network when it appears, and while it is about to move.
//!
//! When it appears, switches learn where its Ethernet address is (RARP, for those without IP addresses
//! too) and hosts renew what they know (gratuitous ARP, RFC 5227 §2.3; unsolicited neighbour
//! advertisements, RFC 4861 §7.2.6), some times in a row, as such frames may be lost.
//!
//! Neither ARP nor neighbour discovery can tell a peer for how long to keep an entry. What there is
//! instead for a VM that is about to move: its addresses are said again and again, so that a peer's
//! entry is fresh when the VM moves, and the announcements at its new place are an update of a
//! known entry and not a contradiction.

use policy::{NetworkId, PortId};

use super::{
    frame, neighbors,
    plan::{Neighbors, VnicPlan},
};

/// A VM is announced as about to move for that long at most, milliseconds.
const MOST_MOVING_MS: u32 = 600_000;

#[derive(Clone, Copy, Debug)]
struct Row {
    network: NetworkId,
    port: PortId,
    next_ns: u64,
    interval_ns: u64,
    left: u32,
    moving: bool,
}

/// Announcements that are due some time.
#[derive(Clone, Debug, Default)]
pub struct Announcements(Vec<Row>);

impl Announcements {
    /// A vNIC has appeared: it is announced at once, and again.
    pub fn appeared(&mut self, vnic: &VnicPlan, wishes: &Neighbors, now_ns: u64) {
        let (left, interval) = (wishes.announcements.into(), wishes.announcement_interval_ms);
        self.put(vnic, (left, interval), false, now_ns);
    }

    /// A vNIC's VM is about to move, or is not after all.
    pub fn moving(&mut self, vnic: &VnicPlan, wishes: &Neighbors, moving: bool, now_ns: u64) {
        let interval_ms = wishes.moving_interval_ms.max(1);
        let left = if moving {
            MOST_MOVING_MS / interval_ms
        } else {
            0
        };
        self.put(vnic, (left, interval_ms), true, now_ns);
    }

    fn put(&mut self, vnic: &VnicPlan, (left, interval_ms): (u32, u32), moving: bool, now_ns: u64) {
        let key = (vnic.network, vnic.port, moving);
        self.0
            .retain(|row| (row.network, row.port, row.moving) != key);
        if left > 0 {
            self.0.push(Row {
                network: vnic.network,
                port: vnic.port,
                next_ns: now_ns,
                interval_ns: u64::from(interval_ms) * 1_000_000,
                left,
                moving,
            });
        }
    }

    /// When the first is due.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.0.iter().map(|row| row.next_ns).min()
    }

    /// Which vNICs are to be announced at `now_ns`.
    pub fn due(&mut self, now_ns: u64) -> Vec<(NetworkId, PortId)> {
        let mut due = Vec::new();
        for row in &mut self.0 {
            if row.next_ns <= now_ns {
                due.push((row.network, row.port));
                row.next_ns = now_ns + row.interval_ns;
                row.left -= 1;
            }
        }
        self.0.retain(|row| row.left > 0);
        due
    }

    /// Forgets vNICs that are gone.
    pub fn retain(&mut self, keep: impl Fn(NetworkId, PortId) -> bool) {
        self.0.retain(|row| keep(row.network, row.port));
    }
}

/// The frames that announce a vNIC. They must not reach the vNIC itself: a host takes an
/// advertisement of an address that it is just about to use for another's.
pub fn frames(vnic: &VnicPlan) -> Vec<Vec<u8>> {
    let mut frames = vec![frame::rarp(vnic.mac)];
    frames.extend(vnic.ipv4.iter().map(|a| neighbors::claim4(vnic.mac, *a)));
    // Whether it is a router, only it knows.
    if !vnic.router {
        let ipv6 = vnic.ipv6.iter();
        frames.extend(ipv6.map(|a| neighbors::claim6(vnic.mac, *a, false)));
    }
    frames
}
