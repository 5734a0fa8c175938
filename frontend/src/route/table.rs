//! Which datanode leads a region, as far as is known.

use std::collections::BTreeMap;

use greptime_proto::v1::RouteUpdate;
use greptime_types::{NodeId, RegionId};

use crate::defences::Defence;

/// A datanode to talk to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    pub node: NodeId,
    /// host:port.
    pub address: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionRoute {
    /// Raft term of the leader; 0 if none was ever known.
    pub epoch: u64,
    pub leader: Option<Peer>,
    /// Datanodes that should hold the region.
    pub voters: Vec<NodeId>,
    /// Why nobody can write to it until somebody does something; empty if that is not so.
    pub trouble: String,
}

impl RegionRoute {
    /// Whether it is right still when metasrv knows this.
    fn stays(&self, next: &Self) -> bool {
        match (&self.leader, &next.leader) {
            (Some(_), None) => Defence::UnknownLeaderReplacesNobody.holds(),
            _ => self.epoch > next.epoch && Defence::OlderRouteReplacesNobody.holds(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    regions: BTreeMap<RegionId, RegionRoute>,
}

impl RouteTable {
    /// Takes what metasrv knows now. A leader that is known here is only replaced by one of the same or a later
    /// epoch: a metasrv that has just been elected knows nobody yet, and what it does not know it cannot revoke.
    pub fn apply(&mut self, update: &RouteUpdate) {
        let mut old = std::mem::take(&mut self.regions);
        if !update.complete {
            self.regions = std::mem::take(&mut old);
        }
        for route in &update.routes {
            let id = RegionId::from_u64(route.region_id);
            let leader = (route.epoch > 0 && !route.leader_address.is_empty()).then(|| Peer {
                node: route.leader_node,
                address: route.leader_address.clone(),
            });
            let mut next = RegionRoute {
                epoch: route.epoch,
                leader,
                voters: route.voters.clone(),
                trouble: route.trouble.clone(),
            };
            let known = self.regions.get(&id).or_else(|| old.get(&id));
            if let Some(known) = known.filter(|known| known.stays(&next)) {
                next = RegionRoute {
                    voters: next.voters,
                    trouble: next.trouble,
                    ..known.clone()
                };
            }
            self.regions.insert(id, next);
        }
        for id in &update.dropped_regions {
            self.regions.remove(&RegionId::from_u64(*id));
        }
    }

    pub fn get(&self, id: RegionId) -> Option<&RegionRoute> {
        self.regions.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use greptime_proto::v1::Route;

    use super::*;

    const REGION: RegionId = RegionId::new(1, 0);

    fn update(complete: bool, epoch: u64, address: &str) -> RouteUpdate {
        let route = Route {
            region_id: REGION.as_u64(),
            epoch,
            leader_node: 7,
            leader_address: address.into(),
            voters: vec![7],
            trouble: if address.is_empty() { "too few live" } else { "" }.into(),
        };
        RouteUpdate {
            complete,
            routes: vec![route],
            dropped_regions: vec![],
        }
    }

    #[test]
    fn an_older_epoch_or_no_leader_does_not_replace_a_leader() {
        for complete in [false, true] {
            let mut table = RouteTable::default();
            table.apply(&update(true, 5, "a:1"));
            table.apply(&update(complete, 4, "b:1"));
            table.apply(&update(complete, 0, ""));
            assert_eq!(table.get(REGION).unwrap().leader.as_ref().unwrap().address, "a:1");
            assert_eq!(table.get(REGION).unwrap().trouble, "too few live");
            table.apply(&update(complete, 5, "c:1"));
            assert_eq!(table.get(REGION).unwrap().leader.as_ref().unwrap().address, "c:1");
            assert_eq!(table.get(REGION).unwrap().trouble, "");
        }
    }

    #[test]
    fn a_complete_update_forgets_what_it_does_not_name() {
        let mut table = RouteTable::default();
        table.apply(&update(false, 5, "a:1"));
        table.apply(&RouteUpdate {
            complete: true,
            routes: vec![],
            dropped_regions: vec![],
        });
        assert_eq!(table.get(REGION), None);
    }

    #[test]
    fn a_region_without_a_leader_is_known_and_has_none() {
        let mut table = RouteTable::default();
        table.apply(&update(false, 0, ""));
        assert_eq!(table.get(REGION).unwrap().leader, None);
        table.apply(&RouteUpdate {
            complete: false,
            routes: vec![],
            dropped_regions: vec![REGION.as_u64()],
        });
        assert_eq!(table.get(REGION), None);
    }
}
