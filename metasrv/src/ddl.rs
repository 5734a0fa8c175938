//! Changes of the catalog that clients ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use greptime_metasrv_plan::placement::{Candidate, place_replicated};
use greptime_proto::v1::{self, ddl_request};
use greptime_types::format::{FORMAT_VERSION, QUORUM_FORMAT};
use greptime_types::{
    DatabaseInfo, Error, NodeId, NodeRole, RegionId, Result, TableId, TableInfo, TableState,
};
use tracing::{info, warn};

use crate::catalog::{Catalog, DatanodeRecord, Edit, Member, Membership};
use crate::driver::MOST_TABLES;
use crate::server::{Metasrv, State};

/// More regions than this in one table are refused.
const MAX_REGIONS: usize = 10_000;
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

impl Metasrv {
    /// Makes one change and waits until it is in force, within the request's deadline.
    pub async fn ddl(&self, request: v1::DdlRequest) -> Result<v1::DdlResponse> {
        let deadline = match request.deadline_ms {
            0 => DEFAULT_DEADLINE,
            ms => Duration::from_millis(ms),
        };
        let body = request
            .body
            .ok_or_else(|| Error::invalid("the request names no change"))?;
        tokio::time::timeout(deadline, self.ddl_body(body)).await.unwrap_or_else(|_| {
            Err(Error::deadline(
                "the change was recorded or not, but is not in force within the deadline; it goes on in the \
                 background",
            ))
        })
    }

    async fn ddl_body(&self, body: ddl_request::Body) -> Result<v1::DdlResponse> {
        match body {
            ddl_request::Body::CreateDatabase(r) => self.create_database(r).await,
            ddl_request::Body::DropDatabase(r) => self.drop_database(r).await,
            ddl_request::Body::CreateTable(r) => self.create_table(r).await,
            ddl_request::Body::DropTable(r) => self.drop_table(r).await,
            ddl_request::Body::AlterTable(r) => self.alter_table(r).await,
            ddl_request::Body::AlterDatabase(r) => self.alter_database(r).await,
            ddl_request::Body::MigrateRegion(r) => self.migrate_region(r).await,
            ddl_request::Body::MigrateNode(r) => self.migrate_node(r).await,
            ddl_request::Body::AbortProcedure(r) => self.abort_procedure(r).await,
            ddl_request::Body::ForceRecoverRegion(r) => self.force_recover_region(r).await,
        }
    }

    async fn create_database(&self, request: v1::CreateDatabase) -> Result<v1::DdlResponse> {
        check_name("database", &request.name)?;
        let database = DatabaseInfo {
            format: FORMAT_VERSION,
            name: request.name.clone(),
            options: request.options.into_iter().collect(),
        };
        database.validate()?;
        let mut changed = true;
        let catalog = self
            .change(|catalog| {
                if catalog.databases.contains_key(&request.name) {
                    changed = false;
                    return exists(request.if_not_exists, format!("database `{}`", request.name));
                }
                Ok(vec![Edit::PutDatabase(database)])
            })
            .await?;
        Ok(response(&catalog, 0, changed))
    }

    async fn drop_database(&self, request: v1::DropDatabase) -> Result<v1::DdlResponse> {
        if request.name == greptime_types::catalog::DEFAULT_DATABASE {
            return Err(Error::invalid(format!(
                "database `{}` cannot be dropped",
                request.name
            )));
        }
        let mut changed = false;
        loop {
            let mut over = false;
            let catalog = self
                .change(|catalog| {
                    if !catalog.databases.contains_key(&request.name) {
                        over = true;
                        return missing(
                            request.if_exists || changed,
                            format!("database `{}`", request.name),
                        );
                    }
                    let tables = catalog.tables.values();
                    let here =
                        tables.filter(|t| t.database == request.name && t.state != TableState::Dropping);
                    let mut edits: Vec<Edit> = here.map(dropping).take(MOST_TABLES).collect();
                    // The database goes with the last of its tables.
                    over = edits.len() < MOST_TABLES;
                    if over {
                        edits.push(Edit::DeleteDatabase(request.name.clone()));
                    }
                    changed = true;
                    Ok(edits)
                })
                .await?;
            if over {
                return Ok(response(&catalog, 0, changed));
            }
        }
    }

    async fn create_table(&self, request: v1::CreateTable) -> Result<v1::DdlResponse> {
        let wanted: TableInfo = parse("table", &request.table_json)?;
        check_table(&wanted)?;
        self.until_datanodes_came().await?;
        let mut created = 0;
        let catalog = self
            .change(|catalog| {
                if !catalog.databases.contains_key(&wanted.database) {
                    return Err(Error::not_found(format!(
                        "database `{}` does not exist",
                        wanted.database
                    )));
                }
                if catalog.table_by_name(&wanted.database, &wanted.name).is_some() {
                    return exists(request.if_not_exists, format!("table `{}`", wanted.full_name()));
                }
                created = catalog.root.next_table_id;
                self.creation(catalog, &wanted)
            })
            .await?;
        if created == 0 {
            let existing = catalog.table_by_name(&wanted.database, &wanted.name);
            let id = existing.map_or(0, |t| t.id);
            let catalog = self.until_ready(id, &wanted).await?;
            return Ok(response(&catalog, id, false));
        }
        info!(table = %wanted.full_name(), id = created, regions = wanted.partition.partitions.len(), "creating");
        let catalog = self.until_ready(created, &wanted).await?;
        Ok(response(&catalog, created, true))
    }

    /// Waits until every known datanode has registered or has had the time to: a leader that is new would otherwise
    /// place all regions on the few that came first.
    async fn until_datanodes_came(&self) -> Result<()> {
        let mut changes = self.changes.subscribe();
        while let Some(left) = self.time_to_register()? {
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                changed = changes.changed() => {
                    changed.map_err(|_| Error::unavailable("this metasrv is stopping"))?;
                }
            }
        }
        Ok(())
    }

    /// How long to wait still for known datanodes that have not registered since this metasrv leads.
    fn time_to_register(&self) -> Result<Option<Duration>> {
        let state = self.state.lock();
        let catalog = state.catalog.as_ref().ok_or_else(|| self.not_leading())?;
        let away = |node: &u64| state.sessions.get(NodeRole::Datanode, *node).is_none();
        let deadline = state.leading_since + self.options.config.session_timeout;
        let left = deadline.saturating_sub(self.now());
        Ok((catalog.datanodes.keys().any(away) && !left.is_zero()).then_some(left))
    }

    /// The edits that record a new table with its regions placed.
    fn creation(&self, catalog: &Catalog, wanted: &TableInfo) -> Result<Vec<Edit>> {
        let count = wanted.partition.partitions.len();
        let candidates = self.candidates(&self.state.lock(), catalog);
        // Programs that know one voter only would refuse the others.
        let replicas = match catalog.root.format >= QUORUM_FORMAT {
            true => self.options.config.replicas,
            false => 1,
        };
        let placed = place_replicated(count, replicas, &candidates)
            .map_err(|refusal| Error::unavailable(refusal.to_string()))?;
        if let Some(shortfall) = &placed.shortfall {
            warn!(table = %wanted.full_name(), "{shortfall}");
        }
        let mut raft_ids = catalog.root.next_raft_id..;
        let mut regions = BTreeMap::new();
        for (partition, nodes) in wanted.partition.partitions.iter().zip(placed.regions) {
            let members = nodes.into_iter().zip(&mut raft_ids);
            let members: Vec<Member> = members.map(|(node, raft_id)| Member { raft_id, node }).collect();
            regions.insert(partition.region, members);
        }
        let rafts = regions.values().map(Vec::len).sum::<usize>() as u64;
        let table = TableInfo {
            format: FORMAT_VERSION,
            id: catalog.root.next_table_id,
            state: TableState::Creating,
            created_ms: self.options.clock.wall_ms(),
            database_ttl: catalog
                .databases
                .get(&wanted.database)
                .and_then(DatabaseInfo::ttl),
            ..wanted.clone()
        };
        Ok(vec![
            Edit::TakeIds { tables: 1, rafts },
            Edit::PutMembership(
                table.id,
                Membership {
                    format: FORMAT_VERSION,
                    regions,
                    ..Membership::default()
                },
            ),
            Edit::PutTable(table),
        ])
    }

    /// The datanodes as they are, and what they hold or should hold.
    pub(crate) fn candidates(&self, state: &State, catalog: &Catalog) -> Vec<Candidate> {
        let (mut replicas, mut leaders) = (BTreeMap::new(), BTreeMap::new());
        for (node, regions) in catalog.regions_by_node() {
            replicas.insert(node, regions.len());
            let leads =
                |(region, member): &&(RegionId, &Member)| catalog.members(*region).first() == Some(*member);
            leaders.insert(node, regions.iter().filter(leads).count());
        }
        let drained = catalog.drained();
        let candidate = |(node, record): (&NodeId, &DatanodeRecord)| Candidate {
            node: *node,
            // Nothing goes to one that is being emptied.
            alive: state.sessions.get(NodeRole::Datanode, *node).is_some() && !drained.contains(node),
            zone: record.zone.clone(),
            replicas: replicas.get(node).copied().unwrap_or(0),
            leaders: leaders.get(node).copied().unwrap_or(0),
        };
        catalog.datanodes.iter().map(candidate).collect()
    }

    /// Waits until every region of the table leads; the caller has the deadline.
    async fn until_ready(&self, id: TableId, wanted: &TableInfo) -> Result<Catalog> {
        let mut changes = self.changes.subscribe();
        loop {
            let catalog = self.catalog()?;
            match catalog.tables.get(&id).map(|t| t.state) {
                Some(TableState::Ready) => return Ok(catalog),
                Some(TableState::Creating) => {}
                Some(TableState::Dropping) | None => {
                    return Err(Error::conflict(format!(
                        "table `{}` was dropped meanwhile",
                        wanted.full_name()
                    )));
                }
            }
            if changes.changed().await.is_err() {
                return Err(Error::unavailable("this metasrv is stopping"));
            }
        }
    }

    async fn drop_table(&self, request: v1::DropTable) -> Result<v1::DdlResponse> {
        let mut dropped = 0;
        let catalog = self
            .change(
                |catalog| match catalog.table_by_name(&request.database, &request.name) {
                    Some(table) => {
                        dropped = table.id;
                        Ok(vec![dropping(table)])
                    }
                    None => missing(
                        request.if_exists,
                        format!("table `{}.{}`", request.database, request.name),
                    ),
                },
            )
            .await?;
        Ok(response(&catalog, dropped, dropped != 0))
    }
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(what: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::invalid(format!("the {what} cannot be read: {e}")))
}

pub(crate) fn response(catalog: &Catalog, table_id: TableId, changed: bool) -> v1::DdlResponse {
    v1::DdlResponse {
        revision: catalog.root.revision,
        table_id,
        changed,
        procedure_id: String::new(),
    }
}

fn dropping(table: &TableInfo) -> Edit {
    Edit::PutTable(TableInfo {
        state: TableState::Dropping,
        ..table.clone()
    })
}

fn exists(accepted: bool, what: String) -> Result<Vec<Edit>> {
    if accepted {
        Ok(vec![])
    } else {
        Err(Error::already_exists(format!("{what} already exists")))
    }
}

fn missing(accepted: bool, what: String) -> Result<Vec<Edit>> {
    if accepted {
        Ok(vec![])
    } else {
        Err(Error::not_found(format!("{what} does not exist")))
    }
}

pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let fine = !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\0']);
    if fine {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`{name}` cannot be the name of a {what}: 1 to 255 bytes without `/`"
    )))
}

fn check_table(table: &TableInfo) -> Result<()> {
    check_name("table", &table.name)?;
    table.schema.validate()?;
    table.options.validate()?;
    table.partition.check_depth()?;
    let regions = table.partition.partitions.len();
    if regions == 0 || regions > MAX_REGIONS {
        return Err(Error::invalid(format!(
            "a table has 1 to {MAX_REGIONS} regions, not {regions}"
        )));
    }
    if let Some(column) = table
        .partition
        .columns
        .iter()
        .find(|c| table.schema.column(c).is_none())
    {
        return Err(Error::invalid(format!(
            "partition column `{column}` is not a column of the table"
        )));
    }
    Ok(())
}
