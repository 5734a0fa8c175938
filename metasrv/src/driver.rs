//! Does what the plan says: looks at what should be and what is reported, says what is to be said, and records
//! what has become true.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use greptime_metasrv_plan::members::joins;
use greptime_metasrv_plan::{Assignment, Command, RegionState, tell};
use greptime_proto::v1::{self, push};
use greptime_types::{NodeId, NodeRole, RegionId, TableId, TableState};
use tracing::{debug, info, warn};

use crate::catalog::{Catalog, Edit, Member};
use crate::failover::HOT;
use crate::formats;
use crate::repair::{leader_of, spoken};
use crate::server::{Metasrv, State};
use crate::view;
use crate::watch::Watch;

/// Even without news the driver looks this often: for silent nodes and for commands to repeat.
const LOOK: Duration = Duration::from_millis(250);
const PROBE: Duration = Duration::from_secs(2);

/// Tables that one change of the catalog may touch. Each is up to two operations of a transaction, of which etcd
/// allows 128 (`--max-txn-ops`).
pub(crate) const MOST_TABLES: usize = 50;

pub(crate) async fn run(metasrv: Arc<Metasrv>) {
    let mut changes = metasrv.changes.subscribe();
    loop {
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
            () = metasrv.until_shutdown() => return,
        }
        changes.mark_unchanged();
        let edits = step(&metasrv);
        let stale = metasrv.state.lock().stale;
        if edits.is_empty() && !stale {
            continue;
        }
        // The edits are decided again inside, from the newest catalog.
        if let Err(error) = metasrv.change(|catalog| Ok(still_true(catalog, edits))).await {
            debug!(%error, "progress of tables could not be recorded yet");
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// One look at everything: cuts off the silent, tells nodes and frontends, returns what is to be recorded.
fn step(metasrv: &Metasrv) -> Vec<Edit> {
    let now = metasrv.now();
    let mut guard = metasrv.state.lock();
    let state = &mut *guard;
    for (key, serial) in state.sessions.expire(now, metasrv.options.config.session_timeout) {
        warn!(role = %key.role, node = key.id, "a node is silent, its session is ended");
        state.lost(key, serial, now);
    }
    metasrv.metrics.is_leader.set(i64::from(state.catalog.is_some()));
    metasrv.metrics.nodes.set(state.sessions.iter().count() as i64);
    let Some(catalog) = state.catalog.clone() else {
        return vec![];
    };
    tell_peers(state);
    tell_datanodes(metasrv, state, &catalog, now);
    tell_format(metasrv, state, &catalog);
    let states = view::region_states(state);
    let leading = states
        .values()
        .filter(|s| matches!(s, RegionState::Leading { .. }))
        .count();
    metasrv.metrics.regions_leading.set(leading as i64);
    metasrv
        .metrics
        .regions_waiting
        .set((states.len() - leading) as i64);
    let next = view::routes(state, &states);
    if let Some(update) = state.routes.update(next) {
        state
            .sessions
            .broadcast(NodeRole::Frontend, &push::Body::Routes(update));
    }
    let steady = metasrv.options.config.session_timeout;
    let raise = formats::to_raise(state, &catalog, now, steady).map(Edit::RaiseFormat);
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
    let gone = catalog
        .dropping()
        .into_iter()
        .filter(|id| is_gone(state, &catalog, *id))
        .map(Edit::DeleteTable);
    let progress = ready.chain(gone).take(MOST_TABLES);
    raise.into_iter().chain(progress).collect()
}

/// Tells datanodes where the others are, when one has come or has moved.
fn tell_peers(state: &mut State) {
    let Some(peers) = state.watch.as_ref().map(Watch::peers) else {
        return;
    };
    if state.peers_told != peers {
        state.peers_told.clone_from(&peers);
        state
            .sessions
            .broadcast(NodeRole::Datanode, &push::Body::Peers(peers));
    }
}

/// Says what may be written now to those who were welcomed before it was.
fn tell_format(metasrv: &Metasrv, state: &mut State, catalog: &Catalog) {
    let now = (catalog.root.format, catalog.root.metasrv_epoch);
    if std::mem::replace(&mut state.welcomed_to, now) == now {
        return;
    }
    let welcome = push::Body::Welcome(metasrv.welcome_to(catalog));
    for role in [NodeRole::Datanode, NodeRole::Frontend] {
        state.sessions.broadcast(role, &welcome);
    }
}

/// Says to each connected datanode what its regions lack, and once that it has everything.
fn tell_datanodes(metasrv: &Metasrv, state: &mut State, catalog: &Catalog, now: Duration) {
    let by_node = catalog.regions_by_node();
    let dropping = catalog.dropping();
    let heirs = catalog.heirs();
    let connected: Vec<NodeId> = state
        .sessions
        .of_role(NodeRole::Datanode)
        .map(|(id, _)| id)
        .collect();
    for node in connected {
        let assignments: Vec<Assignment> = by_node
            .get(&node)
            .into_iter()
            .flatten()
            .map(|(region, member)| assignment(state, catalog, &heirs, (*region, *member)))
            .collect();
        let surplus = surplus(state, catalog, node);
        let session = state.sessions.get(NodeRole::Datanode, node);
        let is_to_be_told = session.is_some_and(|session| !session.completed);
        let is_ready = is_to_be_told && state.has_caught_up(node, &assignments, now);
        let Some(session) = state.sessions.datanode_mut(node) else {
            continue;
        };
        for command in tell(&assignments, &dropping, &surplus, &session.reported()) {
            let (region, body) = say(catalog, &command);
            if session.should_say(region, &command, now) {
                info!(node, ?command, "telling a datanode");
                metasrv.metrics.commands_sent.inc();
                session.say(body);
            }
        }
        if is_ready {
            session.completed = session.say(push::Body::AssignmentsComplete(v1::AssignmentsComplete {}));
        }
    }
}

/// Replicas of a node whose groups do not have them any more, and that are not recorded either.
fn surplus(state: &State, catalog: &Catalog, node: NodeId) -> BTreeSet<RegionId> {
    let Some(session) = state.sessions.get(NodeRole::Datanode, node) else {
        return BTreeSet::new();
    };
    let has_left = |(region, report): &(&RegionId, &v1::RegionReport)| {
        let is_recorded = catalog
            .members(**region)
            .iter()
            .any(|m| m.raft_id == report.raft_id);
        let leader = || leader_of(state, **region);
        // Of a region that is not known at all nothing is taken away.
        let is_known = catalog.memberships.contains_key(&region.table());
        // A replica that has just been opened may not have said yet which one it is.
        is_known
            && report.raft_id != 0
            && !is_recorded
            && leader().is_some_and(|led| !led.has(report.raft_id))
    };
    let left = session.reports.iter().filter(has_left);
    left.map(|(region, _)| *region).collect()
}

fn assignment(
    state: &State,
    catalog: &Catalog,
    heirs: &BTreeSet<(RegionId, u64)>,
    (region, member): (RegionId, &Member),
) -> Assignment {
    let is_heir = heirs.contains(&(region, member.raft_id));
    let table = catalog.tables.get(&region.table());
    let members = catalog.members(region);
    let place = members.iter().position(|m| m == member);
    let initialised = table.is_some_and(|t| t.state == TableState::Ready);
    let session = state.sessions.get(NodeRole::Datanode, member.node);
    let is_there = session.is_some_and(|s| s.reports.contains_key(&region));
    Assignment {
        region,
        raft_id: member.raft_id,
        voters: members.iter().map(Member::planned).collect(),
        hot: is_heir || place.is_some_and(|place| place < HOT),
        warm: is_heir,
        schema_version: table.map_or(0, |t| t.schema.version),
        initialised,
        // Of one that is there nobody asks.
        joins: initialised && !is_there && joins(&member.planned(), leader_of(state, region).as_ref()),
    }
}

fn say(catalog: &Catalog, command: &Command) -> (RegionId, push::Body) {
    let table_json = |region: RegionId| {
        let table = catalog.tables.get(&region.table());
        table
            .and_then(|t| serde_json::to_string(t).ok())
            .unwrap_or_default()
    };
    match command {
        Command::Initialise(a) => {
            let body = v1::InitialiseRegion {
                region_id: a.region.as_u64(),
                raft_id: a.raft_id,
                voters: match a.joins {
                    true => vec![],
                    false => a.voters.iter().map(|m| m.raft_id).collect(),
                },
                table_json: table_json(a.region),
                members: match a.voters.len() {
                    // As programs know it that have no other groups.
                    1 => vec![],
                    _ => a.voters.iter().map(spoken).collect(),
                },
            };
            (a.region, push::Body::Initialise(body))
        }
        Command::Alter(region) => {
            let body = v1::AlterRegion {
                region_id: region.as_u64(),
                table_json: table_json(*region),
            };
            (*region, push::Body::Alter(body))
        }
        Command::Role { region, hot, warm } => {
            let body = v1::SetRegionRole {
                region_id: region.as_u64(),
                hot: *hot,
                warm: *warm,
            };
            (*region, push::Body::SetRole(body))
        }
        Command::Drop(region) => (
            *region,
            push::Body::Drop(v1::DropRegion {
                region_id: region.as_u64(),
                only_replica: false,
            }),
        ),
        Command::DropReplica(region) => (
            *region,
            push::Body::Drop(v1::DropRegion {
                region_id: region.as_u64(),
                only_replica: true,
            }),
        ),
    }
}

/// Every datanode that should have held a region of the table is there and has none of them any more.
fn is_gone(state: &State, catalog: &Catalog, id: TableId) -> bool {
    let Some(table) = catalog.tables.get(&id) else {
        return false;
    };
    table.regions().all(|region| {
        catalog.members(region).iter().all(|member| {
            let session = state.sessions.get(NodeRole::Datanode, member.node);
            session.is_some_and(|s| !s.reports.contains_key(&region))
        })
    })
}

/// The edits that the newest catalog still calls for.
fn still_true(catalog: &Catalog, edits: Vec<Edit>) -> Vec<Edit> {
    let holds = |edit: &Edit| match edit {
        Edit::PutTable(ready) => {
            let now = catalog.tables.get(&ready.id);
            now.is_some_and(|t| t.state == TableState::Creating && t.schema == ready.schema)
        }
        Edit::DeleteTable(id) => catalog.dropping().contains(id),
        Edit::RaiseFormat(format) => *format > catalog.root.format,
        _ => false,
    };
    edits.into_iter().filter(holds).collect()
}

/// Asks etcd and the bucket now and then, so that a person sees which of them is away.
pub(crate) async fn watch_dependencies(metasrv: Arc<Metasrv>) {
    while !metasrv.is_shut_down() {
        let store = &metasrv.options.store;
        metasrv.note_dependency(store.name(), &store.probe().await);
        let claimed = metasrv
            .state
            .lock()
            .catalog
            .clone()
            .filter(|c| c.root.bucket_claimed);
        match claimed {
            // Checks the marker's content too: the bucket may have been swapped.
            Some(catalog) => drop(metasrv.claim_bucket(&catalog).await),
            None => {
                let probed = metasrv.options.bucket.probe().await;
                // A successful probe says nothing about whose bucket it is: the claim's word stands.
                if probed.is_err() {
                    metasrv.note_dependency("object_store", &probed);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PROBE) => {}
            () = metasrv.until_shutdown() => {}
        }
    }
}
