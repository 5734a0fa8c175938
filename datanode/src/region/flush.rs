//! Rows from memory to files: freeze, upload, edit, adopt, trim; each step may be the last one before a crash.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use greptime_clock::SharedIds;
use greptime_log::{LogHandle, LogStore};
use greptime_object_store::Bucket;
use greptime_rules::{Flush, FlushedState, Meeting, Uploads, known_before_put, may_follow, meet};
use greptime_types::{Error, MergeMode, Result, Semantic, TableInfo};
use prometheus_client::metrics::counter::Counter;

use super::state::Frozen;
use super::{Region, RegionState};
use crate::compaction::discard;
use crate::defences::Defence;
use crate::manifest::{Commit, FileMeta, ManifestStore, View};
use crate::memtable::{KeyColumns, SortedRows, Versions};
use crate::scan::{Deletes, dedup};
use crate::schema::engine_schema;
use crate::sst::{FileSource, FileWriter};

/// Rows that are copied at a time.
const BATCH_ROWS: usize = 16 * 1024;

/// What flushes are done with.
#[derive(Clone)]
pub struct Flusher {
    pub bucket: Bucket,
    /// Reads and writes files through the caches.
    pub files: FileSource,
    pub ids: SharedIds,
    pub log: LogHandle,
    pub store: Arc<dyn LogStore>,
    /// Bytes of files that flushes made: those whose edit was adopted.
    pub flush_bytes: Counter,
    /// Bytes of all files that flushes have uploaded, whatever became of their edits.
    pub flush_bytes_written: Counter,
}

/// Puts everything that is in memory now into files; returns the index up to which rows are in files.
///
/// Does nothing when there are no rows. An error leaves the rows in memory and in the log.
pub async fn flush(with: &Flusher, region: &Arc<Region>) -> Result<u64> {
    let _one_at_a_time = region.files.lock().await;
    let manifest = ManifestStore::new(with.bucket.clone(), region.id());
    loop {
        let (epoch, view) = leading_view(region)?;
        let Some(frozen) = region.freeze() else {
            trim(with, region).await?;
            return Ok(view.flushed_seq);
        };
        let mut uploads = Vec::new();
        let uploaded = upload(with, region, &frozen, (epoch, view.flushed_seq), &mut uploads).await;
        let files = match uploaded {
            Ok(files) => files,
            Err(error) => {
                // No edit was put.
                discard(&with.bucket, region, uploads, Uploads::Void).await;
                return Err(error);
            }
        };
        let bytes = files.iter().map(|f| f.bytes).sum();
        let edit = to_edit(&frozen, files).edit(&view, epoch, with.ids.uuid(), || {
            region.with_state(|s| FlushedState {
                table: s.table().as_ref().clone(),
                requests: s.requests().clone(),
            })
        });
        if Defence::FlushSyncsTheLog.holds() {
            sync_log(with).await?;
        }
        if let Some(view) = known_before_put(&view, &edit)? {
            region.adopt(view)?;
            trim(with, region).await?;
        }
        match manifest.commit(&view, &edit).await? {
            Commit::Adopted(view) => {
                with.flush_bytes.inc_by(bytes);
                region.adopt(view)?;
                trim(with, region).await?;
                return Ok(frozen.sequence);
            }
            Commit::Lost(view) => {
                // The version is known to hold another edit.
                discard(&with.bucket, region, uploads, Uploads::Void).await;
                take_view(region, view)?;
            }
        }
    }
}

fn to_edit(frozen: &Frozen, files: Vec<FileMeta>) -> Flush {
    Flush {
        through: frozen.sequence,
        truncated_seq: frozen.truncated_seq,
        built: FlushedState {
            table: frozen.table.as_ref().clone(),
            requests: frozen.requests.clone(),
        },
        files,
    }
}

/// A manifest must not know rows that the log could still lose: the log would give their sequences to other rows.
async fn sync_log(with: &Flusher) -> Result<()> {
    let store = Arc::clone(&with.store);
    let synced = tokio::task::spawn_blocking(move || store.sync()).await;
    synced
        .map_err(|e| Error::internal(format!("syncing the log panicked: {e}")))?
        .map_err(|e| Error::unavailable(e.to_string()))
}

/// Loads the newest manifest view, after which the region can be read.
pub async fn load_manifest(with: &Flusher, region: &Arc<Region>) -> Result<()> {
    let _one_at_a_time = region.files.lock().await;
    let manifest = ManifestStore::new(with.bucket.clone(), region.id());
    let known = region.with_state(|s| s.view().map_or(s.checkpoint_version(), |view| view.version));
    let view = manifest.load(known).await?;
    take_view(region, view)?;
    trim(with, region).await
}

/// Adopts a view that others may have written, unless it shows that this node cannot go on.
pub(crate) fn take_view(region: &Region, view: View) -> Result<()> {
    if region.with_state(RegionState::follows) {
        return follow_view(region, view);
    }
    let standing = region.with_state(|s| s.leading_epoch().map(|epoch| s.standing(epoch)))?;
    match meet(&view, &standing) {
        Meeting::Adopt => region.adopt(view),
        Meeting::Replaced => {
            let reason = format!(
                "its manifest has epoch {}, this node led in epoch {}",
                view.epoch, standing.epoch
            );
            // Where there are other replicas, this one goes on as one of them.
            match region.with_state(RegionState::is_replicated) {
                true => region.change(RegionState::depose),
                false => region.fail(reason.clone()),
            }
            Err(Error::conflict(format!(
                "region {} has another leader: {reason}",
                region.id()
            )))
        }
        Meeting::LogLostItsEnd => {
            let reason = format!(
                "its files have rows through {}, its log ended before {}",
                view.flushed_seq, standing.term_began
            );
            region.fail(reason.clone());
            Err(Error::corruption(format!(
                "region {} has lost a part of its log: {reason}",
                region.id()
            )))
        }
    }
}

/// Adopts a view that the leader has written, when this replica is far enough.
fn follow_view(region: &Region, view: View) -> Result<()> {
    if !may_follow(&view, region.with_state(RegionState::applied)) {
        return Err(Error::unavailable(format!(
            "the files of region {} are ahead of this replica; retry",
            region.id()
        )));
    }
    region.adopt(view)
}

/// The epoch in which this node leads the region, and the files that it knows.
pub(crate) fn leading_view(region: &Region) -> Result<(u64, Arc<View>)> {
    region.with_state(|state| {
        let epoch = state.leading_epoch()?;
        let view = state.view().cloned();
        let view = view.ok_or_else(|| {
            Error::unavailable(format!(
                "region {} does not know its files yet; retry",
                region.id()
            ))
        })?;
        Ok((epoch, view))
    })
}

/// Trims the log through what the adopted view has in files.
async fn trim(with: &Flusher, region: &Region) -> Result<()> {
    let Some(checkpoint) = region.change(RegionState::next_checkpoint) else {
        return Ok(());
    };
    let bytes = checkpoint.encode()?;
    with.log.trim(region.id(), checkpoint.flushed_seq, bytes).await
}

/// Columns of a file: those of the table that any row has, in the table's order.
fn file_schema(table: &TableInfo, rows: &SortedRows) -> SchemaRef {
    let wanted = |c: &greptime_types::ColumnSchema| c.semantic != Semantic::Field || rows.has_column(c.id);
    engine_schema(&table.schema, wanted, true)
}

/// Uploads the rows above `after`, a file for each window of time that has some. `uploads` gets the names of all
/// uploads that were begun.
async fn upload(
    with: &Flusher,
    region: &Region,
    frozen: &Frozen,
    (epoch, after): (u64, u64),
    uploads: &mut Vec<String>,
) -> Result<Vec<FileMeta>> {
    let key = KeyColumns::of(&frozen.table);
    let versions = match key.newest_row_wins() {
        true => Versions::Newest,
        false => Versions::All,
    };
    let (memtable, table) = (frozen.memtable.clone(), Arc::clone(&frozen.table));
    let sort = move || memtable.sorted_windows(after, &table, versions);
    let windows = tokio::task::spawn_blocking(sort)
        .await
        .map_err(|e| Error::internal(e.to_string()))?;
    let mut files = Vec::new();
    for window in windows {
        let name = format!("{epoch}-{}", with.ids.uuid());
        uploads.push(name.clone());
        let file = FileWriter {
            bucket: &with.bucket,
            region: region.id(),
            epoch,
            name,
            table: &frozen.table,
            key: &key,
            level: 0,
        };
        let schema = file_schema(&frozen.table, &window);
        let mut rows = stream(window, schema);
        if key.merge_mode == MergeMode::LastNonNull {
            rows = dedup(rows, key.clone(), Deletes::Keep);
        }
        let file = with.files.write_file(file, rows).await?;
        with.flush_bytes_written
            .inc_by(file.iter().map(|f| f.bytes).sum());
        files.extend(file);
    }
    Ok(files)
}

/// The memtable's budget covers what is copied here.
fn stream(rows: SortedRows, schema: SchemaRef) -> SendableRecordBatchStream {
    let batches = rows.batches(BATCH_ROWS, Arc::clone(&schema));
    let batches = batches.map(|batch| batch.map_err(greptime_query::into_datafusion));
    Box::pin(RecordBatchStreamAdapter::new(
        schema,
        futures::stream::iter(batches),
    ))
}
