//! Which leases go with the answer to a tick.

use std::collections::BTreeSet;
use std::time::Duration;

use greptime_metasrv_plan::lease::{Elector, Granted, LeaderBeat, Led};
use greptime_metasrv_plan::members::Electorate;
use greptime_types::NodeId;

use super::failover::{electorate, report};
use super::{Metasrv, State};
use crate::catalog::Catalog;
use crate::message::{RegionReport, RegionRole};
use crate::trace::Branch;

impl Metasrv {
    /// What is promised to a datanode that has beaten; `beat` has yet to be told what it leads.
    pub(super) fn lease(&self, state: &mut State, mut beat: LeaderBeat, now: Duration) -> Granted {
        let node = beat.node;
        let (Some(catalog), Some(session)) = (&state.catalog, state.sessions.datanodes.get(&node)) else {
            return Granted::default();
        };
        let apart = state.watch.as_ref().map(|w| w.unreachable_from(node));
        let apart = apart.unwrap_or_default();
        let leads = session.reports.values().filter(|r| r.role == RegionRole::Leader);
        let led: Vec<Led> = leads.map(|said| led(state, catalog, said, &apart)).collect();
        let Some(watch) = state.watch.as_mut() else {
            return Granted::default();
        };
        for region in &led {
            if watch.leases.is_withheld(region.region, region.epoch) {
                self.sim.hit(Branch::LeaseIsWithheld);
            } else if region
                .may_lease(self.session_ends.get(), now, &self.policy)
                .is_err()
            {
                self.sim.hit(Branch::LeaseIsRefused);
            }
        }
        beat.led = led;
        let granted = watch.promise(&beat, self.session_ends.get(), now);
        if !granted.length.is_zero() {
            self.sim.hit(Branch::LeaseIsGranted);
        }
        granted
    }
}

/// `apart`: the datanodes that its leader does not reach.
fn led(state: &State, catalog: &Catalog, said: &RegionReport, apart: &BTreeSet<NodeId>) -> Led {
    let Electorate { voters, strangers } = electorate(state, catalog, said.region);
    let elector = |node: NodeId| Elector {
        node,
        heard: state.sessions.datanodes.get(&node).and_then(|s| s.touch.heard()),
        term: report(state, said.region, node).map_or(0, |r| r.epoch),
        is_apart: apart.contains(&node),
    };
    Led {
        region: said.region,
        epoch: said.epoch,
        voters: voters.iter().map(|(_, member)| elector(member.node)).collect(),
        strangers,
    }
}
