//! metasrv and datanodes in memory, with faults on request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use futures::stream::BoxStream;
use greptime_frontend::{Peer, Regions};
use greptime_proto::transport::MetaLink;
use greptime_proto::v1::{
    AssignmentsComplete, Beat, CatalogUpdate, CompactRequest, CompactResponse, DdlRequest, DdlResponse,
    FlushRequest, FlushResponse, Push, QueryRequest, Route, RouteUpdate, Tock, Welcome, WriteRequest,
    WriteResponse, beat, ddl_request, push,
};
use greptime_query::{RegionReport, RegionRows, operators_of};
use greptime_types::{Change, DatabaseInfo, Error, RegionId, Result, TableId, TableInfo, TableState};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::region::Region;

const NODES: u64 = 3;

#[derive(Default)]
struct State {
    revision: u64,
    next_table: TableId,
    databases: BTreeMap<String, DatabaseInfo>,
    tables: BTreeMap<TableId, TableInfo>,
    regions: BTreeMap<RegionId, Region>,
    leaders: BTreeMap<RegionId, u64>,
    down: BTreeSet<u64>,
    sessions: Vec<mpsc::UnboundedSender<Push>>,
}

#[derive(Default)]
pub struct Fake {
    state: Mutex<State>,
    /// So many writes are applied and then answered as if the connection had broken.
    pub lose_answers: AtomicUsize,
    pub write_attempts: AtomicUsize,
    pub query_attempts: AtomicUsize,
    pub ddl_requests: AtomicUsize,
    /// What all nodes of the cluster speak.
    format: u32,
    /// Prepared plans that came, each once however often it came.
    pub prepared_plans: Mutex<BTreeSet<Bytes>>,
    /// Queries that were asked to say what they cost.
    pub reports_asked: AtomicUsize,
    /// Whether datanodes are too old to say it.
    pub reports_nothing: AtomicBool,
    /// Regions in the order in which they were flushed.
    pub flushed: Mutex<Vec<RegionId>>,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Self::of_format(greptime_types::format::NEWEST_CLUSTER_FORMAT)
    }

    pub fn of_format(format: u32) -> Arc<Self> {
        let fake = Self {
            format,
            ..Self::default()
        };
        {
            let mut state = fake.state.lock();
            state.next_table = 1024;
            state.databases.insert("public".into(), database("public"));
        }
        Arc::new(fake)
    }

    pub fn set_down(&self, node: u64, down: bool) {
        let mut state = self.state.lock();
        if down {
            state.down.insert(node);
        } else {
            state.down.remove(&node);
        }
    }

    /// Another node leads from now on, in a later epoch, with the same rows.
    pub fn move_leader(&self, region: RegionId, to: u64) {
        let mut state = self.state.lock();
        state.leaders.insert(region, to);
        state.regions.get_mut(&region).unwrap().epoch += 1;
        let routes = state.routes(&[region]);
        state.push(push::Body::Routes(RouteUpdate {
            complete: false,
            routes,
            dropped_regions: vec![],
        }));
    }

    /// metasrv says that too few voters of the region live.
    pub fn lose_majority(&self, region: RegionId, told: &str) {
        let mut state = self.state.lock();
        let mut routes = state.routes(&[region]);
        routes[0].trouble = told.to_owned();
        state.push(push::Body::Routes(RouteUpdate {
            complete: false,
            routes,
            dropped_regions: vec![],
        }));
    }

    pub fn leader(&self, region: RegionId) -> u64 {
        self.state.lock().leaders[&region]
    }

    pub fn table(&self, name: &str) -> TableInfo {
        self.state
            .lock()
            .tables
            .values()
            .find(|t| t.name == name)
            .cloned()
            .unwrap()
    }

    /// Rows of each region of a table.
    pub fn rows_by_region(&self, table: &str) -> Vec<usize> {
        let id = self.table(table).id;
        let state = self.state.lock();
        state
            .regions
            .iter()
            .filter(|(r, _)| r.table() == id)
            .map(|(_, region)| region.row_count())
            .collect()
    }

    /// The columns of the newest write to a table of one region.
    pub fn newest_written(&self, table: &str) -> Vec<String> {
        let region = RegionId::new(self.table(table).id, 0);
        self.state.lock().regions[&region].newest_columns()
    }

    /// The filters of the newest scan of a region of a table.
    pub fn newest_filters(&self, table: &str, number: u32) -> Vec<String> {
        let region = RegionId::new(self.table(table).id, number);
        self.state.lock().regions[&region].newest_filters()
    }

    pub fn duplicates(&self) -> usize {
        self.state.lock().regions.values().map(|r| r.duplicates).sum()
    }

    fn check_up(&self, peer: &Peer, region: u64) -> Result<()> {
        let state = self.state.lock();
        let region = RegionId::from_u64(region);
        if state.down.contains(&peer.node) {
            return Err(Error::unavailable(format!(
                "node {} refuses the connection",
                peer.node
            )));
        }
        assert_eq!(peer.address, format!("node-{}", peer.node));
        match state.leaders.get(&region) {
            None => Err(Error::not_found(format!("region {region} is not here"))),
            Some(leader) if *leader != peer.node => Err(Error::unavailable("not the leader")),
            Some(_) => Ok(()),
        }
    }
}

fn database(name: &str) -> DatabaseInfo {
    DatabaseInfo {
        format: 1,
        name: name.into(),
        options: BTreeMap::new(),
    }
}

impl State {
    fn push(&mut self, body: push::Body) {
        self.sessions.retain(|s| {
            s.send(Push {
                body: Some(body.clone()),
            })
            .is_ok()
        });
    }

    fn catalog(&self, complete: bool, tables: &[&TableInfo]) -> CatalogUpdate {
        CatalogUpdate {
            revision: self.revision,
            complete,
            databases_json: self
                .databases
                .values()
                .map(|d| serde_json::to_string(d).unwrap())
                .collect(),
            tables_json: tables.iter().map(|t| serde_json::to_string(t).unwrap()).collect(),
            dropped_tables: vec![],
            dropped_databases: vec![],
        }
    }

    fn routes(&self, regions: &[RegionId]) -> Vec<Route> {
        let route = |id: &RegionId| Route {
            region_id: id.as_u64(),
            epoch: self.regions[id].epoch,
            leader_node: self.leaders[id],
            leader_address: format!("node-{}", self.leaders[id]),
            voters: vec![self.leaders[id]],
            trouble: String::new(),
        };
        regions.iter().map(route).collect()
    }

    fn find(&self, database: &str, name: &str) -> Option<TableId> {
        self.tables
            .values()
            .find(|t| t.database == database && t.name == name)
            .map(|t| t.id)
    }

    fn changed(&self, changed: bool) -> DdlResponse {
        DdlResponse {
            revision: self.revision,
            table_id: 0,
            changed,
            procedure_id: String::new(),
        }
    }

    fn create_table(&mut self, json: &str, if_not_exists: bool) -> Result<DdlResponse> {
        let mut table: TableInfo = serde_json::from_str(json).unwrap();
        if !self.databases.contains_key(&table.database) {
            return Err(Error::not_found(format!(
                "database `{}` does not exist",
                table.database
            )));
        }
        if self.find(&table.database, &table.name).is_some() {
            if if_not_exists {
                return Ok(self.changed(false));
            }
            return Err(Error::already_exists(format!(
                "table `{}` exists already",
                table.full_name()
            )));
        }
        table.id = self.next_table;
        table.state = TableState::Ready;
        table.created_ms = 1_700_000_000_000;
        self.next_table += 1;
        let regions: Vec<_> = table.regions().collect();
        for region in &regions {
            self.regions.insert(*region, Region::new(table.clone()));
            self.leaders.insert(*region, u64::from(region.number()) % NODES);
        }
        let routes = self.routes(&regions);
        self.push(push::Body::Routes(RouteUpdate {
            complete: false,
            routes,
            dropped_regions: vec![],
        }));
        self.revision += 1;
        let update = self.catalog(false, &[&table]);
        self.tables.insert(table.id, table);
        self.push(push::Body::Catalog(update));
        Ok(self.changed(true))
    }

    fn drop_tables(&mut self, ids: &[TableId], database: Option<String>) {
        for id in ids {
            self.tables.remove(id);
            self.regions.retain(|r, _| r.table() != *id);
            self.leaders.retain(|r, _| r.table() != *id);
        }
        self.revision += 1;
        let mut update = self.catalog(false, &[]);
        update.dropped_tables = ids.to_vec();
        update.dropped_databases = database.into_iter().collect();
        self.push(push::Body::Catalog(update));
    }

    fn alter(&mut self, id: TableId, changes: &[Change]) -> Result<()> {
        let Some(table) = self.tables[&id].altered(changes)? else {
            return Ok(());
        };
        for (_, region) in self.regions.iter_mut().filter(|(r, _)| r.table() == id) {
            region.alter(table.clone());
        }
        self.revision += 1;
        let update = self.catalog(false, &[&table]);
        self.tables.insert(id, table);
        self.push(push::Body::Catalog(update));
        Ok(())
    }

    fn ddl(&mut self, body: ddl_request::Body) -> Result<DdlResponse> {
        match body {
            ddl_request::Body::CreateDatabase(create) => {
                if self.databases.contains_key(&create.name) {
                    return match create.if_not_exists {
                        true => Ok(self.changed(false)),
                        false => Err(Error::already_exists(format!(
                            "database `{}` exists",
                            create.name
                        ))),
                    };
                }
                self.databases.insert(create.name.clone(), database(&create.name));
                self.revision += 1;
                let update = self.catalog(false, &[]);
                self.push(push::Body::Catalog(update));
            }
            ddl_request::Body::MigrateRegion(_)
            | ddl_request::Body::MigrateNode(_)
            | ddl_request::Body::AbortProcedure(_)
            | ddl_request::Body::ForceRecoverRegion(_) => {
                let procedure_id = format!("{body:?}");
                return Ok(DdlResponse {
                    procedure_id,
                    ..self.changed(true)
                });
            }
            ddl_request::Body::DropDatabase(drop) => {
                if self.databases.remove(&drop.name).is_none() && !drop.if_exists {
                    return Err(Error::not_found(format!(
                        "database `{}` does not exist",
                        drop.name
                    )));
                }
                let of = self.tables.values().filter(|t| t.database == drop.name);
                let ids: Vec<_> = of.map(|t| t.id).collect();
                self.drop_tables(&ids, Some(drop.name));
            }
            ddl_request::Body::CreateTable(create) => {
                return self.create_table(&create.table_json, create.if_not_exists);
            }
            ddl_request::Body::DropTable(drop) => match self.find(&drop.database, &drop.name) {
                Some(id) => self.drop_tables(&[id], None),
                None if drop.if_exists => {}
                None => return Err(Error::not_found(format!("table `{}` does not exist", drop.name))),
            },
            ddl_request::Body::AlterTable(alter) => {
                let id = self.find(&alter.database, &alter.name).unwrap();
                let changes: Vec<Change> = serde_json::from_str(&alter.changes_json).unwrap();
                self.alter(id, &changes)?;
            }
            ddl_request::Body::AlterDatabase(alter) => {
                let database = self.databases.get_mut(&alter.name).unwrap();
                database.options.extend(alter.set);
                for key in &alter.unset {
                    database.options.remove(key);
                }
                database.validate()?;
                let ttl = database.ttl();
                let ids: Vec<_> = self
                    .tables
                    .values()
                    .filter(|t| t.database == alter.name)
                    .map(|t| t.id)
                    .collect();
                for id in ids {
                    self.alter(id, &[Change::SetDatabaseTtl { ttl }])?;
                }
                self.revision += 1;
                let update = self.catalog(false, &[]);
                self.push(push::Body::Catalog(update));
            }
        }
        Ok(self.changed(true))
    }
}

#[async_trait]
impl MetaLink for Fake {
    async fn heartbeat(
        &self,
        mut beats: BoxStream<'static, Beat>,
    ) -> Result<BoxStream<'static, Result<Push>>> {
        let (pushes, stream) = mpsc::unbounded_channel();
        let send = |body: push::Body| pushes.send(Push { body: Some(body) }).unwrap();
        {
            let mut state = self.state.lock();
            let cluster_id = "test".to_string();
            send(push::Body::Welcome(Welcome {
                cluster_id,
                metasrv_epoch: 1,
                heartbeat_interval_ms: 100,
                format_version: self.format,
            }));
            let tables: Vec<_> = state.tables.values().collect();
            send(push::Body::Catalog(state.catalog(true, &tables)));
            let regions: Vec<_> = state.regions.keys().copied().collect();
            let routes = state.routes(&regions);
            send(push::Body::Routes(RouteUpdate {
                complete: true,
                routes,
                dropped_regions: vec![],
            }));
            send(push::Body::AssignmentsComplete(AssignmentsComplete {}));
            state.sessions.push(pushes.clone());
        }
        tokio::spawn(async move {
            while let Some(beat) = beats.next().await {
                if let Some(beat::Body::Tick(tick)) = beat.body {
                    let _ = pushes.send(Push {
                        body: Some(push::Body::Tock(Tock {
                            number: tick.number,
                            ..Tock::default()
                        })),
                    });
                }
            }
        });
        Ok(UnboundedReceiverStream::new(stream).map(Ok).boxed())
    }

    async fn ddl(&self, request: DdlRequest) -> Result<DdlResponse> {
        self.ddl_requests.fetch_add(1, Ordering::SeqCst);
        self.state.lock().ddl(request.body.unwrap())
    }

    async fn cluster(&self) -> Result<String> {
        let nodes: Vec<_> = (0..NODES)
            .map(|id| {
                serde_json::json!({
                    "role": "datanode", "id": id, "address": format!("node-{id}"), "alive": true, "incarnation": 1,
                    "version": "0.1.0", "leaders": 1, "regions": 1, "last_beat_ms_ago": 5,
                })
            })
            .collect();
        Ok(serde_json::json!({"cluster_id": "test", "nodes": nodes}).to_string())
    }

    async fn procedures(&self) -> Result<String> {
        let moves = serde_json::json!({
            "id": "p1", "kind": "migrate_region", "state": "running", "phase": "warming", "region": "1024:0",
            "table": "public.cpu", "from": 0, "to": 2, "waiting": "datanode 2 has yet to apply what there is",
            "reason": null, "part_of": "p0", "started_ms": 1_700_000_000_000_i64, "ended_ms": null,
            "phases": [{"phase": "joining", "at_ms": 1_700_000_000_000_i64}],
        });
        let empties = serde_json::json!({
            "id": "p0", "kind": "migrate_node", "state": "running", "node": 0, "started_ms": 1_700_000_000_000_i64,
        });
        Ok(serde_json::json!({"procedures": [moves, empties]}).to_string())
    }
}

#[async_trait]
impl Regions for Fake {
    async fn write(&self, peer: &Peer, request: WriteRequest) -> Result<WriteResponse> {
        self.write_attempts.fetch_add(1, Ordering::SeqCst);
        let header = request.header.as_ref().unwrap();
        assert_eq!(
            (header.cluster_id.as_str(), header.target_node),
            ("test", peer.node)
        );
        self.check_up(peer, request.region_id)?;
        let region = RegionId::from_u64(request.region_id);
        let answer = self
            .state
            .lock()
            .regions
            .get_mut(&region)
            .unwrap()
            .write(&request);
        let lost = self
            .lose_answers
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if answer.is_ok() && lost.is_ok() {
            return Err(Error::unavailable("the connection broke before the answer"));
        }
        answer
    }

    async fn flush(&self, peer: &Peer, request: FlushRequest) -> Result<FlushResponse> {
        self.check_up(peer, request.region_id)?;
        self.flushed.lock().push(RegionId::from_u64(request.region_id));
        Ok(FlushResponse { flushed_index: 7 })
    }

    async fn compact(&self, peer: &Peer, request: CompactRequest) -> Result<CompactResponse> {
        self.check_up(peer, request.region_id)?;
        Ok(CompactResponse {
            files_before: 3,
            files_after: 1,
            bytes_read: 300,
            bytes_written: 100,
        })
    }

    async fn query(&self, peer: &Peer, request: QueryRequest) -> Result<RegionRows> {
        self.query_attempts.fetch_add(1, Ordering::SeqCst);
        self.check_up(peer, request.region_id)?;
        let region = RegionId::from_u64(request.region_id);
        if request.parameters.is_some() {
            self.prepared_plans.lock().insert(request.plan.clone());
        }
        self.reports_asked
            .fetch_add(usize::from(request.report), Ordering::SeqCst);
        let (plan, rows) = self.state.lock().regions[&region].query(&request)?;
        let answer = RegionRows::from(rows);
        if !self.reports_nothing.load(Ordering::SeqCst) && request.report {
            return Ok(reported(answer, plan, peer.node));
        }
        Ok(answer)
    }
}

/// A report after each batch, and one at the end.
fn reported(answer: RegionRows, plan: Arc<dyn ExecutionPlan>, node: u64) -> RegionRows {
    let (schema, report) = (answer.rows.schema(), answer.report.clone());
    let ended = futures::stream::iter([None]);
    let rows = answer.rows.map(Some).chain(ended).filter_map(move |batch| {
        answer.report.set(RegionReport {
            node,
            nanos: 1_000_000,
            is_complete: batch.is_none(),
            operators: operators_of(plan.as_ref()),
        });
        futures::future::ready(batch)
    });
    let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
    RegionRows { rows, report }
}
