//! What a metasrv has seen of the datanodes since it leads, with the words of the protocol.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use greptime_metasrv_plan::Policy;
use greptime_metasrv_plan::watch;
use greptime_proto::v1;
use greptime_types::NodeId;

pub(crate) use greptime_metasrv_plan::watch::{Beat, BrakeNews, Look, Place as ToRedial};

/// What a beat says of its sender.
pub(crate) fn said(tick: &v1::Tick) -> Beat {
    Beat {
        oldest_append: Duration::from_millis(tick.oldest_append_ms),
        unheard: None,
        unreachable: tick.unreachable.iter().copied().collect(),
        is_stopping: tick.stopping,
    }
}

#[derive(Debug)]
pub(crate) struct Watch(watch::Watch);

impl Watch {
    /// `known`: the datanodes of the catalog; whoever of them has not come yet is waited for.
    pub(crate) fn new(policy: Policy, leading_since: Duration, known: impl Iterator<Item = NodeId>) -> Self {
        Self(watch::Watch::new(policy, leading_since, known))
    }

    pub(crate) fn registered(&mut self, node: NodeId, register: &v1::Register, serial: u64, now: Duration) {
        let place = watch::Place {
            node,
            address: register.address.clone(),
            incarnation: register.identity.as_ref().map_or(0, |i| i.incarnation),
        };
        self.0.registered(place, serial, now);
    }

    /// Where the datanodes are, as they are told of each other.
    pub(crate) fn peers(&self) -> v1::PeerUpdate {
        let peer = |place: watch::Place| v1::Peer {
            node: place.node,
            address: place.address,
            incarnation: place.incarnation,
        };
        v1::PeerUpdate {
            peers: self.0.peers().into_iter().map(peer).collect(),
            awaited: self.0.awaited().into_iter().collect(),
        }
    }
}

impl Deref for Watch {
    type Target = watch::Watch;

    fn deref(&self) -> &watch::Watch {
        &self.0
    }
}

impl DerefMut for Watch {
    fn deref_mut(&mut self) -> &mut watch::Watch {
        &mut self.0
    }
}
