//! A metasrv with datanodes whose regions move.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use greptime_clock::{Clock, SharedClock, SystemClock};
use greptime_metasrv::MetasrvOptions;
use greptime_proto::v1::{self, ddl_request};
use greptime_types::format::QUORUM_FORMAT;
use greptime_types::{Error, NodeId, PartitionRule, RegionId, Result};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::datanodes::{Act, Datanode, Datanodes};
use crate::journal::{Journal, JournalStore};
use crate::support::{World, create, options, table};

/// The machine's, whose date can be put ahead.
struct Calendar {
    clock: SharedClock,
    ahead_ms: AtomicI64,
}

impl Clock for Calendar {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn wall_ms(&self) -> i64 {
        self.clock.wall_ms() + self.ahead_ms.load(Ordering::SeqCst)
    }
}

pub struct Cluster {
    pub world: World,
    pub nodes: Arc<Datanodes>,
    pub store: Arc<JournalStore>,
    calendar: Arc<Calendar>,
    sessions: BTreeMap<NodeId, (Arc<Datanode>, CancellationToken)>,
    starts: u64,
}

/// A region and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    pub region: RegionId,
    /// It leads.
    pub from: NodeId,
    /// The others that have it.
    pub stay: [NodeId; 2],
    /// It has none.
    pub to: NodeId,
}

impl Move {
    pub fn request(&self) -> v1::MigrateRegion {
        v1::MigrateRegion {
            region_id: self.region.as_u64(),
            from_node: self.from,
            to_node: self.to,
            timeout_ms: 0,
        }
    }
}

/// Longer than a migration may take by default.
pub const TOO_LONG: Duration = Duration::from_secs(301);

impl Cluster {
    /// Four datanodes, and regions with three replicas each, all of them led by the first.
    pub async fn with_regions(count: u32) -> (Self, Vec<Move>) {
        Self::start(count, |options| options).await
    }

    pub async fn start(count: u32, with: impl FnOnce(MetasrvOptions) -> MetasrvOptions) -> (Self, Vec<Move>) {
        let store = Arc::new(JournalStore::default());
        let calendar = Arc::new(Calendar {
            clock: SystemClock::shared(),
            ahead_ms: AtomicI64::new(0),
        });
        let options = MetasrvOptions {
            clock: calendar.clone(),
            ..options(store.clone())
        };
        let mut cluster = Self {
            world: World::start(with(options)).await,
            nodes: Datanodes::new(store.journal.clone()),
            store,
            calendar,
            sessions: BTreeMap::new(),
            starts: 0,
        };
        for node in 0..4 {
            cluster.up(node);
        }
        let world = &cluster.world;
        let are_there = || (0..4).all(|node| cluster.node(node)["alive"] == true);
        // From then on regions have three replicas.
        world
            .until(|| are_there() && cluster.nodes.format() == QUORUM_FORMAT)
            .await;
        let regions = cluster.create(count).await;
        let moves = regions.into_iter().map(|region| cluster.settled(region));
        let moves = futures::future::join_all(moves).await;
        cluster.journal().clear();
        (cluster, moves)
    }

    pub async fn with_region() -> (Self, Move) {
        let (cluster, moves) = Self::with_regions(1).await;
        (cluster, moves[0])
    }

    /// Tables of one region each.
    async fn create(&self, count: u32) -> Vec<RegionId> {
        let create = |n: u32| async move {
            let table = table(&format!("t{n}"), PartitionRule::single());
            let made = self.world.ddl(create(&table)).await.unwrap();
            RegionId::new(made.table_id, 0)
        };
        futures::future::join_all((0..count).map(create)).await
    }

    /// Waits until the first member leads and the second is hot.
    async fn settled(&self, region: RegionId) -> Move {
        let is_settled = || {
            let told = self.region(region);
            let members = nodes_of(&told["voters"]);
            members.len() == 3 && told["leader"] == members[0] && nodes_of(&told["hot"]).contains(&members[1])
        };
        self.world.until(is_settled).await;
        let members = nodes_of(&self.region(region)["voters"]);
        Move {
            region,
            from: members[0],
            stay: [members[1], members[2]],
            to: (0..4).find(|node| !members.contains(node)).unwrap(),
        }
    }

    pub fn journal(&self) -> &Journal {
        &self.store.journal
    }

    /// The region in `GET /v1/cluster`.
    pub fn region(&self, region: RegionId) -> Value {
        let cluster = self.world.cluster();
        let mut regions = cluster["regions"].as_array().unwrap().iter();
        let region = Value::from(region.to_string());
        regions
            .find(|r| r["region"] == region)
            .cloned()
            .unwrap_or_default()
    }

    /// Starts the process of a datanode.
    pub fn up(&mut self, node: NodeId) {
        self.up_with_disk(node, &format!("disk of {node}"));
    }

    pub fn up_with_disk(&mut self, node: NodeId, disk_id: &str) {
        self.starts += 1;
        let process = Arc::new(Datanode {
            all: self.nodes.clone(),
            id: node,
            disk_id: disk_id.into(),
            incarnation: self.starts,
        });
        self.nodes.start(node);
        let session = self.world.join(&process);
        self.sessions.insert(node, (process, session));
    }

    /// The process of a datanode dies, and metasrv notices that its session has ended.
    pub async fn down(&mut self, node: NodeId) {
        self.nodes.stop(node);
        let (_, session) = self.sessions.remove(&node).unwrap();
        session.cancel();
        self.world.until(|| self.node(node)["alive"] == false).await;
    }

    /// The datanode in `GET /v1/cluster`.
    fn node(&self, node: NodeId) -> Value {
        let cluster = self.world.cluster();
        let mut nodes = cluster["nodes"].as_array().unwrap().iter();
        nodes.find(|n| n["id"] == node).cloned().unwrap_or_default()
    }

    /// What metasrv makes of the datanode's beats.
    pub fn verdict(&self, node: NodeId) -> String {
        self.node(node)["verdict"].as_str().unwrap_or_default().into()
    }

    /// The sessions of all datanodes break, and they come again.
    pub fn reconnect(&mut self) {
        for (process, session) in self.sessions.values_mut() {
            session.cancel();
            *session = self.world.join(process);
        }
    }

    /// Another metasrv leads over the same store. What datanodes were told and have not done is lost.
    pub async fn take_over(&mut self) {
        self.world.metasrv.shutdown();
        let options = options(self.store.clone());
        self.world = World::start(MetasrvOptions {
            clock: self.calendar.clone(),
            ..options
        })
        .await;
        self.nodes.forget();
        self.reconnect();
    }

    pub fn pass(&self, time: Duration) {
        self.calendar
            .ahead_ms
            .fetch_add(time.as_millis() as i64, Ordering::SeqCst);
    }

    /// Begins, and returns the id of the procedure.
    pub async fn migrate(&self, request: v1::MigrateRegion) -> Result<String> {
        let answer = self.world.ddl(ddl_request::Body::MigrateRegion(request)).await?;
        Ok(answer.procedure_id)
    }

    /// Begins, and waits until a datanode is told, in that phase, to do what is held back.
    pub async fn migrate_until(&self, of: &Move, act: Act, phase: &str) -> String {
        self.nodes.hold(of.region, act);
        let id = self.migrate(of.request()).await.unwrap();
        self.until_phase(&id, phase).await;
        self.world.until(|| self.nodes.is_told(of.region, act)).await;
        id
    }

    pub async fn migrate_node(&self, node: NodeId) -> Result<String> {
        let request = v1::MigrateNode {
            from_node: node,
            timeout_ms: 0,
        };
        let answer = self.world.ddl(ddl_request::Body::MigrateNode(request)).await?;
        Ok(answer.procedure_id)
    }

    pub async fn abort(&self, id: &str) -> Result<v1::DdlResponse> {
        let request = v1::AbortProcedure {
            procedure_id: id.into(),
        };
        self.world.ddl(ddl_request::Body::AbortProcedure(request)).await
    }

    /// Drops the region with its table.
    pub async fn drop_table(&self, of: &Move) {
        let name = self.region(of.region)["table"].as_str().unwrap().to_owned();
        let request = v1::DropTable {
            database: "public".into(),
            name: name.strip_prefix("public.").unwrap().into(),
            if_exists: false,
        };
        let answer = self.world.ddl(ddl_request::Body::DropTable(request)).await;
        answer.unwrap();
    }

    /// The procedure in `GET /v1/procedures`.
    pub fn procedure(&self, id: &str) -> Value {
        let procedures = self.world.procedures();
        procedures.into_iter().find(|p| p["id"] == id).unwrap_or_default()
    }

    /// The phases that the procedure has entered.
    pub fn phases(&self, id: &str) -> Vec<Value> {
        let entered = self.procedure(id)["phases"].clone();
        let entered = entered.as_array().unwrap().iter();
        entered.map(|e| e["phase"].clone()).collect()
    }

    pub async fn until_phase(&self, id: &str, phase: &str) {
        self.until_shown(id, "phase", phase).await;
    }

    /// Waits until a field of the procedure says so; if it never does, tells what it said last.
    pub async fn until_shown(&self, id: &str, field: &str, said: &str) {
        let shown = || self.procedure(id)[field] == said;
        let wait = async {
            while !shown() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), wait).await.is_err() {
            panic!("`{field}` is never `{said}`: {:#}", self.procedure(id));
        }
    }

    /// The region has these members, the first of them leads, and the datanodes agree.
    pub async fn until_whole(&self, region: RegionId, members: [NodeId; 3]) {
        let is_whole = || {
            let told = self.region(region);
            let is_led = told["leader"] == members[0] && told["members"].is_null();
            is_led && nodes_of(&told["voters"]) == members && self.nodes.is_group_of(region, members)
        };
        self.world.until(is_whole).await;
    }
}

pub fn nodes_of(json: &Value) -> Vec<NodeId> {
    json.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .collect()
}

/// What the refusal of a request says.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T>) -> String {
    let error: Error = answer.unwrap_err();
    error.message
}
