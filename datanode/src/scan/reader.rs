//! One region, opened for one scan.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use futures::future::try_join_all;
use greptime_query::{from_datafusion, into_datafusion};
use greptime_types::{Error, ErrorKind, Result as OurResult, TableInfo, Ttl};
use tokio::time::Instant;

use super::block::holds_for;
use super::filter::{Filters, TimeRange};
use super::parts::{AT_ONCE, Run};
use super::plan::read_schema;
use super::units::Span;
use super::wanted::{Interest, Wanted};
use super::work::Work;
use crate::defences::Defence;
use crate::manifest::FileMeta;
use crate::memtable::{Selection, SeriesFilter};
use crate::region::{Region, Snapshot};
use crate::sst::{FileSource, ReadMetrics};

/// Of a file that is no longer there: how often a newer manifest view is tried.
const ATTEMPTS: usize = 3;

/// Loads the newest manifest of a region.
#[async_trait]
pub trait ReloadManifest: Send + Sync + fmt::Debug {
    async fn reload(&self, region: &Arc<Region>) -> OurResult<()>;
}

/// How a region is read.
#[derive(Debug)]
pub struct RegionReader {
    pub region: Arc<Region>,
    pub files: FileSource,
    pub manifest: Arc<dyn ReloadManifest>,
    /// The region's table when the scan was made.
    pub table: Arc<TableInfo>,
    /// By the wall clock when the scan was made, in milliseconds since 1970: what has lived its time is not shown.
    pub now_ms: i64,
    /// Streams that read side by side.
    pub streams: usize,
    pub metrics: Arc<ReadMetrics>,
}

impl RegionReader {
    pub fn streams(&self) -> usize {
        self.streams
    }

    /// The first and the last time of the wanted ones that may have rows.
    pub fn span(&self, wanted: TimeRange) -> Result<Option<Span>> {
        let snapshot = self.region.snapshot().map_err(into_datafusion)?;
        let wanted = wanted.and(self.alive(&snapshot));
        let mut spans = Vec::new();
        let flushed = snapshot.view.flushed_seq;
        let memory = snapshot.memory.iter().filter_map(|m| m.span(flushed));
        spans.extend(memory.map(|(min_time, max_time)| Span { min_time, max_time }));
        spans.extend(snapshot.view.files.values().map(|f| Span {
            min_time: f.min_time,
            max_time: f.max_time,
        }));
        let wanted = spans
            .iter()
            .filter(|s| wanted.overlaps(s.min_time, s.max_time))
            .map(|s| Span {
                min_time: s.min_time.max(wanted.from),
                max_time: s.max_time.min(wanted.to),
            });
        Ok(wanted.reduce(|a, b| Span {
            min_time: a.min_time.min(b.min_time),
            max_time: a.max_time.max(b.max_time),
        }))
    }

    /// Files and rows of one moment, cut into parts. All files are opened before a row is read, so that a file that is missing shows while a newer
    /// view can still be tried.
    pub async fn open(
        &self,
        columns: &BTreeSet<String>,
        filters: &Filters,
        interest: Interest,
    ) -> Result<Arc<Work>> {
        let started = Instant::now();
        let names: BTreeSet<&str> = columns.iter().map(String::as_str).collect();
        for _ in 0..ATTEMPTS {
            let snapshot = self.region.snapshot().map_err(into_datafusion)?;
            let is_altered = snapshot.table.schema.writes_from > self.table.schema.version;
            if is_altered && Defence::ChangeUnderAQueryIsSeen.holds() {
                return Err(into_datafusion(Error::conflict(format!(
                    "columns of table {} were changed while the query was planned; plan it again",
                    snapshot.table.full_name()
                ))));
            }
            let mut filters = filters.clone();
            filters.time = filters.time.and(self.alive(&snapshot));
            let wanted = Wanted {
                plain: read_schema(&snapshot.table.schema, &names, false),
                merged: read_schema(&snapshot.table.schema, &names, true),
                filters,
                key: snapshot.key.clone(),
                interest: interest.clone(),
            };
            match self.runs(&snapshot, &wanted).await {
                Ok(runs) => {
                    let work = Work::open(wanted, runs, Arc::clone(&self.metrics)).await;
                    ReadMetrics::add(&self.metrics.opening_nanos, started.elapsed().as_nanos() as usize);
                    return work.map(Arc::new).map_err(into_datafusion);
                }
                Err(error)
                    if error.kind == ErrorKind::NotFound && Defence::MissingFileIsLookedForAnew.holds() =>
                {
                    self.manifest
                        .reload(&self.region)
                        .await
                        .map_err(into_datafusion)?;
                }
                Err(error) => return Err(into_datafusion(error)),
            }
        }
        Err(into_datafusion(Error::corruption(format!(
            "files that the manifest of region {} names are not there",
            self.region.id()
        ))))
    }

    /// The times of rows that have not lived their time.
    fn alive(&self, snapshot: &Snapshot) -> TimeRange {
        if snapshot.table.ttl() == Ttl::Instant {
            return TimeRange::NONE;
        }
        let unit = snapshot.table.schema.time_unit();
        let cutoff = snapshot.table.ttl().cutoff(self.now_ms, unit);
        let cutoff = cutoff.filter(|_| Defence::ExpiredRowsAreHidden.holds());
        TimeRange {
            from: cutoff.unwrap_or(i64::MIN),
            to: i64::MAX,
        }
    }

    /// What has rows in the wanted times.
    async fn runs(&self, snapshot: &Snapshot, wanted: &Wanted) -> OurResult<Vec<(Run, Span)>> {
        let mut runs = Vec::new();
        for (rows, span) in memory_runs(snapshot, wanted)? {
            ReadMetrics::add(&self.metrics.rows_in_memory, rows.num_rows());
            runs.push((Run::Memory(rows), span));
        }
        let times = wanted.filters.time;
        let files = snapshot.view.files.values();
        let (found, pruned): (Vec<_>, Vec<_>) = files.partition(|f| times.overlaps(f.min_time, f.max_time));
        ReadMetrics::add(&self.metrics.files_pruned, pruned.len());
        for some in found.chunks(AT_ONCE) {
            let opened = try_join_all(some.iter().map(|file| self.run_of(file))).await?;
            runs.extend(opened.into_iter().flatten());
        }
        Ok(runs)
    }

    async fn run_of(&self, file: &FileMeta) -> OurResult<Option<(Run, Span)>> {
        let open = match self.files.open(file, &self.metrics).await {
            Err(e) if e.kind == ErrorKind::NotFound && !Defence::MissingFileIsAnError.holds() => {
                return Ok(None);
            }
            open => open?,
        };
        let span = Span {
            min_time: file.min_time,
            max_time: file.max_time,
        };
        let run = Run::File {
            file: Arc::new(open),
            deletes: file.deletes > 0,
        };
        Ok(Some((run, span)))
    }
}

/// Sorted rows in memory that no file of the view has, and their times.
fn memory_runs(snapshot: &Snapshot, wanted: &Wanted) -> OurResult<Vec<(RecordBatch, Span)>> {
    let flushed = snapshot.view.in_files();
    let tags = wanted.filters.tags.as_ref();
    let holds = |series: &RecordBatch| match tags {
        Some(filter) => holds_for(series, filter).map_err(|e| from_datafusion(&e)),
        None => Err(Error::internal("no filter on tags")),
    };
    // The row that a delete hides may be the latest of its series.
    let has_deletes = || snapshot.memory.iter().any(|memory| memory.has_deletes(flushed));
    let selection = Selection {
        times: wanted.filters.time.from..=wanted.filters.time.to,
        series: tags.map(|filter| SeriesFilter {
            tags: fields_of(filter, &wanted.merged),
            holds: &holds,
        }),
        latest: wanted.last_of_series() && !(has_deletes() && Defence::DeletesHideTheLatest.holds()),
    };
    let mut runs = Vec::new();
    for memory in &snapshot.memory {
        let found = memory.runs(flushed, &wanted.merged, &snapshot.table, &selection)?;
        runs.extend(
            found
                .into_iter()
                .map(|(rows, (min_time, max_time))| (rows, Span { min_time, max_time })),
        );
    }
    Ok(runs)
}

/// The fields of `schema` that an expression looks at.
fn fields_of(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> SchemaRef {
    let names = collect_columns(expr);
    let fields = schema.fields().iter();
    let fields = fields.filter(|field| names.iter().any(|c| c.name() == field.name()));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}
