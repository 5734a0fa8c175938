//! The picker against an oracle that knows only the rules: what may be merged, dropped or left, and when to end.

use std::collections::BTreeSet;

use greptime_types::RegionId;
use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const MIB: u64 = 1 << 20;

type Files = BTreeMap<String, FileMeta>;

fn policy() -> Policy {
    Policy {
        active_runs: 8,
        inactive_runs: 2,
        max_inputs: 32,
        max_file_bytes: 512 * MIB,
        max_merge_bytes: 4096 * MIB,
    }
}

fn by_data(policy: &Policy) -> WindowPolicy {
    WindowPolicy {
        fixed: None,
        per_second: 1000,
        bytes: policy.max_file_bytes,
        ttl: None,
    }
}

fn question<'a>(files: &'a Files, policy: &'a Policy, now: i64) -> Question<'a> {
    Question {
        files,
        policy,
        window: by_data(policy),
        now,
        ttl_cutoff: None,
        quiet: false,
        everything: false,
    }
}

fn file(name: &str, time: (i64, i64), sequence: (u64, u64), bytes: u64) -> FileMeta {
    FileMeta {
        name: name.into(),
        home: RegionId::new(1, 0),
        rows: bytes / 10 + 1,
        bytes,
        min_sequence: sequence.0,
        max_sequence: sequence.1,
        min_time: time.0,
        max_time: time.1,
        schema_version: 1,
        deletes: 0,
        level: 0,
    }
}

/// A region whose plans are carried out on paper. Rows are spread evenly over a file's time.
struct Paper {
    files: Files,
    next: u64,
    written: u64,
}

impl Paper {
    fn new(files: Files) -> Self {
        Self {
            files,
            next: 0,
            written: 0,
        }
    }

    fn add(&mut self, mut file: FileMeta) {
        file.name = format!("f{:06}", self.next);
        self.next += 1;
        self.files.insert(file.name.clone(), file);
    }

    fn carry_out(&mut self, plan: &Plan, policy: &Policy) {
        match plan {
            Plan::Nothing => {}
            Plan::Drop(names) => names.iter().for_each(|name| drop(self.files.remove(name))),
            Plan::Merge(merge) => self.merge(merge, policy),
        }
    }

    fn merge(&mut self, merge: &Merge, policy: &Policy) {
        let inputs: Vec<FileMeta> = merge
            .inputs
            .iter()
            .map(|n| self.files.remove(n).unwrap())
            .collect();
        self.written += merge.bytes;
        let mut starts = vec![i64::MIN];
        starts.extend(&merge.cuts);
        for (i, start) in starts.iter().enumerate() {
            let end = merge.cuts.get(i).map_or(i64::MAX, |cut| cut - 1);
            let share = |f: &FileMeta| -> Option<(i64, i64, u64)> {
                let (from, to) = (f.min_time.max(*start), f.max_time.min(end));
                let whole = (i128::from(f.max_time) - i128::from(f.min_time) + 1) as f64;
                let part = (i128::from(to) - i128::from(from) + 1) as f64;
                (from <= to).then(|| (from, to, (f.bytes as f64 * part / whole) as u64))
            };
            let parts: Vec<_> = inputs.iter().filter_map(share).collect();
            let bytes: u64 = parts.iter().map(|p| p.2).sum();
            let (Some(from), Some(to)) = (parts.iter().map(|p| p.0).min(), parts.iter().map(|p| p.1).max())
            else {
                continue;
            };
            let pieces = bytes.div_ceil(policy.max_file_bytes).max(1);
            for _ in 0..pieces {
                let mut output = file(
                    "",
                    (from, to),
                    (merge.min_sequence, merge.max_sequence),
                    bytes / pieces,
                );
                output.level = merge.level;
                output.deletes = if merge.drop_deletes {
                    0
                } else {
                    inputs.iter().map(|f| f.deletes).sum()
                };
                self.add(output);
            }
        }
    }

    fn settle(&mut self, ask: impl Fn(&Files) -> (Plan, Report), policy: &Policy) -> usize {
        for round in 0..2000 {
            let (plan, _) = ask(&self.files);
            if plan == Plan::Nothing {
                return round;
            }
            self.carry_out(&plan, policy);
        }
        panic!("no end of plans");
    }
}

// ------------------------------------------------------------------------------------------------------------ oracle

fn overlap(a: &FileMeta, b: &FileMeta) -> bool {
    a.min_time <= b.max_time && b.min_time <= a.max_time
}

fn check_drop(names: &[String], question: &Question<'_>) {
    let cutoff = question
        .ttl_cutoff
        .expect("something is dropped without a time to live");
    assert!(!names.is_empty() && names.len() <= MAX_DROPPED);
    for name in names {
        let file = &question.files[name];
        assert!(file.max_time < cutoff, "a row of {name} has not lived its time");
        for other in question.files.values().filter(|o| !names.contains(&o.name)) {
            let appears = overlap(file, other) && other.max_sequence < file.max_sequence;
            assert!(
                !appears,
                "older rows of {} would appear without {name}",
                other.name
            );
        }
    }
}

fn check_merge(merge: &Merge, question: &Question<'_>) {
    let policy = question.policy;
    let inputs: Vec<&FileMeta> = merge.inputs.iter().map(|n| &question.files[n]).collect();
    assert!(!inputs.is_empty() && inputs.len() <= policy.max_inputs);
    assert!(merge.inputs.is_sorted() && merge.cuts.is_sorted() && merge.cuts.len() < PIECES);
    assert!(
        question.everything || merge.bytes <= policy.max_merge_bytes.max(2 * policy.max_file_bytes),
        "{} bytes at once",
        merge.bytes
    );
    let time = (
        inputs.iter().map(|f| f.min_time).min().unwrap(),
        inputs.iter().map(|f| f.max_time).max().unwrap(),
    );
    let sequence = (
        inputs.iter().map(|f| f.min_sequence).min().unwrap(),
        inputs.iter().map(|f| f.max_sequence).max().unwrap(),
    );
    assert_eq!((merge.min_sequence, merge.max_sequence), sequence);
    assert_eq!(merge.level, inputs.iter().map(|f| f.level).max().unwrap() + 1);
    let outside = question
        .files
        .values()
        .filter(|f| !merge.inputs.contains(&f.name));
    for other in outside.filter(|o| o.min_time <= time.1 && time.0 <= o.max_time) {
        let apart = other.max_sequence < sequence.0 || other.min_sequence > sequence.1;
        let of_one_merge = |f: &FileMeta| (f.min_sequence, f.max_sequence) == sequence;
        let apart = apart || (of_one_merge(other) && inputs.iter().all(|f| of_one_merge(f)));
        assert!(apart, "{} lies between the inputs {:?}", other.name, merge.inputs);
        assert!(
            !merge.drop_deletes || other.min_sequence > sequence.1,
            "deletes are dropped though {} is older",
            other.name
        );
    }
    assert!(still_valid(merge, question.files));
    if inputs.len() == 1 {
        let window = pick(question).1.window;
        let useful = matches!(&merge.why, Why::Wide { .. } if is_wide(inputs[0], window))
            || (matches!(merge.why, Why::Deletes { .. }) && merge.drop_deletes);
        assert!(useful, "one file is written again for nothing: {merge:?}");
    }
}

/// What `Nothing` promises.
fn check_rest(question: &Question<'_>, report: &Report) {
    let policy = question.policy;
    assert!(
        !report.waiting.is_empty(),
        "nothing is done, and no reason is given"
    );
    let all: Vec<&FileMeta> = question.files.values().collect();
    let newest = all
        .iter()
        .map(|f| f.max_time)
        .max()
        .unwrap_or(0)
        .min(question.now);
    for (window, runs) in windows_of(&all, report.window) {
        let open: Vec<&Run<'_>> = runs.iter().filter(|r| r.bytes < policy.max_file_bytes).collect();
        let full = runs.len() - open.len();
        let excused = report
            .waiting
            .iter()
            .any(|w| matches!(w, Waiting::TooManyFiles { window: too_many, .. } if *too_many == window));
        let is_active = !question.quiet && window >= index_of(newest, report.window);
        // Between two full runs there may be as many again.
        let limit = match (question.everything, is_active) {
            (true, _) => 1,
            (false, true) => policy.active_runs * 4 * (full + 1),
            (false, false) => policy.inactive_runs * (full + 1),
        };
        let counted = if question.everything {
            runs.len()
        } else {
            open.len()
        };
        assert!(
            excused || counted <= limit,
            "window {window}: {counted} runs, {limit} allowed"
        );
    }
    if let Some(cutoff) = question.ttl_cutoff {
        for dead in all.iter().filter(|f| f.max_time < cutoff) {
            let hides = |o: &&&FileMeta| overlap(dead, o) && o.max_sequence < dead.max_sequence;
            assert!(all.iter().any(|o| hides(&o)), "{} could be dropped", dead.name);
        }
    }
    let too_many = |w: &Waiting| matches!(w, Waiting::TooManyFiles { .. });
    if !question.everything || report.waiting.iter().any(too_many) {
        return;
    }
    for (i, a) in all.iter().enumerate() {
        assert!(!is_wide(a, report.window), "{} is wide", a.name);
        for b in &all[i + 1..] {
            let apart = a.max_sequence < b.min_sequence || b.max_sequence < a.min_sequence;
            assert!(
                !(overlap(a, b) && apart),
                "{} and {} may share rows",
                a.name,
                b.name
            );
        }
    }
}

fn check(question: &Question<'_>) -> Plan {
    let (plan, report) = pick(question);
    assert_eq!(
        (&plan, &report),
        (&pick(question).0, &pick(question).1),
        "equal questions, equal answers"
    );
    match &plan {
        Plan::Nothing => check_rest(question, &report),
        Plan::Drop(names) => check_drop(names, question),
        Plan::Merge(merge) => {
            let expired = |f: &&FileMeta| question.ttl_cutoff.is_some_and(|c| f.max_time < c);
            let dead: Vec<&FileMeta> = question.files.values().filter(expired).collect();
            for file in dead {
                let hides = |o: &&FileMeta| overlap(file, o) && o.max_sequence < file.max_sequence;
                assert!(
                    question.files.values().any(|o| hides(&o)),
                    "{} is dropped first",
                    file.name
                );
            }
            check_merge(merge, question);
        }
    }
    plan
}

// -------------------------------------------------------------------------------------------------------- properties

#[derive(Clone, Debug)]
struct Flush {
    /// Hours before the newest, in tenths.
    from: i64,
    to: i64,
    entries: u64,
    kib: u64,
    deletes: bool,
}

fn flushes() -> impl Strategy<Value = Vec<Flush>> {
    let late = prop_oneof![4 => 0_i64..20, 2 => 0_i64..300, 1 => 0_i64..20_000];
    let one = (late, 0_i64..15, 1_u64..50, 1_u64..400_000, any::<bool>()).prop_map(
        |(from, length, entries, kib, deletes)| Flush {
            from,
            to: (from - length).max(0),
            entries,
            kib,
            deletes,
        },
    );
    proptest::collection::vec(one, 0..60)
}

/// Flushes in their order; the newest data moves on by six minutes with each.
fn region(flushes: &[Flush]) -> Paper {
    let mut paper = Paper::new(Files::new());
    let mut sequence = 0;
    for (i, flush) in flushes.iter().enumerate() {
        let newest = 1_000 * DAY + i as i64 * HOUR / 10;
        let time = (newest - flush.from * HOUR / 10, newest - flush.to * HOUR / 10);
        let mut file = file(
            "",
            time,
            (sequence + 1, sequence + flush.entries),
            flush.kib << 10,
        );
        file.deletes = u64::from(flush.deletes);
        sequence += flush.entries;
        paper.add(file);
    }
    paper
}

#[test]
fn a_file_that_hides_older_rows_is_not_dropped_for_its_age() {
    let policy = policy();
    let mut dead = file("dead", (0, DAY), (11, 20), MIB);
    let wide = file("wide", (0, 10 * DAY), (1, 10), MIB);
    let dropped = |dead: &FileMeta| {
        let files = [dead, &wide].map(|f| (f.name.clone(), f.clone())).into();
        let question = Question {
            ttl_cutoff: Some(5 * DAY),
            ..question(&files, &policy, 10 * DAY)
        };
        pick(&question)
    };
    let (plan, report) = dropped(&dead);
    assert!(!matches!(plan, Plan::Drop(_)), "{plan:?}");
    let waiting = Waiting::Expired {
        file: "dead".into(),
        older: "wide".into(),
    };
    assert!(report.waiting.contains(&waiting), "{report:?}");
    // Beside it, it hides nothing.
    (dead.min_time, dead.max_time) = (-DAY, -1);
    assert_eq!(dropped(&dead).0, Plan::Drop(vec!["dead".into()]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_choice_keeps_the_rules_and_the_plans_come_to_an_end(
        flushes in flushes(),
        active in 1_usize..10,
        inactive in 1_usize..4,
        max_inputs in 2_usize..33,
        everything in any::<bool>(),
        quiet in any::<bool>(),
        fixed in prop_oneof![Just(None), Just(Some(HOUR)), Just(Some(DAY))],
        ttl in prop_oneof![Just(None), (0_i64..2_000).prop_map(|h| Some(h * HOUR))],
        now in -2_i64..10,
    ) {
        let policy = Policy { active_runs: active, inactive_runs: inactive, max_inputs, ..policy() };
        let mut paper = region(&flushes);
        let now = 1_000 * DAY + now * HOUR;
        let ask = |files: &Files| {
            let question = Question {
                window: WindowPolicy { fixed, ttl, ..by_data(&policy) },
                ttl_cutoff: ttl.map(|ttl| now - ttl),
                quiet,
                everything,
                ..question(files, &policy, now)
            };
            (check(&question), pick(&question).1)
        };
        paper.settle(ask, &policy);
        // Settled is settled.
        prop_assert_eq!(ask(&paper.files).0, Plan::Nothing);
    }

    #[test]
    fn cuts_leave_pieces_of_one_window_or_a_bounded_number(from in any::<i64>(), length in 0_i64..i64::MAX, window in 1_i64..i64::MAX) {
        let to = from.saturating_add(length);
        let cuts = window::cuts(from, to, window, PIECES);
        prop_assert!(cuts.len() < PIECES && cuts.is_sorted());
        prop_assert!(cuts.iter().all(|c| *c > from && *c <= to && c.rem_euclid(window) == 0));
        prop_assert_eq!(cuts.is_empty(), index_of(from, window) == index_of(to, window));
    }
}

// ------------------------------------------------------------------------------------------------------ steady ingest

/// Bytes written for each byte flushed, over a day and until everything has come to rest.
fn amplification(every: i64, bytes: u64) -> f64 {
    let policy = policy();
    let mut paper = Paper::new(Files::new());
    let (start, mut flushed, mut sequence) = (20_000 * DAY, 0, 0);
    for now in (start..start + DAY).step_by(every as usize) {
        paper.add(file(
            "",
            (now - every, now - 1),
            (sequence + 1, sequence + 10),
            bytes,
        ));
        sequence += 10;
        flushed += bytes;
        paper.settle(|files| pick(&question(files, &policy, now)), &policy);
    }
    (flushed + paper.written) as f64 / flushed as f64
}

#[test]
fn a_few_late_rows_do_not_change_the_windows_of_a_region() {
    let policy = policy();
    let mut paper = Paper::new(Files::new());
    let (start, minute) = (20_000 * DAY, HOUR / 60);
    let mut sequence = 0;
    let mut lengths = BTreeSet::new();
    for now in (start..start + DAY).step_by(minute as usize * 5) {
        // Every twelfth flush has rows of last month.
        let reach = if sequence % 120 == 0 { 30 * DAY } else { 5 * minute };
        paper.add(file(
            "",
            (now - reach, now - 1),
            (sequence + 1, sequence + 10),
            12 * MIB,
        ));
        sequence += 10;
        paper.settle(|files| check_and_report(files, &policy, now), &policy);
        if now > start + 12 * HOUR {
            lengths.insert(pick(&question(&paper.files, &policy, now)).1.window);
        }
    }
    assert_eq!(lengths.len(), 1, "{lengths:?}");
}

fn check_and_report(files: &Files, policy: &Policy, now: i64) -> (Plan, Report) {
    let question = question(files, policy, now);
    (check(&question), pick(&question).1)
}

#[test]
fn a_day_of_steady_ingest_is_written_four_times_at_most() {
    let minute = HOUR / 60;
    let mut measured = Vec::new();
    for (every, bytes) in [
        (30 * minute, MIB / 2),
        (30 * minute, 20 * MIB),
        (5 * minute, MIB),
        (5 * minute, 12 * MIB),
        (minute, MIB / 10),
        (minute, 3 * MIB),
        (minute, 12 * MIB),
        (minute / 6, 12 * MIB),
    ] {
        let found = amplification(every, bytes);
        measured.push((every / 1000, bytes, found));
    }
    println!("seconds between flushes, bytes, amplification: {measured:?}");
    for (every, bytes, found) in measured {
        assert!(found <= 4.0, "{bytes} bytes every {every} s: {found}");
    }
}

// ----------------------------------------------------------------------------------------------------- back-pressure

/// From so many runs on writes are slowed down: the default of `compaction_soft_runs`.
const SOFT: usize = 48;
/// And refused: the default of `compaction_hard_runs`.
const HARD: usize = 96;

/// As a flush writes it: a file for each day, and one for several if there are more than eight.
fn add_flush(paper: &mut Paper, time: (i64, i64), sequence: (u64, u64), bytes: u64) {
    let cuts = window::cuts(time.0, time.1, DAY, PIECES);
    let starts = std::iter::once(time.0).chain(cuts.iter().copied());
    let ends = cuts.iter().map(|cut| cut - 1).chain([time.1]);
    for (from, to) in starts.zip(ends) {
        paper.add(file("", (from, to), sequence, bytes / (cuts.len() as u64 + 1)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

    /// Files of several windows count where their newest rows are: a merge that cuts them adds a run to each of the
    /// others. And windows that become longer have the runs of several. Nothing else goes beyond the limit.
    #[test]
    fn debt_ends_where_writes_are_refused_and_is_paid_when_merges_catch_up(
        flushes in flushes(), faster in 1_usize..8, max_inputs in 4_usize..33,
    ) {
        let policy = Policy { max_inputs, ..policy() };
        let mut paper = Paper::new(Files::new());
        let (mut sequence, mut now, mut cuts, mut length) = (0, 1_000 * DAY, 0, 0);
        for (i, flush) in flushes.iter().cycle().take(flushes.len() * 20).enumerate() {
            now += HOUR / 60;
            let (plan, report) = pick(&question(&paper.files, &policy, now));
            let is_longer = report.window > length && length > 0;
            prop_assert!(is_longer || report.runs <= HARD + cuts, "{cuts} cuts, {report:?}");
            if i % faster == 0 {
                cuts += usize::from(matches!(&plan, Plan::Merge(merge) if !merge.cuts.is_empty()));
                paper.carry_out(&plan, &policy);
            }
            let (_, report) = pick(&question(&paper.files, &policy, now));
            if report.runs < HARD {
                let time = (now - flush.from * HOUR / 10, now - flush.to * HOUR / 10);
                add_flush(&mut paper, time, (sequence + 1, sequence + 10), flush.kib << 10);
                sequence += 10;
                (cuts, length) = (0, report.window);
            }
        }
        paper.settle(|files| pick(&question(files, &policy, now)), &policy);
        let (_, report) = pick(&question(&paper.files, &policy, now));
        prop_assert!(report.runs < SOFT, "{report:?}");
    }
}

/// As merges leave them whose windows were shorter: each with a file for each hour.
#[test]
fn runs_of_too_many_files_are_made_of_fewer_and_then_merged() {
    let policy = Policy {
        max_inputs: 8,
        ..policy()
    };
    let mut paper = Paper::new(Files::new());
    for run in 0..40 {
        let sequence = (run * 10 + 1, run * 10 + 10);
        for hour in 0..12 {
            paper.add(file("", (hour * HOUR, (hour + 1) * HOUR - 1), sequence, MIB));
        }
    }
    let ask = |files: &Files| {
        let mut question = question(files, &policy, HOUR);
        question.window.fixed = Some(DAY);
        (check(&question), pick(&question).1)
    };
    let (plan, report) = ask(&paper.files);
    assert_eq!(report.runs, 40);
    assert!(
        matches!(&plan, Plan::Merge(merge) if merge.inputs.len() == 8),
        "{plan:?}"
    );
    paper.settle(ask, &policy);
    let (_, report) = ask(&paper.files);
    assert!(report.runs <= MIXED * policy.active_runs, "{report:?}");
    assert_eq!(report.waiting, [Waiting::FewRuns]);
}

#[test]
fn merges_that_keep_up_slow_nobody_down_however_much_is_written() {
    let policy = policy();
    let mut measured = Vec::new();
    for (seconds, bytes) in [(10, 64 * MIB), (30, 64 * MIB), (5, 16 * MIB), (5, 64 * MIB)] {
        let mut paper = Paper::new(Files::new());
        let (start, every, mut sequence, mut most) = (20_000 * DAY, 1000 * seconds, 0, 0);
        for now in (start..start + 3 * HOUR).step_by(every as usize) {
            let (time, entries) = ((now - every, now - 1), (sequence + 1, sequence + 10));
            paper.add(file("", time, entries, bytes));
            sequence += 10;
            most = most.max(pick(&question(&paper.files, &policy, now)).1.runs);
            paper.settle(|files| pick(&question(files, &policy, now)), &policy);
        }
        measured.push((seconds, bytes / MIB, most));
    }
    println!("seconds between flushes, MiB, runs at most: {measured:?}");
    assert!(measured.iter().all(|(.., most)| *most < SOFT), "{measured:?}");
}

#[test]
fn many_runs_are_merged_though_full_ones_lie_between_them() {
    let policy = policy();
    let most = 4 * policy.active_runs;
    for (each, merged) in [(7, 7), (1, 3)] {
        let mut paper = Paper::new(Files::new());
        let mut sequence = 0;
        let mut add = |bytes| {
            paper.add(file("", (0, HOUR), (sequence + 1, sequence + 10), bytes));
            sequence += 10;
        };
        for _ in 0..=most / each {
            (0..each).for_each(|_| add(MIB));
            add(policy.max_file_bytes);
        }
        let ask = |files: &Files| {
            let mut question = question(files, &policy, HOUR);
            question.window.fixed = Some(DAY);
            pick(&question)
        };
        let (plan, report) = ask(&paper.files);
        assert!(report.runs > most, "{report:?}");
        assert!(
            matches!(&plan, Plan::Merge(merge) if merge.inputs.len() == merged),
            "{plan:?}"
        );
        paper.settle(ask, &policy);
        let (plan, report) = ask(&paper.files);
        assert_eq!(plan, Plan::Nothing);
        assert!(report.runs <= most, "{report:?}");
    }
}
