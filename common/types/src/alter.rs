//! `ALTER TABLE`, as a function from a table to the next one.

use serde::{Deserialize, Serialize};

use crate::catalog::{MergeMode, TIME_WINDOW, TableInfo, TableOptions, time_window};
use crate::error::{Error, Result};
use crate::schema::{ColumnSchema, ColumnType, Semantic, TableSchema};
use crate::ttl::Ttl;

/// One change of a table. Several are made together, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A nullable field or tag; its id is given by the table.
    AddColumn {
        column: ColumnSchema,
        /// A column of this name and type is no error.
        if_not_exists: bool,
    },
    DropColumn {
        name: String,
        if_exists: bool,
    },
    RenameColumn {
        from: String,
        to: String,
    },
    /// Another type for a field; rows that are there are shown as cast.
    ModifyColumn {
        name: String,
        column_type: ColumnType,
    },
    RenameTable {
        to: String,
    },
    /// `None`: that of the database.
    SetTtl {
        ttl: Option<Ttl>,
    },
    SetComment {
        comment: Option<String>,
    },
    /// See [`TIME_WINDOW`]; `None`: as the rows suggest.
    SetTimeWindow {
        length: Option<String>,
    },
    /// The database has another TTL now.
    SetDatabaseTtl {
        ttl: Option<Ttl>,
    },
}

impl TableInfo {
    /// The table after the changes, one version later; `None` if it is so already.
    ///
    /// Whether a new name is free is not known here.
    pub fn altered(&self, changes: &[Change]) -> Result<Option<Self>> {
        let mut next = self.clone();
        for change in changes {
            next.apply(change)?;
        }
        if next == *self {
            return Ok(None);
        }
        next.schema.version = self.schema.version + 1;
        if !next.schema.reads_writes_of(&self.schema) {
            next.schema.writes_from = next.schema.version;
        }
        next.schema.check_rules()?;
        next.options.validate()?;
        Ok(Some(next))
    }

    fn apply(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::AddColumn {
                column,
                if_not_exists,
            } => self.schema.add(column, *if_not_exists),
            Change::DropColumn { name, if_exists } => {
                if *if_exists && self.schema.column(name).is_none() {
                    return Ok(());
                }
                self.field(name, "dropped")?;
                self.schema.columns.retain(|c| c.name != *name);
                Ok(())
            }
            Change::RenameColumn { from, to } => self.rename_column(from, to),
            Change::ModifyColumn { name, column_type } => self.modify_column(name, *column_type),
            Change::RenameTable { to } => {
                self.name.clone_from(to);
                Ok(())
            }
            Change::SetTtl { ttl } => {
                self.options.ttl = *ttl;
                Ok(())
            }
            Change::SetComment { comment } => {
                self.options.set_extra("comment", comment.clone());
                Ok(())
            }
            Change::SetTimeWindow { length } => {
                let length = length.as_deref().map(time_window).transpose()?;
                self.options.set_extra(TIME_WINDOW, length);
                Ok(())
            }
            Change::SetDatabaseTtl { ttl } => {
                self.database_ttl = *ttl;
                Ok(())
            }
        }
    }

    /// A column that can be taken away or changed without changing which row is which.
    fn field(&self, name: &str, what: &str) -> Result<&ColumnSchema> {
        let column = self.schema.expect(name, &self.full_name())?;
        let kind = match column.semantic {
            Semantic::Field => return Ok(column),
            Semantic::Timestamp => "the time index",
            Semantic::Tag if self.partition.columns.iter().any(|c| c == name) => "a partition column",
            Semantic::Tag => "a tag",
        };
        Err(Error::invalid(format!(
            "column `{name}` of {} is {kind} and cannot be {what}; only fields can",
            self.full_name()
        )))
    }

    fn rename_column(&mut self, from: &str, to: &str) -> Result<()> {
        self.schema.expect(from, &self.full_name())?;
        if from == to {
            return Ok(());
        }
        if self.schema.column(to).is_some() {
            return Err(Error::already_exists(format!(
                "table {} has a column `{to}` already",
                self.full_name()
            )));
        }
        let names = self.schema.columns.iter_mut().map(|c| &mut c.name);
        for name in names.chain(&mut self.schema.primary_key) {
            if name == from {
                *name = to.to_owned();
            }
        }
        self.partition.rename_column(from, to);
        Ok(())
    }

    fn modify_column(&mut self, name: &str, to: ColumnType) -> Result<()> {
        let column = self.field(name, "given another type")?;
        let from = column.column_type;
        // An older value would take the place of one that became NULL, until somebody merges the two.
        let merges = self.options.merge_mode == MergeMode::LastNonNull;
        let allowed = match from.cast_to(to) {
            Cast::Same | Cast::Exact => true,
            Cast::MayFail => column.nullable && !merges,
            Cast::No => false,
        };
        if !allowed {
            let hint = match from.cast_to(to) {
                Cast::MayFail if merges => {
                    "a value that is none of it would become NULL, and with merge_mode = 'last_non_null' an older one \
                     would show again"
                }
                Cast::MayFail => "a value that is none of it would become NULL, and the column is NOT NULL",
                _ => {
                    "there are wider numbers, any type to STRING, and STRING to a number, BOOLEAN, DATE or TIMESTAMP"
                }
            };
            return Err(Error::unsupported(format!(
                "column `{name}` of {} cannot change from {} to {}: {hint}",
                self.full_name(),
                from.sql_name(),
                to.sql_name()
            )));
        }
        let differs = |earlier: &&ColumnType| from != to && !is_the_same_either_way(**earlier, from, to);
        if let Some(earlier) = column.earlier.iter().find(differs) {
            return Err(Error::unsupported(format!(
                "column `{name}` of {} was {} before it was {} and cannot become {}: rows that were not rewritten since \
                 would show other values than those that were; add a new column for it",
                self.full_name(),
                earlier.sql_name(),
                from.sql_name(),
                to.sql_name()
            )));
        }
        let column = self.schema.columns.iter_mut().find(|c| c.name == name);
        if let Some(column) = column.filter(|_| from != to) {
            column.earlier.push(from);
            column.column_type = to;
        }
        Ok(())
    }
}

impl TableOptions {
    fn set_extra(&mut self, key: &str, value: Option<String>) {
        match value {
            Some(text) => drop(self.extra.insert(key.to_owned(), text)),
            None => drop(self.extra.remove(key)),
        }
    }
}

impl TableSchema {
    fn expect(&self, name: &str, table: &str) -> Result<&ColumnSchema> {
        self.column(name).ok_or_else(|| {
            Error::invalid(format!(
                "column `{name}` of {table} does not exist; there are {}",
                self.columns
                    .iter()
                    .map(|c| format!("`{}`", c.name))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
        })
    }

    fn add(&mut self, column: &ColumnSchema, if_not_exists: bool) -> Result<()> {
        match self.column(&column.name) {
            Some(_) if !if_not_exists => {
                return Err(Error::already_exists(format!(
                    "column `{}` exists already",
                    column.name
                )));
            }
            Some(old) if old.column_type == column.column_type && old.semantic == column.semantic => {
                return Ok(());
            }
            Some(old) => {
                return Err(Error::already_exists(format!(
                    "column `{}` exists as {} {}, it cannot be added as {} {}",
                    column.name,
                    old.column_type.sql_name(),
                    old.semantic.label(),
                    column.column_type.sql_name(),
                    column.semantic.label()
                )));
            }
            None if column.semantic == Semantic::Timestamp || !column.nullable => {
                return Err(Error::invalid(format!(
                    "column `{}` can only be added as nullable",
                    column.name
                )));
            }
            None if column.semantic == Semantic::Tag && column.absent.is_some() => {
                return Err(Error::unsupported(format!(
                    "tag `{}` cannot be added with a default: rows of before are of series without it; add it \
                     without DEFAULT",
                    column.name
                )));
            }
            None if column.semantic == Semantic::Tag => column.column_type.validate_tag(&column.name)?,
            None => {}
        }
        self.columns.push(ColumnSchema {
            id: self.next_column_id,
            ..column.clone()
        });
        self.next_column_id += 1;
        if column.semantic == Semantic::Tag {
            self.primary_key.push(column.name.clone());
        }
        Ok(())
    }

    /// Whether rows that were written for `older` mean the same here: each of its names is the same column with the
    /// same type.
    fn reads_writes_of(&self, older: &Self) -> bool {
        older.columns.iter().all(|old| {
            let now = self.column(&old.name);
            now.is_some_and(|now| now.id == old.id && now.column_type == old.column_type)
        })
    }
}

/// Whether a value that was written as `earlier` becomes the same as `to`, whether or not it was rewritten as `between`
/// in the meantime. When files are rewritten is nobody's business, so nothing may depend on it.
fn is_the_same_either_way(earlier: ColumnType, between: ColumnType, to: ColumnType) -> bool {
    use ColumnType as T;
    let is_integer = |t: T| t.integer_bits().is_some();
    let have_a_way_of_their_own = |a: T, b: T| {
        matches!((a, b), (T::Float32 | T::Float64, T::Float32 | T::Float64))
            || matches!((a, b), (T::Decimal(..), T::Decimal(..)))
            || matches!((a, b), (T::Timestamp(_), T::Timestamp(_)))
    };
    match (earlier, between) {
        _ if earlier == between => true,
        // A text that is no value of the type in between would come back.
        (T::String, _) => false,
        // All other ways go through a text.
        (_, T::String) => earlier == to || !have_a_way_of_their_own(earlier, to),
        _ if is_integer(earlier) && is_integer(between) => true,
        // The number is the same, its text is not.
        _ => earlier.is_number() && between.is_number() && to.is_number(),
    }
}

/// What becomes of values when a column gets another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    Same,
    /// Every value has its equal.
    Exact,
    /// A value that has none becomes NULL.
    MayFail,
    No,
}

impl ColumnType {
    /// How a column of this type can become one of type `to`.
    pub fn cast_to(self, to: Self) -> Cast {
        use ColumnType as T;
        let exact = |yes: bool| if yes { Cast::Exact } else { Cast::No };
        match (self, to) {
            _ if self == to => Cast::Same,
            (T::Vector(_), _) | (_, T::Vector(_)) | (_, T::Json) => Cast::No,
            // There are times without a date.
            (T::Binary | T::Date | T::Timestamp(_), T::String) => Cast::MayFail,
            (_, T::String) => Cast::Exact,
            (T::String, T::Boolean | T::Date | T::Timestamp(_)) => Cast::MayFail,
            (T::String, to) if to.is_number() => Cast::MayFail,
            (T::Decimal(p, s), T::Decimal(to_p, to_s)) => {
                exact(to_s >= s && i16::from(to_p) - i16::from(to_s) >= i16::from(p) - i16::from(s))
            }
            (from, T::Decimal(p, s)) => {
                let digits = from
                    .integer_bits()
                    .map(|(bits, _)| DIGITS_OF_BITS[bits as usize / 16]);
                exact(digits.is_some_and(|d| i16::from(p) - i16::from(s) >= d))
            }
            (T::Float32, T::Float64) => Cast::Exact,
            (from, T::Float32) => exact(from.integer_bits().is_some_and(|(bits, _)| bits <= 16)),
            (from, T::Float64) => exact(from.integer_bits().is_some_and(|(bits, _)| bits <= 32)),
            (from, to) => match (from.integer_bits(), to.integer_bits()) {
                (Some((from, from_signed)), Some((to, to_signed))) => {
                    exact(to > from && (to_signed || !from_signed))
                }
                _ => Cast::No,
            },
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Float32 | Self::Float64 | Self::Decimal(..)) || self.integer_bits().is_some()
    }

    /// Width and whether there is a sign.
    fn integer_bits(self) -> Option<(u8, bool)> {
        Some(match self {
            Self::Int8 => (8, true),
            Self::Int16 => (16, true),
            Self::Int32 => (32, true),
            Self::Int64 => (64, true),
            Self::UInt8 => (8, false),
            Self::UInt16 => (16, false),
            Self::UInt32 => (32, false),
            Self::UInt64 => (64, false),
            _ => return None,
        })
    }
}

/// Decimal digits of the largest integer of 8, 16, 32 and 64 bits, at the bits divided by 16.
const DIGITS_OF_BITS: [i16; 5] = [3, 5, 10, 0, 20];

#[cfg(test)]
mod tests;
