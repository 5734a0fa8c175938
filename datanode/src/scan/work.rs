//! The work of one scan, which several streams take from: parts of what is open of a region, and how each is read.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{FieldRef, Fields, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use greptime_query::{from_datafusion, into_datafusion};
use greptime_types::{Error, Result as OurResult};
use parking_lot::Mutex;

use super::block::{Block, Stretch, holds_for, mask};
use super::filter::TimeRange;
use super::parts::{Ahead, Part, Run, Timed, ends, parts_of};
use super::queue::Queue;
use super::units::Span;
use super::wanted::Wanted;
use super::{Deletes, newest};
use crate::cache::OneOf;
use crate::defences::Defence;
use crate::sst::{Access, ReadMetrics, ReadRequest, Series, SstFile};

/// What is left of a scan.
pub struct Work {
    wanted: Wanted,
    parts: Mutex<Queue<Timed, Ahead>>,
    metrics: Arc<ReadMetrics>,
}

/// Parts that are fetched before their turn, at most.
const AHEAD: usize = 4;

/// The series of a row group.
struct Tags {
    rows: RecordBatch,
    series: Series,
}

/// A row group of which whole columns are read.
struct RowGroup {
    file: Arc<SstFile>,
    number: usize,
    tags: Tags,
    /// Only the last row of each series.
    last: bool,
}

/// A row group of which less than one in so many rows is wanted is read page by page.
const SELECTIVE: usize = 8;
/// So is one of which one in so many rows, or less, is in pages that may have wanted ones.
const FEW_PAGES: usize = 4;

fn is_in_few_pages(access: &Access) -> bool {
    access.left() * FEW_PAGES <= access.rows
}

/// Rows that are wanted, each identity once, deletes gone; filters on rows are not applied.
pub struct Selected {
    pub block: Block,
    /// Ascending and disjoint.
    pub stretches: Vec<Stretch>,
}

/// Rows that may be wanted. If only the newest of each series can matter, their tags and times may be all that was read
/// of them so far.
pub struct Glance {
    rows: Selected,
    rest: Option<Rest>,
    held: Arc<MemoryReservation>,
}

/// From where columns are read that were not yet.
struct Rest {
    work: Arc<Work>,
    group: RowGroup,
}

impl Glance {
    /// Certain to have their tags and times.
    pub fn rows(&self) -> &Selected {
        &self.rows
    }

    /// The same rows with all columns that are wanted.
    pub async fn complete(self) -> Result<Selected> {
        let Self { mut rows, rest, held } = self;
        if let Some(Rest { work, group }) = rest {
            let columns = work.row_group(&group, &work.others()).await;
            rows.block = columns.map_err(into_datafusion)?;
            held.try_resize(rows.block.bytes())?;
        }
        Ok(rows)
    }
}

impl Work {
    pub async fn open(wanted: Wanted, runs: Vec<(Run, Span)>, metrics: Arc<ReadMetrics>) -> OurResult<Self> {
        let parts = parts_of(&runs, &wanted, &metrics).await?;
        let parts = Queue::new(parts.into_iter());
        Ok(Self {
            parts: Mutex::new(parts),
            wanted,
            metrics,
        })
    }

    /// How many parts are fetched before their turn: none as long as everything is near, since to look for it takes longer
    /// than it does.
    fn ahead(&self) -> usize {
        match self.metrics.has_asked_the_store() {
            true => AHEAD,
            false => 0,
        }
    }

    /// Begins to fetch what will be read of a part first.
    fn fetch_ahead(&self, timed: &Timed) -> Option<Ahead> {
        match &timed.part {
            _ if !self.wanted.wants(timed.times) => None,
            Part::RowGroup {
                file, access, last, ..
            } => file.fetch_ahead(access, &self.read_first(access, *last), &self.metrics),
            Part::Memory { .. } | Part::Merge { .. } => None,
        }
    }

    /// The columns of a row group that are read whatever is in them.
    fn read_first(&self, access: &Access, last: bool) -> Fields {
        let all = self.wanted.plain.fields();
        let by_tags = self.wanted.filters.tags.is_some() && !is_in_few_pages(access);
        let is_read = |f: &&FieldRef| match last {
            true => self.is_tag(f) || f.name() == self.time(),
            false => !by_tags || self.is_tag(f),
        };
        all.iter().filter(is_read).cloned().collect()
    }

    /// The rows of one part after the other, until no part is left. What a block takes is counted in `held`.
    pub fn blocks(
        self: &Arc<Self>,
        held: MemoryReservation,
        ctx: Arc<TaskContext>,
    ) -> impl Stream<Item = Result<Selected>> + Send + use<> {
        self.glances(held, ctx).and_then(Glance::complete)
    }

    /// The same for those who may not want all columns of all parts.
    pub fn glances(
        self: &Arc<Self>,
        held: MemoryReservation,
        ctx: Arc<TaskContext>,
    ) -> impl Stream<Item = Result<Glance>> + Send + use<> {
        let work = Arc::clone(self);
        let parts = stream::try_unfold(work, |work| async move {
            let ahead = work.ahead();
            let next = work.parts.lock().take(ahead, |part| work.fetch_ahead(part));
            match next {
                Some((timed, _)) if !work.wanted.wants(timed.times) => {
                    // Nor is what comes after it.
                    work.parts.lock().clear();
                    Ok(None)
                }
                None => Ok(None),
                Some((timed, None)) => Ok(Some((timed.part, work))),
                Some((timed, Some(ahead))) => Ok(Some((timed.part.after(ahead).await?, work))),
            }
        });
        let work = Arc::clone(self);
        let blocks = parts.and_then(move |part| {
            let (work, ctx) = (Arc::clone(&work), Arc::clone(&ctx));
            async move { work.read(part, ctx).await }
        });
        let (metrics, held) = (Arc::clone(&self.metrics), Arc::new(held));
        blocks.try_flatten().map(move |glance| {
            let (rows, rest): Found = glance?;
            let selected = rows.stretches.iter().map(|s| s.rows.len()).sum();
            ReadMetrics::add(&metrics.rows_selected, selected);
            held.try_resize(rows.block.bytes())?;
            let held = Arc::clone(&held);
            Ok(Glance { rows, rest, held })
        })
    }

    async fn read(
        self: Arc<Self>,
        part: Part,
        ctx: Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<Found>>> {
        match part {
            Part::RowGroup {
                file,
                access,
                times,
                last,
            } => {
                let number = access.row_group;
                let few_pages = !last && is_in_few_pages(&access);
                if few_pages && !file.knows_series(number) && !file.are_worth_decoding(number, &self.others())
                {
                    let request = self.request(&self.wanted.plain, &times);
                    return Ok(self.rows_of(&file, access, request, times));
                }
                let tags = self.tags(&file, number).await.map_err(into_datafusion)?;
                if !last {
                    let access = self.of_wanted_series(&tags, access)?;
                    let is_selective = few_pages || access.left() < access.rows / SELECTIVE;
                    if is_selective && !file.are_worth_decoding(number, &self.others()) {
                        let request = self.request_of_times(&self.wanted.plain, &times);
                        return Ok(self.rows_of(&file, access, request, times));
                    }
                }
                let group = RowGroup {
                    file,
                    number,
                    tags,
                    last,
                };
                let found = self.look_at(group, &times).await;
                Ok(stream::iter([found]).boxed())
            }
            Part::Memory { rows, times } => {
                let block = self.block(&rows)?;
                let found = self.select(block, &times).map(whole);
                Ok(stream::iter([found]).boxed())
            }
            Part::Merge { runs, times } => {
                let streams = runs
                    .into_iter()
                    .map(|run| Arc::clone(&self).selected_rows(run, Arc::clone(&times)));
                let schema = &self.wanted.merged;
                let rows = newest(streams.collect(), schema, &self.wanted.key, Deletes::Drop, &ctx)?;
                Ok(rows
                    .map(move |rows| self.select(self.block(&rows?)?, &[TimeRange::ALL]))
                    .map_ok(whole)
                    .boxed())
            }
        }
    }

    /// The rows of a row group: only their times, where it is not known yet whether more of them is wanted.
    async fn look_at(self: &Arc<Self>, group: RowGroup, times: &[TimeRange]) -> Result<Found> {
        let others = self.others();
        let is_looked_at = |f: &&FieldRef| !self.wanted.last_of_series() || f.name() == self.time();
        let first: Fields = others.iter().filter(is_looked_at).cloned().collect();
        let block = self.row_group(&group, &first).await.map_err(into_datafusion)?;
        ReadMetrics::add(&self.metrics.rows, group.tags.series.rows());
        let rest = (first.len() < others.len()).then(|| Rest {
            work: Arc::clone(self),
            group,
        });
        Ok((self.select(block, times)?, rest))
    }

    fn select(&self, block: Block, times: &[TimeRange]) -> Result<Selected> {
        let stretches = block.select(self.wanted.filters.tags.as_ref(), times)?;
        Ok(Selected { block, stretches })
    }

    fn time(&self) -> &str {
        self.wanted.key.columns.last().map_or("", |(name, _)| name)
    }

    /// Rows that have their tags, as far as those are wanted.
    fn block(&self, rows: &RecordBatch) -> Result<Block> {
        let fields = rows.schema();
        let tags = fields.fields().iter().enumerate().filter(|(_, f)| self.is_tag(f));
        Block::from_rows(rows, &tags.map(|(i, _)| i).collect::<Vec<_>>(), self.time())
    }

    /// The wanted tags of a row group, one row for each series, and where the series begin.
    async fn tags(&self, file: &SstFile, number: usize) -> OurResult<Tags> {
        let series = file.series(number, &self.metrics).await?;
        let tags: Fields = self
            .wanted
            .plain
            .fields()
            .iter()
            .filter(|f| self.is_tag(f))
            .cloned()
            .collect();
        let columns = file
            .of_series(number, &series, &tags, OneOf::First, &self.metrics)
            .await?;
        let rows = batch(tags.to_vec(), columns, series.len())?;
        Ok(Tags { rows, series })
    }

    fn is_tag(&self, field: &FieldRef) -> bool {
        self.wanted.key.contains(field.name()) && field.name() != self.time()
    }

    /// Columns that are not tags.
    fn others(&self) -> Fields {
        self.wanted
            .plain
            .fields()
            .iter()
            .filter(|f| !self.is_tag(f))
            .cloned()
            .collect()
    }

    /// Of what is left of a row group, the rows of wanted series.
    fn of_wanted_series(&self, tags: &Tags, access: Access) -> Result<Access> {
        let Some(filter) = &self.wanted.filters.tags else {
            return Ok(access);
        };
        let wanted = holds_for(&tags.rows, filter)?;
        let ranges = tags.series.ranges().zip(wanted.values().iter());
        Ok(access.only(ranges.filter(|(_, wanted)| *wanted).map(|(rows, _)| rows)))
    }

    /// The wanted rows of a row group, read page by page.
    fn rows_of(
        self: &Arc<Self>,
        file: &SstFile,
        access: Access,
        request: ReadRequest,
        times: Arc<[TimeRange]>,
    ) -> BoxStream<'static, Result<Found>> {
        let work = Arc::clone(self);
        let rows = file
            .read(request.with_row_groups(vec![access]))
            .map(move |rows| work.select(work.block(&rows?)?, &times).map(whole));
        rows.boxed()
    }

    /// What has to be read of a file for rows of wanted series and times.
    fn request(&self, schema: &SchemaRef, times: &[TimeRange]) -> ReadRequest {
        let tags = self.wanted.filters.tags.clone();
        let tags = tags.and_then(|tags| reassign_expr_columns(tags, schema).ok());
        let request = self.request_of_times(schema, times).with_predicate(tags);
        match Defence::FieldsPruneOnlyWhereNothingIsNewer.holds() {
            true => request,
            false => request.with_pruning(self.wanted.filters.pruning(schema)),
        }
    }

    /// The same if the series are known to be wanted.
    fn request_of_times(&self, schema: &SchemaRef, times: &[TimeRange]) -> ReadRequest {
        ReadRequest::new(Arc::clone(schema))
            .with_time(ends(times))
            .with_metrics(Arc::clone(&self.metrics))
    }

    /// Columns of a row group that are not tags, with the wanted tags.
    async fn row_group(&self, group: &RowGroup, fields: &Fields) -> OurResult<Block> {
        let RowGroup {
            file,
            number,
            tags: Tags { rows: tags, series },
            last,
        } = group;
        let (columns, starts): (_, Arc<[u32]>) = match last {
            true => {
                let columns = file
                    .of_series(*number, series, fields, OneOf::Last, &self.metrics)
                    .await?;
                (columns, (0..=series.len() as u32).collect())
            }
            false => {
                let columns = file.columns(*number, fields, &self.metrics).await?;
                (columns, Arc::clone(series.starts()))
            }
        };
        let rows = starts.last().map_or(0, |rows| *rows as usize);
        let rows = batch(fields.to_vec(), columns, rows)?;
        Block::new(tags.clone(), starts, rows, self.time()).map_err(|e| from_datafusion(&e))
    }

    /// The wanted rows of one run, for merging: filters that hold for whole identities are applied.
    fn selected_rows(self: Arc<Self>, run: Run, times: Arc<[TimeRange]>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.wanted.merged);
        let work = Arc::clone(&self);
        let rows = match run {
            Run::Memory(rows) => stream::iter([Ok(rows)]).boxed(),
            // What holds for whole identities may be applied before rows are compared.
            Run::File { file, .. } => file.read(work.request(&schema, &times)).boxed(),
        };
        let rows = rows.map(move |rows| {
            let rows = rows?;
            let stretches = self.select(self.block(&rows)?, &times)?.stretches;
            let wanted = mask(rows.num_rows(), stretches.iter().map(|s| &s.rows));
            Ok(filter_record_batch(&rows, &wanted)?)
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

/// Rows, and from where more of them can be read.
type Found = (Selected, Option<Rest>);

/// Rows of which all was read.
fn whole(rows: Selected) -> Found {
    (rows, None)
}

fn batch(fields: Vec<FieldRef>, columns: Vec<ArrayRef>, rows: usize) -> OurResult<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|e| Error::internal(format!("columns of a row group: {e}")))
}
