//! From a change of routes to the first frame that it routes.
//!
//! In: how many routes the router has besides. Out: how long the change of one takes until a frame goes
//! where it says, as a guest sees it.

use std::net::Ipv4Addr;

use ::vswitch::api::types::{RouteChange, RouteSpec};
use anyhow::Context;

use super::{
    Options, beds,
    contender::{Case, Settings},
    experiments::FRAME_BYTES,
    guard,
    guest::{Guest, Traffic},
    vswitch::{DESTINATIONS, next_hop},
};

/// Routes put in by one request: what the control API takes at once.
const BATCH: usize = 10_000;

/// The first prefix of 24 bits that the generator does not send to.
const FIRST: u32 = Ipv4Addr::new(16, 0, 0, 0).to_bits();

/// For each number of routes, which only grows, milliseconds from the request that adds the route that
/// frames need until the first of them comes through, in each round.
///
/// # Errors
/// As [`run`](super::run).
pub fn route_updates(options: &Options, routes: &[u32]) -> anyhow::Result<Vec<(u32, Vec<f64>)>> {
    let settings = Settings {
        alone: false,
        ..Settings::on(options.switch_core)
    };
    let options = Options {
        peers: Vec::new(),
        ..options.clone()
    };
    let _guard = guard(&options, &settings)?;
    let mut bed = beds(&options, &settings)?.pop().context("no switch")?;
    bed.awake(|bed| {
        bed.switch.enforce(Case::PortToPort)?;
        let sockets = bed.switch.sockets(0);
        let mut guest = Guest::start(&sockets, Traffic::Routed, 1, options.guest_core)?;
        bed.await_frames(&mut guest)?;
        bed.switch.enforce(Case::Routed)?;
        let needed = [route(DESTINATIONS.to_owned())];
        let (mut all, mut there) = (Vec::new(), 0);
        for &wanted in routes {
            let more: Vec<_> = (there..wanted).map(elsewhere).collect();
            for add in more.chunks(BATCH) {
                bed.switch.change_routes(&change(add, &[]))?;
            }
            there = wanted;
            let mut first_ms = Vec::new();
            for _ in 0..options.rounds {
                bed.switch.change_routes(&change(&[], &needed))?;
                let act = || bed.switch.change_routes(&change(&needed, &[]));
                let (first, _) = guest.first_after(FRAME_BYTES, act)?;
                first_ms.push(first.as_secs_f64() * 1e3);
            }
            bed.switch.process().check()?;
            all.push((wanted, first_ms));
        }
        Ok(all)
    })
}

fn change(add: &[RouteSpec], delete: &[RouteSpec]) -> RouteChange {
    RouteChange {
        add: add.to_vec(),
        delete: delete.to_vec(),
    }
}

/// To the other port.
fn route(to: String) -> RouteSpec {
    RouteSpec {
        to,
        via: vec![next_hop(1)],
        ..RouteSpec::default()
    }
}

/// One of many that no frame takes.
fn elsewhere(number: u32) -> RouteSpec {
    route(format!("{}/24", Ipv4Addr::from_bits(FIRST + (number << 8))))
}
