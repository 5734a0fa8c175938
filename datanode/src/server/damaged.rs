//! What a datanode may do with a log of which acknowledged rows are lost.
//!
//! A replica with a shorter log than it has promised must not vote: with one more loss, rows that a majority had would be
//! gone. Where others have the region, this disk begins anew under another name, and is given new replicas. Where nobody
//! has, what is left is all that there is, and the log goes on without what was cut.

use std::collections::BTreeMap;
use std::path::Path;

use greptime_clock::SharedIds;
use greptime_log::{EngineLog, EngineOptions, LogCore, LogDamage, LogError};
use greptime_types::{Error, NodeId, RegionId, Result};
use prometheus_client::metrics::counter::Counter;

use super::identity::{DataDir, write_durably};

/// There from before the log is cut until it is known that its regions have no other replicas.
const CUT: &str = "log.cut";
/// Where a log is put that is not used any more; one at most.
const ASIDE: &str = "log.damaged";

/// Opens the log, as the settings say about damage.
pub(super) fn open_log(
    data_dir: &DataDir,
    options: &EngineOptions,
    node_id: NodeId,
    ids: &SharedIds,
    fsyncs: &Counter,
) -> Result<EngineLog> {
    let marker = data_dir.path(CUT);
    let was_cut = marker.exists();
    match options.damage {
        LogDamage::Discard if was_cut => discard(data_dir, options, node_id, ids, "it was cut")?,
        LogDamage::Cut if !was_cut => write_durably(&marker, b"acknowledged rows may be lost")?,
        _ => {}
    }
    let log = match EngineLog::open(options, fsyncs.clone()) {
        Err(LogError::Corruption(why)) if options.damage == LogDamage::Discard => {
            discard(data_dir, options, node_id, ids, &why)?;
            EngineLog::open(options, fsyncs.clone())
        }
        opened => opened,
    };
    let log = log.map_err(super::open::log_error)?;
    if !was_cut && !log.cuts().iter().any(|cut| cut.acknowledged) {
        remove(&marker)?;
    }
    Ok(log)
}

/// Puts the log aside. The disk gets its new name first: an empty log under the old one would forget its votes.
fn discard(
    data_dir: &DataDir,
    options: &EngineOptions,
    node_id: NodeId,
    ids: &SharedIds,
    why: &str,
) -> Result<()> {
    let aside = data_dir.path(ASIDE);
    tracing::error!(
        why,
        aside = %aside.display(),
        "LogDiscarded: the log is put aside, as datanode.log_damage = \"discard\" allows; this disk begins anew"
    );
    data_dir.renew(node_id, ids)?;
    let failed = |e: std::io::Error| Error::internal(format!("putting {} aside: {e}", options.dir.display()));
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::fs::rename(&options.dir, &aside).map_err(failed)?;
    remove(&data_dir.path(CUT))
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("removing {}: {error}", file.display())))
        }
        _ => Ok(()),
    }
}

/// Whether the regions of a log may go on from what it has. Nothing of it has been used yet.
pub(super) fn may_go_on(data_dir: &DataDir, core: &LogCore, regions: &BTreeMap<RegionId, u64>) -> Result<()> {
    let marker = data_dir.path(CUT);
    if !marker.exists() {
        return Ok(());
    }
    let has_others = |id: &&RegionId| {
        core.membership(**id)
            .is_some_and(|m| m.voters.len() + m.learners.len() > 1)
    };
    let shared: Vec<String> = regions
        .keys()
        .filter(has_others)
        .map(ToString::to_string)
        .collect();
    if shared.is_empty() {
        return remove(&marker);
    }
    Err(Error::corruption(format!(
        "acknowledged rows were cut off the log of this datanode, and {} of its regions have replicas on other datanodes \
         ({}), which count on what it had. Set datanode.log_damage = \"discard\" for one start: the log is put aside, and \
         they make new replicas here",
        shared.len(),
        shared.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
    )))
}
