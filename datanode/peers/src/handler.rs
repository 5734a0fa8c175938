//! What a datanode does with what it hears.

use async_trait::async_trait;
use greptime_proto::v1;
use greptime_types::{NodeId, Result};
use tokio_util::sync::CancellationToken;

/// The node at this end of the streams. Nothing but `receive` may block. `connected` and `lost` may `send`, but not ask
/// for the status or change who is known.
#[async_trait]
pub trait PeerHandler: Send + Sync + 'static {
    /// Who this node is; asked for every stream that it opens.
    fn me(&self) -> v1::NodeIdentity;

    /// Judges a stream that another node opens, and answers with the own incarnation. An error refuses the stream; its
    /// message is told to the other node, which waits long before it tries again.
    fn hello(&self, hello: &v1::PeerHello) -> Result<u64>;

    /// Takes what a node says, in the order in which it was sent. The next batch of that node waits until this one is
    /// taken: a node that is behind slows down those that speak to it, without seeming dead. Dropped halfway when the
    /// node opens another stream.
    async fn receive(&self, from: NodeId, batch: v1::PeerBatch);

    /// From now on `send` to this peer works. Called in turn with `lost`.
    fn connected(&self, peer: NodeId);

    /// What was sent to this peer lately may not have arrived, and `send` fails until `connected`.
    fn lost(&self, peer: NodeId, why: &str);

    /// A peer has not answered for longer than it may; `unreachable` names it.
    fn missed(&self) {}

    /// Cancelled when this node goes: streams that others have opened then end, so that a server which lets running
    /// requests finish does not wait for them for ever.
    fn closing(&self) -> CancellationToken {
        CancellationToken::new()
    }
}
