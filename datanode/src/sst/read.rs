//! Reading files: batches of the engine, pruned, filtered and sorted as in the file.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::Result as DfResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use greptime_query::into_datafusion;
use greptime_types::{Error, Result};

use super::decode::RowGroupReader;
use super::filter::Filter;
use super::footer::{FileColumn, Footer};
use super::prune::{Access, Pruners, count_rows, plan};
use super::{ReadMetrics, SstFile};

/// Rows of a batch, unless the request says otherwise.
const BATCH_ROWS: usize = 8192;

/// What to read of a file; cheap to clone, and made once for all files of a query.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Columns of the engine; found by their id, or by name if they have none.
    pub schema: SchemaRef,
    /// Over `schema`. Rows that do not pass are not given out.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// Over `schema`. Row groups and pages that cannot have a row that passes are not read; of others, rows are given
    /// out whether they pass or not.
    pub pruning: Option<Arc<dyn PhysicalExpr>>,
    /// First and last wanted time, in the unit of the time index. Other rows are not given out.
    pub time: Option<(i64, i64)>,
    /// What is left of the file, if that is known.
    pub planned: Option<Vec<Access>>,
    /// The most rows of a batch.
    pub batch_rows: usize,
    /// Whether what was read is worth keeping in the caches; not so for a compaction.
    pub keep: bool,
    pub metrics: Arc<ReadMetrics>,
    /// Of `predicate` and `pruning`.
    pub(super) pruners: [Pruners; 2],
}

impl ReadRequest {
    /// All rows with these columns.
    pub fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            predicate: None,
            pruning: None,
            time: None,
            planned: None,
            batch_rows: BATCH_ROWS,
            keep: true,
            metrics: Arc::default(),
            pruners: Default::default(),
        }
    }

    #[must_use]
    pub fn with_predicate(self, predicate: Option<Arc<dyn PhysicalExpr>>) -> Self {
        let pruners = Default::default();
        Self {
            predicate,
            pruners,
            ..self
        }
    }

    #[must_use]
    pub fn with_pruning(self, pruning: Option<Arc<dyn PhysicalExpr>>) -> Self {
        let pruners = Default::default();
        Self {
            pruning,
            pruners,
            ..self
        }
    }

    #[must_use]
    pub fn with_time(self, time: Option<(i64, i64)>) -> Self {
        Self { time, ..self }
    }

    #[must_use]
    pub fn with_metrics(self, metrics: Arc<ReadMetrics>) -> Self {
        Self { metrics, ..self }
    }

    /// With what [`SstFile::row_groups`] has found for a request with the same columns, predicates and time, or a part
    /// of it. It is not looked for again.
    #[must_use]
    pub fn with_row_groups(self, planned: Vec<Access>) -> Self {
        let planned = Some(planned);
        Self { planned, ..self }
    }

    /// What rows have to pass if they are not to be left out unread, each with its compiled form: one that cannot be
    /// compiled does not keep the other from pruning.
    pub(super) fn prunes_by(&self) -> impl Iterator<Item = (&Arc<dyn PhysicalExpr>, &Pruners)> {
        let both = [&self.predicate, &self.pruning];
        both.into_iter()
            .zip(&self.pruners)
            .filter_map(|(expr, pruners)| Some((expr.as_ref()?, pruners)))
    }

    /// Whether the file keeps times in the unit of the request.
    pub(super) fn time_is_of(&self, footer: &Footer) -> bool {
        let Some(column) = footer.time.map(|i| &footer.columns[i]) else {
            return false;
        };
        let same_id = |f: &&FieldRef| footer.find(f) == footer.time;
        let asked = self.schema.fields().iter().find(same_id);
        asked.is_none_or(|f| f.data_type() == column.field.data_type())
    }
}

impl SstFile {
    /// The table when the file was written.
    pub fn table(&self) -> &greptime_types::TableInfo {
        &self.footer.table
    }

    /// The row groups that are left when the request has pruned them, in the order of the file.
    pub async fn row_groups(&self, request: &ReadRequest) -> Result<Vec<Access>> {
        plan(self, request).await
    }

    /// The wanted rows, sorted as in the file. While a row group is decoded the next one is fetched. Dropping the
    /// stream ends all work.
    pub fn read(&self, request: ReadRequest) -> SendableRecordBatchStream {
        let schema = Arc::clone(&request.schema);
        let reading = Reading {
            file: self.clone(),
            request: Arc::new(request),
            state: None,
        };
        let stream = futures::stream::try_unfold(reading, |mut reading| async move {
            let batch = reading.next().await?;
            Ok(batch.map(|batch| (batch, reading)))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, stream.into_stream()))
    }
}

/// A stream of one file.
struct Reading {
    file: SstFile,
    request: Arc<ReadRequest>,
    state: Option<Progress>,
}

/// Where a stream is, once it has pruned.
struct Progress {
    work: Arc<Work>,
    left: VecDeque<Access>,
    /// The row group after the current one, under way.
    ahead: Option<SpawnedTask<DfResult<RowGroupReader>>>,
    current: Option<RowGroupReader>,
}

impl Reading {
    async fn next(&mut self) -> DfResult<Option<RecordBatch>> {
        if self.state.is_none() {
            let left = match &self.request.planned {
                Some(planned) => planned.clone(),
                None => plan(&self.file, &self.request).await.map_err(into_datafusion)?,
            };
            for access in &left {
                count_rows(
                    &self.file,
                    &self.request,
                    access.row_group,
                    access.selection.as_ref(),
                );
            }
            let work = Work::new(self.file.clone(), Arc::clone(&self.request))?;
            self.state = Some(Progress {
                work: Arc::new(work),
                left: left.into(),
                ahead: None,
                current: None,
            });
        }
        let Some(progress) = &mut self.state else {
            return Ok(None);
        };
        loop {
            if let Some(current) = &mut progress.current {
                if let Some(batch) = current.next(&progress.work).await? {
                    ReadMetrics::add(&self.request.metrics.rows_returned, batch.num_rows());
                    return Ok(Some(batch));
                }
                progress.current = None;
            }
            if !progress.advance().await? {
                return Ok(None);
            }
        }
    }
}

impl Progress {
    /// Goes to the next row group, and starts to fetch the one after it.
    async fn advance(&mut self) -> DfResult<bool> {
        let next = match (self.ahead.take(), self.left.pop_front()) {
            (Some(task), following) => {
                let reader = read_ahead(task).await??;
                (reader, following)
            }
            (None, Some(first)) => {
                let reader = RowGroupReader::open(&self.work, first).await?;
                (reader, self.left.pop_front())
            }
            (None, None) => return Ok(false),
        };
        let (reader, following) = next;
        self.current = Some(reader);
        if let Some(access) = following {
            let work = Arc::clone(&self.work);
            self.ahead = Some(SpawnedTask::spawn(async move {
                RowGroupReader::open(&work, access).await
            }));
        }
        Ok(true)
    }
}

/// What a task has read ahead.
pub async fn read_ahead<T: Send + 'static>(task: SpawnedTask<T>) -> DfResult<T> {
    let read = task.join_unwind().await;
    read.map_err(|e| into_datafusion(Error::unavailable(format!("reading ahead was cancelled: {e}"))))
}

/// What all row groups of a stream have in common.
pub(super) struct Work {
    pub file: SstFile,
    pub request: Arc<ReadRequest>,
    /// The wanted columns, and after them the time if only the filter needs it.
    pub schema: SchemaRef,
    pub filter: Filter,
}

impl Work {
    fn new(file: SstFile, request: Arc<ReadRequest>) -> DfResult<Self> {
        let mut fields: Vec<FieldRef> = request.schema.fields().to_vec();
        let mut time = None;
        if request.time.is_some() {
            let column = file.footer.time.ok_or_else(|| {
                into_datafusion(Error::corruption(format!(
                    "{}: it has no column of time",
                    file.name
                )))
            })?;
            let known = fields.iter().position(|f| file.footer.find(f) == Some(column));
            time = Some(known.unwrap_or(fields.len()));
            if known.is_none() {
                let FileColumn { id, field } = &file.footer.columns[column];
                fields.push(super::footer::with_id(field, *id));
            }
        }
        let schema = Arc::new(Schema::new(fields));
        let filter = Filter::new(&schema, request.predicate.as_ref(), request.time.zip(time))?;
        Ok(Self {
            file,
            request,
            schema,
            filter,
        })
    }
}
