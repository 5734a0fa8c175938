//! A log that is damaged inside, on the disk of a datanode.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use greptime_log::LogDamage;
use greptime_proto::transport::MetaLink;
use greptime_proto::v1;
use greptime_types::{Error, RegionId, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::config::DatanodeConfig;
use crate::server::{Datanode, DatanodeParts};
use crate::testing::{parts, start_on_disk, table};

async fn start(dir: &Path, log_damage: LogDamage) -> Result<Arc<Datanode>> {
    let config = DatanodeConfig {
        log_damage,
        // So that a log of little has several files.
        log_file_size: 16 << 10,
        ..DatanodeConfig::default()
    };
    start_on_disk(&config, &Arc::default(), dir).await
}

/// A data directory with so many regions of so many voters each. Returns the name of the disk too.
async fn with_regions(regions: u32, voters: u64) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), LogDamage::Refuse).await.unwrap();
    for number in 0..regions {
        let members = (1..=voters).map(|raft_id| v1::RegionMember {
            raft_id,
            node: raft_id - 1,
        });
        let region = v1::InitialiseRegion {
            region_id: RegionId::new(1024, number).as_u64(),
            raft_id: 1,
            voters: (1..=voters).collect(),
            table_json: serde_json::to_string(&table(1024, false)).unwrap(),
            members: members.collect(),
        };
        node.initialise(region).await.unwrap();
    }
    let disk_id = node.identity().disk_id;
    node.shutdown().await;
    (dir, disk_id)
}

/// A log of one file that is damaged at its second write: the first region is whole.
async fn damaged(voters: u64) -> (tempfile::TempDir, String) {
    let (dir, disk_id) = with_regions(3, voters).await;
    let files = log_files(dir.path());
    assert_eq!(files.len(), 1);
    damage_second_write(&files[0]);
    (dir, disk_id)
}

fn damage_second_write(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    // A file begins with 69 bytes, a write with its length in seven.
    let length = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) >> 8;
    let second = 69 + length(69) as usize;
    bytes[second + 24] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// In the order in which they were written.
fn log_files(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join("log")).unwrap();
    let mut files: Vec<_> = files.map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "raftlog"));
    files.sort();
    files
}

async fn refused(dir: &Path, damage: LogDamage) -> String {
    match start(dir, damage).await {
        Err(error) => error.message,
        Ok(_) => panic!("it started on a damaged log"),
    }
}

/// A metasrv that says one thing after the other of the cluster, and nothing else.
struct Told(Mutex<Vec<Value>>);

#[async_trait]
impl MetaLink for Told {
    async fn heartbeat(
        &self,
        _: BoxStream<'static, v1::Beat>,
    ) -> Result<BoxStream<'static, Result<v1::Push>>> {
        Err(Error::unavailable("no session"))
    }

    async fn ddl(&self, _: v1::DdlRequest) -> Result<v1::DdlResponse> {
        Err(Error::unavailable("no DDL"))
    }

    async fn cluster(&self) -> Result<String> {
        let mut said = self.0.lock();
        let next = said.pop().ok_or_else(|| Error::unavailable("nothing is known"))?;
        Ok(next.to_string())
    }

    async fn procedures(&self) -> Result<String> {
        Err(Error::unavailable("no procedures"))
    }
}

/// What metasrv says of a region of these voters, all of whom live but for this node.
fn led_by(leader: Option<u64>, voters: &[u64]) -> Value {
    let live: Vec<u64> = voters.iter().copied().filter(|id| *id != 0).collect();
    json!({
        "cluster_id": "",
        "leader": true,
        "regions": [{
            "region": "1024:0",
            "leader": leader,
            "electorate": {"voters": voters, "live": live, "strangers": 0},
        }],
    })
}

async fn start_told(dir: &Path, said: Vec<Value>) -> Result<Arc<Datanode>> {
    let config = DatanodeConfig {
        cache_disk: 0,
        ..DatanodeConfig::default()
    };
    let parts = DatanodeParts {
        meta: Some(Arc::new(Told(Mutex::new(said)))),
        ..parts(config, &Arc::default(), dir)
    };
    Datanode::start(parts).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_begins_anew_by_itself_once_others_have_all_that_was_in_its_log() {
    let (dir, disk_id) = damaged(3).await;
    let (led, not_led) = (led_by(Some(1), &[0, 1, 2]), led_by(None, &[0, 1, 2]));
    // The last comes first. That it is led must be said several times in a row.
    let mut said = vec![led.clone(); 9];
    said.extend([&not_led, &led, &led, &not_led].map(Value::clone));
    let node = start_told(dir.path(), said).await.unwrap();
    assert_ne!(node.identity().disk_id, disk_id);
    assert_eq!(node.reports().len(), 0);
    assert!(dir.path().join("log.damaged").is_dir());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_kept_where_it_may_be_the_only_copy() {
    let (dir, _) = damaged(1).await;
    let before = std::fs::read(&log_files(dir.path())[0]).unwrap();
    let Err(error) = start_told(dir.path(), vec![led_by(None, &[0])]).await else {
        panic!("it started on a damaged log");
    };
    for part in ["\"cut\"", "region 1024:0 needs this datanode"] {
        assert!(error.message.contains(part), "{error}");
    }
    assert_eq!(std::fs::read(&log_files(dir.path())[0]).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_whose_regions_have_other_replicas_begins_anew_under_another_name() {
    let (dir, disk_id) = damaged(3).await;
    let error = refused(dir.path(), LogDamage::Refuse).await;
    assert!(error.contains("\"discard\""), "{error}");
    let error = refused(dir.path(), LogDamage::Cut).await;
    assert!(
        error.contains("have replicas on other datanodes (1024:0)"),
        "{error}"
    );
    // It was cut, and looks whole now.
    let error = refused(dir.path(), LogDamage::Refuse).await;
    assert!(error.contains("\"discard\""), "{error}");
    let node = start(dir.path(), LogDamage::Discard).await.unwrap();
    assert_ne!(node.identity().disk_id, disk_id);
    assert_eq!(node.reports().len(), 0);
    assert!(dir.path().join("log.damaged").is_dir());
    let disk_id = node.identity().disk_id;
    node.shutdown().await;
    drop(node);
    // The setting may stay.
    let node = start(dir.path(), LogDamage::Discard).await.unwrap();
    assert_eq!(node.identity().disk_id, disk_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_has_the_only_replicas_goes_on_with_what_is_left() {
    let (dir, disk_id) = damaged(1).await;
    refused(dir.path(), LogDamage::Refuse).await;
    let node = start(dir.path(), LogDamage::Cut).await.unwrap();
    assert_eq!(node.identity().disk_id, disk_id);
    node.shutdown().await;
    drop(node);
    start(dir.path(), LogDamage::Refuse).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_could_not_be_cut_is_as_good_as_before_when_it_is_put_back() {
    const REGIONS: u32 = 100;
    for (damage, next) in [
        (LogDamage::Cut, LogDamage::Refuse),
        (LogDamage::Cut, LogDamage::Discard),
        (LogDamage::Cut, LogDamage::Cut),
    ] {
        let (dir, disk_id) = with_regions(REGIONS, 3).await;
        let files = log_files(dir.path());
        assert!(files.len() > 2, "{files:?}");
        let whole: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
        // Only the end of the last file can be cut.
        damage_second_write(&files[0]);
        let error = refused(dir.path(), damage).await;
        assert!(error.contains("back from a copy"), "{error}");
        for (file, bytes) in files.iter().zip(&whole) {
            std::fs::write(file, bytes).unwrap();
        }
        let node = start(dir.path(), next).await.unwrap();
        assert_eq!(
            node.identity().disk_id,
            disk_id,
            "{next:?}: the log was put aside"
        );
        assert_eq!(node.reports().len(), REGIONS as usize, "{next:?}");
        node.shutdown().await;
        drop(node);
        start(dir.path(), LogDamage::Refuse).await.unwrap();
    }
}
