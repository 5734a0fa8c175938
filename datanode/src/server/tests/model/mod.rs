//! A region against a naive map, over random programs of everything that is done to it.
//!
//! `GREPTIME_TEST_SEEDS` says how many programs run, `GREPTIME_TEST_SEED` which one alone. A failure prints the
//! program so far.

pub(super) mod cells;
mod map;
mod power;
mod program;

use std::time::Duration;

use greptime_query::RegionScanSpec;
use greptime_rows::SeriesBatch;
use greptime_types::{Change, Result, TableInfo, Ttl};

use crate::compaction::CleanPolicy;
use crate::config::DatanodeConfig;
use crate::testing::{Dice, Node, SkewedClock, WriteOptions, seeds};
use cells::{Cell, Rows, rows_of};
use greptime_proto::v1;
use map::Map;
use program::{Condition, NOW_MS, Step, some_step, some_table};

const STEPS: usize = 60;

/// What was done, told when a step fails.
struct Story {
    seed: u64,
    steps: Vec<String>,
}

impl Story {
    fn begin(seed: u64, table: &TableInfo) -> Self {
        Self {
            seed,
            steps: vec![format!("{:?} {:?}", table.options, table.schema)],
        }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("GREPTIME_TEST_SEED={}", self.seed);
            for (number, step) in self.steps.iter().enumerate() {
                eprintln!("{number}: {step}");
            }
        }
    }
}

/// A region, and what it should show.
struct Pair {
    node: Node,
    map: Map,
}

#[tokio::test]
async fn a_region_is_as_a_map_whatever_is_done_to_it() {
    for seed in seeds_to_try(60) {
        runs_as_the_map_does(seed).await;
    }
}

fn seeds_to_try(usual: u64) -> std::ops::Range<u64> {
    let only = std::env::var("GREPTIME_TEST_SEED").map(|n| n.parse().expect("a seed"));
    only.map_or(0..seeds(usual), |seed: u64| seed..seed + 1)
}

async fn runs_as_the_map_does(seed: u64) {
    let mut dice = Dice::new(seed);
    let table = some_table(&mut dice);
    let config = some_config(&mut dice);
    let mut story = Story::begin(seed, &table);
    let mut pair = Pair {
        node: Node::with_clock(config, table.clone(), SkewedClock::at(NOW_MS)).await,
        map: Map::new(table, NOW_MS),
    };
    for _ in 0..STEPS {
        let step = some_step(&mut dice, &pair.map);
        story.steps.push(format!("{step:?}"));
        pair = pair.take(step).await;
    }
    pair.end(&mut story).await;
}

fn some_config(dice: &mut Dice) -> DatanodeConfig {
    DatanodeConfig {
        compaction_active_runs: 1 + dice.roll(4) as usize,
        compaction_inactive_runs: 1,
        ..DatanodeConfig::default()
    }
}

impl Pair {
    /// All of it is right in memory, in files, in merged files, and after a start.
    async fn end(mut self, story: &mut Story) {
        for last in [
            Step::Scan,
            Step::Flush,
            Step::Scan,
            Step::Compact,
            Step::Scan,
            Step::Reopen,
            Step::Scan,
        ] {
            story.steps.push(format!("{last:?}"));
            self = self.take(last).await;
        }
    }

    async fn take(mut self, step: Step) -> Self {
        match step {
            Step::Write { rows, by_id, again } => {
                let options = self.node.options();
                assert!(!self.send(options, &rows, by_id).await.unwrap().duplicate);
                self.map.write(&rows);
                if again {
                    assert!(self.send(options, &rows, by_id).await.unwrap().duplicate);
                }
            }
            Step::Delete { rows, by_id } => {
                let options = WriteOptions {
                    op: v1::WriteOp::Delete,
                    ..self.node.options()
                };
                self.send(options, &rows, by_id).await.unwrap();
                self.map.delete(&rows);
            }
            Step::Update(update) => {
                let rows = self.map.updated(&update);
                if !rows.rows.is_empty() {
                    self.send(self.node.options(), &rows, true).await.unwrap();
                    self.map.write(&rows);
                }
            }
            Step::Alter(changes) => self.alter(&changes).await,
            Step::Instant { rows } => self.keep_nothing_of(&rows).await,
            Step::Truncate => {
                self.node.truncate().await.unwrap();
                self.map.truncate();
            }
            Step::Flush => drop(self.node.flush().await.unwrap()),
            Step::Compact => self.compact().await.unwrap(),
            Step::Clean => self.clean().await,
            Step::Scan => self.scan().await,
            Step::Query { conditions, names } => self.query(&conditions, &names).await,
            kill => return self.restart(kill).await,
        }
        self
    }

    async fn send(&self, options: WriteOptions, rows: &Rows, by_id: bool) -> Result<v1::WriteResponse> {
        let batch = rows.batch(&self.map.table);
        if by_id {
            let series = SeriesBatch::from_named(&batch, &self.map.table.schema).unwrap();
            return self.node.write_series(options, &series).await;
        }
        self.node.write_batch(options, &batch).await
    }

    async fn alter(&mut self, changes: &[Change]) {
        self.node.alter(changes).await;
        self.map.alter(changes);
    }

    async fn keep_nothing_of(&mut self, rows: &Rows) {
        let before = self.map.table.options.ttl;
        self.alter(&[Change::SetTtl {
            ttl: Some(Ttl::Instant),
        }])
        .await;
        self.send(self.node.options(), rows, true).await.unwrap();
        let found = self.node.scan(self.node.spec()).await.unwrap();
        assert_eq!(rows_of(&found), Vec::<Vec<Cell>>::new());
        self.alter(&[Change::SetTtl { ttl: before }]).await;
        self.node.truncate().await.unwrap();
        self.map.truncate();
        self.map.forget_age();
    }

    async fn compact(&self) -> Result<()> {
        let region = self.node.datanode.regions().get(self.node.region)?;
        self.node.datanode.compact_one(&region).await.map(drop)
    }

    async fn clean(&self) {
        let now = CleanPolicy {
            grace: Duration::ZERO,
            listing: Duration::from_secs(3600),
        };
        let region = self.node.datanode.regions().get(self.node.region).unwrap();
        self.node.datanode.compactor.clean(&region, now).await.unwrap();
    }

    /// Everything, row by row.
    async fn scan(&self) {
        let names: Vec<String> = self
            .map
            .table
            .schema
            .columns
            .iter()
            .map(|c| c.name.clone())
            .collect();
        self.query(&[], &names).await;
    }

    async fn query(&self, conditions: &[Condition], names: &[String]) {
        let schema = &self.map.table.schema;
        // The time is always read, since of some times the map does not know.
        let time = schema.time_index().name.clone();
        let mut names = names.to_vec();
        names.retain(|name| *name != time);
        names.push(time);
        let position = |name: &String| schema.columns.iter().position(|c| c.name == *name).unwrap();
        let spec = RegionScanSpec {
            filters: conditions.iter().map(Condition::expr).collect(),
            projection: Some(names.iter().map(position).collect()),
            ..self.node.spec()
        };
        let mut found = rows_of(&self.node.scan(spec).await.unwrap());
        let over = |row: &&Vec<Cell>| self.map.is_over(row.last().unwrap());
        assert_eq!(found.iter().find(over), None, "a row that has lived its time");
        found.retain(|row| self.map.is_defined(row.last().unwrap()));
        let mut expected = self.map.select(conditions, &names);
        expected.retain(|row| !self.map.is_over(row.last().unwrap()));
        if found != expected {
            let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
            let wrong: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
            panic!(
                "of {names:?} {} rows are found and {} expected; missing {missing:?}, wrong {wrong:?}",
                found.len(),
                expected.len()
            );
        }
    }

    async fn restart(mut self, kill: Step) -> Self {
        let mut repeat = None;
        match kill {
            Step::KillWriting { fault, rows } => {
                let options = self.node.options();
                self.node.log.fail_at(1, fault);
                self.send(options, &rows, true).await.unwrap_err();
                repeat = Some((options, rows));
            }
            Step::KillFlushing { fault } => {
                self.node.log.fail_at(1, fault);
                let _ = self.node.flush().await;
            }
            Step::KillBucket { change, fault } => {
                self.node.store.away_at_change(change, fault);
                let work = async {
                    let _ = self.node.flush().await;
                    let _ = self.compact().await;
                };
                // Edits are tried for as long as the bucket is away.
                let _ = tokio::time::timeout(Duration::from_millis(50), work).await;
                self.node.store.set_away(false);
            }
            _ => {
                self.node = self.node.reopen().await;
                self.node.wait_until_readable().await;
                return self;
            }
        }
        self.node = self.node.crash().await;
        self.node.wait_until_readable().await;
        if let Some((options, rows)) = repeat {
            self.send(options, &rows, true).await.unwrap();
            self.map.write(&rows);
        }
        self
    }
}
