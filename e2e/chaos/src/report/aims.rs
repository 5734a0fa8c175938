//! Which aims a kind of fault has missed, and by how much.

use super::Entry;
use crate::cost::Replication;
use crate::faults::{Aim, Fault};

/// Writes of the 5 s after a fault may take this much longer than those of the 5 s before.
const SLOWER_AT_MOST: f64 = 2.0;
/// A machine that is as busy as this, in percent, makes gaps longer than the database does.
const TOO_BUSY: f64 = 70.0;

impl Entry {
    /// In words.
    pub(super) fn missed(&self, fault: Fault) -> Vec<String> {
        if self.count == 0 {
            return Vec::new();
        }
        let of_gap = fault.aim().map(|aim| self.missed_gaps(aim));
        let mut missed = of_gap.unwrap_or_default();
        if fault.allows_no_errors() && self.client_errors > 0 {
            missed.push(format!("{} writes failed, aim 0", self.client_errors));
        }
        missed.extend(self.replication.iter().flat_map(Replication::missed));
        if let Some(bytes) = self.sst_bytes_copied.filter(|bytes| *bytes > 0) {
            missed.push(format!("{bytes} bytes of files of rows were copied, aim 0"));
        }
        if let Some(added) = self.object_store.filter(|added| added.copies > 0) {
            missed.push(format!("{} copies in the object store, aim 0", added.copies));
        }
        // What has a run of its own loads the machine on purpose.
        if !fault.is_alone() && self.cpu_percent >= TOO_BUSY {
            missed.push(format!(
                "the machine was busy to {} %, aim below {TOO_BUSY} %",
                self.cpu_percent
            ));
        }
        if let Some(writes) = &self.writes_ms {
            let before = writes.p999_before;
            for (when, p999) in [
                ("after the fault", writes.p999_after),
                ("until all is whole", writes.p999_return),
            ] {
                let times = p999 / before.max(0.1);
                if times > SLOWER_AT_MOST {
                    missed.push(format!(
                        "p99.9 of writes in the 5 s {when} is {times:.1} times that before ({p999} ms, {before} ms), aim \
                         {SLOWER_AT_MOST} times"
                    ));
                }
            }
        }
        missed
    }

    fn missed_gaps(&self, aim: Aim) -> Vec<String> {
        let (gap, excess) = (self.gap_ms, self.excess_ms);
        let percentiles = [
            ("p50", gap.p50, excess.p50, aim.p50),
            ("p99", gap.p99, excess.p99, aim.p99),
            ("max", gap.max, excess.max, Some(aim.max)),
        ];
        let missed = percentiles
            .into_iter()
            .filter_map(|(name, gap, excess, aim)| Some((name, gap, excess, aim.filter(|aim| gap > *aim)?)));
        let words = missed.map(|(name, gap, excess, aim)| {
            let floor = self
                .floor_ms
                .map_or("unknown".to_owned(), |ms| format!("{ms} ms"));
            format!("{name} is {gap} ms, aim {aim} ms (beyond ordinary commits {excess} ms, floor {floor})")
        });
        words.collect()
    }
}
