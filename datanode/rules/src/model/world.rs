//! All replicas, the bucket, and a client; what may happen next, and how often.
//!
//! The log is what it promises to be: one sequence of committed entries, which only the leader of the newest term adds
//! to. Replicas apply it at their own pace, and a leader that was replaced does not know until it is told.

use std::collections::BTreeSet;

use greptime_types::{Finished, Requests};
use stateright::{Model, Property};

use super::bucket::{Bucket, Put, Shared};
use super::checks;
use super::process::{Body, Entry, Process};
use crate::View;

/// How often something may happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub processes: u8,
    pub terms: u64,
    /// Requests, and how many copies of them arrive in all.
    pub writes: u8,
    pub copies: u8,
    /// Answers reach the client, which then finishes its requests.
    pub answers: bool,
    /// Requests that the client gives up, though copies of them may arrive yet.
    pub abandoned: u8,
    pub truncations: u8,
    pub flushes: u8,
    pub merges: u8,
    /// Puts that are not answered.
    pub unsure: u8,
    /// Merges that end while the outcome of their edit is unknown.
    pub given_up: u8,
    pub trims: u8,
    pub crashes: u8,
    /// Crashes after which the last entry of the log, and every later term, is not there.
    pub lost_ends: u8,
    /// Views that are loaded though nothing said that there is a newer one.
    pub looks: u8,
    pub cleanings: u8,
    pub readers: u8,
    /// Followers are sent the checkpoint instead of entries.
    pub snapshots: u8,
    /// Followers know the files.
    pub hot: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub struct Client {
    pub numbers: Requests,
    pub begun: Vec<Begun>,
    pub answered: BTreeSet<u8>,
    pub finished: BTreeSet<u8>,
}

/// A request, with what was finished when it was begun: as all copies of it say it, and in truth.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Begun {
    pub says: Finished,
    pub after: BTreeSet<u8>,
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub struct State {
    pub term: u64,
    pub log: Vec<Entry>,
    pub processes: Vec<Process>,
    pub bucket: Bucket,
    pub client: Client,
    /// A reader that is under way, with the view that it began with.
    pub reader: Option<Shared<View>>,
    /// What is left of the bounds.
    pub left: Bounds,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Elect(u8),
    /// A leader learns that another leads.
    Learn(u8),
    Write(u8, u8),
    Finish(u8),
    Abandon(u8),
    Truncate(u8),
    Apply(u8),
    Crash(u8),
    LoseEnd(u8),
    Restore(u8),
    Freeze(u8),
    Flush(u8),
    Merge(u8),
    EditMerge(u8),
    GiveUp(u8),
    Put(u8, Put),
    Arrive(u8),
    ReadBack(u8),
    Load(u8),
    Look(u8),
    Trim(u8),
    Clean(u8),
    List(u8),
    Collect(u8),
    BeginRead(u8),
    EndRead,
}

impl State {
    pub fn leader(&self) -> Option<&Process> {
        let leads = |p: &&Process| p.lead.leads && p.lead.term == self.term;
        self.processes.iter().find(leads)
    }

    pub fn is_newest(&self, p: u8) -> bool {
        let lead = self.processes[p as usize].lead;
        lead.leads && lead.term == self.term
    }

    /// Who is not hot is given entries when it leads. One that still believes so is given none of a later term.
    fn is_given_next(&self, process: &Process) -> bool {
        let next = self.log.get(process.applied as usize);
        next.is_some_and(|entry| match process.lead.leads {
            true => entry.term <= process.lead.term,
            false => self.left.hot,
        })
    }

    /// Saves trying what surely cannot happen; the step itself knows.
    fn seems_possible(&self, action: &Action) -> bool {
        let left = &self.left;
        let process = |p: &u8| &self.processes[*p as usize];
        let unanswered = |p| process(p).pending.as_ref().is_some_and(|e| e.answer.is_none());
        let is_free = |p| process(p).pending.is_none() && process(p).view.is_some();
        match action {
            Action::Elect(p) => self.term < left.terms && !self.is_newest(*p),
            Action::Learn(p) => process(p).lead.leads && !self.is_newest(*p),
            Action::Write(p, _) => left.copies > 0 && self.is_newest(*p),
            Action::Finish(number) => left.answers && !self.client.finished.contains(number),
            Action::Abandon(number) => left.abandoned > 0 && !self.client.finished.contains(number),
            Action::Truncate(p) => left.truncations > 0 && self.is_newest(*p),
            Action::Apply(p) => self.is_given_next(process(p)),
            Action::Crash(_) => left.crashes > 0,
            Action::LoseEnd(_) => left.lost_ends > 0,
            Action::Restore(_) => left.snapshots > 0,
            Action::Freeze(p) => left.flushes > 0 && process(p).frozen.is_none(),
            Action::Flush(p) => is_free(p) && process(p).frozen.is_some(),
            Action::Merge(p) => left.merges > 0 && process(p).merged.is_none(),
            Action::EditMerge(p) => is_free(p) && process(p).merged.is_some(),
            Action::GiveUp(p) => left.given_up > 0 && process(p).pending.is_some(),
            Action::Put(p, Put::Answered) => unanswered(p),
            Action::Put(p, _) => left.unsure > 0 && unanswered(p),
            Action::Arrive(_) => true,
            Action::ReadBack(p) => process(p).pending.is_some() && !unanswered(p),
            Action::Load(p) => process(p).pending.is_none(),
            Action::Look(p) => left.looks > 0 && is_free(p),
            Action::Trim(p) => left.trims > 0 && process(p).view.is_some(),
            Action::Clean(p) | Action::List(p) => left.cleanings > 0 && process(p).view.is_some(),
            Action::Collect(p) => process(p).listed.is_some(),
            Action::BeginRead(p) => left.readers > 0 && self.reader.is_none() && self.is_newest(*p),
            Action::EndRead => self.reader.is_some(),
        }
    }

    /// What a leader proposes is committed at once or never: one that was replaced has no majority.
    pub fn propose(&mut self, p: u8, body: Body) {
        if self.is_newest(p) {
            self.log.push(Entry {
                term: self.term,
                body,
            });
        }
    }
}

/// Takes one of what is left.
pub fn spend(left: &mut u8) -> Option<()> {
    *left = left.checked_sub(1)?;
    Some(())
}

#[derive(Clone, Debug)]
pub struct World {
    pub bounds: Bounds,
    /// What has to happen somewhere, or the model says nothing of it.
    pub happens: &'static [&'static str],
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let processes = (0..self.bounds.processes).map(|_| Process::new());
        let mut state = State {
            term: 0,
            log: Vec::new(),
            processes: processes.collect(),
            bucket: Bucket::default(),
            client: Client::default(),
            reader: None,
            left: self.bounds.clone(),
        };
        for action in [Action::Elect(0), Action::Apply(0)] {
            state.step(&action).expect("nothing is in the way");
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for p in 0..self.bounds.processes {
            actions.extend([
                Action::Elect(p),
                Action::Learn(p),
                Action::Truncate(p),
                Action::Apply(p),
                Action::Crash(p),
                Action::LoseEnd(p),
                Action::Restore(p),
                Action::Freeze(p),
                Action::Flush(p),
                Action::Merge(p),
                Action::EditMerge(p),
                Action::GiveUp(p),
                Action::ReadBack(p),
                Action::Load(p),
                Action::Look(p),
                Action::Trim(p),
                Action::Clean(p),
                Action::List(p),
                Action::Collect(p),
                Action::BeginRead(p),
            ]);
            actions.extend([Put::Answered, Put::AnswerLost, Put::Late].map(|put| Action::Put(p, put)));
            actions.extend((1..=self.bounds.writes).map(|number| Action::Write(p, number)));
        }
        actions.extend((1..=self.bounds.writes).map(Action::Finish));
        actions.extend((1..=self.bounds.writes).map(Action::Abandon));
        actions.extend((0..state.bucket.late.len() as u8).map(Action::Arrive));
        actions.push(Action::EndRead);
        actions.retain(|action| state.seems_possible(action));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.step(&action).map(|()| next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = checks::always();
        properties.extend(
            checks::sometimes()
                .into_iter()
                .filter(|p| self.happens.contains(&p.name)),
        );
        properties
    }
}
