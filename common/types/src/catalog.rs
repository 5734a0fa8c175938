//! What metasrv keeps of databases and tables. These records are stored and sent as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::FORMAT_VERSION;
use crate::id::{RegionId, TableId};
use crate::partition::PartitionRule;
use crate::schema::TableSchema;
use crate::ttl::Ttl;

/// The table option that sets the length of the windows of time in which files are merged.
pub const TIME_WINDOW: &str = "compaction.twcs.time_window";

/// The database that exists from the start.
pub const DEFAULT_DATABASE: &str = "public";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseInfo {
    #[serde(default = "current_format")]
    pub format: u32,
    pub name: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// How far a table is on its way. Only `Ready` tables are shown to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// Recorded; its regions are being initialised.
    Creating,
    Ready,
    /// Its name is free again; its regions and files are being removed.
    Dropping,
}

/// What becomes of rows with equal tags and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeMode {
    /// The newest row replaces the others, its NULLs included.
    #[default]
    LastRow,
    /// Each field has its newest value that is not NULL. What is older than a delete does not count.
    LastNonNull,
}

impl MergeMode {
    /// As the table option is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastRow => "last_row",
            Self::LastNonNull => "last_non_null",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl std::str::FromStr for MergeMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::LastRow, Self::LastNonNull]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "merge_mode = '{text}' does not exist; write 'last_row' or 'last_non_null'"
                ))
            })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableOptions {
    /// Rows are only added; equal identities stay side by side.
    #[serde(default)]
    pub append_mode: bool,
    #[serde(default, skip_serializing_if = "MergeMode::is_default")]
    pub merge_mode: MergeMode,
    /// `None` is that of the database.
    #[serde(
        default,
        deserialize_with = "crate::ttl::lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub ttl: Option<Ttl>,
    /// Further options by name, shown back to the user.
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableInfo {
    #[serde(default = "current_format")]
    pub format: u32,
    pub id: TableId,
    pub database: String,
    pub name: String,
    pub schema: TableSchema,
    #[serde(default)]
    pub options: TableOptions,
    pub partition: PartitionRule,
    pub state: TableState,
    /// Milliseconds since 1970, by the clock of the metasrv that created it.
    pub created_ms: i64,
    /// What the database says of tables that say nothing themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_ttl: Option<Ttl>,
}

impl DatabaseInfo {
    /// How long rows are kept in tables that do not say.
    pub fn ttl(&self) -> Option<Ttl> {
        self.options.get("ttl").and_then(|text| text.parse().ok())
    }

    /// Checks options that a client gives.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in &self.options {
            match key.as_str() {
                "ttl" if value.parse::<Ttl>()? == Ttl::Instant => {
                    return Err(Error::invalid(
                        "ttl = 'instant' is for a table; a database cannot have it",
                    ));
                }
                "ttl" | "comment" => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "database option `{key}` does not exist; there are ttl and comment"
                    )));
                }
            }
        }
        Ok(())
    }
}

impl TableOptions {
    /// Refuses options that contradict each other.
    pub fn validate(&self) -> Result<()> {
        if self.append_mode && self.merge_mode != MergeMode::LastRow {
            return Err(Error::invalid(format!(
                "a table in append mode keeps all rows, so merge_mode = '{}' has no meaning; leave one of them out",
                self.merge_mode.name()
            )));
        }
        self.extra
            .get(TIME_WINDOW)
            .map_or(Ok(()), |text| time_window(text).map(drop))
    }
}

/// A length that [`TIME_WINDOW`] can have, as it is kept and shown. Whole seconds, since a time index may be no finer.
pub fn time_window(text: &str) -> Result<String> {
    let wrong = |why: &dyn std::fmt::Display| {
        Error::invalid(format!(
            "{TIME_WINDOW} = '{text}': {why}; write a duration like '2h' or '7d'"
        ))
    };
    let length = humantime::parse_duration(text.trim()).map_err(|e| wrong(&e))?;
    if length.as_secs() == 0 || length.subsec_nanos() != 0 {
        return Err(wrong(&"a window is one second, or several"));
    }
    Ok(humantime::format_duration(length).to_string())
}

impl TableInfo {
    /// Regions in the order of their partitions.
    pub fn regions(&self) -> impl Iterator<Item = RegionId> + '_ {
        self.partition
            .partitions
            .iter()
            .map(|p| RegionId::new(self.id, p.region))
    }

    /// How long rows are kept: as the table says, else the database, else for ever.
    pub fn ttl(&self) -> Ttl {
        self.options.ttl.or(self.database_ttl).unwrap_or_default()
    }

    /// `database.table`, as errors and pages show it.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }
}

fn current_format() -> u32 {
    FORMAT_VERSION
}
