//! Streams between datanodes, over which the Raft groups of their regions speak.
//!
//! Each datanode opens one stream to each other, for what it says itself; the answers only show that it arrives. What
//! is lost is said again by Raft, so nothing here is kept or repeated.
//!
//! | to send | |
//! |---|---|
//! | [`Peers`] | who is known; one task for each, and one loop that pings and judges all of them |
//! | `outgoing` | one stream after the other to one peer: dial, hello, welcome, loss, wait |
//! | `peer` | one known peer: whether it is connected, and whom that is told |
//! | `lane` | what waits for a stream, handed to the transport when it asks for more |
//! | `queue`, `backoff`, `reach` | the pure parts: limits and frames; when to dial; who counts as unreachable |
//! | [`PeerLink`], [`GrpcPeerLink`] | the wire |
//!
//! To receive, [`peers_service`] hands what arrives to a [`PeerHandler`].

mod backoff;
mod handler;
mod lane;
mod link;
mod metrics;
mod outgoing;
mod peer;
mod peers;
mod queue;
mod reach;
mod server;
pub mod testing;
#[cfg(test)]
mod tests;

pub use handler::PeerHandler;
pub use link::{CONNECTION_WINDOW, GrpcPeerLink, PeerLink, STREAM_WINDOW};
pub use metrics::PeerMetrics;
pub use peers::{PeerAddress, PeerConfig, PeerStatus, Peers};
pub use server::{PeersService, peers_service};
