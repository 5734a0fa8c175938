//! What an entry of a region's log says.

use bytes::Bytes;
use greptime_rows::Encoded;
use greptime_rules::Mark;
use greptime_types::format::{FORGET_FORMAT, FORMAT_VERSION, GIVEN_UP_FORMAT, SERIES_FORMAT};
use greptime_types::{Error, Finished, RequestId, Result, TableInfo, format};
use prost::Message as _;

use crate::defences::Defence;

/// Put or delete, as memory and files keep it in `__op_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOp {
    Put,
    Delete,
}

impl RowOp {
    pub const fn code(self) -> u8 {
        match self {
            Self::Put => 0,
            Self::Delete => 1,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct WriteEntry {
    pub request: RequestId,
    /// Requests of this incarnation that may be forgotten, and that are refused from here on.
    pub finished: Finished,
    pub schema_version: u64,
    pub op: RowOp,
    /// All rows have the index of the entry as their sequence; the later row wins. `series` is empty in entries of
    /// format 1, whose rows have their tags themselves and columns by name.
    pub rows: Encoded,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RegionEntry {
    /// A leader begins its term.
    Noop,
    Write(WriteEntry),
    /// The table as it is from here on.
    Alter(Box<TableInfo>),
    /// All rows of earlier entries are gone.
    Truncate(TruncateEntry),
    /// Incarnations of frontends that have ended, as far as the leader can know, and what it has seen of them: their
    /// request ids are forgotten if that is still so.
    Forget(Vec<(u64, Mark)>),
}

/// A truncation is asked for like a write, and happens once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruncateEntry {
    pub request: RequestId,
    /// See [`WriteEntry::finished`].
    pub finished: Finished,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EntryBytes {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(oneof = "BodyBytes", tags = "2, 3, 4, 5")]
    body: Option<BodyBytes>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum BodyBytes {
    #[prost(message, tag = "2")]
    Write(WriteBytes),
    #[prost(message, tag = "3")]
    Alter(AlterBytes),
    #[prost(message, tag = "4")]
    Truncate(TruncateBytes),
    #[prost(message, tag = "5")]
    Forget(ForgetBytes),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WriteBytes {
    #[prost(fixed64, tag = "1")]
    incarnation: u64,
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(uint64, tag = "3")]
    lowest_unfinished: u64,
    #[prost(uint64, tag = "4")]
    schema_version: u64,
    #[prost(uint32, tag = "5")]
    op: u32,
    #[prost(bytes = "bytes", tag = "6")]
    rows: Bytes,
    #[prost(bytes = "bytes", tag = "7")]
    series: Bytes,
    #[prost(message, repeated, tag = "8")]
    given_up: Vec<NumbersBytes>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct NumbersBytes {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(uint64, tag = "2")]
    last: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AlterBytes {
    /// `greptime_types::TableInfo`.
    #[prost(string, tag = "1")]
    table_json: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TruncateBytes {
    #[prost(fixed64, tag = "1")]
    incarnation: u64,
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(uint64, tag = "3")]
    lowest_unfinished: u64,
    #[prost(message, repeated, tag = "4")]
    given_up: Vec<NumbersBytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForgetBytes {
    #[prost(message, repeated, tag = "1")]
    quiet: Vec<QuietBytes>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct QuietBytes {
    #[prost(fixed64, tag = "1")]
    incarnation: u64,
    #[prost(uint64, tag = "2")]
    lowest: u64,
    #[prost(uint64, tag = "3")]
    applied: u64,
    #[prost(uint64, tag = "4")]
    newest: u64,
}

fn given_up(finished: &Finished) -> Vec<NumbersBytes> {
    let numbers = finished.given_up.iter();
    numbers
        .map(|n| NumbersBytes {
            first: *n.start(),
            last: *n.end(),
        })
        .collect()
}

fn finished(lowest_unfinished: u64, given_up: &[NumbersBytes]) -> Finished {
    Finished {
        lowest_unfinished,
        given_up: given_up.iter().map(|n| n.first..=n.last).collect(),
    }
}

fn spoken((incarnation, mark): &(u64, Mark)) -> QuietBytes {
    QuietBytes {
        incarnation: *incarnation,
        lowest: mark.lowest,
        applied: mark.applied,
        newest: mark.newest,
    }
}

fn seen(quiet: &QuietBytes) -> (u64, Mark) {
    let mark = Mark {
        lowest: quiet.lowest,
        applied: quiet.applied,
        newest: quiet.newest,
    };
    (quiet.incarnation, mark)
}

impl RegionEntry {
    pub fn encode(&self) -> Result<Bytes> {
        let body = match self {
            Self::Noop => return Ok(Bytes::new()),
            Self::Write(write) => BodyBytes::Write(WriteBytes {
                incarnation: write.request.incarnation,
                number: write.request.number,
                lowest_unfinished: write.finished.lowest_unfinished,
                schema_version: write.schema_version,
                op: u32::from(write.op.code()),
                rows: write.rows.rows.clone(),
                series: write.rows.series.clone(),
                given_up: given_up(&write.finished),
            }),
            Self::Alter(table) => BodyBytes::Alter(AlterBytes {
                table_json: serde_json::to_string(table).map_err(|e| Error::internal(e.to_string()))?,
            }),
            Self::Truncate(truncate) => BodyBytes::Truncate(TruncateBytes {
                incarnation: truncate.request.incarnation,
                number: truncate.request.number,
                lowest_unfinished: truncate.finished.lowest_unfinished,
                given_up: given_up(&truncate.finished),
            }),
            Self::Forget(quiet) => BodyBytes::Forget(ForgetBytes {
                quiet: quiet.iter().map(spoken).collect(),
            }),
        };
        Ok(EntryBytes {
            format: self.format(),
            body: Some(body),
        }
        .encode_to_vec()
        .into())
    }

    /// The oldest that has a word for all of it.
    fn format(&self) -> u32 {
        match self {
            // All replicas must refuse the same copies.
            Self::Write(WriteEntry { finished, .. }) | Self::Truncate(TruncateEntry { finished, .. })
                if !finished.given_up.is_empty() =>
            {
                GIVEN_UP_FORMAT
            }
            // A program that does not know series must not take them for rows without tags.
            Self::Write(write) if !write.rows.series.is_empty() && Defence::SeriesHaveAFormat.holds() => {
                SERIES_FORMAT
            }
            Self::Forget(_) => FORGET_FORMAT,
            _ => FORMAT_VERSION,
        }
    }

    pub fn decode(data: Bytes) -> Result<Self> {
        if data.is_empty() {
            return Ok(Self::Noop);
        }
        let entry =
            EntryBytes::decode(data).map_err(|e| Error::corruption(format!("this is no log entry: {e}")))?;
        format::check_up_to("a log entry", entry.format, FORGET_FORMAT)?;
        match entry.body {
            Some(BodyBytes::Write(write)) => Ok(Self::Write(WriteEntry {
                request: RequestId {
                    incarnation: write.incarnation,
                    number: write.number,
                },
                finished: finished(write.lowest_unfinished, &write.given_up),
                schema_version: write.schema_version,
                op: match write.op {
                    0 => RowOp::Put,
                    1 => RowOp::Delete,
                    other => return Err(Error::corruption(format!("a log entry has operation {other}"))),
                },
                rows: Encoded {
                    series: write.series,
                    rows: write.rows,
                },
            })),
            Some(BodyBytes::Alter(alter)) => {
                let table = serde_json::from_str(&alter.table_json)
                    .map_err(|e| Error::corruption(format!("a log entry has no table: {e}")))?;
                Ok(Self::Alter(Box::new(table)))
            }
            Some(BodyBytes::Truncate(truncate)) => Ok(Self::Truncate(TruncateEntry {
                request: RequestId {
                    incarnation: truncate.incarnation,
                    number: truncate.number,
                },
                finished: finished(truncate.lowest_unfinished, &truncate.given_up),
            })),
            Some(BodyBytes::Forget(forget)) => Ok(Self::Forget(forget.quiet.iter().map(seen).collect())),
            None => Err(Error::corruption(
                "a log entry has a body that this version does not know",
            )),
        }
    }
}
