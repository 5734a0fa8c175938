//! Regions that move, in a metasrv that runs: what is recorded, what datanodes are told, and what a person sees.

mod abort;
mod cluster;
mod datanodes;
mod drain;
mod faults;
mod journal;
mod phases;
mod refusals;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
