//! A metasrv with datanodes and frontends that only keep sessions: what they are told, and what it records.

mod outcomes;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use greptime_clock::SystemClock;
use greptime_metasrv::MetasrvConfig;
use greptime_metasrv::store::{MemoryStore, Store};
use greptime_proto::SessionHandler;
use greptime_proto::v1::{self, ddl_request, push};
use greptime_types::format::QUORUM_FORMAT;
use greptime_types::partition::Op;
use greptime_types::{
    Change, ColumnSchema, ColumnType, ErrorKind, PartitionExpr, PartitionRule, RegionId, Semantic, TableInfo,
    Value,
};
use parking_lot::Mutex;
use support::{World, options, table};
use tokio_util::sync::CancellationToken;

/// A node that does at once what it is told, and remembers it.
struct FakeNode {
    identity: v1::NodeIdentity,
    regions: Mutex<BTreeMap<u64, v1::RegionReport>>,
    told: Mutex<Vec<push::Body>>,
    refused: Mutex<Option<String>>,
    /// The newest format that it speaks.
    speaks: AtomicU32,
    zone: Mutex<String>,
    /// The datanodes that it says it cannot reach.
    unreachable: Mutex<Vec<u64>>,
}

impl FakeNode {
    fn datanode(node_id: u64, disk_id: &str, incarnation: u64) -> Arc<Self> {
        Self::new(v1::NodeRole::Datanode, node_id, disk_id, incarnation)
    }

    fn new(role: v1::NodeRole, node_id: u64, disk_id: &str, incarnation: u64) -> Arc<Self> {
        let identity = v1::NodeIdentity {
            cluster_id: String::new(),
            role: role.into(),
            node_id,
            disk_id: disk_id.into(),
            incarnation,
        };
        Arc::new(Self {
            identity,
            regions: Mutex::default(),
            told: Mutex::default(),
            refused: Mutex::default(),
            speaks: AtomicU32::new(1),
            zone: Mutex::default(),
            unreachable: Mutex::default(),
        })
    }

    fn reports(&self) -> Vec<v1::RegionReport> {
        self.regions.lock().values().cloned().collect()
    }

    fn lead(&self, region_id: u64, raft_id: u64, table_json: &str) {
        let table: TableInfo = serde_json::from_str(table_json).unwrap();
        let report = v1::RegionReport {
            region_id,
            raft_id,
            role: v1::RegionRole::Leader.into(),
            epoch: 2,
            schema_version: table.schema.version,
            ..Default::default()
        };
        self.regions.lock().insert(region_id, report);
    }

    /// The table of that name, as it was last told.
    fn table(&self, name: &str) -> Option<TableInfo> {
        let told = self.told.lock();
        let tables = told.iter().rev().filter_map(|body| match body {
            push::Body::Initialise(order) => Some(&order.table_json),
            push::Body::Alter(order) => Some(&order.table_json),
            _ => None,
        });
        tables
            .map(|json| serde_json::from_str::<TableInfo>(json).unwrap())
            .find(|table| table.name == name)
    }

    /// What it was told that it may write.
    fn format(&self) -> Option<u32> {
        let told = self.told.lock();
        let formats = told.iter().rev().filter_map(|body| match body {
            push::Body::Welcome(welcome) => Some(welcome.format_version),
            _ => None,
        });
        formats.into_iter().next()
    }

    fn saw(&self, what: impl Fn(&push::Body) -> bool) -> bool {
        self.told.lock().iter().any(what)
    }
}

impl SessionHandler for FakeNode {
    fn register(&self) -> v1::Register {
        v1::Register {
            identity: Some(self.identity.clone()),
            address: format!("10.0.0.{}:3001", self.identity.node_id),
            version: "test".into(),
            min_format: 1,
            max_format: self.speaks.load(Ordering::SeqCst),
            regions: self.reports(),
            zone: self.zone.lock().clone(),
        }
    }

    fn tick(&self, number: u64, answered: u64) -> v1::Tick {
        v1::Tick {
            number,
            answered,
            regions: self.reports(),
            regions_complete: true,
            unreachable: self.unreachable.lock().clone(),
            ..Default::default()
        }
    }

    fn told(&self, body: push::Body) {
        match &body {
            push::Body::Initialise(order) => self.lead(order.region_id, order.raft_id, &order.table_json),
            push::Body::Alter(order) => self.lead(order.region_id, 1, &order.table_json),
            push::Body::Drop(order) => drop(self.regions.lock().remove(&order.region_id)),
            _ => {}
        }
        self.told.lock().push(body);
    }

    fn disconnected(&self, reason: &str) {
        *self.refused.lock() = Some(reason.to_string());
    }
}

async fn start(store: Arc<dyn Store>) -> World {
    World::start(options(store)).await
}

/// Nobody knows it yet.
async fn new_world() -> World {
    start(Arc::new(MemoryStore::default())).await
}

/// Regions by the label of their state.
fn states(world: &World) -> Vec<String> {
    let cluster = world.cluster();
    let regions = cluster["regions"].as_array().unwrap();
    regions
        .iter()
        .map(|r| r["state"].as_str().unwrap().to_string())
        .collect()
}

/// A table of two regions.
fn create(name: &str) -> ddl_request::Body {
    let side = |op| PartitionExpr::compare("host", op, Value::String("m".into()));
    let halves = PartitionRule::new(vec!["host".into()], vec![side(Op::Lt), side(Op::GtEq)]);
    support::create(&table(name, halves.unwrap()))
}

fn drop_table(name: &str) -> ddl_request::Body {
    ddl_request::Body::DropTable(v1::DropTable {
        database: "public".into(),
        name: name.into(),
        if_exists: false,
    })
}

#[tokio::test]
async fn a_table_is_spread_over_the_datanodes_and_frontends_are_told() {
    let world = new_world().await;
    let error = world.ddl(create("early")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let nodes = [FakeNode::datanode(0, "a", 1), FakeNode::datanode(1, "b", 2)];
    let frontend = FakeNode::new(v1::NodeRole::Frontend, 0, "", 3);
    for node in nodes.iter().chain([&frontend]) {
        world.join(node);
    }
    let complete = |b: &push::Body| matches!(b, push::Body::AssignmentsComplete(_));
    world.until(|| nodes.iter().all(|n| n.saw(complete))).await;
    let made = world.ddl(create("cpu")).await.unwrap();
    assert_eq!(
        nodes.each_ref().map(|n| n.reports().len()),
        [1, 1],
        "one region each"
    );
    world
        .until(|| frontend.saw(|b| matches!(b, push::Body::Catalog(c) if c.revision == made.revision)))
        .await;
    let routed = |b: &push::Body| matches!(b, push::Body::Routes(r) if r.routes.iter().any(|r| r.leader_address == "10.0.0.1:3001"));
    world.until(|| frontend.saw(routed)).await;
    let error = world.ddl(create("cpu")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    world.ddl(drop_table("cpu")).await.unwrap();
    world.until(|| nodes.iter().all(|n| n.reports().is_empty())).await;
    world.ddl(create("cpu")).await.unwrap();
}

/// A process that speaks format 2 takes the place of one that does not.
fn upgraded(old: &FakeNode, incarnation: u64) -> Arc<FakeNode> {
    let mut identity = old.identity.clone();
    identity.incarnation = incarnation;
    Arc::new(FakeNode {
        identity,
        regions: Mutex::new(old.regions.lock().clone()),
        told: Mutex::default(),
        refused: Mutex::default(),
        speaks: AtomicU32::new(2),
        zone: Mutex::default(),
        unreachable: Mutex::default(),
    })
}

#[tokio::test]
async fn the_format_is_raised_when_all_nodes_speak_it_and_there_is_no_way_back() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let world = start(store.clone()).await;
    let old = FakeNode::datanode(0, "a", 1);
    let new = upgraded(&FakeNode::datanode(1, "b", 2), 2);
    let frontend = upgraded(&FakeNode::new(v1::NodeRole::Frontend, 0, "", 3), 3);
    let stop = world.join(&old);
    world.join(&new);
    world.join(&frontend);
    let complete = |b: &push::Body| matches!(b, push::Body::AssignmentsComplete(_));
    world.until(|| [&old, &new].iter().all(|n| n.saw(complete))).await;
    world.ddl(create("cpu")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let formats = [&old, &new, &frontend].map(|n| n.format());
    assert_eq!(formats, [Some(1); 3], "one of them speaks no other");

    let steady = MetasrvConfig::default().session_timeout;
    stop.cancel();
    tokio::time::sleep(steady + Duration::from_millis(500)).await;
    let formats = [&new, &frontend].map(|n| n.format());
    assert_eq!(formats, [Some(1); 2], "one of them may come back as it was");
    let rolled = upgraded(&old, 4);
    let clock = SystemClock::shared();
    let joined = clock.now();
    world.join(&rolled);
    let all = [&rolled, &new, &frontend];
    world.until(|| all.iter().all(|n| n.format() == Some(2))).await;
    assert!(
        clock.now() >= joined + steady,
        "one of them may go back to the version before"
    );
    let newcomer = FakeNode::datanode(2, "c", 5);
    world.join(&newcomer);
    world.until(|| newcomer.refused.lock().is_some()).await;
    let reason = newcomer.refused.lock().clone().unwrap();
    assert!(
        reason.contains("writes format 2") && reason.contains("is too old"),
        "{reason}"
    );
    assert!(newcomer.told.lock().is_empty());
    world.metasrv.shutdown();

    let world = start(store).await;
    rolled.told.lock().clear();
    world.join(&rolled);
    world.until(|| rolled.format() == Some(2)).await;
    let downgraded = FakeNode::new(v1::NodeRole::Frontend, 0, "", 6);
    world.join(&downgraded);
    world.until(|| downgraded.refused.lock().is_some()).await;
}

#[tokio::test]
async fn a_new_leader_waits_for_the_datanodes_that_it_knows_before_it_places_regions() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let nodes = [FakeNode::datanode(0, "a", 1), FakeNode::datanode(1, "b", 2)];
    let complete = |b: &push::Body| matches!(b, push::Body::AssignmentsComplete(_));
    let world = start(store.clone()).await;
    let stops = nodes.each_ref().map(|node| world.join(node));
    world.until(|| nodes.iter().all(|n| n.saw(complete))).await;
    stops.iter().for_each(CancellationToken::cancel);
    world.metasrv.shutdown();

    let world = start(store).await;
    nodes.iter().for_each(|node| node.told.lock().clear());
    world.join(&nodes[0]);
    world.until(|| nodes[0].saw(complete)).await;
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.join(&nodes[1]);
    };
    let (made, ()) = tokio::join!(world.ddl(create("cpu")), late);
    made.unwrap();
    assert_eq!(
        nodes.each_ref().map(|n| n.reports().len()),
        [1, 1],
        "one region each"
    );
}

#[tokio::test]
async fn a_datanode_that_comes_back_without_its_disk_is_not_given_an_empty_region() {
    let world = new_world().await;
    let node = FakeNode::datanode(0, "a", 1);
    let stop = world.join(&node);
    world
        .until(|| node.saw(|b| matches!(b, push::Body::AssignmentsComplete(_))))
        .await;
    world.ddl(create("cpu")).await.unwrap();
    stop.cancel();
    world.until(|| states(&world) == ["no_leader", "no_leader"]).await;
    let replaced = FakeNode::datanode(0, "b", 2);
    world.join(&replaced);
    world.until(|| states(&world) == ["disk_lost", "disk_lost"]).await;
    assert!(
        replaced.reports().is_empty(),
        "an empty region would hide that rows are lost"
    );
    world.ddl(drop_table("cpu")).await.unwrap();
}

#[tokio::test]
async fn replicas_are_in_distinct_zones() {
    let world = new_world().await;
    let zones = ["a", "a", "b", "c"];
    let nodes: Vec<_> = (0..4).map(|id| FakeNode::datanode(id, "a", 1 + id)).collect();
    for (node, zone) in nodes.iter().zip(zones) {
        node.speaks.store(QUORUM_FORMAT, Ordering::SeqCst);
        *node.zone.lock() = zone.into();
        world.join(node);
    }
    world
        .until(|| nodes.iter().all(|n| n.format() == Some(QUORUM_FORMAT)))
        .await;
    world.ddl(create("cpu")).await.unwrap();
    let held = || -> Vec<usize> { nodes.iter().map(|n| n.reports().len()).collect() };
    world.until(|| held().iter().sum::<usize>() == 6).await;
    let held = held();
    assert_eq!((held[0] + held[1], held[2], held[3]), (2, 2, 2));
}

/// A datanode that has just started may not know yet which replicas it has.
#[tokio::test]
async fn a_replica_that_has_not_said_which_one_it_is_is_not_taken_for_one_that_has_left() {
    let world = new_world().await;
    let nodes: Vec<_> = (0..3).map(|id| FakeNode::datanode(id, "a", 1 + id)).collect();
    for node in &nodes {
        node.speaks.store(QUORUM_FORMAT, Ordering::SeqCst);
        world.join(node);
    }
    let came = |node: &Arc<FakeNode>| node.saw(|b| matches!(b, push::Body::AssignmentsComplete(_)));
    world.until(|| nodes.iter().all(came)).await;
    world.until(|| nodes[0].format() == Some(QUORUM_FORMAT)).await;
    world.ddl(create("cpu")).await.unwrap();
    let has_all = |node: &Arc<FakeNode>| node.reports().len() == 2;
    world.until(|| nodes.iter().all(has_all)).await;
    let left = |node: &Arc<FakeNode>| node.saw(|b| matches!(b, push::Body::Drop(d) if d.only_replica));
    let say = |raft_id| {
        for report in nodes[1].regions.lock().values_mut() {
            report.raft_id = raft_id;
            report.role = v1::RegionRole::Opening.into();
        }
    };
    say(0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!nodes.iter().any(left), "it has not said which replica it is");
    // One that nobody has recorded has left.
    say(999);
    world.until(|| left(&nodes[1])).await;
}

#[tokio::test]
async fn a_second_process_and_a_foreign_disk_are_refused_with_the_reason() {
    let world = new_world().await;
    let first = FakeNode::datanode(0, "a", 1);
    world.join(&first);
    world
        .until(|| first.saw(|b| matches!(b, push::Body::Welcome(_))))
        .await;
    let second = FakeNode::datanode(0, "a", 2);
    world.join(&second);
    let says = |node: &FakeNode, text: &str| node.refused.lock().as_ref().is_some_and(|r| r.contains(text));
    world.until(|| says(&second, "already running")).await;
    let mut identity = FakeNode::datanode(1, "x", 3).identity.clone();
    identity.cluster_id = "another".into();
    let foreign = Arc::new(FakeNode {
        identity,
        regions: Mutex::default(),
        told: Mutex::default(),
        refused: Mutex::default(),
        speaks: AtomicU32::new(1),
        zone: Mutex::default(),
        unreachable: Mutex::default(),
    });
    world.join(&foreign);
    world.until(|| says(&foreign, "belongs to cluster another")).await;
}

fn alter(name: &str, changes: &[Change]) -> ddl_request::Body {
    ddl_request::Body::AlterTable(v1::AlterTable {
        database: "public".into(),
        name: name.into(),
        changes_json: serde_json::to_string(changes).unwrap(),
    })
}

#[tokio::test]
async fn a_renamed_table_has_a_free_name_and_keeps_its_id() {
    let world = new_world().await;
    let node = FakeNode::datanode(0, "a", 1);
    world.join(&node);
    world
        .until(|| node.saw(|b| matches!(b, push::Body::AssignmentsComplete(_))))
        .await;
    let made = world.ddl(create("cpu")).await.unwrap();
    world.ddl(create("load")).await.unwrap();
    let rename = |from: &str, to: &str| alter(from, &[Change::RenameTable { to: to.into() }]);
    let error = world.ddl(rename("cpu", "load")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}");
    let error = world.ddl(rename("nosuch", "x")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert_eq!(
        world.ddl(rename("cpu", "c")).await.unwrap().table_id,
        made.table_id
    );
    world.ddl(rename("load", "cpu")).await.unwrap();
    world
        .until(|| node.reports().iter().all(|r| r.schema_version == 2))
        .await;
}

#[tokio::test]
async fn tables_have_the_ttl_of_their_database() {
    let world = new_world().await;
    let node = FakeNode::datanode(0, "a", 1);
    world.join(&node);
    world
        .until(|| node.saw(|b| matches!(b, push::Body::AssignmentsComplete(_))))
        .await;
    world.ddl(create("before")).await.unwrap();
    let set = |ttl: Option<&str>| {
        ddl_request::Body::AlterDatabase(v1::AlterDatabase {
            name: "public".into(),
            set: ttl
                .map(|t| ("ttl".to_owned(), t.to_owned()))
                .into_iter()
                .collect(),
            unset: if ttl.is_none() { vec!["ttl".into()] } else { vec![] },
        })
    };
    for wrong in ["soon", "instant"] {
        let error = world.ddl(set(Some(wrong))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    }
    assert!(world.ddl(set(Some("7d"))).await.unwrap().changed);
    assert!(!world.ddl(set(Some("7d"))).await.unwrap().changed);
    world.ddl(create("after")).await.unwrap();
    let ttl_of = |name: &str| node.table(name).map(|t| t.ttl().to_string());
    world
        .until(|| {
            ["before", "after"]
                .iter()
                .all(|n| ttl_of(n).as_deref() == Some("7days"))
        })
        .await;
    world.ddl(set(None)).await.unwrap();
    world
        .until(|| {
            ["before", "after"]
                .iter()
                .all(|n| ttl_of(n).as_deref() == Some("forever"))
        })
        .await;
}

#[tokio::test]
async fn added_columns_reach_the_regions_and_a_restarted_metasrv_knows_them() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let world = start(store.clone()).await;
    let node = FakeNode::datanode(0, "a", 1);
    let stop = world.join(&node);
    world
        .until(|| node.saw(|b| matches!(b, push::Body::AssignmentsComplete(_))))
        .await;
    let made = world.ddl(create("cpu")).await.unwrap();
    let column = ColumnSchema::new("usage", ColumnType::Float64, Semantic::Field);
    let change = Change::AddColumn {
        column,
        if_not_exists: true,
    };
    let add = alter("cpu", &[change]);
    assert!(world.ddl(add.clone()).await.unwrap().changed);
    assert!(
        !world.ddl(add).await.unwrap().changed,
        "adding it again changes nothing"
    );
    world
        .until(|| node.reports().iter().all(|r| r.schema_version == 2))
        .await;
    stop.cancel();
    world.metasrv.shutdown();

    let world = start(store).await;
    world.join(&node);
    world.until(|| states(&world) == ["leading", "leading"]).await;
    assert!(
        node.reports()
            .iter()
            .any(|r| r.region_id == RegionId::new(made.table_id, 1).as_u64())
    );
}

/// Datanodes with three replicas of each region, or one where there are fewer than three of them.
async fn with_groups(world: &World, count: u64) -> Vec<(Arc<FakeNode>, CancellationToken)> {
    let nodes: Vec<_> = (0..count).map(|id| FakeNode::datanode(id, "a", 1 + id)).collect();
    let join = |node: &Arc<FakeNode>| {
        node.speaks.store(QUORUM_FORMAT, Ordering::SeqCst);
        (node.clone(), world.join(node))
    };
    let joined: Vec<_> = nodes.iter().map(join).collect();
    let came = |node: &Arc<FakeNode>| node.saw(|b| matches!(b, push::Body::AssignmentsComplete(_)));
    world.until(|| nodes.iter().all(came)).await;
    world.until(|| nodes[0].format() == Some(QUORUM_FORMAT)).await;
    world.ddl(create("cpu")).await.unwrap();
    joined
}

#[tokio::test]
async fn a_datanode_is_ready_when_it_has_caught_up() {
    let world = new_world().await;
    let joined = with_groups(&world, 3).await;
    let nodes: Vec<_> = joined.iter().map(|(node, _)| node.clone()).collect();
    world
        .until(|| nodes.iter().all(|node| node.reports().len() == 2))
        .await;
    let say = |node: &FakeNode, role: v1::RegionRole, last_index: u64| {
        for report in node.regions.lock().values_mut() {
            report.role = role.into();
            (report.epoch, report.last_term) = (7, 7);
            (report.last_index, report.applied_index) = (last_index, last_index);
            report.hot = true;
        }
    };
    say(&nodes[1], v1::RegionRole::Leader, 5_000);
    for follower in [&nodes[0], &nodes[2]] {
        say(follower, v1::RegionRole::Follower, 5_000);
    }
    world.until(|| world.cluster()["regions"][0]["epoch"] == 7).await;
    joined[0].1.cancel();
    let back = upgraded(&nodes[0], 9);
    back.speaks.store(QUORUM_FORMAT, Ordering::SeqCst);
    say(&back, v1::RegionRole::Follower, 100);
    world.join(&back);
    world
        .until(|| back.saw(|b| matches!(b, push::Body::Welcome(_))))
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let is_ready = || back.saw(|b| matches!(b, push::Body::AssignmentsComplete(_)));
    assert!(!is_ready(), "it lacks 4,900 entries");
    say(&back, v1::RegionRole::Follower, 4_000);
    world.until(is_ready).await;
}

#[tokio::test]
async fn why_a_region_has_too_few_replicas_is_told() {
    let world = new_world().await;
    with_groups(&world, 2).await;
    let said = "it needs 2 more living datanodes without a replica of it";
    world
        .until(|| world.cluster()["regions"][0]["members"] == said)
        .await;
    let more = FakeNode::datanode(2, "a", 3);
    more.speaks.store(QUORUM_FORMAT, Ordering::SeqCst);
    world.join(&more);
    world
        .until(|| world.cluster()["regions"][0]["members"] != said)
        .await;
}

const REGION: RegionId = RegionId::new(1024, 0);

impl FakeNode {
    /// Says that its replica is in a term, and how far its log reaches.
    fn say(&self, role: v1::RegionRole, term: u64, last: (u64, u64)) {
        if let Some(report) = self.regions.lock().get_mut(&REGION.as_u64()) {
            report.role = role.into();
            report.epoch = term;
            (report.last_term, report.last_index) = last;
            report.flushed_index = 90;
        }
    }

    fn raft_id(&self) -> u64 {
        self.regions.lock()[&REGION.as_u64()].raft_id
    }
}

/// The role of a replica, its term, and term and index of its last entry.
type Said = (v1::RegionRole, u64, (u64, u64));

/// The second leads in a term that the first has not heard of.
const FIRST_IS_BEHIND: [Said; 3] = [
    (v1::RegionRole::Follower, 6, (5, 100)),
    (v1::RegionRole::Leader, 7, (7, 120)),
    (v1::RegionRole::Follower, 7, (7, 110)),
];
const FIRST_LEADS: [Said; 3] = [
    (v1::RegionRole::Leader, 7, (7, 120)),
    (v1::RegionRole::Follower, 7, (7, 120)),
    (v1::RegionRole::Follower, 7, (7, 110)),
];

/// Three datanodes, whose replicas have said so much; and the second and the third go.
async fn majority_lost(world: &World, said: [Said; 3]) -> Vec<Arc<FakeNode>> {
    let joined = with_groups(world, 3).await;
    let nodes: Vec<_> = joined.iter().map(|(node, _)| node.clone()).collect();
    let has_all = |node: &Arc<FakeNode>| node.reports().len() == 2;
    world.until(|| nodes.iter().all(has_all)).await;
    let group: Vec<u64> = nodes.iter().map(|node| node.raft_id()).collect();
    for node in &nodes {
        for report in node.regions.lock().values_mut() {
            report.voters.clone_from(&group);
        }
    }
    for (node, (role, term, last)) in nodes.iter().zip(said) {
        node.say(role, term, last);
    }
    world.until(|| world.cluster()["regions"][0]["epoch"] == 7).await;
    for (_, session) in &joined[1..] {
        session.cancel();
    }
    nodes
}

fn recover() -> ddl_request::Body {
    ddl_request::Body::ForceRecoverRegion(v1::ForceRecoverRegion {
        region_id: REGION.as_u64(),
        survivor_node: 0,
    })
}

fn recovery(body: &push::Body) -> Option<v1::RecoverRegion> {
    match body {
        push::Body::Recover(order) if order.region_id == REGION.as_u64() => Some(*order),
        _ => None,
    }
}

#[tokio::test]
async fn what_is_lost_with_a_majority_is_told_when_others_confirm_that_it_is() {
    let world = new_world().await;
    let nodes = majority_lost(&world, FIRST_IS_BEHIND).await;
    world.until(|| !world.cluster()["brake"].is_null()).await;
    let error = world.ddl(recover()).await.unwrap_err();
    assert!(
        error.message.contains("not been found to be dead yet (suspect")
            && error.message.contains("not judged for another"),
        "{error}"
    );
    *nodes[0].unreachable.lock() = vec![1, 2];
    let told = || {
        world.cluster()["regions"][0]["waiting"]
            .as_str()
            .unwrap_or_default()
            .to_string()
    };
    world
        .until(|| told().contains("ADMIN force_recover_region('1024:0', 0)"))
        .await;
    let told = told();
    for part in [
        "datanode 1 (entry 120 of term 7, in files up to 90)",
        "datanode 0 (entry 100 of term 5, in files up to 90)",
        // Of its last ten entries others may be in the place: it did not hear of term 7.
        "everything up to entry 90",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let cluster = world.cluster();
    assert!(cluster["brake"].is_null(), "{cluster}");
    assert_eq!(cluster["regions"][0]["state"], "majority_lost");
    let nodes = cluster["nodes"].as_array().unwrap();
    let of_1 = nodes.iter().find(|n| n["id"] == 1).unwrap();
    assert!(
        of_1["verdict"].as_str().unwrap().starts_with("dead: silent"),
        "{of_1}"
    );
}

/// Lets the first go on alone, as soon as that is not refused any more.
async fn go_on_alone(world: &World, nodes: &[Arc<FakeNode>]) {
    *nodes[0].unreachable.lock() = vec![1, 2];
    world
        .until(|| !world.cluster()["regions"][0]["waiting"].is_null())
        .await;
    while world.ddl(recover()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_a_survivor_keeps_is_recorded_and_it_is_everything_if_it_leads() {
    for (said, kept) in [
        (
            FIRST_LEADS,
            "kept: everything that was acknowledged: it leads in epoch 7,",
        ),
        (
            FIRST_IS_BEHIND,
            "kept: everything up to entry 90 and what is in files;",
        ),
    ] {
        let world = new_world().await;
        let nodes = majority_lost(&world, said).await;
        go_on_alone(&world, &nodes).await;
        let reason = world.procedures()[0]["reason"].clone();
        assert!(reason.as_str().unwrap_or_default().starts_with(kept), "{reason}");
    }
}

#[tokio::test]
async fn a_survivor_leads_above_all_terms_of_those_that_are_lost_and_they_count_for_nothing() {
    let world = new_world().await;
    let nodes = majority_lost(&world, FIRST_IS_BEHIND).await;
    go_on_alone(&world, &nodes).await;
    world.until(|| nodes[0].saw(|b| recovery(b).is_some())).await;
    let order = nodes[0].told.lock().iter().find_map(recovery).unwrap();
    // The lost ones may have gone on by themselves, unheard of.
    assert!(order.seen_term > 7 + 1_000, "{order:?}");
    let group: Vec<u64> = nodes.iter().map(|node| node.raft_id()).collect();
    let epoch = order.seen_term + 1;
    nodes[0].say(v1::RegionRole::Leader, epoch, (epoch, 101));
    for report in nodes[0].regions.lock().values_mut() {
        report.voters = vec![report.raft_id];
    }
    let ended = || world.procedures()[0]["state"] == "done";
    world.until(ended).await;
    // Those that were lost come back, and lead among themselves, while the survivor does not.
    nodes[0].say(v1::RegionRole::Follower, epoch, (epoch, 101));
    let leader = || world.cluster()["regions"][0]["leader"].clone();
    world.until(|| leader().is_null()).await;
    nodes[1].say(v1::RegionRole::Leader, 9, (9, 130));
    nodes[2].say(v1::RegionRole::Follower, 9, (9, 130));
    for node in &nodes[1..] {
        node.told.lock().clear();
        world.join(node);
    }
    let is_there = |id: u64| {
        let cluster = world.cluster();
        let nodes = cluster["nodes"].as_array().unwrap();
        nodes.iter().any(|n| n["id"] == id && n["alive"] == true)
    };
    world.until(|| is_there(1) && is_there(2)).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(leader().is_null(), "{}", leader());
    let leads = |b: &push::Body| match b {
        push::Body::ChangeMembers(order) => order.region_id == REGION.as_u64(),
        push::Body::Transfer(order) => order.region_id == REGION.as_u64(),
        _ => false,
    };
    assert!(!nodes[1].saw(leads), "it is taken for the leader");
    assert_eq!(nodes[1].raft_id(), group[1], "it is kept while nobody leads");
    nodes[0].say(v1::RegionRole::Leader, epoch, (epoch, 102));
    let dropped =
        |b: &push::Body| matches!(b, push::Body::Drop(d) if d.only_replica && d.region_id == REGION.as_u64());
    world
        .until(|| nodes[1].saw(dropped) && nodes[2].saw(dropped))
        .await;
}

#[test]
fn each_defence_is_missed_when_it_is_away() {
    greptime_defences::each_is_missed_in("sessions_and_ddl", greptime_metasrv::PROOFS_ELSEWHERE);
}
