//! Which parts of a file can have wanted rows.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::datasource::physical_plan::parquet::{
    BloomFilterStatistics, PagePruningAccessPlanFilter, ParquetAccessPlan, ParquetFileMetrics,
    RowGroupAccess, RowGroupAccessPlanFilter,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use greptime_types::{Error, Result};
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::bloom_filter::Sbbf;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;

use super::footer::Footer;
use super::{ReadMetrics, ReadRequest, SstFile};

/// A row group to read, and what of it.
#[derive(Clone, Debug)]
pub struct Access {
    pub row_group: usize,
    /// All that it has.
    pub rows: usize,
    /// Rows whose pages may have wanted ones; `None`: all.
    pub(super) selection: Option<RowSelection>,
    /// All rows are of the wanted time.
    pub(super) within_time: bool,
}

impl Access {
    /// Rows in pages that may have wanted ones.
    pub fn left(&self) -> usize {
        self.selection.as_ref().map_or(self.rows, RowSelection::row_count)
    }

    /// Of what is left, only these rows, which are ascending.
    #[must_use]
    pub fn only(self, rows: impl Iterator<Item = Range<usize>>) -> Self {
        let rows = RowSelection::from_consecutive_ranges(rows, self.rows);
        let left = match &self.selection {
            Some(selection) => selection.intersection(&rows),
            None => rows,
        };
        Self {
            selection: Some(left).filter(|left| left.skipped_row_count() > 0),
            ..self
        }
    }
}

/// A predicate compiled for files with the same columns.
#[derive(Debug)]
struct Pruner {
    view: SchemaRef,
    row_groups: Option<PruningPredicate>,
    pages: PagePruningAccessPlanFilter,
    /// The library counts here; nobody reads it.
    metrics: ParquetFileMetrics,
}

/// Compiled once per kind of file, and shared by the clones of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Pruners(Arc<Mutex<Vec<Arc<Pruner>>>>);

impl Pruners {
    fn of(&self, footer: &Footer, wanted: &SchemaRef, expr: &Arc<dyn PhysicalExpr>) -> Option<Arc<Pruner>> {
        let view = view_of(footer, wanted, expr);
        let mut known = self.0.lock();
        if let Some(pruner) = known.iter().find(|p| p.view == view) {
            return Some(Arc::clone(pruner));
        }
        // An expression that cannot be compiled prunes nothing.
        let expr = reassign_expr_columns(Arc::clone(expr), &view).ok()?;
        let compiled = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(&view))
            .try_build(Arc::clone(&expr))
            .ok();
        let pruner = Arc::new(Pruner {
            row_groups: compiled.filter(|p| !p.always_true()),
            pages: PagePruningAccessPlanFilter::new(&expr, Arc::clone(&view)),
            metrics: ParquetFileMetrics::new(0, "", &ExecutionPlanMetricsSet::new()),
            view,
        });
        known.push(Arc::clone(&pruner));
        Some(pruner)
    }
}

/// The file's columns under the names that the predicate knows. A column that the file does not have, or has with
/// another type, or of which its minima and maxima do not say all, comes after them: nothing is known of its values.
fn view_of(footer: &Footer, wanted: &SchemaRef, expr: &Arc<dyn PhysicalExpr>) -> SchemaRef {
    let hidden = |i: usize| {
        Field::new(
            format!("\0{i}"),
            footer.columns[i].field.data_type().clone(),
            true,
        )
    };
    let mut fields: Vec<FieldRef> = (0..footer.columns.len()).map(|i| Arc::new(hidden(i))).collect();
    for column in collect_columns(expr) {
        let Ok(field) = wanted.field_with_name(column.name()) else {
            continue;
        };
        let plain = Field::new(field.name(), field.data_type().clone(), true);
        match footer.find(field) {
            Some(i) if footer.columns[i].field.data_type() == field.data_type() && footer.says_all_of(i) => {
                fields[i] = Arc::new(plain)
            }
            _ => fields.push(Arc::new(plain)),
        }
    }
    Arc::new(Schema::new(fields))
}

/// What is to be read, in the order of the file. It is counted.
pub(super) async fn plan(file: &SstFile, request: &ReadRequest) -> Result<Vec<Access>> {
    let footer = &file.footer;
    let groups = footer.metadata().row_groups();
    let metrics = &request.metrics;
    let mut access = ParquetAccessPlan::new_all(groups.len());
    ReadMetrics::add(&metrics.row_groups, groups.len());
    let time = request.time.filter(|_| request.time_is_of(footer));
    if let Some(time) = time {
        let before = access.row_group_indexes();
        for &i in &before {
            if time_of(&groups[i], footer).is_some_and(|(min, max)| max < time.0 || min > time.1) {
                access.skip(i);
            }
        }
        let pruned = before.len() - access.row_group_indexes().len();
        ReadMetrics::add(&metrics.row_groups_pruned_by_time, pruned);
    }
    for (expr, pruners) in request.prunes_by() {
        if let Some(pruner) = pruners.of(footer, &request.schema, expr) {
            // That all rows pass the one is no reason not to look for those that pass the other.
            let left = ParquetAccessPlan::new(access.into_inner());
            access = prune(file, request, &pruner, left).await?;
        }
    }
    let groups_of_time = |i: usize| time_of(&groups[i], footer);
    let mut plan = Vec::new();
    for (row_group, group) in access.into_inner().into_iter().enumerate() {
        let mut selection = match group {
            RowGroupAccess::Skip => continue,
            RowGroupAccess::Scan => None,
            RowGroupAccess::Selection(rows) => Some(rows),
        };
        let within =
            |t: (i64, i64)| groups_of_time(row_group).is_some_and(|(min, max)| t.0 <= min && max <= t.1);
        let within_time = request.time.is_none() || time.is_some_and(within);
        if !within_time
            && let Some(time) = time
            && let Some(rows) = pages_of_time(footer, row_group, time)
        {
            selection = Some(match selection {
                Some(others) => others.intersection(&rows),
                None => rows,
            });
        }
        if selection.as_ref().is_some_and(|s| !s.selects_any()) {
            ReadMetrics::add(&metrics.row_groups_pruned_by_pages, 1);
            count_rows(file, request, row_group, selection.as_ref());
            continue;
        }
        plan.push(Access {
            row_group,
            rows: groups[row_group].num_rows() as usize,
            selection: selection.filter(|s| s.skipped_row_count() > 0),
            within_time,
        });
    }
    Ok(plan)
}

/// By minima and maxima, then by bloom filters of what is left, then by pages.
async fn prune(
    file: &SstFile,
    request: &ReadRequest,
    pruner: &Pruner,
    access: ParquetAccessPlan,
) -> Result<ParquetAccessPlan> {
    let metadata = file.footer.metadata();
    let descriptor = metadata.file_metadata().schema_descr();
    let groups = metadata.row_groups();
    let mut filter = RowGroupAccessPlanFilter::new(access);
    if let Some(predicate) = &pruner.row_groups {
        let before = filter.remaining_row_group_count();
        filter.prune_by_statistics(&pruner.view, descriptor, groups, predicate, &pruner.metrics);
        let left = filter.remaining_row_group_count();
        ReadMetrics::add(&request.metrics.row_groups_pruned_by_statistics, before - left);
        let filters = bloom_filters(file, request, pruner, predicate, &filter).await?;
        if let Some(filters) = filters {
            filter.prune_by_bloom_filters(predicate, &pruner.metrics, &filters);
            let pruned = left - filter.remaining_row_group_count();
            ReadMetrics::add(&request.metrics.row_groups_pruned_by_bloom_filter, pruned);
        }
    }
    Ok(pruner.pages.prune_plan_with_page_index(
        filter.build(),
        &pruner.view,
        descriptor,
        metadata,
        &pruner.metrics,
    ))
}

/// Of every row group, the filters that the predicate can use; `None` if the file has none of them.
async fn bloom_filters(
    file: &SstFile,
    request: &ReadRequest,
    pruner: &Pruner,
    predicate: &PruningPredicate,
    left: &RowGroupAccessPlanFilter,
) -> Result<Option<Vec<BloomFilterStatistics>>> {
    let metadata = file.footer.metadata();
    let groups = metadata.row_groups();
    let mut wanted = Vec::new();
    for name in predicate.literal_columns() {
        let Ok(column) = pruner.view.index_of(&name) else {
            continue;
        };
        for i in left.row_group_indexes() {
            let chunk = groups[i].columns().get(column);
            let place = chunk.and_then(|c| Some((c.bloom_filter_offset()?, c.bloom_filter_length()?)));
            if let Some((offset, length)) = place {
                wanted.push((
                    i,
                    column,
                    name.clone(),
                    offset as u64..offset as u64 + length as u64,
                ));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(None);
    }
    let ranges: Vec<_> = wanted.iter().map(|(.., range)| range.clone()).collect();
    let bytes = file.bytes_of(&ranges, request.keep, &request.metrics).await?;
    let mut filters = vec![BloomFilterStatistics::new(); groups.len()];
    for ((row_group, column, name, _), bytes) in wanted.into_iter().zip(bytes) {
        let filter = Sbbf::from_bytes(&bytes)
            .map_err(|e| Error::corruption(format!("{}: bloom filter of `{name}`: {e}", file.name)))?;
        let descriptor = metadata.file_metadata().schema_descr().column(column);
        filters[row_group].insert(name, filter, descriptor.physical_type(), descriptor.type_length());
    }
    Ok(Some(filters))
}

/// First and last time of a row group, in the file's unit.
pub(super) fn time_of(group: &RowGroupMetaData, footer: &Footer) -> Option<(i64, i64)> {
    match group.column(footer.time?).statistics()? {
        Statistics::Int64(range) => Some((*range.min_opt()?, *range.max_opt()?)),
        _ => None,
    }
}

/// The rows of a row group whose pages have rows of the time.
fn pages_of_time(footer: &Footer, row_group: usize, time: (i64, i64)) -> Option<RowSelection> {
    let column = footer.time?;
    let metadata = footer.metadata();
    let ColumnIndexMetaData::INT64(index) = metadata.column_index()?.get(row_group)?.get(column)? else {
        return None;
    };
    let locations = &metadata
        .offset_index()?
        .get(row_group)?
        .get(column)?
        .page_locations;
    let rows = metadata.row_group(row_group).num_rows();
    let page = |i: usize| {
        let end = locations.get(i + 1).map_or(rows, |next| next.first_row_index);
        let count = (end - locations[i].first_row_index) as usize;
        let outside = match (index.min_value(i), index.max_value(i)) {
            (Some(min), Some(max)) => *max < time.0 || *min > time.1,
            _ => false,
        };
        if outside {
            RowSelector::skip(count)
        } else {
            RowSelector::select(count)
        }
    };
    Some((0..locations.len()).map(page).collect())
}

/// Counts the rows of a row group, and its pages, as read or pruned.
pub(super) fn count_rows(
    file: &SstFile,
    request: &ReadRequest,
    row_group: usize,
    selection: Option<&RowSelection>,
) {
    let (metadata, metrics) = (file.footer.metadata(), &request.metrics);
    let rows = metadata.row_group(row_group).num_rows() as usize;
    ReadMetrics::add(&metrics.rows, rows);
    ReadMetrics::add(
        &metrics.rows_pruned,
        selection.map_or(0, |s| rows - s.row_count()),
    );
    let Some(index) = metadata.offset_index().and_then(|i| i.get(row_group)) else {
        return;
    };
    for field in request.schema.fields() {
        let Some(pages) = file.footer.find(field).and_then(|column| index.get(column)) else {
            continue;
        };
        let all = pages.page_locations.len();
        ReadMetrics::add(&metrics.pages, all);
        let read = selection.map_or(all, |s| s.scan_ranges(&pages.page_locations).len());
        ReadMetrics::add(&metrics.pages_pruned, all - read);
    }
}
