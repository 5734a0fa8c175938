//! What a datanode may do with a log of which acknowledged rows are lost.
//!
//! A replica with a shorter log than it has promised must not vote: with one more loss, rows that a majority had would be
//! gone. Where others have the region, this disk begins anew under another name, and is given new replicas. Where nobody
//! has, what is left is all that there is, and the log goes on without what was cut.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use greptime_clock::SharedIds;
use greptime_log::{EngineLog, EngineOptions, LogCore, LogDamage, LogError};
use greptime_types::{Error, NodeId, RegionId, Result};
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};

use super::identity::{DataDir, remove_durably, write_durably};
use super::open::log_error;
use super::{DatanodeParts, others};
use crate::defences::Defence;

/// There from before the log is cut until it is known that nothing was, or that its regions have no other replicas.
const CUT: &str = "log.cut";
/// Where a log is put that is not used any more; one at most.
const ASIDE: &str = "log.damaged";

/// Opens the log, as the settings say about damage. By `auto` it is given up if others have all that was in it.
pub(super) async fn open(
    parts: &DatanodeParts,
    data_dir: &Arc<DataDir>,
    options: EngineOptions,
    fsyncs: &Counter,
) -> Result<EngineLog> {
    let open = |options: EngineOptions| {
        let (data_dir, ids, fsyncs) = (Arc::clone(data_dir), Arc::clone(&parts.ids), fsyncs.clone());
        let node_id = parts.node_id;
        tokio::task::spawn_blocking(move || open_log(&data_dir, &options, node_id, &ids, &fsyncs))
    };
    let failed = |e: tokio::task::JoinError| Error::internal(e.to_string());
    let damage = match open(options.clone()).await.map_err(failed)?? {
        Err(error @ LogError::Corruption(_)) if options.damage == LogDamage::Auto => log_error(error),
        opened => return opened.map_err(log_error),
    };
    let Some(meta) = &parts.meta else {
        return Err(damage);
    };
    let cluster_id = data_dir.identity(parts.node_id, &parts.ids)?.cluster_id;
    match others::have_everything(meta.as_ref(), parts.node_id, &cluster_id).await {
        Err(why) if Defence::OnlyCopyIsKept.holds() => Err(Error::corruption(format!(
            "{}. This datanode does not begin anew by itself: {why}",
            damage.message
        ))),
        _ => {
            let damage = LogDamage::Discard;
            let opened = open(EngineOptions { damage, ..options })
                .await
                .map_err(failed)??;
            opened.map_err(log_error)
        }
    }
}

fn open_log(
    data_dir: &DataDir,
    options: &EngineOptions,
    node_id: NodeId,
    ids: &SharedIds,
    fsyncs: &Counter,
) -> Result<std::result::Result<EngineLog, LogError>> {
    let marker = Marker::of(data_dir, &options.dir);
    let was_cut = marker.look()?;
    match options.damage {
        LogDamage::Discard if was_cut => discard(data_dir, options, node_id, ids, "it was cut")?,
        LogDamage::Cut if !was_cut => marker.announce()?,
        _ => {}
    }
    let log = match EngineLog::open(options, fsyncs.clone()) {
        Err(LogError::Corruption(why)) if options.damage == LogDamage::Discard => {
            discard(data_dir, options, node_id, ids, &why)?;
            EngineLog::open(options, fsyncs.clone())
        }
        opened => opened,
    };
    match &log {
        Ok(log) if log.cuts().iter().any(|cut| cut.acknowledged) => marker.confirm()?,
        Ok(_) if !was_cut => marker.remove()?,
        Ok(_) => {}
        // What was announced may have happened before it failed.
        Err(_) => drop(marker.look()?),
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
        "LogDiscarded: the log is put aside, and this disk begins anew: others have what was in it"
    );
    data_dir.renew(node_id, ids)?;
    let failed = |e: io::Error| Error::internal(format!("putting {} aside: {e}", options.dir.display()));
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::fs::rename(&options.dir, &aside).map_err(failed)?;
    remove_durably(&data_dir.path(CUT))
}

/// The file that says that acknowledged rows were cut off the log.
///
/// It is written before the log is opened, since that may end at any moment. Until it is known what was cut, it has the
/// ends of the files as they were; a log whose files all reach so far was not cut.
struct Marker {
    file: PathBuf,
    log: PathBuf,
}

/// What the marker says before anything is cut. Any other content says that rows are lost.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Announced {
    /// Of each file of the log, by its name, where the last byte ends that is no zero: space is allocated ahead.
    ends: BTreeMap<String, u64>,
}

impl Marker {
    fn of(data_dir: &DataDir, log: &Path) -> Self {
        Self {
            file: data_dir.path(CUT),
            log: log.to_owned(),
        }
    }

    /// Whether the log was cut. Where it was announced only, that is found out and written down.
    fn look(&self) -> Result<bool> {
        let said = match std::fs::read(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            said => said.map_err(|e| failed("reading", &self.file, &e))?,
        };
        let Ok(announced) = serde_json::from_slice::<Announced>(&said) else {
            return Ok(true);
        };
        let now = ends(&self.log)?;
        let is_shorter = |(name, end): (&String, &u64)| now.get(name).copied().unwrap_or(0) < *end;
        let was_cut = announced.ends.iter().any(is_shorter);
        match was_cut {
            true => self.confirm()?,
            false => self.remove()?,
        }
        Ok(was_cut)
    }

    fn announce(&self) -> Result<()> {
        let ends = ends(&self.log)?;
        let said = serde_json::to_vec(&Announced { ends });
        write_durably(&self.file, &said.map_err(|e| Error::internal(e.to_string()))?)
    }

    fn confirm(&self) -> Result<()> {
        write_durably(&self.file, b"acknowledged rows may be lost")
    }

    fn remove(&self) -> Result<()> {
        remove_durably(&self.file)
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Error {
    Error::internal(format!("{doing} {}: {error}", path.display()))
}

/// Where what was written ends, of each file of a log.
fn ends(log: &Path) -> Result<BTreeMap<String, u64>> {
    let listed = match std::fs::read_dir(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        listed => listed.map_err(|e| failed("listing", log, &e))?,
    };
    let mut ends = BTreeMap::new();
    for file in listed {
        let path = file.map_err(|e| failed("listing", log, &e))?.path();
        if path.extension().is_some_and(|e| e == "raftlog" || e == "rewrite") {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            ends.insert(name, end(&path).map_err(|e| failed("reading", &path, &e))?);
        }
    }
    Ok(ends)
}

/// Looks from the end, since all but the last files are full.
fn end(file: &Path) -> io::Result<u64> {
    const STEP: u64 = 64 << 10;
    let mut file = File::open(file)?;
    let mut after = file.metadata()?.len();
    let mut bytes = Vec::new();
    while after > 0 {
        let from = after.saturating_sub(STEP);
        file.seek(SeekFrom::Start(from))?;
        bytes.resize((after - from) as usize, 0);
        file.read_exact(&mut bytes)?;
        if let Some(last) = bytes.iter().rposition(|b| *b != 0) {
            return Ok(from + last as u64 + 1);
        }
        after = from;
    }
    Ok(0)
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
        return remove_durably(&marker);
    }
    Err(Error::corruption(format!(
        "acknowledged rows were cut off the log of this datanode, and {} of its regions have replicas on other datanodes \
         ({}), which count on what it had. Set datanode.log_damage = \"discard\" for one start: the log is put aside, and \
         they make new replicas here",
        shared.len(),
        shared.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of two files, the second of which has space allocated ahead.
    fn log() -> (tempfile::TempDir, Marker) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::create_dir(&log).unwrap();
        std::fs::write(log.join("1.raftlog"), [1; 100]).unwrap();
        let ahead = [vec![1; 200_000], vec![0; 200_000]].concat();
        std::fs::write(log.join("2.raftlog"), ahead).unwrap();
        std::fs::write(log.join("reserve"), [0; 100]).unwrap();
        let file = dir.path().join(CUT);
        (dir, Marker { file, log })
    }

    fn shorten(marker: &Marker, name: &str, length: u64) {
        let file = File::options().write(true).open(marker.log.join(name));
        file.unwrap().set_len(length).unwrap();
    }

    #[test]
    fn a_cut_that_was_announced_and_not_made_is_forgotten() {
        let (_dir, marker) = log();
        assert!(!marker.look().unwrap());
        marker.announce().unwrap();
        // What is allocated ahead is nobody's.
        shorten(&marker, "2.raftlog", 300_000);
        shorten(&marker, "reserve", 0);
        assert!(!marker.look().unwrap());
        assert!(!marker.file.exists());
    }

    #[test]
    fn a_cut_that_was_made_before_the_log_failed_is_remembered() {
        let cut: [fn(&Marker); 2] = [
            |marker| shorten(marker, "2.raftlog", 199_999),
            |marker| std::fs::remove_file(marker.log.join("1.raftlog")).unwrap(),
        ];
        for cut in cut {
            let (_dir, marker) = log();
            marker.announce().unwrap();
            cut(&marker);
            assert!(marker.look().unwrap());
            // Also when the file has grown again.
            std::fs::write(marker.log.join("1.raftlog"), [1; 100]).unwrap();
            std::fs::write(marker.log.join("2.raftlog"), vec![1; 400_000]).unwrap();
            assert!(marker.look().unwrap());
        }
    }
}
