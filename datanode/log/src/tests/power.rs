//! The power fails: of what was not synced a disk keeps nothing, all, the beginning, or sectors here and there. What was
//! acknowledged is there afterwards, and of what was under way all or nothing.
//!
//! A seeded program writes the log on disk, and everything that it does to its files is noted. Then the disk is made as it
//! may have been at moments of it; the log is opened on each, and the program goes on from one of them.

use std::collections::BTreeMap;

use super::super::disk::Disk;
use super::super::engine::must_sync;
use super::super::record::FIRST_POSITION;
use super::super::testing::{Files, files_in, found, write_files};
use super::*;

const REGIONS: u32 = 4;
const LIVES: usize = 3;
const STEPS: usize = 40;
/// So many moments of each life are looked at.
const CUTS: usize = 6;
/// Between the terms of leaders; those of entries that they find may lie between.
const ERA: u64 = 1 << 20;

/// What the log has of a region.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    /// Terms and data by index.
    entries: BTreeMap<u64, (u64, Bytes)>,
    values: BTreeMap<Key, Bytes>,
}

type State = BTreeMap<RegionId, Kept>;

/// What a program has written.
#[derive(Clone, Default)]
struct Written {
    state: State,
    ends: BTreeMap<RegionId, Ends>,
}

/// Where the log of a region goes on.
#[derive(Clone, Copy)]
struct Ends {
    /// Of the last entry that was trimmed.
    trimmed_term: u64,
    next: u64,
    /// Of its leader.
    term: u64,
}

impl Written {
    /// Whether a log that has this has what was written. Before the entries that are left some may be back that were
    /// trimmed; nobody reads them.
    fn is(&self, found: &State) -> bool {
        let mut found = found.clone();
        for (id, kept) in &mut found {
            let left = self.state.get(id).and_then(|kept| kept.entries.keys().next());
            kept.entries = kept.entries.split_off(left.unwrap_or(&0));
        }
        found.retain(|_, kept| *kept != Kept::default());
        found == self.state
    }
}

/// What should be there after a step, and how much was done to files before and after it.
struct Moment {
    begun: usize,
    done: usize,
    synced: bool,
    written: Written,
}

/// The log of a process, from its start to when the power fails.
struct Life {
    dir: tempfile::TempDir,
    disk: Arc<Disk>,
    log: EngineLog,
}

impl Life {
    fn on(files: &Files, sync: LogSync) -> Self {
        Self::with(files, sync, 16 << 10)
    }

    fn with(files: &Files, sync: LogSync, file_size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_files(dir.path(), files);
        let options = EngineOptions {
            dir: dir.path().to_owned(),
            sync,
            damage: LogDamage::Refuse,
            file_size,
            reserve: 0,
            purge_threshold: 3 * file_size,
            limit: 0,
        };
        let disk = Arc::new(Disk::noted());
        let log = patiently(|| EngineLog::open_in(&options, Counter::default(), Arc::clone(&disk)));
        let log = log.unwrap_or_else(|error| panic!("{error}"));
        assert!(log.cuts().iter().all(|cut| !cut.acknowledged), "{:?}", log.cuts());
        Self { dir, disk, log }
    }

    fn state(&self) -> State {
        let mut state = State::new();
        for id in (0..REGIONS).map(region) {
            let mut kept = Kept::default();
            if let Some((first, last)) = self.log.bounds(id) {
                let entries = self.log.entries(id, first, last + 1, u64::MAX).unwrap();
                kept.entries = entries.into_iter().map(|e| (e.index, (e.term, e.data))).collect();
                assert_eq!(kept.entries.len() as u64, last + 1 - first);
            }
            for key in Key::ALL {
                kept.values
                    .extend(self.log.get(id, key).unwrap().map(|value| (key, value)));
            }
            if kept != Kept::default() {
                state.insert(id, kept);
            }
        }
        state
    }
}

fn entry(index: u64, term: u64, data: Bytes) -> Entry {
    Entry {
        index,
        term,
        data,
        ..Entry::default()
    }
}

/// In few words: lengths stand for what is different in all cases.
fn told(state: &State) -> String {
    let regions = state.iter().map(|(id, kept)| {
        let entries = kept.entries.iter();
        let entries: Vec<String> = entries
            .map(|(index, (_, data))| format!("{index}:{}", data.len()))
            .collect();
        let values = kept.values.iter();
        let values: Vec<String> = values
            .map(|(key, value)| format!("{key:?}:{}", value.len()))
            .collect();
        format!("{id}: {} {}", entries.join(" "), values.join(" "))
    });
    regions.collect::<Vec<_>>().join("\n")
}

/// What a step does, and what should be there then.
fn batch(Written { state, ends }: &mut Written, dice: &mut impl FnMut(u64) -> u64) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..=dice(3) {
        let id = region(dice(u64::from(REGIONS)) as u32);
        if batch.regions.contains_key(&id) {
            continue;
        }
        let changes = batch.region(id);
        if dice(30) == 0 {
            changes.delete = true;
            state.remove(&id);
            ends.remove(&id);
            continue;
        }
        let kept = state.entry(id).or_default();
        let ends = ends.entry(id).or_insert(Ends {
            trimmed_term: FIRST_POSITION.term,
            next: 2,
            term: ERA,
        });
        if dice(8) == 0
            && let Some(first) = kept.entries.keys().next().copied()
        {
            // Often everything, and sometimes what never came: a leader has sent a snapshot.
            let through = match dice(4) {
                0 => first + dice(ends.next - first),
                1 => ends.next + dice(20),
                _ => ends.next - 1,
            };
            ends.trimmed_term = kept.entries.get(&through).map_or(ends.term, |(term, _)| *term);
            ends.next = (through + 1).max(ends.next);
            changes.trim_through = Some(through);
            kept.entries.retain(|index, _| *index > through);
        }
        if dice(10) > 0 {
            // Another leader replaces the end of the log, sometimes with entries of a term before theirs.
            let mut term = ends.term;
            if dice(8) == 0 {
                ends.term += ERA;
                ends.next -= dice(kept.entries.len() as u64 + 1);
                kept.entries.retain(|index, _| *index < ends.next);
                let before = kept.entries.values().next_back();
                let before = before.map_or(ends.trimmed_term, |(term, _)| *term);
                // No two entries at one place are of one term.
                let unused = before / ERA * ERA + ends.term / ERA;
                term = [ends.term, unused.max(before)][dice(2) as usize];
            }
            for _ in 0..=dice(4) {
                let bytes = dice(3) * dice(1_200);
                let data = noise(dice(u64::MAX), bytes as usize);
                changes.entries.push(entry(ends.next, term, data.clone()));
                kept.entries.insert(ends.next, (term, data));
                ends.next += 1;
            }
        }
        for key in Key::ALL {
            if dice(4) == 0 {
                let value = noise(dice(u64::MAX), 1 + dice(200) as usize);
                changes.put.insert(key, value.clone());
                kept.values.insert(key, value);
            }
        }
    }
    batch.regions.retain(|_, changes| {
        changes.delete
            || changes.trim_through.is_some()
            || !changes.entries.is_empty()
            || !changes.put.is_empty()
    });
    state.retain(|_, kept| *kept != Kept::default());
    batch
}

/// One process writes; every moment of it.
fn live(life: &Life, mut written: Written, sync: LogSync, dice: &mut impl FnMut(u64) -> u64) -> Vec<Moment> {
    let mut moments = vec![Moment {
        begun: 0,
        done: 0,
        synced: true,
        written: written.clone(),
    }];
    for _ in 0..STEPS {
        let begun = life.disk.done();
        let mut synced = sync == LogSync::Always;
        match dice(12) {
            0 => drop(life.log.reclaim().unwrap()),
            1 => {
                life.log.sync().unwrap();
                synced = true;
            }
            _ => {
                let batch = batch(&mut written, dice);
                synced |= batch.regions.values().any(must_sync);
                life.log.append(batch).unwrap();
            }
        }
        moments.push(Moment {
            begun,
            done: life.disk.done(),
            synced,
            written: written.clone(),
        });
    }
    moments
}

/// The power fails when so much was done: what is found is what was there after one of the steps that it may be.
fn fails(
    life: &Life,
    before: &Files,
    moments: &[Moment],
    sync: LogSync,
    dice: &mut impl FnMut(u64) -> u64,
) -> (Files, Written) {
    let done = dice(life.disk.done() as u64 + 1) as usize;
    let files = found(before, &life.disk.ops(done), dice);
    let state = Life::on(&files, sync).state();
    let kept = moments.iter().rposition(|m| m.synced && m.done <= done).unwrap();
    let begun = moments.iter().rposition(|m| m.begun <= done).unwrap();
    let mut may_be = moments[kept..=begun].iter().rev();
    let Some(moment) = may_be.find(|m| m.written.is(&state)) else {
        let may_be = moments[kept..=begun].iter().map(|m| told(&m.written.state));
        let may_be: Vec<String> = may_be.collect();
        panic!(
            "after {done} changes of files there is\n{}\ninstead of\n{}",
            told(&state),
            may_be.join("\nor\n")
        );
    };
    (files, moment.written.clone())
}

fn power_fails(seed: u64, sync: LogSync) {
    let mut dice = dice(seed);
    let (mut files, mut written) = (Files::new(), Written::default());
    for _ in 0..LIVES {
        let life = Life::on(&files, sync);
        assert!(written.is(&life.state()), "it was read before");
        let moments = live(&life, written, sync, &mut dice);
        assert!(moments.last().unwrap().written.is(&life.state()));
        let cuts = (0..CUTS).map(|_| fails(&life, &files, &moments, sync, &mut dice));
        (files, written) = cuts.last().unwrap();
    }
}

/// The engine removes the files that say so of what was trimmed, and may have moved some of it before.
#[test]
fn entries_that_were_trimmed_to_the_last_do_not_come_back() {
    let write = |life: &Life, id: u32, entries: std::ops::Range<u64>, bytes: usize| {
        for index in entries {
            let mut batch = Batch::default();
            let entry = entry(index, 1, noise(index, bytes));
            batch.region(region(id)).entries.push(entry);
            life.log.append(batch).unwrap();
        }
    };
    let trim = |life: &Life, id: u32, through: u64| {
        let mut batch = Batch::default();
        batch.region(region(id)).trim_through = Some(through);
        life.log.append(batch).unwrap();
    };
    let reopened = |life: Life| Life::on(&files_in(life.dir.path()), LogSync::Always);
    let life = Life::on(&Files::new(), LogSync::Always);
    write(&life, 0, 2..12, 100);
    // The first entries are moved to other files, the next are not.
    write(&life, 1, 2..100, 1_000);
    life.log.reclaim().unwrap();
    write(&life, 0, 12..22, 100);
    trim(&life, 0, 21);
    write(&life, 1, 100..300, 1_000);
    trim(&life, 1, 299);
    life.log.reclaim().unwrap();
    let life = reopened(life);
    assert_eq!(life.log.bounds(region(0)), None);
    write(&life, 0, 22..24, 100);
    assert_eq!(life.log.bounds(region(0)), Some((22, 23)));
    assert_eq!(reopened(life).log.bounds(region(0)), Some((22, 23)));
}

/// So many that several writes go to one of those.
#[test]
fn entries_are_moved_to_other_files() {
    const FILE: u64 = 512 << 10;
    each_seed(4, |seed| {
        // One of the first that find it.
        let mut dice = dice(26 + seed);
        let life = Life::with(&Files::new(), LogSync::Always, FILE);
        for index in 2..32 {
            let mut batch = Batch::default();
            for id in 0..REGIONS {
                let data = noise(index * 8 + u64::from(id), 30_000);
                batch.region(region(id)).entries.push(entry(index, 1, data));
            }
            life.log.append(batch).unwrap();
        }
        let (state, begun) = (life.state(), life.disk.done());
        life.log.reclaim().unwrap();
        let during = (life.disk.done() - begun) as u64;
        for _ in 0..30 {
            let done = begun + dice(during + 1) as usize;
            let files = found(&Files::new(), &life.disk.ops(done), &mut dice);
            assert_eq!(Life::with(&files, LogSync::Always, FILE).state(), state);
        }
    });
}

/// A vote was replaced and that was not synced; the file with the one before was removed. A seed that found it.
#[test]
fn what_is_cleaned_away_was_replaced_on_disk() {
    power_fails(89, LogSync::Interval);
}

#[test]
fn what_was_acknowledged_outlives_the_power() {
    each_seed(60, |seed| power_fails(seed, LogSync::Always));
}

#[test]
fn what_was_synced_outlives_the_power_where_syncs_have_an_interval() {
    each_seed(30, |seed| power_fails(seed, LogSync::Interval));
}
