//! A datanode over a log in memory and a faulty bucket, with one region of one table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMillisecondType};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use greptime_clock::{SharedClock, SystemClock, SystemIds};
use greptime_log::testing::Files;
use greptime_log::{LogStore, MemoryLog};
use greptime_object_store::Bucket;
use greptime_peers::testing::Network;
use greptime_proto::v1;
use greptime_query::{RegionScan, RegionScanSpec, encode_plan, from_datafusion};
use greptime_rows::{Encoded, SeriesBatch};
use greptime_telemetry::Metrics;
use greptime_types::{Change, ErrorKind, NodeId, RegionId, Result, TableInfo, TableOptions};
use object_store::path::Path;

use super::machine::OnMachine;
use super::{Dice, FaultyStore, batch, ipc, table};
use crate::config::DatanodeConfig;
use crate::server::{Datanode, DatanodeParts};

/// host, ts, usage
pub type Row = (Option<String>, i64, Option<f64>);

pub fn row(host: &str, ts: i64, usage: f64) -> Row {
    (Some(host.into()), ts, Some(usage))
}

/// What a test may say of a write.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    pub incarnation: u64,
    pub number: u64,
    pub lowest_unfinished: u64,
    /// First and last of what was given up above.
    pub given_up: Option<(u64, u64)>,
    pub schema_version: u64,
    pub op: v1::WriteOp,
    pub epoch: u64,
}

/// Which of several nodes it is, and how it reaches the others.
#[derive(Clone, Default)]
pub struct Place {
    pub id: NodeId,
    pub network: Option<Arc<Network>>,
}

impl Place {
    pub fn address(&self) -> String {
        format!("node-{}:3001", self.id)
    }
}

pub struct Node {
    pub place: Place,
    pub log: MemoryLog,
    pub store: Arc<FaultyStore>,
    pub config: DatanodeConfig,
    pub region: RegionId,
    pub table: TableInfo,
    pub dir: tempfile::TempDir,
    pub clock: SharedClock,
    pub datanode: Arc<Datanode>,
    /// Where its log is, if that is not `log`.
    pub machine: Option<OnMachine>,
    next: AtomicU64,
}

impl Node {
    /// With a region of a table whose rows overwrite.
    pub async fn new() -> Self {
        Self::with(DatanodeConfig::default(), false).await
    }

    pub async fn appending() -> Self {
        Self::with(DatanodeConfig::default(), true).await
    }

    pub async fn with(config: DatanodeConfig, append_mode: bool) -> Self {
        Self::of(config, table(1024, append_mode)).await
    }

    pub async fn of(config: DatanodeConfig, table: TableInfo) -> Self {
        Self::with_clock(config, table, SystemClock::shared()).await
    }

    pub async fn with_clock(config: DatanodeConfig, table: TableInfo, clock: SharedClock) -> Self {
        let (store, dir) = (Arc::new(FaultyStore::default()), tempfile::tempdir().unwrap());
        let memory = MemoryLog::default();
        let log = Arc::new(memory.clone());
        Self::begin((config, table, clock), (store, dir), (memory, log), None).await
    }

    /// The first process over a log, with its region. `memory`: the log, if it is one.
    async fn begin(
        (config, table, clock): (DatanodeConfig, TableInfo, SharedClock),
        (store, dir): (Arc<FaultyStore>, tempfile::TempDir),
        (memory, log): (MemoryLog, Arc<dyn LogStore>),
        machine: Option<OnMachine>,
    ) -> Self {
        let place = Place::default();
        let datanode = start_node(&config, log, &store, &dir, &clock, &place).await;
        let node = Self {
            place,
            log: memory,
            store,
            config,
            region: RegionId::new(1024, 0),
            table,
            dir,
            clock,
            datanode,
            machine,
            next: AtomicU64::new(1),
        };
        node.initialise().await.unwrap();
        node.wait_until_leading().await;
        node
    }

    /// One of several nodes over the same bucket; it holds nothing yet.
    pub async fn at(place: Place, store: Arc<FaultyStore>, table: TableInfo) -> Self {
        let (log, dir) = (MemoryLog::default(), tempfile::tempdir().unwrap());
        let (config, clock) = (DatanodeConfig::default(), SystemClock::shared());
        let datanode = start_node(&config, Arc::new(log.clone()), &store, &dir, &clock, &place).await;
        Self {
            next: AtomicU64::new(1 + 1_000_000 * place.id),
            place,
            log,
            store,
            config,
            region: RegionId::new(1024, 0),
            table,
            dir,
            clock,
            datanode,
            machine: None,
        }
    }

    pub async fn with_options(config: DatanodeConfig, options: TableOptions) -> Self {
        let table = TableInfo {
            options,
            ..table(1024, false)
        };
        Self::of(config, table).await
    }

    /// Over a datanode that the test has started, on a log of its own.
    pub fn around(datanode: Arc<Datanode>, store: Arc<FaultyStore>, dir: tempfile::TempDir) -> Self {
        // Writes after a restart are other ones.
        static STARTS: AtomicU64 = AtomicU64::new(0);
        Self {
            place: Place::default(),
            log: MemoryLog::default(),
            store,
            config: DatanodeConfig::default(),
            region: RegionId::new(1024, 0),
            table: table(1024, false),
            dir,
            clock: SystemClock::shared(),
            datanode,
            machine: None,
            next: AtomicU64::new(1 + STARTS.fetch_add(1, Ordering::SeqCst) * 1_000_000),
        }
    }

    /// Changes the table, and tells the region.
    pub async fn alter(&mut self, changes: &[Change]) {
        self.table = self.table.altered(changes).unwrap().unwrap();
        let order = v1::AlterRegion {
            region_id: self.region.as_u64(),
            table_json: serde_json::to_string(&self.table).unwrap(),
        };
        self.datanode.alter(order).await.unwrap();
    }

    pub async fn truncate(&self) -> Result<v1::WriteResponse> {
        let options = WriteOptions {
            op: v1::WriteOp::Truncate,
            ..self.options()
        };
        self.write_with(options, &[]).await
    }

    pub async fn initialise(&self) -> Result<()> {
        let order = v1::InitialiseRegion {
            region_id: self.region.as_u64(),
            raft_id: 7,
            voters: vec![7],
            members: vec![],
            table_json: serde_json::to_string(&self.table).unwrap(),
        };
        self.datanode.initialise(order).await
    }

    /// The power goes: only what was synced is found again. Waits until the region leads.
    pub async fn crash(self) -> Self {
        let log = self.log.reopen();
        let node = self.restart_on(log).await;
        node.wait_until_leading().await;
        node
    }

    /// A clean stop and a start on the same disk. Waits until the region leads.
    pub async fn reopen(self) -> Self {
        if self.machine.is_some() {
            self.datanode.shutdown().await;
            return self.lose_power().await;
        }
        let log = self.log.clone();
        let node = self.restart_on(log).await;
        node.wait_until_leading().await;
        node
    }

    pub async fn restart_on(self, log: MemoryLog) -> Self {
        if let Some(network) = &self.place.network {
            network.stop(&self.place.address());
        }
        self.datanode.shutdown().await;
        let store = Arc::new(log.clone());
        Self { log, ..self }.start_again(store, None).await
    }

    /// Another process over the log, after a shutdown.
    async fn start_again(self, log: Arc<dyn LogStore>, machine: Option<OnMachine>) -> Self {
        let Self {
            place,
            log: memory,
            store,
            config,
            region,
            table,
            dir,
            clock,
            datanode,
            next,
            ..
        } = self;
        drop(datanode);
        let datanode = start_node(&config, log, &store, &dir, &clock, &place).await;
        Self {
            place,
            log: memory,
            store,
            config,
            region,
            table,
            dir,
            clock,
            datanode,
            machine,
            next,
        }
    }

    /// With a real log, on a machine whose disk keeps of what was not synced what it likes.
    pub async fn on_machine(
        config: DatanodeConfig,
        table: TableInfo,
        clock: SharedClock,
        dice: Dice,
    ) -> Self {
        let (store, dir) = (Arc::new(FaultyStore::default()), tempfile::tempdir().unwrap());
        let (machine, log) = OnMachine::start(dice, Files::new(), 0, &dir, &store);
        let logs = (MemoryLog::default(), log);
        Self::begin((config, table, clock), (store, dir), logs, Some(machine)).await
    }

    /// The power of its machine is gone, or goes now, and comes back. Waits until the region leads.
    pub async fn lose_power(mut self) -> Self {
        let machine = self.machine.take().expect("a node on a machine");
        machine.power.goes_after(0);
        self.datanode.shutdown().await;
        self.store.set_away(false);
        self.store.forget_faults();
        let (machine, log) = machine.restart(&self.dir, &self.store);
        let node = self.start_again(log, Some(machine)).await;
        node.wait_until_leading().await;
        node
    }

    pub async fn wait_until_leading(&self) {
        let region = self.region.as_u64();
        let leads = |r: &v1::RegionReport| {
            r.region_id == region && r.role == i32::from(v1::RegionRole::Leader) && r.epoch > 0
        };
        self.wait_for("the region leads", || self.datanode.reports().iter().any(leads))
            .await;
    }

    /// Waits until the manifest is loaded, which reads need.
    pub async fn wait_until_readable(&self) {
        self.wait_for("files are known", || {
            self.datanode.regions().all()[0].snapshot().is_ok()
        })
        .await;
    }

    pub async fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..2000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not within 10 s: {what}; {:?}", self.datanode.reports());
    }

    pub fn header(&self) -> Option<v1::RequestHeader> {
        let identity = self.datanode.identity();
        Some(v1::RequestHeader {
            cluster_id: identity.cluster_id,
            target_node: self.place.id,
            deadline_ms: 0,
        })
    }

    /// Options of a next write that says nothing special.
    pub fn options(&self) -> WriteOptions {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let op = v1::WriteOp::Put;
        WriteOptions {
            incarnation: 99,
            number,
            lowest_unfinished: 1,
            given_up: None,
            schema_version: self.table.schema.version,
            op,
            epoch: 0,
        }
    }

    pub async fn write(&self, rows: &[Row]) -> Result<v1::WriteResponse> {
        self.write_with(self.options(), rows).await
    }

    pub async fn write_with(&self, options: WriteOptions, rows: &[Row]) -> Result<v1::WriteResponse> {
        self.write_batch(options, &batch(rows)).await
    }

    /// Rows with their tags in them and columns by name, as older frontends send them.
    pub async fn write_batch(&self, options: WriteOptions, rows: &RecordBatch) -> Result<v1::WriteResponse> {
        let rows = Encoded {
            series: bytes::Bytes::new(),
            rows: ipc(rows),
        };
        self.write_encoded(options, rows).await
    }

    /// As frontends of today send rows.
    pub async fn write_series(&self, options: WriteOptions, rows: &SeriesBatch) -> Result<v1::WriteResponse> {
        self.write_encoded(options, rows.encode()?).await
    }

    async fn write_encoded(&self, options: WriteOptions, rows: Encoded) -> Result<v1::WriteResponse> {
        let request = v1::WriteRequest {
            header: self.header(),
            region_id: self.region.as_u64(),
            epoch: options.epoch,
            request_id: Some(v1::RequestId {
                incarnation: options.incarnation,
                number: options.number,
            }),
            lowest_unfinished: options.lowest_unfinished,
            schema_version: options.schema_version,
            op: options.op.into(),
            rows: rows.rows,
            series: rows.series,
            given_up: options
                .given_up
                .map(|(first, last)| v1::NumberRange { first, last })
                .into_iter()
                .collect(),
        };
        self.datanode.write(request).await
    }

    pub async fn flush(&self) -> Result<u64> {
        let request = v1::FlushRequest {
            header: self.header(),
            region_id: self.region.as_u64(),
        };
        Ok(self.datanode.flush(request).await?.flushed_index)
    }

    pub fn spec(&self) -> RegionScanSpec {
        RegionScanSpec {
            region_id: self.region,
            schema: Arc::new(self.table.schema.clone()),
            append_mode: self.table.options.append_mode,
            projection: None,
            filters: vec![],
            limit: None,
        }
    }

    /// A query of this region that reads what `spec` says.
    pub fn scan_request(&self, spec: RegionScanSpec) -> v1::QueryRequest {
        let plan: Arc<dyn ExecutionPlan> = Arc::new(RegionScan::try_new(spec).unwrap());
        self.query_request(&plan)
    }

    /// A query of this region that runs `plan`.
    pub fn query_request(&self, plan: &Arc<dyn ExecutionPlan>) -> v1::QueryRequest {
        v1::QueryRequest {
            header: self.header(),
            region_id: self.region.as_u64(),
            plan: encode_plan(plan).unwrap(),
            schema_version: self.table.schema.version,
            ..v1::QueryRequest::default()
        }
    }

    pub async fn scan(&self, spec: RegionScanSpec) -> Result<Vec<RecordBatch>> {
        let rows = self.datanode.query(self.scan_request(spec)).await?.rows;
        rows.try_collect().await.map_err(|e| from_datafusion(&e))
    }

    /// All rows, sorted.
    pub async fn read(&self) -> Result<Vec<Row>> {
        self.read_where(vec![]).await
    }

    pub async fn read_where(&self, filters: Vec<Expr>) -> Result<Vec<Row>> {
        let spec = RegionScanSpec {
            filters,
            ..self.spec()
        };
        let mut rows: Vec<Row> = self.scan(spec).await?.iter().flat_map(rows_of).collect();
        rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
        Ok(rows)
    }
}

pub fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let hosts = batch.column_by_name("host").unwrap().as_string::<i32>();
    let times = batch
        .column_by_name("ts")
        .unwrap()
        .as_primitive::<TimestampMillisecondType>();
    let usages = batch
        .column_by_name("usage")
        .unwrap()
        .as_primitive::<Float64Type>();
    let row = |i: usize| {
        let host = hosts.is_valid(i).then(|| hosts.value(i).to_owned());
        (host, times.value(i), usages.is_valid(i).then(|| usages.value(i)))
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The room of a cache is taken from the disk at the start, which would make many tests slow.
fn without_cache_disk(config: &DatanodeConfig) -> DatanodeConfig {
    DatanodeConfig {
        cache_disk: 0,
        ..config.clone()
    }
}

/// What a datanode without metasrv and peers is made of.
pub fn parts(config: DatanodeConfig, store: &Arc<FaultyStore>, dir: &std::path::Path) -> DatanodeParts {
    DatanodeParts {
        config,
        node_id: 0,
        address: "127.0.0.1:0".into(),
        zone: String::new(),
        data_dir: dir.to_owned(),
        bucket: Bucket {
            store: Arc::clone(store) as _,
            root: Path::from("test/root"),
        },
        clock: SystemClock::shared(),
        ids: SystemIds::shared(),
        metrics: Metrics::default(),
        meta: None,
        peers: None,
    }
}

/// A datanode without metasrv and peers, whose log is on the disk.
pub async fn start_on_disk(
    config: &DatanodeConfig,
    store: &Arc<FaultyStore>,
    dir: &std::path::Path,
) -> Result<Arc<Datanode>> {
    let config = without_cache_disk(config);
    loop {
        match Datanode::start(parts(config.clone(), store, dir)).await {
            // The process before has not let go yet.
            Err(error) if error.kind == ErrorKind::Conflict => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            started => return started,
        }
    }
}

/// A datanode without metasrv.
pub async fn start_node(
    config: &DatanodeConfig,
    log: Arc<dyn LogStore>,
    store: &Arc<FaultyStore>,
    dir: &tempfile::TempDir,
    clock: &SharedClock,
    place: &Place,
) -> Arc<Datanode> {
    let config = without_cache_disk(config);
    let parts = || DatanodeParts {
        node_id: place.id,
        address: place.address(),
        clock: Arc::clone(clock),
        peers: place
            .network
            .as_ref()
            .map(|network| network.link(&place.address())),
        ..parts(config.clone(), store, dir.path())
    };
    // A request that was cut off may hold the node before, and so its directory, a moment longer.
    for _ in 0..500 {
        match Datanode::start_with_log(parts(), Arc::clone(&log)).await {
            Err(error) if error.kind == ErrorKind::Conflict => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            started => {
                let node = started.unwrap();
                if let Some(network) = &place.network {
                    network.serve(&place.address(), Arc::clone(&node) as _);
                }
                return node;
            }
        }
    }
    panic!("the node before does not give back its directory");
}
