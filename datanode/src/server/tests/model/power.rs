//! The same on a machine: a real log on a disk that keeps of what was not synced what it likes, a bucket of which requests
//! fail, and power that goes in the middle of anything, be it the log, a file or an edit of the manifest that is written.

use std::time::Duration;

use greptime_log::LogStore;

use super::program::{Cut, Work, some_cut};
use super::*;

const STEPS: usize = 40;
/// The power goes after one step in so many.
const CUT_ONCE_IN: u64 = 4;
/// Edits are tried for as long as the bucket is away.
const PATIENCE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_region_is_as_a_map_wherever_the_power_goes() {
    for seed in seeds_to_try(40) {
        outlives_the_power(seed).await;
    }
}

async fn outlives_the_power(seed: u64) {
    let mut dice = Dice::new(seed);
    let table = some_table(&mut dice);
    let config = some_config(&mut dice);
    let mut story = Story::begin(seed, &table);
    let clock = SkewedClock::at(NOW_MS);
    let mut pair = Pair {
        node: Node::on_machine(config, table.clone(), clock, Dice::new(seed)).await,
        map: Map::new(table, NOW_MS),
    };
    for _ in 0..STEPS {
        if dice.once_in(CUT_ONCE_IN) {
            let cut = some_cut(&mut dice, &pair.map);
            story.steps.push(format!("{cut:?}"));
            pair = pair.lose_power(cut).await;
            pair.scan().await;
            continue;
        }
        let step = some_step(&mut dice, &pair.map);
        if !step.is_kill() {
            story.steps.push(format!("{step:?}"));
            pair = pair.take(step).await;
        }
    }
    pair.end(&mut story).await;
}

impl Pair {
    async fn lose_power(mut self, cut: Cut) -> Self {
        let machine = self.node.machine.as_ref().expect("a node on a machine");
        self.node.store.set_power(&machine.power, cut.last);
        if let Some((request, fault)) = cut.fault {
            self.node.store.plan(request, "", fault, 1);
        }
        machine.power.goes_after(cut.after);
        let options = self.node.options();
        let mut answered = false;
        for work in &cut.during {
            match work {
                Work::Write(rows) => {
                    let sent = self.send(options, rows, true).await;
                    // What a dead machine says nobody hears.
                    answered = sent.is_ok() && machine.power.is_on();
                }
                Work::Flush => drop(tokio::time::timeout(PATIENCE, self.node.flush()).await),
                Work::Merge => drop(tokio::time::timeout(PATIENCE, self.compact()).await),
                Work::Reclaim => drop(machine.log.reclaim()),
            }
        }
        self.node = self.node.lose_power().await;
        self.node.wait_until_readable().await;
        for work in &cut.during {
            if let Work::Write(rows) = work {
                let again = self.send(options, rows, true).await.unwrap();
                assert!(again.duplicate || !answered, "an acknowledged write is lost");
                self.map.write(rows);
            }
        }
        self
    }
}
