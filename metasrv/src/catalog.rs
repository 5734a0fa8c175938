//! The catalog: databases, tables and which datanodes should hold their regions.
//!
//! Every change goes through one compare-and-swap on the `root` record, which counts revisions. So a metasrv that
//! no longer leads cannot change anything (a new leader's first act is such a change), and a change whose outcome
//! was unknown can no longer arrive once another one has succeeded.

use std::collections::{BTreeMap, BTreeSet};

use greptime_metasrv_plan::assignment;
use greptime_metasrv_plan::repair::Retarget;
use greptime_types::catalog::DEFAULT_DATABASE;
use greptime_types::format::{FORMAT_VERSION, NEWEST_CLUSTER_FORMAT, OLDEST_CLUSTER_FORMAT};
use greptime_types::{
    ClusterId, DatabaseInfo, Error, NodeId, RegionId, Result, TableId, TableInfo, TableState, format,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::defences::Defence;
use crate::procedures::Procedure;
use crate::store::{Change, Expect, Store, Versioned};

const ROOT: &str = "root";
const DATABASE: &str = "database/";
const TABLE: &str = "table/";
const MEMBERSHIP: &str = "membership/";
const DATANODE: &str = "node/datanode/";
const PROCEDURE: &str = "procedure/";

/// Ids below are kept for system tables.
const FIRST_TABLE_ID: TableId = 1024;

/// The record that every change compares and replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The cluster's: what its nodes write. It is never lowered, and a metasrv that does not speak it refuses.
    pub format: u32,
    pub cluster_id: ClusterId,
    pub name: String,
    pub created_ms: i64,
    /// Grows by one with every change of the catalog.
    pub revision: u64,
    /// Grows by one with every metasrv that begins to lead.
    pub metasrv_epoch: u64,
    pub next_table_id: TableId,
    /// Raft ids are never reused.
    pub next_raft_id: u64,
    /// The bucket carries our marker; before that nothing is created.
    pub bucket_claimed: bool,
}

/// One replica that should exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub raft_id: u64,
    pub node: NodeId,
}

impl Member {
    /// As plans know it.
    pub fn planned(&self) -> assignment::Member {
        assignment::Member {
            raft_id: self.raft_id,
            node: self.node,
        }
    }
}

impl From<assignment::Member> for Member {
    fn from(planned: assignment::Member) -> Self {
        Self {
            raft_id: planned.raft_id,
            node: planned.node,
        }
    }
}

/// Which datanodes should hold the regions of a table. Written by the table's creation and by changes of
/// membership, never by an election.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub format: u32,
    pub regions: BTreeMap<u32, Vec<Member>>,
    /// Raft ids of replicas that were given up when another went on alone, by region. Should they come back, they may
    /// lead among themselves, and what they say of the region counts for nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given_up: BTreeMap<u32, BTreeSet<u64>>,
}

/// A datanode as it first came; another disk under the same name is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatanodeRecord {
    pub format: u32,
    pub disk_id: String,
    /// Where it fails together with others, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// The catalog in memory, as of one revision of the store.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub root: Root,
    /// Store revision of the root record: what the next change must find.
    root_revision: i64,
    pub databases: BTreeMap<String, DatabaseInfo>,
    pub tables: BTreeMap<TableId, TableInfo>,
    pub memberships: BTreeMap<TableId, Membership>,
    pub datanodes: BTreeMap<NodeId, DatanodeRecord>,
    /// By id.
    pub procedures: BTreeMap<String, Procedure>,
}

/// One change of the catalog, in terms of its records.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    PutDatabase(DatabaseInfo),
    DeleteDatabase(String),
    PutTable(TableInfo),
    PutMembership(TableId, Membership),
    /// The table and its membership.
    DeleteTable(TableId),
    PutDatanode(NodeId, DatanodeRecord),
    PutProcedure(Procedure),
    DeleteProcedure(String),
    BucketClaimed,
    /// The cluster writes this format from now on.
    RaiseFormat(u32),
    /// Ids taken from the root's counters.
    TakeIds {
        tables: u32,
        rafts: u64,
    },
}

/// What a new root is made of, should there be none.
#[derive(Clone, Debug)]
pub struct Birth {
    pub cluster_id: ClusterId,
    pub name: String,
    pub now_ms: i64,
}

/// The root record and the store's revision of it; nothing if no metasrv ever led here.
pub async fn read_root(store: &dyn Store) -> Result<Option<(Root, i64)>> {
    let Some(found) = store.list(ROOT).await?.remove(ROOT) else {
        return Ok(None);
    };
    let root: Root = decode(ROOT, &found)?;
    Ok(Some((root, found.revision)))
}

impl Catalog {
    /// Loads the catalog and takes it over: from here on, whoever loaded it before cannot change it.
    pub async fn take_over(store: &dyn Store, birth: Birth) -> Result<Self> {
        let (mut root, expect) = match read_root(store).await? {
            Some((root, revision)) => (root, Expect::Revision(ROOT.into(), revision)),
            None => (newborn(birth), Expect::Absent(ROOT.into())),
        };
        root.metasrv_epoch += 1;
        let put = vec![Change::Put(ROOT.into(), encode(&root)?)];
        let root_revision = store
            .commit(expect, put)
            .await?
            .ok_or_else(|| Error::conflict("another metasrv took over the catalog at the same time"))?;
        let mut catalog = Self {
            root,
            root_revision,
            databases: load(store, DATABASE, |name| Some(name.to_string())).await?,
            tables: load(store, TABLE, |id| id.parse().ok()).await?,
            memberships: load(store, MEMBERSHIP, |id| id.parse().ok()).await?,
            datanodes: load(store, DATANODE, |id| id.parse().ok()).await?,
            procedures: load(store, PROCEDURE, |id| Some(id.to_string())).await?,
        };
        let public = DatabaseInfo {
            format: FORMAT_VERSION,
            name: DEFAULT_DATABASE.into(),
            options: BTreeMap::new(),
        };
        catalog.databases.entry(DEFAULT_DATABASE.into()).or_insert(public);
        Ok(catalog)
    }

    /// Commits the edits and returns the catalog with them. An error means that the outcome is unknown or that
    /// somebody else leads; the caller takes over again, or stops leading.
    pub async fn commit(&self, store: &dyn Store, edits: &[Edit]) -> Result<Self> {
        let mut next = self.clone();
        next.root.revision += 1;
        let mut changes = Vec::new();
        for edit in edits {
            next.apply(edit, &mut changes)?;
        }
        changes.push(Change::Put(ROOT.into(), encode(&next.root)?));
        let revision = match Defence::RootIsCompared.holds() {
            true => self.root_revision,
            false => read_root(store).await?.map_or(0, |(_, revision)| revision),
        };
        let expect = Expect::Revision(ROOT.into(), revision);
        next.root_revision = store
            .commit(expect, changes)
            .await?
            .ok_or_else(|| Error::conflict("the catalog was changed by another metasrv"))?;
        Ok(next)
    }

    fn apply(&mut self, edit: &Edit, changes: &mut Vec<Change>) -> Result<()> {
        match edit {
            Edit::PutDatabase(database) => {
                self.databases.insert(database.name.clone(), database.clone());
                changes.push(Change::Put(
                    format!("{DATABASE}{}", database.name),
                    encode(database)?,
                ));
            }
            Edit::DeleteDatabase(name) => {
                self.databases.remove(name);
                changes.push(Change::Delete(format!("{DATABASE}{name}")));
            }
            Edit::PutTable(table) => {
                changes.push(Change::Put(format!("{TABLE}{}", table.id), encode(table)?));
                self.tables.insert(table.id, table.clone());
            }
            Edit::PutMembership(id, membership) => {
                changes.push(Change::Put(format!("{MEMBERSHIP}{id}"), encode(membership)?));
                self.memberships.insert(*id, membership.clone());
            }
            Edit::DeleteTable(id) => {
                self.tables.remove(id);
                self.memberships.remove(id);
                changes.push(Change::Delete(format!("{TABLE}{id}")));
                changes.push(Change::Delete(format!("{MEMBERSHIP}{id}")));
            }
            Edit::PutDatanode(node, record) => {
                changes.push(Change::Put(format!("{DATANODE}{node}"), encode(record)?));
                self.datanodes.insert(*node, record.clone());
            }
            Edit::PutProcedure(procedure) => {
                changes.push(Change::Put(
                    format!("{PROCEDURE}{}", procedure.id),
                    encode(procedure)?,
                ));
                self.procedures.insert(procedure.id.clone(), procedure.clone());
            }
            Edit::DeleteProcedure(id) => {
                self.procedures.remove(id);
                changes.push(Change::Delete(format!("{PROCEDURE}{id}")));
            }
            Edit::BucketClaimed => self.root.bucket_claimed = true,
            Edit::RaiseFormat(format) => self.root.format = self.root.format.max(*format),
            Edit::TakeIds { tables, rafts } => {
                self.root.next_table_id += tables;
                self.root.next_raft_id += rafts;
            }
        }
        Ok(())
    }

    /// The table of that name which users can see or whose name is taken.
    pub fn table_by_name(&self, database: &str, name: &str) -> Option<&TableInfo> {
        let same = |t: &&TableInfo| t.database == database && t.name == name;
        self.tables
            .values()
            .filter(|t| t.state != TableState::Dropping)
            .find(same)
    }

    pub fn dropping(&self) -> BTreeSet<TableId> {
        let dropping = self.tables.values().filter(|t| t.state == TableState::Dropping);
        dropping.map(|t| t.id).collect()
    }

    /// Replicas that should exist of a region.
    pub fn members(&self, region: RegionId) -> &[Member] {
        let membership = self.memberships.get(&region.table());
        membership
            .and_then(|m| m.regions.get(&region.number()))
            .map_or(&[], Vec::as_slice)
    }

    /// The same as plans know them.
    pub fn planned_members(&self, region: RegionId) -> Vec<assignment::Member> {
        self.members(region).iter().map(Member::planned).collect()
    }

    /// Records other members for regions: one edit for each table of which something changes.
    pub fn put_members(
        &self,
        regions: impl IntoIterator<Item = (RegionId, Vec<assignment::Member>)>,
    ) -> Vec<Edit> {
        let mut memberships = BTreeMap::new();
        for (region, members) in regions {
            let Some(recorded) = self.memberships.get(&region.table()) else {
                continue;
            };
            let membership = memberships
                .entry(region.table())
                .or_insert_with(|| recorded.clone());
            membership.format = FORMAT_VERSION;
            let members = members.into_iter().map(Member::from).collect();
            membership.regions.insert(region.number(), members);
        }
        memberships.retain(|table, new| self.memberships.get(table) != Some(new));
        memberships
            .into_iter()
            .map(|(table, new)| Edit::PutMembership(table, new))
            .collect()
    }

    /// Whether the replica was given up when another one of its group went on alone.
    pub fn is_given_up(&self, region: RegionId, raft_id: u64) -> bool {
        let membership = self.memberships.get(&region.table());
        let given_up = membership.and_then(|m| m.given_up.get(&region.number()));
        given_up.is_some_and(|ids| ids.contains(&raft_id)) && Defence::GivenUpCountForNothing.holds()
    }

    /// Records that one member goes on alone, and that all others are given up: those that are recorded, and `others`.
    pub fn put_survivor(&self, region: RegionId, survivor: &Member, others: &BTreeSet<u64>) -> Option<Edit> {
        let mut membership = self.memberships.get(&region.table())?.clone();
        let recorded = self.members(region).iter().map(|m| m.raft_id);
        let others = recorded.chain(others.iter().copied());
        let others = others.filter(|raft_id| *raft_id != survivor.raft_id);
        let given_up = membership.given_up.entry(region.number()).or_default();
        given_up.extend(others);
        membership.format = FORMAT_VERSION;
        membership.regions.insert(region.number(), vec![survivor.clone()]);
        Some(Edit::PutMembership(region.table(), membership))
    }

    /// Records what a repair has planned, with new raft ids for the replicas that come.
    pub fn retarget(&self, plan: &[Retarget]) -> Vec<Edit> {
        let mut next_raft_id = self.root.next_raft_id;
        let mut regions = Vec::new();
        for change in plan
            .iter()
            .filter(|c| self.memberships.contains_key(&c.region.table()))
        {
            let mut members = change.keep.clone();
            for node in &change.add {
                members.push(assignment::Member {
                    raft_id: next_raft_id,
                    node: *node,
                });
                next_raft_id += 1;
            }
            regions.push((change.region, members));
        }
        let puts = self.put_members(regions);
        let rafts = next_raft_id - self.root.next_raft_id;
        let ids = (rafts > 0).then_some(Edit::TakeIds { tables: 0, rafts });
        ids.into_iter().chain(puts).collect()
    }

    /// Regions of which one replica is to go on alone, and does not yet.
    pub fn recovering(&self) -> BTreeSet<RegionId> {
        self.running().filter_map(Procedure::recovers).collect()
    }

    /// Procedures that have not ended.
    pub fn running(&self) -> impl Iterator<Item = &Procedure> {
        self.procedures.values().filter(|p| !p.has_ended())
    }

    /// The procedure that moves the region.
    pub fn migration_of(&self, region: RegionId) -> Option<&Procedure> {
        let moves = |p: &&Procedure| p.running_migration().is_some_and(|m| m.region == region);
        self.running().find(moves)
    }

    /// Replicas that are to lead soon, and have to be ready: region and raft id.
    pub fn heirs(&self) -> BTreeSet<(RegionId, u64)> {
        let migrations = self.running().filter_map(Procedure::running_migration);
        let heirs = migrations.filter(|m| m.must_be_hot());
        heirs.map(|m| (m.region, m.comes)).collect()
    }

    /// Datanodes that are being emptied.
    pub fn drained(&self) -> BTreeSet<NodeId> {
        let drains = self.running().filter_map(Procedure::migrate_node);
        drains.map(|work| work.node).collect()
    }

    /// Regions that each datanode should hold, of tables that are not being dropped.
    pub fn regions_by_node(&self) -> BTreeMap<NodeId, Vec<(RegionId, &Member)>> {
        let mut by_node: BTreeMap<NodeId, Vec<(RegionId, &Member)>> = BTreeMap::new();
        for table in self.tables.values().filter(|t| t.state != TableState::Dropping) {
            for region in table.regions() {
                for member in self.members(region) {
                    by_node.entry(member.node).or_default().push((region, member));
                }
            }
        }
        by_node
    }
}

fn newborn(birth: Birth) -> Root {
    Root {
        format: OLDEST_CLUSTER_FORMAT,
        cluster_id: birth.cluster_id,
        name: birth.name,
        created_ms: birth.now_ms,
        revision: 0,
        metasrv_epoch: 0,
        next_table_id: FIRST_TABLE_ID,
        next_raft_id: 1,
        bucket_claimed: false,
    }
}

async fn load<K: Ord, V: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
    parse: impl Fn(&str) -> Option<K>,
) -> Result<BTreeMap<K, V>> {
    let mut records = BTreeMap::new();
    for (key, found) in store.list(prefix).await? {
        let name = parse(key.strip_prefix(prefix).unwrap_or(&key)).ok_or_else(|| {
            Error::corruption(format!("metasrv's store has a key `{key}` that it never writes"))
        })?;
        records.insert(name, decode(&key, &found)?);
    }
    Ok(records)
}

fn decode<T: DeserializeOwned>(key: &str, found: &Versioned) -> Result<T> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default)]
        format: u32,
    }
    let damaged = |e: serde_json::Error| Error::corruption(format!("record `{key}` is damaged: {e}"));
    let header: Header = serde_json::from_slice(&found.value).map_err(damaged)?;
    let newest = match key {
        ROOT => NEWEST_CLUSTER_FORMAT,
        _ => FORMAT_VERSION,
    };
    format::check_up_to(&format!("record `{key}`"), header.format, newest)?;
    serde_json::from_slice(&found.value).map_err(damaged)
}

fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| Error::internal(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedures;
    use crate::store::MemoryStore;

    fn birth(id: &str) -> Birth {
        Birth {
            cluster_id: id.into(),
            name: "test".into(),
            now_ms: 0,
        }
    }

    fn database(name: &str) -> Edit {
        Edit::PutDatabase(DatabaseInfo {
            format: 1,
            name: name.into(),
            options: BTreeMap::new(),
        })
    }

    #[tokio::test]
    async fn a_new_leader_shuts_out_the_old_one() {
        let store = MemoryStore::default();
        let old = Catalog::take_over(&store, birth("a")).await.unwrap();
        let old = old.commit(&store, &[database("one")]).await.unwrap();
        let new = Catalog::take_over(&store, birth("b")).await.unwrap();
        assert_eq!(new.root.cluster_id, "a", "the cluster id is minted once");
        assert_eq!(new.root.metasrv_epoch, 2);
        assert!(new.databases.contains_key("one") && new.databases.contains_key("public"));
        assert!(old.commit(&store, &[database("two")]).await.is_err());
        new.commit(&store, &[database("three")]).await.unwrap();
    }

    /// A failure says that a record has changed: raise its version, and keep what is here to be read.
    #[test]
    fn records_are_read_and_written_as_ever() {
        fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(golden: &str, record: &T) {
            let golden = golden.trim_end();
            let found = Versioned {
                value: golden.into(),
                revision: 1,
            };
            assert_eq!(&decode::<T>("golden", &found).unwrap(), record);
            assert_eq!(String::from_utf8(encode(record).unwrap()).unwrap(), golden);
        }
        let root = Root {
            bucket_claimed: true,
            ..newborn(birth("a"))
        };
        check(include_str!("../tests/golden/root-1.json"), &root);
        let member = Member { raft_id: 7, node: 2 };
        let membership = Membership {
            format: 1,
            regions: BTreeMap::from([(0, vec![member])]),
            given_up: BTreeMap::new(),
        };
        check(include_str!("../tests/golden/membership-1.json"), &membership);
        let recovered = Membership {
            given_up: BTreeMap::from([(0, BTreeSet::from([5, 6]))]),
            ..membership
        };
        check(
            include_str!("../tests/golden/membership-1-recovered.json"),
            &recovered,
        );
        let datanode = DatanodeRecord {
            format: 1,
            disk_id: "disk".into(),
            zone: None,
        };
        check(include_str!("../tests/golden/datanode-1.json"), &datanode);
        let zoned = DatanodeRecord {
            zone: Some("eu-1a".into()),
            ..datanode
        };
        check(include_str!("../tests/golden/datanode-1-zone.json"), &zoned);
        let database = DatabaseInfo {
            format: 1,
            name: "public".into(),
            options: BTreeMap::from([("ttl".into(), "1d".into())]),
        };
        check(include_str!("../tests/golden/database-1.json"), &database);
        for (golden, procedure) in procedures::golden() {
            check(golden, &procedure);
        }
    }

    #[tokio::test]
    async fn a_record_of_a_newer_format_is_refused_by_name() {
        let store = MemoryStore::default();
        let record = br#"{"format": 99, "name": "x"}"#.to_vec();
        store
            .commit(
                Expect::Absent("x".into()),
                vec![Change::Put("database/x".into(), record)],
            )
            .await
            .unwrap();
        let error = Catalog::take_over(&store, birth("a")).await.unwrap_err();
        assert!(
            error.message.contains("database/x") && error.message.contains("99"),
            "{error}"
        );
    }
}
