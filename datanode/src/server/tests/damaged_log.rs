//! A log that is damaged inside, on the disk of a datanode.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use greptime_log::LogDamage;
use greptime_proto::v1;
use greptime_types::{RegionId, Result};

use crate::config::DatanodeConfig;
use crate::server::Datanode;
use crate::testing::{start_on_disk, table};

async fn start(dir: &Path, log_damage: LogDamage) -> Result<Arc<Datanode>> {
    let config = DatanodeConfig {
        log_damage,
        ..DatanodeConfig::default()
    };
    start_on_disk(&config, &Arc::default(), dir).await
}

/// A data directory with regions of so many voters each, whose log is damaged at its second write: the first region is
/// whole. Returns the name of the disk too.
async fn damaged(voters: u64) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), LogDamage::Refuse).await.unwrap();
    for number in 0..3 {
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
    drop(node);
    let file = log_file(dir.path());
    let mut bytes = std::fs::read(&file).unwrap();
    // A file begins with 69 bytes, a write with its length in seven.
    let length = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) >> 8;
    let second = 69 + length(69) as usize;
    bytes[second + 24] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    (dir, disk_id)
}

fn log_file(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir.join("log")).unwrap();
    let mut files = files.map(|f| f.unwrap().path());
    files
        .find(|f| f.extension().is_some_and(|e| e == "raftlog"))
        .unwrap()
}

async fn refused(dir: &Path, damage: LogDamage) -> String {
    match start(dir, damage).await {
        Err(error) => error.message,
        Ok(_) => panic!("it started on a damaged log"),
    }
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
