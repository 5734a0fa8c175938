//! What an entry of a region's log says, and its bytes.

use bytes::Bytes;
use greptime_rules::Mark;
use greptime_types::{Finished, RequestId, TableInfo};

use crate::message::{Op, Row};

/// An entry that somebody proposed. The one with which a leader begins has no bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    Write(WriteEntry),
    /// The table from here on.
    Alter(Box<TableInfo>),
    /// Frontend processes that are gone, and what was seen of them.
    Forget(Vec<(u64, Mark)>),
}

/// Rows, or an end of all rows before; it happens once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteEntry {
    pub request: RequestId,
    pub finished: Finished,
    /// Version of the table whose columns the rows have.
    pub made_for: u64,
    pub op: Op,
}

/// What the first word says.
const PUT: u64 = 0;
const TRUNCATE: u64 = 1;
const ALTER: u64 = 2;
const FORGET: u64 = 3;
/// Words before the ranges of what was given up.
const WORDS: usize = 7;

impl Entry {
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Write(write) => write.encode(),
            Self::Alter(table) => {
                let json = serde_json::to_vec(table).expect("a table has nothing that JSON does not");
                [ALTER.to_le_bytes().as_slice(), &json].concat().into()
            }
            Self::Forget(quiet) => {
                let quiet = quiet.iter();
                let quiet = quiet.flat_map(|(incarnation, m)| [*incarnation, m.lowest, m.applied, m.newest]);
                let words = [FORGET].into_iter().chain(quiet);
                words.flat_map(u64::to_le_bytes).collect()
            }
        }
    }

    /// `None` for the entry with which a leader begins.
    pub fn decode(data: &[u8]) -> Option<Self> {
        match word(data, 0)? {
            ALTER => serde_json::from_slice(data.get(8..)?).ok().map(Self::Alter),
            FORGET => Some(Self::Forget(
                (1..).step_by(4).map_while(|n| seen(data, n)).collect(),
            )),
            kind => WriteEntry::decode(kind, data).map(Self::Write),
        }
    }
}

impl WriteEntry {
    fn encode(&self) -> Bytes {
        let RequestId { incarnation, number } = self.request;
        let (kind, key, value) = match self.op {
            Op::Put(row) => (PUT, row.key, row.value),
            Op::Truncate(number) => (TRUNCATE, 0, number),
        };
        let words: [u64; WORDS] = [
            kind,
            incarnation,
            number,
            self.finished.lowest_unfinished,
            self.made_for,
            u64::from(key),
            value,
        ];
        let given_up = self.finished.given_up.iter();
        let given_up = given_up.flat_map(|numbers| [*numbers.start(), *numbers.end()]);
        let words = words.into_iter().chain(given_up);
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn decode(kind: u64, data: &[u8]) -> Option<Self> {
        let word = |n: usize| word(data, n);
        let (key, value) = (word(5)? as u32, word(6)?);
        let ranges = (WORDS..).step_by(2);
        Some(Self {
            request: RequestId {
                incarnation: word(1)?,
                number: word(2)?,
            },
            finished: Finished {
                lowest_unfinished: word(3)?,
                given_up: ranges.map_while(|n| Some(word(n)?..=word(n + 1)?)).collect(),
            },
            made_for: word(4)?,
            op: match kind {
                TRUNCATE => Op::Truncate(value),
                _ => Op::Put(Row { key, value }),
            },
        })
    }
}

fn seen(data: &[u8], n: usize) -> Option<(u64, Mark)> {
    let mark = Mark {
        lowest: word(data, n + 1)?,
        applied: word(data, n + 2)?,
        newest: word(data, n + 3)?,
    };
    Some((word(data, n)?, mark))
}

fn word(data: &[u8], n: usize) -> Option<u64> {
    let bytes = data.get(n * 8..n * 8 + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
