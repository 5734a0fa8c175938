//! What came of the faults: `reports/chaos.json`, a list with one entry for each kind.
//!
//! An entry keeps its samples, so that a run that goes on where another ended adds to them and settles everything anew.

mod aims;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::copied::Added;
use crate::cost::Replication;
use crate::cpu::Ticks;
use crate::faults::{Fault, Kind};
use crate::floor::{Bare, Floor, HANDOVER};
use crate::numbers::{Histogram, Percentiles, median, milliseconds, rounded};
use crate::steps::{NAMES, Steps};

/// Bins of acknowledgements around a fault.
pub const BINS_BEFORE: usize = 25;
pub const BINS_AFTER: usize = 75;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Entry {
    pub fault: String,
    pub count: usize,
    /// How many more the run that wrote this was to do.
    #[serde(default)]
    pub missing: usize,
    /// Regions whose leader was hit, of all faults together.
    pub regions_hit: usize,
    /// The longest time without an acknowledgement around a fault, of each region that was hit.
    pub gap_ms: Percentiles,
    /// The same in as much time in which nothing happened, of all regions.
    pub ordinary_ms: Percentiles,
    /// `gap_ms` of each sort, of faults that take turns.
    pub sorts_ms: BTreeMap<String, Percentiles>,
    /// Each percentile of the gap less the same one of `ordinary_ms`.
    pub excess_ms: Percentiles,
    /// The median of bare changes of leaders between the same processes, with nothing else running.
    pub floor_ms: Option<f64>,
    /// `migrate`, or `idle_kill` without its detection; of moves, `handover`: from the order to the commit.
    pub floor_by: String,
    /// Where `floor_by` is a handover: the gap of a single writer, which is the floor of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_gap_ms: Option<f64>,
    /// Of bare handovers, medians.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floor_steps_ms: BTreeMap<String, f64>,
    /// The longest time without an acknowledgement of any region while what was hit came back.
    pub return_ms: Percentiles,
    pub client_errors: u64,
    pub rows_acknowledged: usize,
    pub rows_lost: usize,
    pub rows_doubled: usize,
    pub reads: u64,
    pub read_errors: u64,
    pub stale_reads: u64,
    /// Of the whole machine.
    pub cpu_percent: f64,
    /// Medians, in milliseconds.
    pub steps_ms: BTreeMap<String, f64>,
    /// The 99th percentile of each by itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps_p99_ms: BTreeMap<String, f64>,
    /// Regions for which metasrv had to give an order more than once.
    pub ordered_again: usize,
    /// Of faults that must not be felt.
    pub writes_ms: Option<WriteTimes>,
    /// Bytes of files of rows that moves of regions have copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sst_bytes_copied: Option<u64>,
    /// What else moves of regions have put into the object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<Added>,
    /// Of datanodes that led very many regions, in the order of the kills.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaders_lost: Vec<LeadersLost>,
    /// What it costs to keep the log on three datanodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// Aims that were missed, in words.
    pub missed: Vec<String>,
    pub samples: Samples,
}

/// A datanode was killed, and each region that it led was written to once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeadersLost {
    /// Regions that it led.
    pub leaders: usize,
    /// From the kill to the acknowledgement, of those regions that gave one; nothing if none did.
    pub writable_ms: Option<Writable>,
    /// Regions whose write failed.
    pub errors: usize,
    /// From its new start until it had all replicas and every region had a second one ready to lead; nothing if that
    /// did not come.
    pub whole_after_ms: Option<f64>,
}

/// When regions took a row: the first one, so many, and the last one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Writable {
    pub first: f64,
    pub p50: f64,
    pub p99: f64,
    pub last: f64,
}

impl LeadersLost {
    /// `times`: of the acknowledgements, in milliseconds.
    pub fn of(leaders: usize, times: &[f64], errors: usize) -> Self {
        let Percentiles { p50, p99, max: last } = Percentiles::of(times);
        let first = times.iter().copied().min_by(f64::total_cmp);
        Self {
            leaders,
            writable_ms: first.map(|first| Writable {
                first,
                p50,
                p99,
                last,
            }),
            errors,
            whole_after_ms: None,
        }
    }
}

impl fmt::Display for LeadersLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} leaders lost: ", self.leaders)?;
        match self.writable_ms {
            Some(Writable {
                first,
                p50,
                p99,
                last,
            }) => write!(
                f,
                "the first region was writable after {first} ms, p50 {p50}, p99 {p99}, the last after {last} ms"
            )?,
            None => write!(f, "no region was writable")?,
        }
        write!(f, "; {} writes failed", self.errors)?;
        match self.whole_after_ms {
            Some(ms) => write!(f, "; whole {:.1} s after the new start", ms / 1000.0),
            None => write!(f, "; not whole again"),
        }
    }
}

/// How long writes took at their 99.9th percentile: in the 5 s before a fault, in the 5 s after it, and in the 5 s in
/// which the cluster became whole again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WriteTimes {
    pub p999_before: f64,
    pub p999_after: f64,
    pub p999_return: f64,
}

/// In milliseconds, in the order of the faults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Samples {
    pub gaps: Vec<f64>,
    pub sorts: BTreeMap<String, Vec<f64>>,
    pub ordinary: Vec<f64>,
    pub returns: Vec<f64>,
    pub floors: Vec<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floor_gaps: Vec<f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floor_steps: BTreeMap<String, Vec<f64>>,
    pub steps: BTreeMap<String, Vec<f64>>,
    pub before: Histogram,
    pub after: Histogram,
    pub whole: Histogram,
    /// Acknowledgements in each bin, of all regions that were hit.
    pub timeline: Vec<u64>,
    pub cpu_busy: u64,
    pub cpu_all: u64,
}

/// What is seen of a region that was hit.
pub struct Seen {
    pub gap: Duration,
    pub sort: Option<&'static str>,
    pub steps: Steps,
    /// Of metasrv, to lead it.
    pub orders: usize,
    pub timeline: Vec<u64>,
}

impl Entry {
    pub fn new(fault: &str) -> Self {
        Self {
            fault: fault.to_owned(),
            ..Self::default()
        }
    }

    pub fn note(&mut self, seen: Seen) {
        let samples = &mut self.samples;
        let gap = milliseconds(seen.gap);
        self.ordered_again += usize::from(seen.orders > 1);
        samples.gaps.push(gap);
        if let Some(sort) = seen.sort {
            samples.sorts.entry(sort.to_owned()).or_default().push(gap);
        }
        for (name, ms) in seen.steps {
            samples.steps.entry(name).or_default().push(rounded(ms));
        }
        samples.timeline.resize(BINS_BEFORE + BINS_AFTER, 0);
        for (sum, acknowledged) in samples.timeline.iter_mut().zip(seen.timeline) {
            *sum += acknowledged;
        }
    }

    /// What a move of a region has added to the object store.
    pub fn note_move(&mut self, added: Added) {
        let all = self.object_store.map_or(added, |before| before.and(added));
        self.object_store = Some(all);
        self.sst_bytes_copied = Some(all.copied);
    }

    /// The floor of moves is the handover alone, if the datanodes tell when it is committed.
    pub fn note_floor(&mut self, fault: Fault, floor: &Floor) {
        let gaps = floor.times.iter().map(|ms| rounded(*ms));
        if fault.kind() == Kind::Move {
            self.note_bare(&floor.bare);
            self.note_handovers(&floor.handovers());
        }
        if self.floor_by == HANDOVER {
            self.samples.floor_gaps.extend(gaps);
        } else {
            self.floor_by = floor.way.name().to_owned();
            self.samples.floors.extend(gaps);
        }
    }

    fn note_bare(&mut self, handovers: &[Bare]) {
        for (name, ms) in handovers.iter().flat_map(|bare| &bare.steps) {
            let steps = self.samples.floor_steps.entry(name.clone()).or_default();
            steps.push(rounded(*ms));
        }
    }

    fn note_handovers(&mut self, times: &[f64]) {
        if times.is_empty() {
            return;
        }
        if self.floor_by != HANDOVER {
            // In a report of before, the floor of moves was that of the others.
            self.samples.floor_gaps.append(&mut self.samples.floors);
            self.floor_by = HANDOVER.to_owned();
        }
        self.samples.floors.extend(times.iter().map(|ms| rounded(*ms)));
    }

    pub fn note_cpu(&mut self, ticks: Ticks) {
        self.samples.cpu_busy += ticks.busy;
        self.samples.cpu_all += ticks.all;
    }

    /// Computes everything that follows from the samples.
    pub fn settle(&mut self, fault: Fault) {
        let samples = &self.samples;
        // One whose write has failed has no gap, and was hit all the same.
        let without_gap: usize = self.leaders_lost.iter().map(|lost| lost.errors).sum();
        self.regions_hit = samples.gaps.len() + without_gap;
        self.gap_ms = Percentiles::of(&samples.gaps);
        self.ordinary_ms = Percentiles::of(&samples.ordinary);
        let sorts = samples.sorts.iter();
        self.sorts_ms = sorts
            .map(|(sort, gaps)| (sort.clone(), Percentiles::of(gaps)))
            .collect();
        self.excess_ms = self.gap_ms.beyond(self.ordinary_ms);
        self.return_ms = Percentiles::of(&samples.returns);
        self.floor_ms = (!samples.floors.is_empty()).then(|| median(&samples.floors));
        self.floor_gap_ms = (!samples.floor_gaps.is_empty()).then(|| median(&samples.floor_gaps));
        self.floor_steps_ms = of_each(&samples.floor_steps, |p| p.p50);
        self.steps_ms = of_each(&samples.steps, |p| p.p50);
        self.steps_p99_ms = of_each(&samples.steps, |p| p.p99);
        let cpu = Ticks {
            busy: samples.cpu_busy,
            all: samples.cpu_all,
        };
        self.cpu_percent = rounded(cpu.percent());
        self.writes_ms = (!samples.before.is_empty()).then(|| WriteTimes {
            p999_before: samples.before.percentile(0.999),
            p999_after: samples.after.percentile(0.999),
            p999_return: samples.whole.percentile(0.999),
        });
        self.missed = self.missed(fault);
    }

    /// Whether all that was acknowledged was there, once, whenever somebody looked.
    pub fn is_sound(&self) -> bool {
        self.rows_lost == 0 && self.rows_doubled == 0 && self.stale_reads == 0
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let three = |p: Percentiles| format!("{:.0}/{:.0}/{:.0}", p.p50, p.p99, p.max);
        write!(
            f,
            "{:<18} {:>5} {:>5} {:>16} {:>14} {:>16} {:>6} {:>6} {:>8} {:>4} {:>4} {:>5} {:>4.0}%",
            self.fault,
            self.count,
            self.regions_hit,
            three(self.gap_ms),
            three(self.ordinary_ms),
            three(self.excess_ms),
            self.floor_ms.map_or("-".to_owned(), |ms| format!("{ms:.0}")),
            self.client_errors,
            self.rows_acknowledged,
            self.rows_lost,
            self.rows_doubled,
            self.stale_reads,
            self.cpu_percent
        )?;
        for (sort, gaps) in &self.sorts_ms {
            write!(f, "\n    {sort}: {} ms", three(*gaps))?;
        }
        if let Some(replication) = &self.replication {
            write!(f, "\n    {replication}")?;
        }
        if let Some(added) = &self.object_store {
            write!(
                f,
                "\n    of at least {} bytes of rows in files, {} were copied; {} bytes were put, {} of them by flushes and \
                 compactions; {} copies in the object store",
                added.rows_before, added.copied, added.put, added.made, added.copies
            )?;
        }
        for lost in &self.leaders_lost {
            write!(f, "\n    {lost}")?;
        }
        if self.missing > 0 {
            write!(f, "\n    {} more are missing", self.missing)?;
        }
        for missed in &self.missed {
            write!(f, "\n    missed: {missed}")?;
        }
        if let Some(writes) = &self.writes_ms {
            let (before, after, whole) = (writes.p999_before, writes.p999_after, writes.p999_return);
            write!(
                f,
                "\n    p99.9 of writes: {before} ms in the 5 s before, {after} ms in the 5 s after, {whole} ms until whole"
            )?;
        }
        if !self.samples.returns.is_empty() {
            write!(f, "\n    while it comes back: {} ms", three(self.return_ms))?;
        }
        for (what, steps) in [
            ("where the median goes", &self.steps_ms),
            ("the 99th percentile of each step", &self.steps_p99_ms),
            ("medians of a bare handover", &self.floor_steps_ms),
        ] {
            if !steps.is_empty() {
                write!(f, "\n    {what}, in ms: {}", in_words(steps))?;
            }
        }
        if self.ordered_again > 0 {
            let (again, hit) = (self.ordered_again, self.regions_hit);
            write!(f, "\n    metasrv had to order again for {again} of {hit} regions")?;
        }
        Ok(())
    }
}

/// One of the percentiles of each step.
fn of_each(samples: &BTreeMap<String, Vec<f64>>, which: fn(Percentiles) -> f64) -> BTreeMap<String, f64> {
    let steps = samples.iter();
    steps
        .map(|(name, times)| (name.clone(), which(Percentiles::of(times))))
        .collect()
}

/// Steps in the order in which they are told.
fn in_words(steps: &BTreeMap<String, f64>) -> String {
    let told = NAMES.iter().filter_map(|name| Some((name, steps.get(*name)?)));
    let told: Vec<String> = told.map(|(name, ms)| format!("{name} {ms}")).collect();
    told.join(", ")
}

/// An acknowledgement that came so long after a fault, in the bins around it.
pub fn bin_of(after: Duration, bin: Duration) -> Vec<u64> {
    let mut bins = vec![0; BINS_BEFORE + BINS_AFTER];
    let place = BINS_BEFORE + (after.as_secs_f64() / bin.as_secs_f64()) as usize;
    if let Some(count) = bins.get_mut(place) {
        *count = 1;
    }
    bins
}

/// Above the entries when they are printed. Three numbers are p50, p99 and the longest.
pub fn heading() -> String {
    format!(
        "{:<18} {:>5} {:>5} {:>16} {:>14} {:>16} {:>6} {:>6} {:>8} {:>4} {:>4} {:>5} {:>5}",
        "fault",
        "count",
        "hit",
        "gap ms",
        "ordinary ms",
        "excess ms",
        "floor",
        "errors",
        "rows",
        "lost",
        "twice",
        "stale",
        "cpu"
    )
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Report {
    pub entries: Vec<Entry>,
}

impl Report {
    pub fn read(file: &Path) -> Result<Self> {
        if !file.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(file)?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a report that can be continued", file.display()))
    }

    /// How often a fault has happened.
    pub fn count(&self, fault: Fault) -> usize {
        let name = fault.name();
        let entry = self.entries.iter().find(|e| e.fault == name);
        entry.map_or(0, |entry| entry.count)
    }

    /// The entry of a fault, made if it is not there.
    pub fn entry(&mut self, fault: Fault) -> &mut Entry {
        let name = fault.name();
        let place = self.entries.iter().position(|e| e.fault == name);
        let place = place.unwrap_or_else(|| {
            self.entries.push(Entry::new(&name));
            self.entries.len() - 1
        });
        &mut self.entries[place]
    }

    /// An error if anything is lost, doubled or stale.
    pub fn check_sound(&self) -> Result<()> {
        let unsound: Vec<&Entry> = self.entries.iter().filter(|e| !e.is_sound()).collect();
        ensure!(
            unsound.is_empty(),
            "rows are lost or doubled, or reads were stale: {:?}",
            unsound.iter().map(|e| &e.fault).collect::<Vec<_>>()
        );
        Ok(())
    }

    /// In the place of an older one, which is there until this one is whole.
    pub fn write(&self, file: &Path) -> Result<()> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let unfinished = file.with_extension("json.new");
        std::fs::write(&unfinished, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(std::fs::rename(unfinished, file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::Way;

    fn some_kills() -> Entry {
        let mut entry = Entry::new("kill");
        for gap in [40, 50, 500] {
            entry.count += 1;
            let steps = Steps::from([("detect".to_owned(), gap as f64 / 2.0)]);
            entry.note(Seen {
                gap: Duration::from_millis(gap),
                sort: Fault::Migrate.sort(entry.count),
                steps,
                orders: entry.count,
                timeline: vec![1, 2],
            });
        }
        entry.samples.ordinary = vec![10.0, 12.0];
        entry.samples.floors = vec![8.0, 30.0, 9.0];
        entry
    }

    #[test]
    fn an_entry_is_judged_by_its_aim_its_floor_and_ordinary_commits() {
        let mut entry = some_kills();
        entry.settle(Fault::Kill);
        assert_eq!((entry.gap_ms.p50, entry.excess_ms.p50), (50.0, 40.0));
        assert_eq!((entry.floor_ms, entry.steps_ms["detect"]), (Some(9.0), 25.0));
        assert_eq!(entry.steps_p99_ms["detect"], 250.0);
        assert_eq!(entry.missed.len(), 2, "{:?}", entry.missed);
        assert!(
            entry.missed[0].starts_with("p99 is 500 ms, aim 150 ms"),
            "{:?}",
            entry.missed
        );
        assert_eq!(entry.samples.timeline[..3], [3, 6, 0]);
        assert_eq!(entry.sorts_ms["to an outsider"].max, 50.0);
        assert_eq!(entry.ordered_again, 2);
    }

    fn floor(gap: f64, until_committed: Option<f64>) -> Floor {
        let steps = Steps::from([("elect".to_owned(), 2.0), ("move".to_owned(), 30.0)]);
        Floor {
            way: Way::Migrate,
            times: vec![gap],
            bare: vec![Bare {
                steps,
                until_committed,
            }],
        }
    }

    #[test]
    fn the_floor_of_moves_is_a_bare_handover_and_that_of_others_the_gap_of_a_writer() {
        let settled = |fault: Fault| {
            let mut entry = Entry::new(&fault.name());
            entry.note_floor(fault, &floor(8.0, Some(4.5)));
            entry.settle(fault);
            entry
        };
        let moves = settled(Fault::Migrate);
        assert_eq!((moves.floor_ms, moves.floor_gap_ms), (Some(4.5), Some(8.0)));
        assert_eq!(
            (moves.floor_by.as_str(), moves.floor_steps_ms["elect"]),
            (HANDOVER, 2.0)
        );
        let kills = settled(Fault::Kill);
        assert_eq!((kills.floor_ms, kills.floor_gap_ms), (Some(8.0), None));
        assert_eq!(kills.floor_by, "migrate");
        assert!(kills.floor_steps_ms.is_empty());
    }

    #[test]
    fn gaps_and_handovers_are_not_mixed_when_a_report_is_continued() {
        let mut entry = Entry::new("migrate");
        // Of a program that does not tell when it has committed.
        entry.note_floor(Fault::Migrate, &floor(7.0, None));
        entry.settle(Fault::Migrate);
        assert_eq!((entry.floor_ms, entry.floor_by.as_str()), (Some(7.0), "migrate"));
        entry.note_floor(Fault::Migrate, &floor(8.0, Some(4.5)));
        entry.note_floor(Fault::Migrate, &floor(9.0, None));
        entry.settle(Fault::Migrate);
        assert_eq!((entry.floor_ms, entry.floor_gap_ms), (Some(4.5), Some(8.0)));
        assert_eq!(entry.floor_by, HANDOVER);
    }

    #[test]
    fn a_failed_write_and_slow_writes_are_missed_aims_of_metasrv_kill() {
        let mut entry = Entry::new("metasrv_kill");
        entry.count = 1;
        entry.client_errors = 1;
        entry.samples.before.add(Duration::from_millis(10));
        entry.samples.after.add(Duration::from_millis(30));
        entry.settle(Fault::MetasrvKill);
        assert_eq!(entry.missed.len(), 2, "{:?}", entry.missed);
    }

    #[test]
    fn a_move_that_copies_files_misses_its_aim() {
        let mut entry = Entry::new("migrate");
        entry.count = 1;
        let moved = Added {
            rows_before: 500,
            ..Added::default()
        };
        entry.note_move(moved);
        entry.settle(Fault::Migrate);
        assert_eq!((entry.sst_bytes_copied, entry.missed.len()), (Some(0), 0));
        entry.note_move(Added { copied: 70, ..moved });
        entry.settle(Fault::Migrate);
        assert_eq!(entry.sst_bytes_copied, Some(70));
        assert_eq!(entry.missed, ["70 bytes of files of rows were copied, aim 0"]);
        entry.note_move(Added { copies: 2, ..moved });
        entry.settle(Fault::Migrate);
        assert_eq!(entry.missed[1..], ["2 copies in the object store, aim 0"]);
    }

    #[test]
    fn a_busy_machine_is_a_missed_aim_but_of_what_loads_it_on_purpose() {
        let missed = |fault: Fault, busy| {
            let mut entry = Entry::new(&fault.name());
            entry.count = 1;
            entry.note_cpu(Ticks { busy, all: 1_000 });
            entry.settle(fault);
            entry.missed
        };
        assert_eq!(
            missed(Fault::Kill, 700),
            ["the machine was busy to 70 %, aim below 70 %"]
        );
        assert!(missed(Fault::Kill, 699).is_empty());
        for fault in [Fault::MassKill, Fault::ReplicationCost] {
            assert!(missed(fault, 990).is_empty(), "{fault:?}");
        }
    }

    #[test]
    fn leaders_lost_are_judged_by_the_last_region_and_by_every_error() {
        let mut entry = Entry::new("mass_kill");
        entry.count = 1;
        let times = [900.0, 400.0, 1_600.0];
        for ms in times {
            let gap = Duration::from_millis(ms as u64);
            entry.note(Seen {
                gap,
                sort: None,
                steps: Steps::new(),
                orders: 1,
                timeline: bin_of(gap, Fault::MassKill.bin()),
            });
        }
        entry.leaders_lost.push(LeadersLost::of(3, &times, 0));
        entry.settle(Fault::MassKill);
        let writable = entry.leaders_lost[0].writable_ms.unwrap();
        assert_eq!(
            (writable.first, writable.p50, writable.last),
            (400.0, 900.0, 1_600.0)
        );
        assert_eq!(entry.missed.len(), 1, "{:?}", entry.missed);
        assert!(entry.missed[0].starts_with("max is 1600 ms, aim 1500 ms"));
        assert_eq!(entry.samples.timeline[BINS_BEFORE + 10], 1);
        entry.leaders_lost.push(LeadersLost::of(2, &[], 2));
        entry.client_errors = 2;
        entry.settle(Fault::MassKill);
        assert_eq!(
            (entry.regions_hit, entry.missed.len()),
            (5, 2),
            "{:?}",
            entry.missed
        );
        let told = entry.leaders_lost[1].to_string();
        assert_eq!(
            told,
            "2 leaders lost: no region was writable; 2 writes failed; not whole again"
        );
    }

    #[test]
    fn what_comes_after_all_bins_is_in_none() {
        assert_eq!(bin_of(Duration::ZERO, Duration::from_millis(40))[BINS_BEFORE], 1);
        let late = bin_of(Duration::from_secs(3), Duration::from_millis(40));
        assert_eq!(late.iter().sum::<u64>(), 0);
    }

    #[test]
    fn a_report_of_before_there_were_leaders_lost_can_be_continued() {
        let text = serde_json::to_string(&Entry::new("kill")).unwrap();
        assert!(!text.contains("leaders_lost"));
        assert!(
            serde_json::from_str::<Entry>(&text)
                .unwrap()
                .leaders_lost
                .is_empty()
        );
    }

    #[test]
    fn a_report_with_a_lost_row_is_not_sound() {
        let mut report = Report::default();
        assert!(report.check_sound().is_ok());
        report.entry(Fault::MassKill).rows_lost = 1;
        let unsound = report.check_sound().unwrap_err();
        assert!(unsound.to_string().contains("mass_kill"), "{unsound}");
    }

    #[test]
    fn a_report_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("reports/chaos.json");
        assert!(Report::read(&file).unwrap().entries.is_empty());
        let mut report = Report::default();
        *report.entry(Fault::Kill) = some_kills();
        report.write(&file).unwrap();
        let mut again = Report::read(&file).unwrap();
        assert_eq!(
            (again.entry(Fault::Kill).count, again.entry(Fault::Stop).count),
            (3, 0)
        );
        assert_eq!(again.entry(Fault::Kill).samples.gaps, [40.0, 50.0, 500.0]);
        std::fs::write(&file, "[{\"fault\": 1}]").unwrap();
        assert!(Report::read(&file).is_err());
    }
}
