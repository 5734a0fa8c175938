//! Rows from memory to files: freeze, upload, edit, adopt, trim; each step may be the last one before a crash.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::TaskContext;
use greptime_clock::SharedIds;
use greptime_object_store::Bucket;
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use greptime_types::{Error, Result};
use object_store::ObjectStoreExt;

use super::state::Frozen;
use super::{Region, RegionState};
use crate::log::LogHandle;
use crate::manifest::{Commit, FileMeta, ManifestStore, View};
use crate::memtable::{KeyColumns, align};
use crate::scan::{Deletes, dedup, merge, stream_of};
use crate::schema::marks;
use crate::sst::{FileWriter, key_of, write_file};

/// Rows that are merged at a time.
const BATCH_ROWS: usize = 8192;

/// What flushes are done with.
#[derive(Clone)]
pub struct Flusher {
    pub bucket: Bucket,
    pub ids: SharedIds,
    pub log: LogHandle,
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
        let file = upload(with, region, &frozen, epoch, view.flushed_seq).await?;
        let mut edit = view.edit(
            epoch,
            with.ids.uuid(),
            frozen.table.as_ref().clone(),
            frozen.requests.clone(),
        );
        edit.flushed_seq = frozen.sequence;
        edit.add.extend(file.clone());
        edit.truncate(&view, frozen.truncated_seq);
        match manifest.commit(&view, &edit).await? {
            Commit::Adopted(view) => {
                region.adopt(view)?;
                trim(with, region).await?;
                return Ok(frozen.sequence);
            }
            Commit::Lost(view) => {
                // The version is known to hold another edit, so nothing will ever name this upload.
                discard(with, region, file).await;
                take_view(region, view)?;
            }
        }
    }
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
fn take_view(region: &Region, view: View) -> Result<()> {
    let (epoch, applied) = region.with_state(|s| (s.leading_epoch(), s.applied()));
    let epoch = epoch?;
    if view.epoch > epoch {
        let reason = format!(
            "its manifest has epoch {}, this node led in epoch {epoch}",
            view.epoch
        );
        region.fail(reason.clone());
        return Err(Error::conflict(format!(
            "region {} has another leader: {reason}",
            region.id()
        )));
    }
    if view.flushed_seq > applied {
        // New rows would get sequences that readers take for rows in files.
        let reason = format!(
            "its files have rows through {}, its log ends at {applied}",
            view.flushed_seq
        );
        region.fail(reason.clone());
        return Err(Error::corruption(format!(
            "region {} has lost a part of its log: {reason}",
            region.id()
        )));
    }
    region.adopt(view)
}

fn leading_view(region: &Region) -> Result<(u64, Arc<View>)> {
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
fn file_schema(frozen: &Frozen) -> SchemaRef {
    let present = |name: &str| {
        frozen
            .memtable
            .chunks()
            .iter()
            .any(|c| c.schema().column_with_name(name).is_some())
    };
    let key = KeyColumns::of(&frozen.table);
    let columns = frozen.table.schema.columns.iter();
    let mut fields: Vec<Field> = columns
        .filter(|c| key.contains(&c.name) || present(&c.name))
        .map(|c| Field::new(&c.name, c.column_type.to_arrow(), true).with_metadata(marks(c)))
        .collect();
    fields.push(Field::new(
        SEQUENCE_COLUMN,
        arrow::datatypes::DataType::UInt64,
        true,
    ));
    fields.push(Field::new(OP_COLUMN, arrow::datatypes::DataType::UInt8, true));
    Arc::new(Schema::new(fields))
}

/// Uploads the rows above `after`; `None` if there are none.
async fn upload(
    with: &Flusher,
    region: &Region,
    frozen: &Frozen,
    epoch: u64,
    after: u64,
) -> Result<Option<FileMeta>> {
    let key = KeyColumns::of(&frozen.table);
    let schema = file_schema(frozen);
    let mut runs = Vec::new();
    for chunk in frozen
        .memtable
        .chunks()
        .iter()
        .filter(|c| c.max_sequence() > after)
    {
        let rows = align(&chunk.sorted(&key, after)?, &schema)?;
        runs.push(stream_of(rows, BATCH_ROWS));
    }
    if runs.is_empty() {
        return Ok(None);
    }
    // The memtable's budget covers what is merged here.
    let merged = merge(runs, &schema, &key, &TaskContext::default());
    let mut rows = merged.map_err(|e| greptime_query::from_datafusion(&e))?;
    if !key.append_mode {
        rows = dedup(rows, key.clone(), Deletes::Keep);
    }
    let file = FileWriter {
        bucket: &with.bucket,
        region: region.id(),
        epoch,
        name: format!("{epoch}-{}", with.ids.uuid()),
        table: &frozen.table,
        key: &key,
        level: 0,
    };
    write_file(file, rows).await
}

/// Deletes an upload that no edit names; a failure leaves an orphan for the collector.
async fn discard(with: &Flusher, region: &Region, file: Option<FileMeta>) {
    let Some(file) = file else { return };
    let key = key_of(&with.bucket, file.home, &file.name);
    if let Err(error) = with.bucket.store.delete(&key).await {
        tracing::warn!(region = %region.id(), file = %key, %error, "an abandoned upload could not be deleted");
    }
}
