//! A metasrv for tests, and what they ask of it.

use std::sync::Arc;
use std::time::Duration;

use greptime_clock::{SystemClock, SystemIds};
use greptime_metasrv::store::Store;
use greptime_metasrv::{Alone, InProcess, Metasrv, MetasrvConfig, MetasrvOptions, NoRedial, Policy};
use greptime_object_store::{ObjectStoreConfig, StoreKind};
use greptime_proto::v1::{self, ddl_request};
use greptime_proto::{SessionHandler, run_session};
use greptime_telemetry::Metrics;
use greptime_types::{
    ColumnSchema, ColumnType, PartitionRule, Semantic, TableInfo, TableOptions, TableSchema, TableState,
    TimeUnit,
};
use tokio_util::sync::CancellationToken;

/// Nothing that a test waits for takes so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A metasrv that leads alone, with a bucket of its own.
pub fn options(store: Arc<dyn Store>) -> MetasrvOptions {
    let bucket = ObjectStoreConfig {
        kind: StoreKind::Memory,
        ..Default::default()
    };
    MetasrvOptions {
        config: MetasrvConfig {
            heartbeat_interval: Duration::from_millis(10),
            ..Default::default()
        },
        name: "test".into(),
        address: "metasrv:3002".into(),
        store,
        election: Arc::new(Alone),
        bucket: bucket.open().unwrap(),
        clock: SystemClock::shared(),
        ids: SystemIds::shared(),
        metrics: Metrics::default(),
        policy: Policy::default(),
        redial: Arc::new(NoRedial),
    }
}

/// A metasrv that is ready.
pub struct World {
    pub metasrv: Arc<Metasrv>,
}

impl World {
    pub async fn start(options: MetasrvOptions) -> Self {
        let world = Self {
            metasrv: Metasrv::start(options),
        };
        world.until(|| world.metasrv.readiness().is_ready()).await;
        world
    }

    /// A node keeps sessions until the token is cancelled.
    pub fn join<N: SessionHandler>(&self, node: &Arc<N>) -> CancellationToken {
        let stop = CancellationToken::new();
        let link = Arc::new(InProcess(self.metasrv.clone()));
        tokio::spawn(run_session(link, node.clone(), SystemIds::shared(), stop.clone()));
        stop
    }

    #[track_caller]
    pub fn until(&self, done: impl Fn() -> bool) -> impl Future<Output = ()> {
        let asked = std::panic::Location::caller();
        async move {
            let wait = async {
                while !done() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let came = tokio::time::timeout(PATIENCE, wait).await;
            assert!(came.is_ok(), "what is waited for at {asked} does not happen");
        }
    }

    pub async fn ddl(&self, body: ddl_request::Body) -> greptime_types::Result<v1::DdlResponse> {
        let request = v1::DdlRequest {
            body: Some(body),
            deadline_ms: 5_000,
        };
        self.metasrv.ddl(request).await
    }

    /// What `GET /v1/cluster` answers.
    pub fn cluster(&self) -> serde_json::Value {
        serde_json::from_str(&self.metasrv.cluster_json()).unwrap()
    }

    /// Every procedure of `GET /v1/procedures`, the newest first.
    pub fn procedures(&self) -> Vec<serde_json::Value> {
        let procedures = self.metasrv.procedures_json().unwrap_or_default();
        let procedures: serde_json::Value = serde_json::from_str(&procedures).unwrap_or_default();
        procedures["procedures"].as_array().cloned().unwrap_or_default()
    }
}

/// A table with a tag `host`, cut by the rule.
pub fn table(name: &str, partition: PartitionRule) -> TableInfo {
    let columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        ColumnSchema::new(
            "ts",
            ColumnType::Timestamp(TimeUnit::Millisecond),
            Semantic::Timestamp,
        ),
    ];
    TableInfo {
        format: 1,
        id: 0,
        database: "public".into(),
        name: name.into(),
        schema: TableSchema::new(columns, vec!["host".into()]).unwrap(),
        options: TableOptions::default(),
        partition,
        state: TableState::Creating,
        created_ms: 0,
        database_ttl: None,
    }
}

pub fn create(table: &TableInfo) -> ddl_request::Body {
    ddl_request::Body::CreateTable(v1::CreateTable {
        table_json: serde_json::to_string(table).unwrap(),
        if_not_exists: false,
    })
}
