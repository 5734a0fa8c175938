//! Columns of a table, and what they are in Arrow.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Names that the engine adds to a table's own columns in memory and in files.
pub const SEQUENCE_COLUMN: &str = "__sequence";
/// 0 = put, 1 = delete.
pub const OP_COLUMN: &str = "__op_type";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
}

impl TimeUnit {
    /// From the precision of `TIMESTAMP(p)`.
    pub fn from_precision(precision: u64) -> Result<Self> {
        match precision {
            0 => Ok(Self::Second),
            3 => Ok(Self::Millisecond),
            6 => Ok(Self::Microsecond),
            9 => Ok(Self::Nanosecond),
            other => Err(Error::invalid(format!(
                "TIMESTAMP({other}) does not exist; use 0, 3, 6 or 9"
            ))),
        }
    }

    pub fn precision(self) -> u8 {
        match self {
            Self::Second => 0,
            Self::Millisecond => 3,
            Self::Microsecond => 6,
            Self::Nanosecond => 9,
        }
    }

    pub fn to_arrow(self) -> arrow_schema::TimeUnit {
        match self {
            Self::Second => arrow_schema::TimeUnit::Second,
            Self::Millisecond => arrow_schema::TimeUnit::Millisecond,
            Self::Microsecond => arrow_schema::TimeUnit::Microsecond,
            Self::Nanosecond => arrow_schema::TimeUnit::Nanosecond,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    String,
    Binary,
    Date,
    Timestamp(TimeUnit),
    /// Precision (1 to 38 digits) and scale (0 to the precision).
    Decimal(u8, i8),
    /// A text that is JSON.
    Json,
    /// So many 32-bit floats; 1 to 65,535.
    Vector(u32),
}

/// The largest dimension of a vector.
pub const MAX_DIMENSION: u32 = 65_535;

impl ColumnType {
    /// As SQL writes it (`SHOW CREATE TABLE`, `DESCRIBE`).
    pub fn sql_name(self) -> String {
        match self {
            Self::Boolean => "BOOLEAN".into(),
            Self::Int8 => "TINYINT".into(),
            Self::Int16 => "SMALLINT".into(),
            Self::Int32 => "INT".into(),
            Self::Int64 => "BIGINT".into(),
            Self::UInt8 => "TINYINT UNSIGNED".into(),
            Self::UInt16 => "SMALLINT UNSIGNED".into(),
            Self::UInt32 => "INT UNSIGNED".into(),
            Self::UInt64 => "BIGINT UNSIGNED".into(),
            Self::Float32 => "FLOAT".into(),
            Self::Float64 => "DOUBLE".into(),
            Self::String => "STRING".into(),
            Self::Binary => "BINARY".into(),
            Self::Date => "DATE".into(),
            Self::Timestamp(unit) => format!("TIMESTAMP({})", unit.precision()),
            Self::Decimal(precision, scale) => format!("DECIMAL({precision}, {scale})"),
            Self::Json => "JSON".into(),
            Self::Vector(dimension) => format!("VECTOR({dimension})"),
        }
    }

    /// Refuses parameters that no column can have.
    pub fn validate(self) -> Result<()> {
        match self {
            Self::Decimal(precision, scale)
                if !(1..=38).contains(&precision) || !(0..=precision as i8).contains(&scale) =>
            {
                Err(Error::invalid(format!(
                    "DECIMAL({precision}, {scale}) does not exist; the precision is 1 to 38, the scale 0 to the \
                     precision"
                )))
            }
            Self::Vector(dimension) if !(1..=MAX_DIMENSION).contains(&dimension) => Err(Error::invalid(
                format!("VECTOR({dimension}) does not exist; the dimension is 1 to {MAX_DIMENSION}"),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses types whose values say not which row is which: a tag needs values that are equal or not, and an order
    /// among them.
    pub(crate) fn validate_tag(self, name: &str) -> Result<()> {
        match self {
            Self::Vector(_) => Err(Error::invalid(format!(
                "column `{name}` cannot be a tag, since vectors have no order: it is {}; tags are of BOOLEAN, an \
                 integer, FLOAT, DOUBLE, DECIMAL, STRING, BINARY, DATE, TIMESTAMP or JSON",
                self.sql_name()
            ))),
            _ => Ok(()),
        }
    }

    pub fn to_arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::UInt8 => DataType::UInt8,
            Self::UInt16 => DataType::UInt16,
            Self::UInt32 => DataType::UInt32,
            Self::UInt64 => DataType::UInt64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::String => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Timestamp(unit) => DataType::Timestamp(unit.to_arrow(), None),
            Self::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
            Self::Json => DataType::Utf8,
            Self::Vector(dimension) => {
                let item = Field::new_list_field(DataType::Float32, true);
                DataType::FixedSizeList(Arc::new(item), i32::try_from(dimension).unwrap_or(i32::MAX))
            }
        }
    }
}

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Semantic {
    /// Part of the primary key. Nullable: NULL equals NULL for identity and sorts first.
    Tag,
    /// The time index: exactly one in a table, never null.
    Timestamp,
    Field,
}

impl Semantic {
    /// The word that GreptimeDB's `DESCRIBE` prints.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tag => "TAG",
            Self::Timestamp => "TIMESTAMP",
            Self::Field => "FIELD",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnSchema {
    /// Unique in the table and never reused, so that a dropped and re-added name is another column.
    pub id: u32,
    pub name: String,
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    pub semantic: Semantic,
    pub nullable: bool,
    /// A SQL literal, e.g. `0`, `'a'` or `now()`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What rows that do not have the column show, as text that casts to its type: the default, as it was when the
    /// column was added. `None` is NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
    /// The types that it had before, the first one first: rows of then may be kept as they were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<ColumnType>,
}

impl ColumnSchema {
    /// A column that is to be made: it has no id yet and no default, and is nullable unless it is the time index.
    pub fn new<N: Into<String>>(name: N, column_type: ColumnType, semantic: Semantic) -> Self {
        Self {
            id: 0,
            name: name.into(),
            column_type,
            semantic,
            nullable: semantic != Semantic::Timestamp,
            default: None,
            absent: None,
            earlier: Vec::new(),
        }
    }
}

/// The columns of a table at one version. The version grows by one with each ALTER.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    pub version: u64,
    /// In the order of the user's definition.
    pub columns: Vec<ColumnSchema>,
    /// Names of the tag columns in the order of the PRIMARY KEY clause; rows are sorted by them, then by time.
    pub primary_key: Vec<String>,
    pub next_column_id: u32,
    /// Rows that were made for an older version than this may name other columns, or other types, than they meant:
    /// regions refuse them, and their writer makes them anew.
    #[serde(default)]
    pub writes_from: u64,
}

impl TableSchema {
    /// Checks the rules that every table keeps: one time index, unique names, keys that exist.
    pub fn new(mut columns: Vec<ColumnSchema>, primary_key: Vec<String>) -> Result<Self> {
        for (id, column) in columns.iter_mut().enumerate() {
            column.id = id as u32;
        }
        let schema = Self {
            version: 1,
            next_column_id: columns.len() as u32,
            columns,
            primary_key,
            writes_from: 0,
        };
        schema.validate()?;
        Ok(schema)
    }

    /// What [`TableSchema::new`] checks; for schemas that came over the network.
    pub fn validate(&self) -> Result<()> {
        self.check_rules()?;
        let mut tags = self.columns.iter().filter(|c| c.semantic == Semantic::Tag);
        tags.try_for_each(|c| c.column_type.validate_tag(&c.name))
    }

    /// All rules but for the types of tags: a table may have a tag from when its type was not refused, and can still
    /// be changed.
    pub(crate) fn check_rules(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for column in &self.columns {
            column.column_type.validate()?;
            if column.name.is_empty() || [SEQUENCE_COLUMN, OP_COLUMN].contains(&column.name.as_str()) {
                return Err(Error::invalid(format!(
                    "`{}` cannot be the name of a column",
                    column.name
                )));
            }
            if !names.insert(column.name.as_str()) {
                return Err(Error::invalid(format!(
                    "column `{}` is defined twice",
                    column.name
                )));
            }
        }
        let times: Vec<_> = self
            .columns
            .iter()
            .filter(|c| c.semantic == Semantic::Timestamp)
            .collect();
        match times[..] {
            [time] if matches!(time.column_type, ColumnType::Timestamp(_)) && !time.nullable => {}
            [time] => {
                return Err(Error::invalid(format!(
                    "time index `{}` must be TIMESTAMP NOT NULL, it is {}",
                    time.name,
                    time.column_type.sql_name()
                )));
            }
            [] => {
                return Err(Error::invalid(
                    "a table needs one TIME INDEX column of type TIMESTAMP",
                ));
            }
            _ => return Err(Error::invalid("a table has one TIME INDEX column, not several")),
        }
        for key in &self.primary_key {
            match self.column(key) {
                None => {
                    return Err(Error::invalid(format!(
                        "primary key column `{key}` is not defined"
                    )));
                }
                Some(c) if c.semantic != Semantic::Tag => {
                    return Err(Error::invalid(format!(
                        "`{key}` cannot be primary key and time index at once"
                    )));
                }
                Some(_) => {}
            }
        }
        let tags = self
            .columns
            .iter()
            .filter(|c| c.semantic == Semantic::Tag)
            .count();
        if tags != self.primary_key.len() {
            return Err(Error::invalid(
                "each tag is named exactly once in the primary key",
            ));
        }
        Ok(())
    }

    pub fn column(&self, name: &str) -> Option<&ColumnSchema> {
        self.columns.iter().find(|c| c.name == name)
    }

    pub fn time_index(&self) -> &ColumnSchema {
        self.columns
            .iter()
            .find(|c| c.semantic == Semantic::Timestamp)
            .expect("validated: one time index")
    }

    /// The unit of the time index.
    pub fn time_unit(&self) -> TimeUnit {
        match self.time_index().column_type {
            ColumnType::Timestamp(unit) => unit,
            other => unreachable!("validated: the time index is a timestamp, not {other:?}"),
        }
    }

    /// The table's own columns.
    pub fn to_arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.columns
                .iter()
                .map(|c| Field::new(&c.name, c.column_type.to_arrow(), c.nullable))
                .collect::<Vec<_>>(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_a_time_index_is_refused() {
        let error = TableSchema::new(
            vec![ColumnSchema::new("a", ColumnType::Int64, Semantic::Field)],
            vec![],
        )
        .unwrap_err();
        assert!(error.message.contains("TIME INDEX"), "{error}");
    }

    fn with_tag(column_type: ColumnType) -> Result<TableSchema> {
        let columns = vec![
            ColumnSchema::new("tag", column_type, Semantic::Tag),
            ColumnSchema::new(
                "ts",
                ColumnType::Timestamp(TimeUnit::Millisecond),
                Semantic::Timestamp,
            ),
        ];
        TableSchema::new(columns, vec!["tag".into()])
    }

    #[test]
    fn a_vector_cannot_be_a_tag_and_the_error_says_what_can() {
        let error = with_tag(ColumnType::Vector(3)).unwrap_err();
        for part in ["`tag`", "VECTOR(3)", "STRING", "DECIMAL"] {
            assert!(error.message.contains(part), "{error}");
        }
        with_tag(ColumnType::Json).unwrap();
    }

    #[test]
    fn a_table_that_has_a_vector_as_a_tag_is_still_read() {
        let mut old = with_tag(ColumnType::String).unwrap();
        old.columns[0].column_type = ColumnType::Vector(3);
        let stored = serde_json::to_string(&old).unwrap();
        assert_eq!(serde_json::from_str::<TableSchema>(&stored).unwrap(), old);
        old.check_rules().unwrap();
        old.validate().unwrap_err();
    }
}
