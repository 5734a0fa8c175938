//! What many seeds found, as `reports/sim.json`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::branch::Branch;
use crate::run::Outcome;
use crate::trace::Violation;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub seeds: u64,
    /// Of the machine.
    pub seconds: f64,
    pub simulated_hours: f64,
    pub events: u64,
    pub acknowledged_writes: u64,
    pub reads: u64,
    pub violations: Vec<Violation>,
    /// How often each kind happened.
    pub faults: BTreeMap<String, u64>,
    /// How often the branch of each rule was taken.
    pub branches: BTreeMap<&'static str, u64>,
}

impl Report {
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated_hours += outcome.simulated as f64 / 3.6e9;
        self.events += outcome.events;
        self.acknowledged_writes += outcome.acks;
        self.reads += outcome.reads;
        self.violations.extend(outcome.violations.iter().cloned());
        for (kind, count) in &outcome.faults {
            *self.faults.entry(format!("{kind:?}")).or_default() += count;
        }
        for branch in Branch::ALL {
            let count = outcome.hits.0.get(branch).copied().unwrap_or(0);
            *self.branches.entry(branch.name()).or_default() += count;
        }
    }

    /// Branches that no seed has reached.
    pub fn unreached(&self) -> Vec<&'static str> {
        let unreached = self.branches.iter().filter(|(_, count)| **count == 0);
        unreached.map(|(name, _)| *name).collect()
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))
    }
}
