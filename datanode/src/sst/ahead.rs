//! Parts of a file that are fetched before their turn.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::Fields;
use datafusion::common::runtime::SpawnedTask;
use greptime_types::Result;

use super::{Access, ReadMetrics, SstFile};

/// A row group of which more is missing waits for its turn: the memory for it is in no budget.
const MOST_BYTES: u64 = 4 << 20;

impl SstFile {
    /// Begins to fetch what is not near of columns of a row group; the file that comes of it has that at hand. `None` if
    /// nothing is missing, or too much. Dropping the task ends it.
    pub fn fetch_ahead(
        &self,
        access: &Access,
        fields: &Fields,
        metrics: &Arc<ReadMetrics>,
    ) -> Option<SpawnedTask<Result<Self>>> {
        let missing = self.missing(access, fields);
        let all = self.footer.layout.segments();
        let length = |&position: &usize| all[position].range.end - all[position].range.start;
        let bytes: u64 = missing.iter().map(length).sum();
        if bytes == 0 || bytes > MOST_BYTES {
            return None;
        }
        let (mut file, metrics) = (self.clone(), Arc::clone(metrics));
        Some(SpawnedTask::spawn(async move {
            file.ahead = file.segments_of(missing, true, &metrics).await?.into();
            Ok(file)
        }))
    }

    /// The segments that neither are in memory nor were decoded before, of pages that may have wanted rows.
    fn missing(&self, access: &Access, fields: &Fields) -> Vec<usize> {
        let columns = fields.iter().filter_map(|f| self.footer.find(f));
        let mut missing: Vec<usize> = columns
            .filter(|&column| !self.is_decoded(access.row_group, column))
            .flat_map(|column| self.pages(access, column))
            .filter(|pages| !pages.is_empty())
            .flat_map(|pages| self.footer.layout.covering(&pages))
            .filter(|&position| !self.is_in_memory(position))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Where the pages of a column lie that may have wanted rows.
    fn pages(&self, access: &Access, column: usize) -> Vec<Range<u64>> {
        let metadata = self.footer.metadata();
        let (start, length) = metadata.row_group(access.row_group).column(column).byte_range();
        let index = metadata.offset_index();
        let index = index.and_then(|index| index.get(access.row_group)?.get(column));
        let (Some(selection), Some(index)) = (&access.selection, index) else {
            return vec![start..start + length];
        };
        let all = &index.page_locations;
        let mut pages = selection.scan_ranges(all);
        // A dictionary lies before the first page.
        pages.extend(all.first().map(|first| start..first.offset as u64));
        pages
    }
}
