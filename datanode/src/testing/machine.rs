//! The machine of a node: a real log on a disk that forgets, and the power that both and the bucket hang on.

use std::sync::Arc;

use greptime_log::testing::{Files, Machine, Power};
use greptime_log::{EngineLog, EngineOptions, LogDamage, LogStore, LogSync};

use super::{Dice, FaultyStore, PutFault};

/// It has a power of its own for each start.
pub struct OnMachine {
    pub power: Arc<Power>,
    pub log: Arc<EngineLog>,
    machine: Machine,
    dice: Dice,
    starts: usize,
}

impl OnMachine {
    pub(super) fn start(
        dice: Dice,
        found: Files,
        starts: usize,
        dir: &tempfile::TempDir,
        store: &FaultyStore,
    ) -> (Self, Arc<dyn LogStore>) {
        let options = EngineOptions {
            dir: dir.path().join(format!("log-{starts}")),
            sync: LogSync::Always,
            damage: LogDamage::Refuse,
            file_size: 16 << 10,
            reserve: 0,
            purge_threshold: 48 << 10,
            limit: 0,
        };
        let power = Arc::<Power>::default();
        store.set_power(&power, PutFault::Refused);
        let (machine, log) = Machine::start(&options, found, &power).unwrap_or_else(|e| panic!("{e}"));
        assert!(log.cuts().iter().all(|cut| !cut.acknowledged), "{:?}", log.cuts());
        let log = Arc::new(log);
        let store = Arc::clone(&log) as _;
        let machine = Self {
            power,
            log,
            machine,
            dice,
            starts,
        };
        (machine, store)
    }

    pub(super) fn restart(
        mut self,
        dir: &tempfile::TempDir,
        store: &FaultyStore,
    ) -> (Self, Arc<dyn LogStore>) {
        let found = self.machine.found(|sides| self.dice.roll(sides));
        Self::start(self.dice, found, self.starts + 1, dir, store)
    }
}
