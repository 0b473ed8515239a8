//! The datapath: whole frames through `Worker::turn`, over memory ports, on the test's own
//! thread. No root, no threads, no sleeps; time is what the test says it is.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../model/mod.rs"]
mod model;

mod bridge;
mod budget;
mod captures;
mod capturing;
mod connections;
mod conversations;
mod effects;
mod explain;
mod footprint;
mod golden;
mod guests;
mod intake;
mod limits;
mod logs;
mod loops;
mod mirroring;
mod policy;
mod reference;
mod routing;
mod universe;
mod vlan;
mod watching;
