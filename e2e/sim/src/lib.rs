//! A whole cluster in simulated time: three metasrv, five datanodes, two frontends, etcd and a bucket.
//!
//! What decides is the real thing: the core of the log with its Raft groups, the planners of metasrv, the catalog and its
//! compare-and-swap, the rules around a region's log, request ids and hold of a frontend. What only does is written anew,
//! after the drivers of the real programs. Network, clocks, disks, etcd and bucket are simulated, and go wrong by seed.
//! Equal seeds give equal runs, to the last byte of their traces.

// Files of others are in it, whose tests run where they belong. Its own are in `tests`.
#![cfg(not(test))]

mod branch;
mod bucket;
mod cleaning;
mod client;
mod datanode;
mod defences;
mod dice;
mod disk;
mod entry;
mod etcd;
mod faults;
mod files;
mod frontend;
mod manifest;
mod message;
mod metasrv;
pub mod missed;
mod net;
mod oracle;
mod process;
mod region;
pub mod report;
mod rules;
mod run;
mod sim;
mod store;
mod tables;
mod trace;
mod world;

// Files of others, as they are: their crates are too heavy to be built for this.
#[allow(dead_code)]
#[path = "../../../metasrv/src/catalog.rs"]
mod catalog;
#[path = "../../../frontend/src/route/hold.rs"]
mod hold;
#[path = "../../../frontend/src/route/ids.rs"]
mod ids;
#[allow(dead_code)]
mod procedures;

pub use faults::Kind;
pub use run::{Outcome, quiet_panics, run};
pub use trace::Violation;
