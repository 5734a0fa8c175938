//! Streams between nodes, in one process and over sockets.

mod faults;
mod fixture;
mod hellos;
mod speed;
mod wire;
