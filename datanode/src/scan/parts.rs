//! What is open of a region, cut into parts that are read on their own.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::Result;
use datafusion::physical_expr::utils::reassign_expr_columns;
use futures::future::try_join_all;
use greptime_query::{from_datafusion, into_datafusion};
use greptime_types::Result as OurResult;

use super::filter::TimeRange;
use super::units::{Span, Unit, units};
use super::wanted::Wanted;
use crate::sst::{Access, ReadMetrics, ReadRequest, SstFile, read_ahead};

/// Files that are opened side by side.
pub const AT_ONCE: usize = 16;

/// Sorted rows.
#[derive(Clone)]
pub enum Run {
    /// Of a file, which has no identity twice.
    File {
        file: Arc<SstFile>,
        /// Whether some of its rows are deletes.
        deletes: bool,
    },
    /// In memory, in the schema for merging.
    Memory(RecordBatch),
}

/// What is read on its own.
pub enum Part {
    RowGroup {
        file: Arc<SstFile>,
        access: Access,
        times: Arc<[TimeRange]>,
        /// Only the last row of each series.
        last: bool,
    },
    Memory {
        rows: RecordBatch,
        times: Arc<[TimeRange]>,
    },
    Merge {
        runs: Vec<Run>,
        times: Arc<[TimeRange]>,
    },
}

/// A part, and times between which all of its rows lie.
pub struct Timed {
    pub part: Part,
    pub times: Span,
}

/// The file of a part, when what will be read of it first was fetched.
pub type Ahead = SpawnedTask<OurResult<SstFile>>;

impl Part {
    /// With what was fetched of its file, when it is there.
    pub async fn after(mut self, ahead: Ahead) -> Result<Self> {
        let fetched = read_ahead(ahead).await?.map_err(into_datafusion)?;
        if let Self::RowGroup { file, .. } = &mut self {
            *file = Arc::new(fetched);
        }
        Ok(self)
    }
}

/// All parts of the runs, what matters most first.
pub async fn parts_of(
    runs: &[(Run, Span)],
    wanted: &Wanted,
    metrics: &Arc<ReadMetrics>,
) -> OurResult<Vec<Timed>> {
    let spans: Vec<Span> = runs.iter().map(|(_, span)| *span).collect();
    let mut found = units(&spans, wanted.filters.time, wanted.key.append_mode);
    wanted.sort(&mut found);
    let mut parts = Vec::new();
    for some in found.chunks(AT_ONCE) {
        let cut = some.iter().map(|unit| parts_of_unit(unit, runs, wanted, metrics));
        parts.extend(try_join_all(cut).await?.into_iter().flatten());
    }
    Ok(parts)
}

async fn parts_of_unit(
    unit: &Unit,
    runs: &[(Run, Span)],
    wanted: &Wanted,
    metrics: &Arc<ReadMetrics>,
) -> OurResult<Vec<Timed>> {
    let (min_time, max_time) = ends(&unit.times).unwrap_or((i64::MIN, i64::MAX));
    let span = Span { min_time, max_time };
    let parts = plain_parts(unit, runs, wanted, metrics).await?.into_iter();
    Ok(parts.map(|part| Timed { part, times: span }).collect())
}

async fn plain_parts(
    unit: &Unit,
    runs: &[(Run, Span)],
    wanted: &Wanted,
    metrics: &Arc<ReadMetrics>,
) -> OurResult<Vec<Part>> {
    let times: Arc<[TimeRange]> = unit.times.as_slice().into();
    let [only] = unit.spans.as_slice() else {
        let runs = unit.spans.iter().map(|i| runs[*i].0.clone()).collect();
        return Ok(vec![Part::Merge { runs, times }]);
    };
    let append = wanted.key.append_mode;
    Ok(match &runs[*only].0 {
        Run::Memory(rows) if append => vec![Part::Memory {
            rows: rows.clone(),
            times,
        }],
        Run::File { file, deletes } if append || !deletes => {
            let span = runs[*only].1;
            // Then the last row of a series in the file is also its last wanted one.
            let whole = matches!(&*times, [all] if all.contains(span.min_time, span.max_time));
            let last = whole && wanted.last_of_series();
            let part = |access| Part::RowGroup {
                file: Arc::clone(file),
                access,
                times: Arc::clone(&times),
                last,
            };
            row_groups(file, wanted, &times, metrics)
                .await?
                .into_iter()
                .map(part)
                .collect()
        }
        // It may have identities twice, or deletes.
        run => vec![Part::Merge {
            runs: vec![run.clone()],
            times,
        }],
    })
}

/// The row groups that may have wanted rows, of a file that is read as it is. Only there may filters on fields leave
/// any out: elsewhere these could have the newer row of one that passes.
async fn row_groups(
    file: &SstFile,
    wanted: &Wanted,
    times: &[TimeRange],
    metrics: &Arc<ReadMetrics>,
) -> OurResult<Vec<Access>> {
    let tags = wanted.filters.tags.clone();
    let tags = tags
        .map(|tags| reassign_expr_columns(tags, &wanted.plain))
        .transpose();
    let request = ReadRequest::new(Arc::clone(&wanted.plain))
        .with_predicate(tags.map_err(|e| from_datafusion(&e))?)
        .with_pruning(wanted.pruning())
        .with_time(ends(times))
        .with_metrics(Arc::clone(metrics));
    file.row_groups(&request).await
}

/// The first and the last of times that are ascending.
pub fn ends(times: &[TimeRange]) -> Option<(i64, i64)> {
    let (first, last) = times.first().zip(times.last())?;
    Some((first.from, last.to))
}
