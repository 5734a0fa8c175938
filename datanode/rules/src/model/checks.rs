//! What must hold in every state, and what must happen in some.

use std::collections::BTreeSet;

use stateright::Property;

use super::bucket::Bucket;
use super::process::{Body, Process};
use super::world::{State, World};

pub const ONCE: &str = "a leader shows each committed row once, and no other";
pub const ACKNOWLEDGED: &str = "a leader shows every acknowledged row";
pub const NO_MISSING_FILE: &str = "the manifest names no file that is missing";
pub const TRIMMED_IN_FILES: &str = "what the log has trimmed is in files of the manifest";
pub const NEWER_STAYS: &str = "no request lands on one that was begun when it was finished";
pub const EPOCHS_GROW: &str = "no edit follows one of a later epoch";
pub const LEASES: &str = "nobody leads in a later term while a lease lasts";
pub const READERS_GO_ON: &str = "the files of a reader that is under way stay";

pub fn always() -> Vec<Property<World>> {
    vec![
        Property::always(ONCE, |_, state: &State| shows_each_once(state)),
        Property::always(ACKNOWLEDGED, |_, state: &State| shows_acknowledged(state)),
        Property::always(NO_MISSING_FILE, |_, state: &State| {
            names_no_missing_file(&state.bucket)
        }),
        Property::always(TRIMMED_IN_FILES, |_, state: &State| {
            state.processes.iter().all(|p| has_trimmed_in_files(state, p))
        }),
        Property::always(NEWER_STAYS, |_, state: &State| newer_stays(state)),
        Property::always(EPOCHS_GROW, |_, State { bucket, .. }: &State| {
            bucket.edits.is_sorted_by_key(|edit| edit.epoch)
        }),
        Property::always(READERS_GO_ON, |_, State { bucket, reader, .. }: &State| {
            reader.as_ref().is_none_or(|view| bucket.has_all(view))
        }),
    ]
}

pub fn sometimes() -> Vec<Property<World>> {
    vec![
        Property::sometimes("a flush is there", |_, s: &State| {
            s.bucket
                .edits
                .iter()
                .any(|e| !e.add.is_empty() && e.remove.is_empty())
        }),
        Property::sometimes("a merge is there", |_, s: &State| {
            s.bucket.edits.iter().any(|e| e.remove.len() > 1)
        }),
        Property::sometimes("two epochs have edits", |_, s: &State| {
            s.bucket
                .edits
                .iter()
                .map(|e| e.epoch)
                .collect::<BTreeSet<_>>()
                .len()
                > 1
        }),
        Property::sometimes("a leader is deposed by the manifest", |_, s: &State| {
            s.processes.iter().any(|p| p.lead.deposed_in > 0)
        }),
        Property::sometimes("a region has failed", |_, s: &State| {
            s.processes.iter().any(|p| p.has_failed)
        }),
        Property::sometimes("a removed file has gone", |_, s: &State| {
            let removed = s.bucket.edits.iter().flat_map(|e| &e.remove);
            removed.into_iter().any(|name| !s.bucket.files.contains_key(name))
        }),
        Property::sometimes("a claim is there", |_, s: &State| {
            s.bucket
                .edits
                .iter()
                .any(|e| e.add.is_empty() && e.remove.is_empty())
        }),
        Property::sometimes("both have trimmed", |_, s: &State| {
            s.processes.iter().all(|p| p.checkpoint.flushed_seq > 0)
        }),
        Property::sometimes("a leader has a follower's rows", |_, s: &State| {
            let leader = s.leader().filter(|p| p.lead.term > 1);
            leader.is_some_and(|p| p.serves().is_some() && p.view.is_some() && !p.memory.is_empty())
        }),
        Property::sometimes("all requests are finished", |w: &World, s: &State| {
            s.client.finished.len() == usize::from(w.bounds.writes)
        }),
        Property::sometimes(
            "a request is begun after one was given up above the mark",
            |_, s: &State| s.client.begun.iter().any(|b| !b.says.given_up.is_empty()),
        ),
        Property::sometimes("a truncation is in files", |_, s: &State| {
            s.bucket.edits.iter().any(|e| e.truncated_seq > 0)
        }),
    ]
}

/// Numbers of the rows that the first entries have left, in order. A request leaves none if it comes after one that says
/// that it is finished.
fn written(state: &State, applied: u64) -> Vec<u8> {
    let mut numbers = BTreeSet::new();
    let mut written = Vec::new();
    for entry in state.log.iter().take(applied as usize) {
        match &entry.body {
            Body::Write { number, finished } => {
                if numbers.insert(*number) {
                    written.push(*number);
                }
                let below = (1..).take_while(|n| u64::from(*n) < finished.lowest_unfinished);
                let given_up = finished
                    .given_up
                    .iter()
                    .flat_map(|range| range.clone().map(|n| n as u8));
                numbers.extend(below.chain(given_up));
            }
            Body::Truncate => written.clear(),
            _ => {}
        }
    }
    written.sort_unstable();
    written
}

fn shows_each_once(state: &State) -> bool {
    let shown = state.leader().and_then(|p| Some((p, p.shows(&state.bucket)?)));
    shown.is_none_or(|(p, shown)| shown == written(state, p.applied))
}

fn shows_acknowledged(state: &State) -> bool {
    let Some(shown) = state.leader().and_then(|p| p.shows(&state.bucket)) else {
        return true;
    };
    let truncated = state.log.iter().any(|entry| entry.body == Body::Truncate);
    truncated || state.client.answered.iter().all(|number| shown.contains(number))
}

/// Looks at rows in memory: files have no order of their own.
fn newer_stays(state: &State) -> bool {
    let begun = &state.client.begun;
    let lands_late = |rows: &[u8]| {
        let (last, before) = rows.split_last().expect("prefixes are not empty");
        before
            .iter()
            .any(|n| begun[usize::from(*n) - 1].after.contains(last))
    };
    state.processes.iter().all(|process| {
        let rows: Vec<u8> = process.memory.values().copied().collect();
        !(1..=rows.len()).any(|n| lands_late(&rows[..n]))
    })
}

fn names_no_missing_file(bucket: &Bucket) -> bool {
    bucket.newest.as_ref().is_none_or(|view| bucket.has_all(view))
}

fn has_trimmed_in_files(state: &State, process: &Process) -> bool {
    let Some(view) = &state.bucket.newest else {
        return true;
    };
    let in_files = state.bucket.rows_of(view);
    let truncated = state.log.iter().any(|entry| entry.body == Body::Truncate);
    let trimmed = written(state, process.checkpoint.flushed_seq);
    truncated || trimmed.iter().all(|number| in_files.contains(number))
}
