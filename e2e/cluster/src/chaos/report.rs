//! What came of the faults: `reports/chaos-cluster.json`, and a table.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use greptime_e2e_chaos::numbers::{Percentiles, milliseconds};
use serde_json::{Value, json};

use super::fault::Fault;
use super::reader::Reads;

/// One kind of fault.
pub struct Entry {
    pub fault: Fault,
    /// The longest time without an acknowledgement around each.
    pub gaps: Vec<Duration>,
    /// The same in two seconds before each.
    pub ordinary: Vec<Duration>,
    /// The same while what was hit came back.
    pub returns: Vec<Duration>,
    pub client_errors: u64,
    /// The first few.
    pub reasons: Vec<String>,
    pub rows_acknowledged: usize,
    pub reads: Reads,
}

impl Entry {
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            gaps: Vec::new(),
            ordinary: Vec::new(),
            returns: Vec::new(),
            client_errors: 0,
            reasons: Vec::new(),
            rows_acknowledged: 0,
            reads: Reads::default(),
        }
    }

    /// Rows that were lost or doubled have ended the run: [`verify`](crate::verify::verify) found none.
    fn json(&self) -> Value {
        json!({
            "fault": self.fault.name(),
            "count": self.gaps.len(),
            "gap_ms": percentiles(&self.gaps),
            "ordinary_ms": percentiles(&self.ordinary),
            "return_ms": percentiles(&self.returns),
            "client_errors": self.client_errors,
            "reasons": self.reasons,
            "rows_acknowledged": self.rows_acknowledged,
            "rows_lost": 0,
            "reads": self.reads.reads,
            "read_errors": self.reads.errors,
            "stale_reads": self.reads.stale,
            "gaps_ms": self.gaps.iter().copied().map(milliseconds).collect::<Vec<_>>(),
        })
    }
}

fn percentiles(times: &[Duration]) -> Percentiles {
    let times: Vec<f64> = times.iter().copied().map(milliseconds).collect();
    Percentiles::of(&times)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let three = |times: &[Duration]| {
            let Percentiles { p50, p99, max } = percentiles(times);
            format!("{p50:.0}/{p99:.0}/{max:.0}")
        };
        write!(
            f,
            "{:<18} {:>5}  {:>16}  {:>14}  {:>16}  {:>6}  {:>8}  {:>6}  {:>5}",
            self.fault.name(),
            self.gaps.len(),
            three(&self.gaps),
            three(&self.ordinary),
            three(&self.returns),
            self.client_errors,
            self.rows_acknowledged,
            self.reads.reads,
            self.reads.stale,
        )
    }
}

#[derive(Default)]
pub struct Report(Vec<Entry>);

impl Report {
    pub fn add(&mut self, entry: Entry) {
        self.0.push(entry);
    }

    pub fn write(&self) -> Result<()> {
        let entries: Vec<Value> = self.0.iter().map(Entry::json).collect();
        Ok(std::fs::write(
            "reports/chaos-cluster.json",
            format!("{:#}\n", Value::Array(entries)),
        )?)
    }

    pub fn print(&self) {
        println!(
            "\n{:<18} {:>5}  {:>16}  {:>14}  {:>16}  {:>6}  {:>8}  {:>6}  {:>5}",
            "fault", "count", "gap p50/p99/max", "ordinary", "while back", "errors", "rows", "reads", "stale"
        );
        self.0.iter().for_each(|entry| println!("{entry}"));
        println!("milliseconds; every acknowledged row is there once");
    }

    pub fn stale_reads(&self) -> u64 {
        self.0.iter().map(|entry| entry.reads.stale).sum()
    }
}
