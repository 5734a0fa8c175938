//! What came of one kind of fault.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

pub struct Report {
    fault: &'static str,
    faults: usize,
    /// The longest time without an acknowledgement around each fault, of each region that was hit.
    gaps: Vec<Duration>,
    /// The same in as much time in which nothing happened.
    ordinary: Vec<Duration>,
    pub client_errors: u64,
    pub rows_acknowledged: usize,
}

impl Report {
    pub fn new(fault: &'static str) -> Self {
        Self {
            fault,
            faults: 0,
            gaps: Vec::new(),
            ordinary: Vec::new(),
            client_errors: 0,
            rows_acknowledged: 0,
        }
    }

    pub fn count(&self) -> usize {
        self.faults
    }

    pub fn note_fault(&mut self, gaps: Vec<Duration>) {
        self.faults += 1;
        self.gaps.extend(gaps);
    }

    pub fn note_ordinary(&mut self, gap: Duration) {
        self.ordinary.push(gap);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gap, ordinary) = (Percentiles::of(&self.gaps), Percentiles::of(&self.ordinary));
        write!(
            f,
            "gap p50 {:.0} p99 {:.0} max {:.0} ms of {} regions hit; without a fault p50 {:.0} p99 {:.0} max {:.0} ms",
            gap.p50,
            gap.p99,
            gap.max,
            self.gaps.len(),
            ordinary.p50,
            ordinary.p99,
            ordinary.max
        )
    }
}

/// In milliseconds.
struct Percentiles {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Percentiles {
    fn of(times: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
        sorted.sort_by(f64::total_cmp);
        // The smallest that so many are not above.
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self {
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }

    fn json(&self) -> Value {
        let round = |ms: f64| (ms * 10.0).round() / 10.0;
        json!({"p50": round(self.p50), "p99": round(self.p99), "max": round(self.max)})
    }
}

pub fn write(file: &Path, reports: &[Report], lost: usize, doubled: usize) -> Result<()> {
    let entry = |report: &Report| {
        json!({
            "fault": report.fault,
            "count": report.faults,
            "regions_hit": report.gaps.len(),
            "gap_ms": Percentiles::of(&report.gaps).json(),
            "ordinary_ms": Percentiles::of(&report.ordinary).json(),
            "client_errors": report.client_errors,
            "rows_acknowledged": report.rows_acknowledged,
            "rows_lost": lost,
            "rows_doubled": doubled,
        })
    };
    let entries: Vec<Value> = reports.iter().map(entry).collect();
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    Ok(std::fs::write(file, serde_json::to_string_pretty(&entries)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let all = Percentiles::of(&times);
        assert_eq!((all.p50, all.p99, all.max), (100.0, 198.0, 200.0));
        assert_eq!(Percentiles::of(&[]).max, 0.0);
    }
}
