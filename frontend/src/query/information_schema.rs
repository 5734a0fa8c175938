//! `information_schema`: what this frontend knows of the cluster, as tables.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array,
};
use datafusion::catalog::{MemTable, TableProvider};
use greptime_query::from_datafusion;
use greptime_types::{Error, RegionId, Result, Semantic};
use serde::Deserialize;

use super::catalog::VIRTUAL_DATABASES;
use super::engine::{Engine, Session};
use super::procedures::procedures;
use crate::route::Deadline;
use crate::sql::CATALOG;

pub const TABLES: [&str; 10] = [
    "cluster_info",
    "columns",
    "engines",
    "key_column_usage",
    "partitions",
    "region_migrations",
    "region_peers",
    "schemata",
    "statistics",
    "tables",
];

/// A table under construction: columns of text and of numbers, filled row by row.
#[derive(Default)]
struct Columns {
    columns: Vec<(&'static str, Values)>,
}

enum Values {
    Text(Vec<Option<String>>),
    Number(Vec<Option<u64>>),
    Signed(Vec<Option<i64>>),
    Time(Vec<Option<i64>>),
}

enum Item {
    Text(Option<String>),
    Number(Option<u64>),
    Signed(Option<i64>),
    Time(Option<i64>),
}

fn text(value: impl Into<String>) -> Item {
    Item::Text(Some(value.into()))
}

fn number(value: impl Into<u64>) -> Item {
    Item::Number(Some(value.into()))
}

const NULL_TEXT: Item = Item::Text(None);

/// The kind of a column, before there are rows.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Signed,
    Time,
}

impl Columns {
    fn new(names: &[(&'static str, Kind)]) -> Self {
        let empty = |kind: Kind| match kind {
            Kind::Text => Values::Text(vec![]),
            Kind::Number => Values::Number(vec![]),
            Kind::Signed => Values::Signed(vec![]),
            Kind::Time => Values::Time(vec![]),
        };
        Self {
            columns: names.iter().map(|(name, kind)| (*name, empty(*kind))).collect(),
        }
    }

    fn row<const N: usize>(&mut self, items: [Item; N]) {
        for ((_, values), item) in self.columns.iter_mut().zip(items) {
            match (values, item) {
                (Values::Text(values), Item::Text(item)) => values.push(item),
                (Values::Number(values), Item::Number(item)) => values.push(item),
                (Values::Signed(values), Item::Signed(item)) => values.push(item),
                (Values::Time(values), Item::Time(item)) => values.push(item),
                _ => unreachable!("a row has the kinds of its columns"),
            }
        }
    }

    fn into_table(self) -> Result<Arc<dyn TableProvider>> {
        let arrays = self.columns.into_iter().map(|(name, values)| {
            let array: ArrayRef = match values {
                Values::Text(values) => Arc::new(StringArray::from(values)),
                Values::Number(values) => Arc::new(UInt64Array::from(values)),
                Values::Signed(values) => Arc::new(Int64Array::from(values)),
                Values::Time(values) => Arc::new(TimestampMillisecondArray::from(values)),
            };
            (name, array, true)
        });
        let batch =
            RecordBatch::try_from_iter_with_nullable(arrays).map_err(|e| Error::internal(e.to_string()))?;
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(|e| from_datafusion(&e))?;
        Ok(Arc::new(table))
    }
}

pub async fn table(
    name: &str,
    engine: &Arc<Engine>,
    _session: &Session,
    _deadline: Deadline,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let columns = match name {
        "tables" => tables(engine).await,
        "columns" => table_columns(engine),
        "partitions" => partitions(engine),
        "region_migrations" => region_migrations(engine).await?,
        "region_peers" => region_peers(engine).await,
        "cluster_info" => cluster_info(engine).await?,
        "schemata" => schemata(engine),
        "engines" => engines(),
        "key_column_usage" => key_column_usage(engine),
        "statistics" => Columns::new(&[
            ("table_schema", Kind::Text),
            ("table_name", Kind::Text),
            ("index_name", Kind::Text),
        ]),
        _ => return Ok(None),
    };
    columns.into_table().map(Some)
}

async fn tables(engine: &Arc<Engine>) -> Columns {
    let mut columns = Columns::new(&[
        ("table_catalog", Kind::Text),
        ("table_schema", Kind::Text),
        ("table_name", Kind::Text),
        ("table_type", Kind::Text),
        ("table_id", Kind::Number),
        ("engine", Kind::Text),
        ("regions", Kind::Number),
        ("create_time", Kind::Time),
        ("table_comment", Kind::Text),
    ]);
    let catalog = engine.router.view.catalog();
    for database in catalog.databases() {
        for table in catalog.tables_of(&database.name) {
            columns.row([
                text(CATALOG),
                text(&database.name),
                text(&table.name),
                text("BASE TABLE"),
                number(table.id),
                text("mito"),
                number(table.partition.partitions.len() as u64),
                Item::Time(Some(table.created_ms)),
                text(table.options.extra.get("comment").cloned().unwrap_or_default()),
            ]);
        }
        for metric in engine.metrics.names(engine, &database.name).await {
            columns.row([
                text(CATALOG),
                text(&database.name),
                text(metric),
                text("VIEW"),
                Item::Number(None),
                NULL_TEXT,
                Item::Number(None),
                Item::Time(None),
                text(""),
            ]);
        }
    }
    for database in VIRTUAL_DATABASES {
        for name in TABLES {
            columns.row([
                text(CATALOG),
                text(database),
                text(name),
                text("SYSTEM VIEW"),
                Item::Number(None),
                NULL_TEXT,
                Item::Number(None),
                Item::Time(None),
                text(""),
            ]);
        }
    }
    columns
}

fn table_columns(engine: &Arc<Engine>) -> Columns {
    let mut columns = Columns::new(&[
        ("table_catalog", Kind::Text),
        ("table_schema", Kind::Text),
        ("table_name", Kind::Text),
        ("column_name", Kind::Text),
        ("ordinal_position", Kind::Signed),
        ("column_default", Kind::Text),
        ("is_nullable", Kind::Text),
        ("data_type", Kind::Text),
        ("column_type", Kind::Text),
        ("column_key", Kind::Text),
        ("extra", Kind::Text),
        ("semantic_type", Kind::Text),
    ]);
    let catalog = engine.router.view.catalog();
    for table in catalog.databases().flat_map(|d| catalog.tables_of(&d.name)) {
        for (position, column) in table.schema.columns.iter().enumerate() {
            let type_name = column.column_type.sql_name();
            columns.row([
                text(CATALOG),
                text(&table.database),
                text(&table.name),
                text(&column.name),
                Item::Signed(Some(position as i64 + 1)),
                Item::Text(column.default.clone()),
                text(if column.nullable { "Yes" } else { "No" }),
                text(type_name.to_lowercase()),
                text(type_name.to_lowercase()),
                text(key_of(column.semantic)),
                text(""),
                text(column.semantic.label()),
            ]);
        }
    }
    columns
}

/// As GreptimeDB marks them.
pub fn key_of(semantic: Semantic) -> &'static str {
    match semantic {
        Semantic::Tag => "PRI",
        Semantic::Timestamp => "TIME INDEX",
        Semantic::Field => "",
    }
}

fn partitions(engine: &Arc<Engine>) -> Columns {
    let mut columns = Columns::new(&[
        ("table_catalog", Kind::Text),
        ("table_schema", Kind::Text),
        ("table_name", Kind::Text),
        ("partition_name", Kind::Text),
        ("partition_ordinal_position", Kind::Signed),
        ("partition_expression", Kind::Text),
        ("region_id", Kind::Text),
        ("greptime_partition_id", Kind::Number),
    ]);
    let catalog = engine.router.view.catalog();
    for table in catalog.databases().flat_map(|d| catalog.tables_of(&d.name)) {
        for (position, partition) in table.partition.partitions.iter().enumerate() {
            let region = RegionId::new(table.id, partition.region);
            columns.row([
                text(CATALOG),
                text(&table.database),
                text(&table.name),
                text(format!("p{}", partition.region)),
                Item::Signed(Some(position as i64 + 1)),
                Item::Text(partition.expr.as_ref().map(ToString::to_string)),
                text(region.to_string()),
                number(region.as_u64()),
            ]);
        }
    }
    columns
}

/// What metasrv says of a node (`GET /v1/cluster`); of everything else nothing is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cluster {
    nodes: Vec<Node>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    role: String,
    id: u64,
    address: String,
    alive: bool,
    version: String,
    leaders: u64,
    regions: u64,
    last_beat_ms_ago: Option<u64>,
}

async fn nodes(engine: &Arc<Engine>) -> Result<Vec<Node>> {
    let json = engine.link.cluster().await?;
    let cluster: Cluster = serde_json::from_str(&json)
        .map_err(|e| Error::internal(format!("metasrv's list of nodes cannot be read: {e}")))?;
    Ok(cluster.nodes)
}

async fn region_peers(engine: &Arc<Engine>) -> Columns {
    let mut columns = Columns::new(&[
        ("table_catalog", Kind::Text),
        ("table_schema", Kind::Text),
        ("table_name", Kind::Text),
        ("region_id", Kind::Number),
        ("region", Kind::Text),
        ("peer_id", Kind::Number),
        ("peer_addr", Kind::Text),
        ("is_leader", Kind::Text),
        ("status", Kind::Text),
        ("epoch", Kind::Number),
    ]);
    // Without metasrv the routes are still known, only not who else is alive.
    let nodes = nodes(engine).await.unwrap_or_default();
    let view = &engine.router.view;
    let catalog = view.catalog();
    for table in catalog.databases().flat_map(|d| catalog.tables_of(&d.name)) {
        for region in table.regions() {
            let route = view.route(region);
            let leader = route.as_ref().and_then(|r| r.leader.clone());
            let mut peers = route.as_ref().map(|r| r.voters.clone()).unwrap_or_default();
            peers.extend(
                leader
                    .iter()
                    .map(|l| l.node)
                    .filter(|n| !peers.contains(n))
                    .collect::<Vec<_>>(),
            );
            for peer in peers {
                let leads = leader.as_ref().filter(|l| l.node == peer);
                let node = nodes.iter().find(|n| n.role == "datanode" && n.id == peer);
                let address = leads
                    .map(|l| l.address.clone())
                    .or_else(|| node.map(|n| n.address.clone()));
                let status = match node {
                    Some(node) if node.alive => "ALIVE",
                    Some(_) => "DOWNGRADED",
                    None => "UNKNOWN",
                };
                columns.row([
                    text(CATALOG),
                    text(&table.database),
                    text(&table.name),
                    number(region.as_u64()),
                    text(region.to_string()),
                    number(peer),
                    Item::Text(address),
                    text(if leads.is_some() { "Yes" } else { "No" }),
                    text(status),
                    Item::Number(route.as_ref().map(|r| r.epoch)),
                ]);
            }
        }
    }
    columns
}

/// Regions that move or have moved, the newest first.
async fn region_migrations(engine: &Arc<Engine>) -> Result<Columns> {
    let mut columns = Columns::new(&[
        ("procedure_id", Kind::Text),
        ("region_id", Kind::Number),
        ("region", Kind::Text),
        ("table_name", Kind::Text),
        ("from_peer", Kind::Number),
        ("to_peer", Kind::Number),
        ("state", Kind::Text),
        ("phase", Kind::Text),
        ("waiting", Kind::Text),
        ("reason", Kind::Text),
        ("part_of", Kind::Text),
        ("start_time", Kind::Time),
        ("end_time", Kind::Time),
        ("phases", Kind::Text),
    ]);
    for procedure in procedures(engine.link.as_ref()).await? {
        let Some(region) = procedure.region else {
            continue;
        };
        columns.row([
            text(procedure.id),
            number(region.as_u64()),
            text(region.to_string()),
            Item::Text(procedure.table),
            Item::Number(procedure.from),
            Item::Number(procedure.to),
            text(procedure.state),
            Item::Text(procedure.phase),
            Item::Text(procedure.waiting),
            Item::Text(procedure.reason),
            Item::Text(procedure.part_of),
            Item::Time(Some(procedure.started_ms)),
            Item::Time(procedure.ended_ms),
            text(procedure.all["phases"].to_string()),
        ]);
    }
    Ok(columns)
}

async fn cluster_info(engine: &Arc<Engine>) -> Result<Columns> {
    let mut columns = Columns::new(&[
        ("peer_id", Kind::Number),
        ("peer_type", Kind::Text),
        ("peer_addr", Kind::Text),
        ("version", Kind::Text),
        ("node_status", Kind::Text),
        ("leaders", Kind::Number),
        ("regions", Kind::Number),
        ("last_beat_ms_ago", Kind::Number),
    ]);
    for node in nodes(engine).await? {
        columns.row([
            number(node.id),
            text(node.role.to_uppercase()),
            text(node.address),
            text(node.version),
            text(if node.alive { "ALIVE" } else { "DOWN" }),
            number(node.leaders),
            number(node.regions),
            Item::Number(node.last_beat_ms_ago),
        ]);
    }
    Ok(columns)
}

fn schemata(engine: &Arc<Engine>) -> Columns {
    let mut columns = Columns::new(&[
        ("catalog_name", Kind::Text),
        ("schema_name", Kind::Text),
        ("default_character_set_name", Kind::Text),
        ("default_collation_name", Kind::Text),
        ("options", Kind::Text),
    ]);
    let catalog = engine.router.view.catalog();
    let own = catalog.databases().map(|d| d.name.clone());
    for name in own.chain(VIRTUAL_DATABASES.map(str::to_string)) {
        columns.row([
            text(CATALOG),
            text(name),
            text("utf8"),
            text("utf8_bin"),
            text(""),
        ]);
    }
    columns
}

fn engines() -> Columns {
    let mut columns = Columns::new(&[
        ("engine", Kind::Text),
        ("support", Kind::Text),
        ("comment", Kind::Text),
        ("transactions", Kind::Text),
    ]);
    columns.row([
        text("mito"),
        text("DEFAULT"),
        text("Storage engine for time-series data"),
        text("NO"),
    ]);
    columns
}

fn key_column_usage(engine: &Arc<Engine>) -> Columns {
    let mut columns = Columns::new(&[
        ("table_catalog", Kind::Text),
        ("table_schema", Kind::Text),
        ("table_name", Kind::Text),
        ("column_name", Kind::Text),
        ("constraint_name", Kind::Text),
        ("ordinal_position", Kind::Number),
    ]);
    let catalog = engine.router.view.catalog();
    for table in catalog.databases().flat_map(|d| catalog.tables_of(&d.name)) {
        let time = [(table.schema.time_index().name.as_str(), "TIME INDEX")];
        let keys = table.schema.primary_key.iter().map(|k| (k.as_str(), "PRIMARY"));
        for (position, (column, constraint)) in time.into_iter().chain(keys).enumerate() {
            columns.row([
                text(CATALOG),
                text(&table.database),
                text(&table.name),
                text(column),
                text(constraint),
                number(position as u64 + 1),
            ]);
        }
    }
    columns
}
