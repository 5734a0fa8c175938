//! The order of rows inside a region: tags, time, newest first.

use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use greptime_types::{MergeMode, TableInfo};

/// NULL sorts first and equals NULL.
pub const ASCENDING: SortOptions = SortOptions {
    descending: false,
    nulls_first: true,
};
pub const DESCENDING: SortOptions = SortOptions {
    descending: true,
    nulls_first: true,
};

/// The columns that say which row is which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumns {
    /// Tags in the order of the primary key, then the time index.
    pub columns: Vec<(String, DataType)>,
    /// Rows with equal keys stay side by side.
    pub append_mode: bool,
    /// Of rows with equal keys, what remains.
    pub merge_mode: MergeMode,
}

impl KeyColumns {
    pub fn of(table: &TableInfo) -> Self {
        let schema = &table.schema;
        let time = schema.time_index().name.as_str();
        let names = schema.primary_key.iter().map(String::as_str).chain([time]);
        let column = |name: &str| {
            schema
                .column(name)
                .map(|c| (c.name.clone(), c.column_type.to_arrow()))
        };
        Self {
            columns: names.filter_map(column).collect(),
            append_mode: table.options.append_mode,
            merge_mode: table.options.merge_mode,
        }
    }

    /// Whether of rows with equal keys only the newest counts, so that any other may be dropped at once.
    pub fn newest_row_wins(&self) -> bool {
        !self.append_mode && self.merge_mode == MergeMode::LastRow
    }

    pub fn contains(&self, name: &str) -> bool {
        self.columns.iter().any(|(column, _)| column == name)
    }
}
