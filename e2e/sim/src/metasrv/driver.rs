//! Says what is to be said, and records what has become true, as `driver` of metasrv does.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use greptime_metasrv_plan::assignment::Replica;
use greptime_metasrv_plan::members::joins;
use greptime_metasrv_plan::placement::place_replicated;
use greptime_metasrv_plan::{Assignment, Command, RegionState, region_state, tell};
use greptime_types::format::FORMAT_VERSION;
use greptime_types::{NodeId, RegionId, TableId, TableState};

use super::failover::HOT;
use super::repair::leader_of;
use super::{Metasrv, State};
use crate::catalog::{Catalog, Edit, Member, Membership};
use crate::message::{Initialise, Peer, Peers, Push, Route};
use crate::process::DATANODES;
use crate::tables::{APPENDED, OVERWRITTEN, table_of};

const LOOK: Duration = Duration::from_millis(250);

impl Metasrv {
    pub(super) async fn drive(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            let until = self.sim.after(self.me, LOOK);
            self.sim
                .wait(&[&self.changes], until, || {
                    (self.change.get() != seen).then_some(())
                })
                .await;
            seen = self.change.get();
            self.expire();
            let edits = self.step();
            if edits.is_empty() && !self.state.borrow().is_stale {
                continue;
            }
            // Decided again inside, from the newest catalog.
            let changed = self.change(|catalog| Ok(still_true(catalog, edits))).await;
            if changed.is_err() {
                self.sim.sleep(LOOK).await;
            }
        }
    }

    /// One look at everything; what is to be recorded.
    fn step(&self) -> Vec<Edit> {
        let Some(catalog) = self.catalog() else {
            return vec![];
        };
        if let Some(edits) = self.creation(&catalog) {
            return edits;
        }
        self.tell_epoch(&catalog);
        self.tell_peers();
        self.tell_tables(&catalog);
        self.tell_datanodes(&catalog);
        let states = region_states(&self.state.borrow(), &catalog);
        self.tell_routes(&states);
        let is_leading = |region: &RegionId| matches!(states.get(region), Some(RegionState::Leading { .. }));
        let created = catalog
            .tables
            .values()
            .filter(|t| t.state == TableState::Creating);
        let ready = created
            .filter(|t| t.regions().all(|r| is_leading(&r)))
            .map(|table| {
                let mut table = table.clone();
                table.state = TableState::Ready;
                Edit::PutTable(table)
            });
        ready.collect()
    }

    /// Somebody has asked for tables, once all datanodes have come.
    fn creation(&self, catalog: &Catalog) -> Option<Vec<Edit>> {
        if !catalog.tables.is_empty() || catalog.datanodes.len() < usize::from(DATANODES) {
            return None;
        }
        let candidates = candidates(&self.state.borrow(), catalog);
        let mut raft_id = catalog.root.next_raft_id;
        let mut edits = Vec::new();
        for id in [APPENDED, OVERWRITTEN] {
            let table = table_of(id);
            let placed =
                place_replicated(table.partition.partitions.len(), self.replicas(), &candidates).ok()?;
            placed.shortfall.is_none().then_some(())?;
            let mut regions = BTreeMap::new();
            for (partition, nodes) in table.partition.partitions.iter().zip(placed.regions) {
                let members = nodes.into_iter().map(|node| {
                    raft_id += 1;
                    Member {
                        raft_id: raft_id - 1,
                        node,
                    }
                });
                regions.insert(partition.region, members.collect());
            }
            let format = FORMAT_VERSION;
            edits.push(Edit::PutMembership(
                id,
                Membership {
                    format,
                    regions,
                    ..Membership::default()
                },
            ));
            edits.push(Edit::PutTable(table));
        }
        let rafts = raft_id - catalog.root.next_raft_id;
        edits.push(Edit::TakeIds { tables: 2, rafts });
        Some(edits)
    }

    /// The catalog was loaded again: orders are in the name of another epoch from now on.
    fn tell_epoch(&self, catalog: &Catalog) {
        let metasrv_epoch = catalog.root.metasrv_epoch;
        let mut state = self.state.borrow_mut();
        if std::mem::replace(&mut state.welcomed_to, metasrv_epoch) == metasrv_epoch {
            return;
        }
        let all = state.sessions.connections();
        drop(state);
        for connection in all {
            self.push(connection, Push::Welcome { metasrv_epoch });
        }
    }

    fn tell_peers(&self) {
        let mut state = self.state.borrow_mut();
        let Some(watch) = &state.watch else {
            return;
        };
        let peer = |place: greptime_metasrv_plan::watch::Place| Peer {
            node: place.node,
            incarnation: place.incarnation,
        };
        let peers = Peers {
            here: watch.peers().into_iter().map(peer).collect(),
            awaited: watch.awaited(),
        };
        if state.peers_told == peers {
            return;
        }
        state.peers_told.clone_from(&peers);
        let all: Vec<u64> = state.sessions.datanodes.values().map(|s| s.connection).collect();
        drop(state);
        for connection in all {
            self.push(connection, Push::Peers(peers.clone()));
        }
    }

    fn tell_tables(&self, catalog: &Catalog) {
        let tables = versions(catalog);
        let mut state = self.state.borrow_mut();
        if state.tables_told == tables {
            return;
        }
        state.tables_told = Rc::clone(&tables);
        let frontends = state.sessions.frontends();
        drop(state);
        for connection in frontends {
            self.push(connection, Push::Tables(Rc::clone(&tables)));
        }
    }

    fn tell_datanodes(&self, catalog: &Catalog) {
        let (now, by_node, dropping) = (self.now(), catalog.regions_by_node(), catalog.dropping());
        let heirs = catalog.heirs();
        let connected: Vec<NodeId> = self.state.borrow().sessions.datanodes.keys().copied().collect();
        for node in connected {
            let mut state = self.state.borrow_mut();
            let assignments: Vec<Assignment> = by_node
                .get(&node)
                .into_iter()
                .flatten()
                .map(|(region, member)| assignment(&state, catalog, &heirs, (*region, member)))
                .collect();
            let surplus = surplus(&state, catalog, node);
            let Some(session) = state.sessions.datanodes.get_mut(&node) else {
                continue;
            };
            let commands = tell(&assignments, &dropping, &surplus, &session.reported());
            let said = commands.into_iter().filter_map(|command| {
                let (region, push) = push_of(catalog, &command)?;
                session.should_say(region, &command, now).then_some(push)
            });
            let (said, connection): (Vec<Push>, u64) = (said.collect(), session.connection);
            drop(state);
            said.into_iter().for_each(|push| self.push(connection, push));
        }
    }

    fn tell_routes(&self, states: &BTreeMap<RegionId, RegionState>) {
        let route = |(region, state): (&RegionId, &RegionState)| {
            let (epoch, leader) = match state {
                RegionState::Leading { node, epoch } => (*epoch, *node),
                _ => (0, 0),
            };
            let region = *region;
            (
                region,
                Route {
                    region,
                    epoch,
                    leader,
                },
            )
        };
        let next: BTreeMap<RegionId, Route> = states.iter().map(route).collect();
        let mut state = self.state.borrow_mut();
        let is_news = |(region, route): &(&RegionId, &Route)| state.routes.get(*region) != Some(*route);
        let routes: Vec<Route> = next.iter().filter(is_news).map(|(_, r)| r.clone()).collect();
        state.routes = next;
        let frontends = state.sessions.frontends();
        drop(state);
        if routes.is_empty() {
            return;
        }
        for connection in frontends {
            self.push(
                connection,
                Push::Routes {
                    is_complete: false,
                    routes: routes.clone(),
                },
            );
        }
    }
}

/// Versions of all tables.
pub(super) fn versions(catalog: &Catalog) -> Rc<BTreeMap<TableId, u64>> {
    let versions = catalog.tables.values().map(|t| (t.id, t.schema.version));
    Rc::new(versions.collect())
}

fn region_states(state: &State, catalog: &Catalog) -> BTreeMap<RegionId, RegionState> {
    let mut states = BTreeMap::new();
    for table in catalog
        .tables
        .values()
        .filter(|t| t.state != TableState::Dropping)
    {
        for region in table.regions() {
            let replica = |node: NodeId| {
                let session = state.sessions.datanodes.get(&node);
                session.map_or(Replica::Away, |s| s.replica(region))
            };
            let members = catalog.members(region).iter();
            let replicas: Vec<_> = members.map(|m| (m.node, replica(m.node))).collect();
            states.insert(region, region_state(table.state == TableState::Ready, &replicas));
        }
    }
    states
}

/// Replicas of a node whose groups do not have them any more, and that are not recorded either.
fn surplus(state: &State, catalog: &Catalog, node: NodeId) -> BTreeSet<RegionId> {
    let Some(session) = state.sessions.datanodes.get(&node) else {
        return BTreeSet::new();
    };
    let has_left = |(region, report): &(&RegionId, &crate::message::RegionReport)| {
        let members = catalog.members(**region);
        let is_recorded = members.iter().any(|m| m.raft_id == report.raft_id);
        let is_known = catalog.memberships.contains_key(&region.table());
        is_known
            && report.raft_id != 0
            && !is_recorded
            && leader_of(state, **region).is_some_and(|led| !led.has(report.raft_id))
    };
    session
        .reports
        .iter()
        .filter(has_left)
        .map(|(region, _)| *region)
        .collect()
}

fn assignment(
    state: &State,
    catalog: &Catalog,
    heirs: &BTreeSet<(RegionId, u64)>,
    (region, member): (RegionId, &Member),
) -> Assignment {
    let table = catalog.tables.get(&region.table());
    let members = catalog.members(region);
    let place = members.iter().position(|m| m == member);
    let is_heir = heirs.contains(&(region, member.raft_id));
    let initialised = table.is_some_and(|t| t.state == TableState::Ready);
    let session = state.sessions.datanodes.get(&member.node);
    let is_there = session.is_some_and(|s| s.reports.contains_key(&region));
    let joins = || joins(&member.planned(), leader_of(state, region).as_ref());
    Assignment {
        region,
        raft_id: member.raft_id,
        voters: members.iter().map(Member::planned).collect(),
        hot: is_heir || place.is_some_and(|place| place < HOT),
        warm: false,
        schema_version: table.map_or(0, |t| t.schema.version),
        initialised,
        joins: initialised && !is_there && joins(),
    }
}

fn push_of(catalog: &Catalog, command: &Command) -> Option<(RegionId, Push)> {
    let table = |region: &RegionId| catalog.tables.get(&region.table()).cloned().map(Rc::new);
    Some(match command {
        Command::Initialise(a) => {
            let voters = match a.joins {
                true => vec![],
                false => a.voters.iter().map(|m| m.raft_id).collect(),
            };
            let order = Initialise {
                region: a.region,
                raft_id: a.raft_id,
                voters,
                members: a.voters.clone(),
                table: table(&a.region)?,
            };
            (a.region, Push::Initialise(order))
        }
        Command::Alter(region) => (*region, Push::Alter(*region, table(region)?)),
        Command::Role { region, hot, .. } => {
            let (region, is_hot) = (*region, *hot);
            (region, Push::Role { region, is_hot })
        }
        Command::DropReplica(region) => (*region, Push::DropReplica(*region)),
        _ => return None,
    })
}

pub(super) fn candidates(
    state: &State,
    catalog: &Catalog,
) -> Vec<greptime_metasrv_plan::placement::Candidate> {
    let by_node = catalog.regions_by_node();
    let candidate = |node: &NodeId| {
        let regions = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        let leads =
            |(region, member): &&(RegionId, &Member)| catalog.members(*region).first() == Some(*member);
        greptime_metasrv_plan::placement::Candidate {
            node: *node,
            alive: state.sessions.datanodes.contains_key(node),
            zone: None,
            replicas: regions.len(),
            leaders: regions.iter().filter(leads).count(),
        }
    };
    catalog.datanodes.keys().map(candidate).collect()
}

/// The edits that the newest catalog still calls for.
fn still_true(catalog: &Catalog, edits: Vec<Edit>) -> Vec<Edit> {
    let is_new = |id: &TableId| !catalog.tables.contains_key(id);
    let creates = edits.iter().any(|edit| matches!(edit, Edit::TakeIds { .. }));
    let holds = |edit: &Edit| match edit {
        _ if creates => is_new(&APPENDED),
        Edit::PutTable(ready) => {
            let now = catalog.tables.get(&ready.id);
            now.is_some_and(|t| t.state == TableState::Creating && t.schema == ready.schema)
        }
        _ => false,
    };
    edits.into_iter().filter(holds).collect()
}
