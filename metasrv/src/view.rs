//! Tells: what frontends are pushed, and what a person sees at `GET /v1/cluster`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use greptime_metasrv_plan::assignment::Replica;
use greptime_metasrv_plan::failover::Step;
use greptime_metasrv_plan::members::Electorate;
use greptime_metasrv_plan::{RegionState, region_state};
use greptime_proto::v1;
use greptime_types::{NodeId, NodeRole, RegionId, TableState};
use serde_json::json;

use crate::catalog::{Catalog, Member};
use crate::election::Leadership;
use crate::failover::electorate;
use crate::repair::{leader_of, shortage};
use crate::server::{Metasrv, State};

/// The state of every region of a table that is not being dropped.
pub(crate) fn region_states(state: &State) -> BTreeMap<RegionId, RegionState> {
    let Some(catalog) = &state.catalog else {
        return BTreeMap::new();
    };
    let mut states = BTreeMap::new();
    for table in catalog
        .tables
        .values()
        .filter(|t| t.state != TableState::Dropping)
    {
        for region in table.regions() {
            let replica = |node: NodeId| {
                let session = state.sessions.get(NodeRole::Datanode, node);
                let counts = |raft_id| !catalog.is_given_up(region, raft_id);
                session.map_or(Replica::Away, |s| s.replica(region, counts))
            };
            let nodes = catalog.members(region).iter().map(|m| m.node);
            let mut replicas: Vec<_> = nodes.map(|node| (node, replica(node))).collect();
            if !replicas.iter().any(|(_, r)| matches!(r, Replica::Leading { .. })) {
                // One that is recorded no more serves until it has handed over.
                let leader = unrecorded_leader(state, region);
                replicas.extend(leader.map(|node| (node, replica(node))));
            }
            states.insert(region, region_state(table.state == TableState::Ready, &replicas));
        }
    }
    states
}

/// Where the region is led, whoever is a member, in no older epoch than was ever seen.
fn unrecorded_leader(state: &State, region: RegionId) -> Option<NodeId> {
    let led = leader_of(state, region)?;
    let seen = state.watch.as_ref()?.highest_led(region);
    let mut reports = state.sessions.reports_of(region);
    let (node, _) = reports.find(|(_, report)| report.raft_id == led.raft_id)?;
    (led.epoch >= seen).then_some(node)
}

/// Where regions are, as frontends were last told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    known: BTreeMap<RegionId, v1::Route>,
}

impl Routes {
    pub(crate) fn complete(&self) -> v1::RouteUpdate {
        v1::RouteUpdate {
            complete: true,
            routes: self.known.values().cloned().collect(),
            dropped_regions: vec![],
        }
    }

    /// Takes in the newest routes; returns what frontends must be told, if anything.
    pub(crate) fn update(&mut self, next: BTreeMap<RegionId, v1::Route>) -> Option<v1::RouteUpdate> {
        let routes: Vec<v1::Route> = next
            .iter()
            .filter(|(id, route)| self.known.get(id) != Some(route))
            .map(|(_, r)| r.clone())
            .collect();
        let dropped: Vec<u64> = self
            .known
            .keys()
            .filter(|id| !next.contains_key(id))
            .map(|id| id.as_u64())
            .collect();
        self.known = next;
        let news = !routes.is_empty() || !dropped.is_empty();
        news.then_some(v1::RouteUpdate {
            complete: false,
            routes,
            dropped_regions: dropped,
        })
    }
}

/// The route of every region as the datanodes report it now.
pub(crate) fn routes(
    state: &State,
    states: &BTreeMap<RegionId, RegionState>,
) -> BTreeMap<RegionId, v1::Route> {
    let Some(catalog) = &state.catalog else {
        return BTreeMap::new();
    };
    let address = |node: NodeId| {
        let session = state.sessions.get(NodeRole::Datanode, node);
        session.map(|s| s.register.address.clone()).unwrap_or_default()
    };
    let route = |(region, region_state): (&RegionId, &RegionState)| {
        let (epoch, leader_node, leader_address) = match region_state {
            RegionState::Leading { node, epoch } => (*epoch, *node, address(*node)),
            _ => (0, 0, String::new()),
        };
        let voters = catalog.members(*region).iter().map(|m| m.node).collect();
        (
            *region,
            v1::Route {
                region_id: region.as_u64(),
                epoch,
                leader_node,
                leader_address,
                voters,
                trouble: lost_majority(state, *region).unwrap_or_default(),
            },
        )
    };
    states.iter().map(route).collect()
}

/// What is lost and what is left of a region of which too few voters live, with what there is to be done.
fn lost_majority(state: &State, region: RegionId) -> Option<String> {
    let step = state.waiting.get(&region)?;
    matches!(step, Step::MajorityLost(_)).then(|| step.told(region))
}

/// What differs between two catalogs for somebody who sees ready tables only; everything if there is no old one.
pub(crate) fn catalog_update(old: Option<&Catalog>, new: &Catalog) -> v1::CatalogUpdate {
    let json = |value: serde_json::Result<String>| value.expect("catalog records are always JSON");
    let visible = |c: &Catalog| -> BTreeMap<u32, _> {
        let ready = c.tables.values().filter(|t| t.state == TableState::Ready);
        ready.map(|t| (t.id, t.clone())).collect()
    };
    let (old_tables, new_tables) = (old.map(visible).unwrap_or_default(), visible(new));
    let old_databases = old.map(|c| c.databases.clone()).unwrap_or_default();
    let old_names: BTreeSet<&String> = old_databases.keys().collect();
    v1::CatalogUpdate {
        revision: new.root.revision,
        complete: old.is_none(),
        databases_json: new
            .databases
            .values()
            .filter(|d| old_databases.get(&d.name) != Some(d))
            .map(|d| json(serde_json::to_string(d)))
            .collect(),
        tables_json: new_tables
            .values()
            .filter(|t| old_tables.get(&t.id) != Some(t))
            .map(|t| json(serde_json::to_string(t)))
            .collect(),
        dropped_tables: old_tables
            .keys()
            .filter(|id| !new_tables.contains_key(id))
            .copied()
            .collect(),
        dropped_databases: old_names
            .into_iter()
            .filter(|name| !new.databases.contains_key(*name))
            .cloned()
            .collect(),
    }
}

impl Metasrv {
    /// The JSON of `GET /v1/cluster`.
    pub fn cluster_json(&self) -> String {
        let now = self.now();
        let leader_address = self.leader_address();
        let leading = self.leadership() == Leadership::Leader;
        let state = self.state.lock();
        let states = region_states(&state);
        let nodes: Vec<_> = nodes(&state, now);
        let regions: Vec<_> = states
            .iter()
            .map(|(region, s)| {
                let mut region_json = region_json(&state, *region, *s);
                let catalog = state.catalog.as_ref();
                region_json["members"] = json!(catalog.and_then(|c| shortage(self, &state, c, *region)));
                region_json
            })
            .collect();
        let root = state.catalog.as_ref().map(|c| &c.root);
        let cluster = json!({
            "cluster_id": root.map(|r| &r.cluster_id),
            "name": self.options.name,
            "leader": leading && root.is_some(),
            "leader_address": leader_address,
            "metasrv_epoch": root.map(|r| r.metasrv_epoch),
            "revision": root.map_or(0, |r| r.revision),
            "dependencies": dependencies(&state),
            "brake": state.watch.as_ref().and_then(|watch| watch.brake()).map(ToString::to_string),
            "nodes": nodes,
            "regions": regions,
        });
        serde_json::to_string_pretty(&cluster).unwrap_or_default()
    }
}

/// metasrv's own dependencies, then those that datanodes complain about.
fn dependencies(state: &State) -> Vec<serde_json::Value> {
    let own = state.dependencies.iter().map(|d| (String::new(), d));
    let theirs = state
        .sessions
        .of_role(NodeRole::Datanode)
        .flat_map(|(id, session)| {
            let unwell = session.dependencies.iter().filter(|d| !d.ok);
            unwell.map(move |d| (format!("datanode {id}: "), d))
        });
    own.chain(theirs)
        .map(|(who, d)| json!({"name": d.name, "ok": d.ok, "message": if d.ok { String::new() } else { format!("{who}{}", d.message) }}))
        .collect()
}

fn nodes(state: &State, now: std::time::Duration) -> Vec<serde_json::Value> {
    let leaders = |session: &crate::sessions::Session| {
        session
            .reports
            .values()
            .filter(|r| r.role() == v1::RegionRole::Leader)
            .count()
    };
    // As the detector of failures sees it, which may wait with what it makes of a silence.
    let verdict = |role: NodeRole, id: NodeId| {
        let watch = state.watch.as_ref().filter(|_| role == NodeRole::Datanode);
        watch.and_then(|watch| watch.verdict(id)).map(ToString::to_string)
    };
    let mut nodes: Vec<_> = state
        .sessions
        .iter()
        .map(|(key, session)| {
            json!({
                "role": key.role,
                "id": key.id,
                "address": session.register.address,
                "alive": true,
                "incarnation": session.incarnation(),
                "version": session.register.version,
                "zone": session.register.zone,
                "leaders": leaders(session),
                "regions": session.reports.len(),
                "last_beat_ms_ago": now.saturating_sub(session.last_beat).as_millis() as u64,
                "oldest_append_ms": session.oldest_append_ms,
                "verdict": verdict(key.role, key.id),
            })
        })
        .collect();
    let known = state.catalog.iter().flat_map(|c| c.datanodes.keys());
    for id in known.filter(|id| state.sessions.get(NodeRole::Datanode, **id).is_none()) {
        let role = NodeRole::Datanode;
        nodes.push(json!({"role": role, "id": id, "alive": false, "verdict": verdict(role, *id)}));
    }
    nodes
}

fn region_json(state: &State, region: RegionId, region_state: RegionState) -> serde_json::Value {
    let catalog = state.catalog.as_ref();
    let table = catalog
        .and_then(|c| c.tables.get(&region.table()))
        .map(|t| t.full_name());
    let members = catalog.map(|c| c.members(region)).unwrap_or_default();
    // Those who have a vote, as long as somebody leads who knows.
    let led = leader_of(state, region);
    let votes = |m: &&Member| led.as_ref().is_none_or(|led| led.voters.contains(&m.raft_id));
    let voters: Vec<NodeId> = members.iter().filter(votes).map(|m| m.node).collect();
    let reports = state.sessions.of_role(NodeRole::Datanode);
    let is_hot = |s: &crate::sessions::Session| s.reports.get(&region).is_some_and(|r| r.hot);
    let hot: Vec<NodeId> = reports.filter(|(_, s)| is_hot(s)).map(|(node, _)| node).collect();
    let (epoch, leader) = match region_state {
        RegionState::Leading { node, epoch } => (epoch, Some(node)),
        _ => (0, None),
    };
    let report = leader
        .and_then(|node| state.sessions.get(NodeRole::Datanode, node))
        .and_then(|session| session.reports.get(&region));
    let problems: Vec<&str> = voters
        .iter()
        .filter_map(|node| {
            state
                .sessions
                .get(NodeRole::Datanode, *node)?
                .reports
                .get(&region)
        })
        .map(|report| report.problem.as_str())
        .filter(|problem| !problem.is_empty())
        .collect();
    json!({
        "region": region,
        "table": table,
        "state": match lost_majority(state, region) {
            // Whoever leads it can commit nothing.
            Some(_) => "majority_lost",
            None => region_state.label(),
        },
        "epoch": epoch,
        "leader": leader,
        "voters": voters,
        "electorate": catalog.map(|catalog| electorate_json(state, catalog, region)),
        "hot": hot,
        "last_index": report.map(|r| r.last_index),
        "flushed_index": report.map(|r| r.flushed_index),
        "waiting": state.waiting.get(&region).map(|step| step.told(region)),
        "problem": problems.join("; "),
    })
}

/// Who may have a vote, recorded or not, and of whom the replica is there: a datanode may have come back with another disk.
fn electorate_json(state: &State, catalog: &Catalog, region: RegionId) -> serde_json::Value {
    let Electorate { voters, strangers } = electorate(&state.sessions, catalog, region);
    let is_live = |raft_id: u64, node: NodeId| {
        let session = state.sessions.get(NodeRole::Datanode, node);
        let report = session.and_then(|session| session.reports.get(&region));
        report.is_some_and(|report| report.raft_id == raft_id)
    };
    let live = voters.iter().filter(|(_, m)| is_live(m.raft_id, m.node));
    json!({
        "voters": voters.iter().map(|(_, m)| m.node).collect::<Vec<_>>(),
        "live": live.map(|(_, m)| m.node).collect::<Vec<_>>(),
        "strangers": strangers,
    })
}

/// `GET /v1/cluster` and `GET /v1/procedures`.
pub fn http_router(metasrv: Arc<Metasrv>) -> Router {
    let json = |json: String| ([(header::CONTENT_TYPE, "application/json")], json).into_response();
    let of_cluster = Arc::clone(&metasrv);
    let cluster = move || std::future::ready(json(of_cluster.cluster_json()));
    let procedures = move || {
        let answer = match metasrv.procedures_json() {
            Ok(procedures) => json(procedures),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.message).into_response(),
        };
        std::future::ready(answer)
    };
    Router::new()
        .route("/v1/cluster", get(cluster))
        .route("/v1/procedures", get(procedures))
}
