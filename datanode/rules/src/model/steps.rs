//! What each action does. The decisions are those of the crate; here is only what the datanode does around them.

use std::time::Duration;

use super::bucket::{Put, Rows, Shared};
use super::process::{Body, Entry, Frozen, Merged, Pending, Process, Purpose, request};
use super::world::{Action, Begun, State, spend};
use crate::testing::{HOME, file, table};
use crate::{
    AfterPut, Checkpoint, Edit, Flush, FlushedState, Listed, Seen, Uploads, View, after_put, is_foreign,
    known_before_put, may_delete, merge_fits, orphans,
};

const GRACE: Duration = Duration::from_secs(1);

impl State {
    /// `None`: it cannot happen now.
    pub fn step(&mut self, action: &Action) -> Option<()> {
        match *action {
            Action::Elect(p) => self.elect(p),
            Action::Learn(p) => self.learn(p),
            Action::Write(p, number) => self.write(p, number),
            Action::Finish(number) => self.finish(number),
            Action::Abandon(number) => self.abandon(number),
            Action::Truncate(p) => self.truncate(p),
            Action::Apply(p) => self.apply(p),
            Action::Crash(p) => self.crash(p),
            Action::LoseEnd(p) => self.lose_end(p),
            Action::Restore(p) => self.restore(p),
            Action::Freeze(p) => self.freeze(p),
            Action::Flush(p) => self.flush(p),
            Action::Merge(p) => self.merge(p),
            Action::EditMerge(p) => self.edit_merge(p),
            Action::GiveUp(p) => self.give_up(p),
            Action::Put(p, put) => self.put(p, put),
            Action::Arrive(at) => self.arrive(at),
            Action::ReadBack(p) => self.read_back(p),
            Action::Load(p) => self.load(p),
            Action::Look(p) => self.look(p),
            Action::Trim(p) => self.trim(p),
            Action::Clean(p) => self.clean(p),
            Action::List(p) => self.list(p),
            Action::Collect(p) => self.collect(p),
            Action::BeginRead(p) => self.begin_read(p),
            Action::EndRead => self.reader.take().map(|_| ()),
        }
    }

    fn at(&mut self, p: u8) -> &mut Process {
        &mut self.processes[p as usize]
    }

    fn elect(&mut self, p: u8) -> Option<()> {
        if self.term == self.left.terms || self.at(p).has_failed || self.is_newest(p) {
            return None;
        }
        if let Some(checkpoint) = self
            .newest_trim()
            .filter(|c| c.flushed_seq > self.processes[p as usize].applied)
        {
            self.at(p).restore(&checkpoint);
        }
        self.term += 1;
        let term = self.term;
        let lead = &mut self.at(p).lead;
        (lead.leads, lead.term) = (true, term);
        self.propose(p, Body::Began);
        Some(())
    }

    fn learn(&mut self, p: u8) -> Option<()> {
        if self.is_newest(p) || !self.at(p).lead.leads {
            return None;
        }
        self.at(p).lead.leads = false;
        if !self.left.hot {
            let checkpoint = self.at(p).checkpoint.clone();
            self.at(p).restore(&checkpoint);
        }
        Some(())
    }

    /// A copy of a request arrives at a leader.
    fn write(&mut self, p: u8, number: u8) -> Option<()> {
        if !self.is_newest(p) {
            return None;
        }
        self.begin_request(number)?;
        self.at(p).serves()?;
        spend(&mut self.left.copies)?;
        match self.at(p).requests.look_up(request(number)) {
            Seen::New => {
                let finished = self.client.begun[number as usize - 1].says.clone();
                self.propose(p, Body::Write { number, finished });
            }
            Seen::Applied => _ = self.client.answered.insert(number),
            Seen::Finished => {}
        }
        Some(())
    }

    fn finish(&mut self, number: u8) -> Option<()> {
        let is_answered = self.left.answers && self.client.answered.contains(&number);
        if !is_answered || !self.client.finished.insert(number) {
            return None;
        }
        self.client.numbers.answered(number.into());
        Some(())
    }

    /// No copy of it may have arrived yet.
    fn abandon(&mut self, number: u8) -> Option<()> {
        spend(&mut self.left.abandoned)?;
        self.begin_request(number)?;
        if !self.client.finished.insert(number) {
            return None;
        }
        self.client.numbers.give_up(number.into());
        Some(())
    }

    /// Requests are begun in the order of their numbers.
    fn begin_request(&mut self, number: u8) -> Option<()> {
        let client = &mut self.client;
        let begun = client.begun.len() as u8;
        if number == begun + 1 {
            client.numbers.begin();
            client.begun.push(Begun {
                says: client.numbers.finished(),
                after: client.finished.clone(),
            });
        }
        (number <= begun + 1).then_some(())
    }

    fn truncate(&mut self, p: u8) -> Option<()> {
        if !self.is_newest(p) {
            return None;
        }
        self.at(p).serves()?;
        spend(&mut self.left.truncations)?;
        self.propose(p, Body::Truncate);
        Some(())
    }

    fn apply(&mut self, p: u8) -> Option<()> {
        let next = self.at(p).applied as usize;
        let entry = self.log.get(next)?.clone();
        if self.at(p).has_failed {
            return None;
        }
        let done = self.at(p).apply(&entry);
        let lead = self.at(p).lead;
        if lead.leads && lead.term == entry.term {
            self.client.answered.extend(done);
        }
        Some(())
    }

    fn crash(&mut self, p: u8) -> Option<()> {
        spend(&mut self.left.crashes)?;
        let process = self.at(p);
        *process = Process::start(process.checkpoint.clone(), process.names);
        Some(())
    }

    /// The disk is as it was some time ago; nobody else has its log.
    fn lose_end(&mut self, p: u8) -> Option<()> {
        spend(&mut self.left.lost_ends)?;
        let kept = self.log.len().checked_sub(1)?;
        if kept < self.at(p).checkpoint.flushed_seq as usize {
            return None;
        }
        let numbers = |log: &[Entry]| {
            let number = |entry: &Entry| match entry.body {
                Body::Write { number, .. } => Some(number),
                _ => None,
            };
            log.iter().filter_map(number).collect::<Vec<_>>()
        };
        self.log.truncate(kept);
        self.term = self.log.last().map_or(0, |entry| entry.term);
        let there = numbers(&self.log);
        self.client.answered.retain(|number| there.contains(number));
        let process = self.at(p);
        *process = Process::start(process.checkpoint.clone(), process.names);
        Some(())
    }

    /// A follower is sent the newest checkpoint instead of the entries before it.
    fn restore(&mut self, p: u8) -> Option<()> {
        let checkpoint = self.newest_trim()?;
        if self.at(p).lead.leads || checkpoint.flushed_seq <= self.at(p).applied {
            return None;
        }
        spend(&mut self.left.snapshots)?;
        self.at(p).restore(&checkpoint);
        Some(())
    }

    fn newest_trim(&self) -> Option<Shared<Checkpoint>> {
        self.log.iter().rev().find_map(|entry| match &entry.body {
            Body::Trim(checkpoint) => Some(checkpoint.clone()),
            _ => None,
        })
    }

    fn upload(&mut self, p: u8, epoch: u64, rows: &Rows) -> crate::FileMeta {
        let name = format!("{epoch}-{p}.{}", self.at(p).name());
        self.bucket.files.insert(name.clone(), rows.clone());
        let first = rows.keys().next().copied().unwrap_or_default();
        let last = rows.keys().next_back().copied().unwrap_or_default();
        file(&name, first..=last)
    }

    fn freeze(&mut self, p: u8) -> Option<()> {
        if self.at(p).frozen.is_some() {
            return None;
        }
        self.at(p).leading_view()?;
        spend(&mut self.left.flushes)?;
        self.at(p).freeze().map(|_| ())
    }

    /// Uploads what was frozen; the edit follows.
    fn flush(&mut self, p: u8) -> Option<()> {
        if self.at(p).pending.is_some() {
            return None;
        }
        let (epoch, view) = self.at(p).leading_view()?;
        let Frozen {
            sequence,
            truncated_seq,
            requests,
        } = self.at(p).frozen.clone()?;
        let above = self.at(p).memory.range(view.flushed_seq + 1..);
        let rows: Rows = above
            .filter(|(s, _)| **s <= sequence)
            .map(|(s, n)| (*s, *n))
            .collect();
        let files = match rows.is_empty() {
            true => Vec::new(),
            false => vec![self.upload(p, epoch, &rows)],
        };
        let flush = Flush {
            through: sequence,
            truncated_seq,
            built: FlushedState {
                table: table(),
                requests,
            },
            files,
        };
        let id = format!("{p}.{}", self.at(p).name());
        let requests = self.at(p).requests.clone();
        let edit = flush.edit(&view, epoch, id, || FlushedState {
            table: table(),
            requests,
        });
        if let Some(known) = known_before_put(&view, &edit).ok()? {
            self.at(p).adopt(known);
            self.trim(p);
        }
        self.begin(p, Purpose::Flush, view, edit);
        Some(())
    }

    fn begin(&mut self, p: u8, purpose: Purpose, base: Shared<View>, edit: Edit) {
        self.at(p).pending = Some(Pending {
            purpose,
            base,
            edit: Shared::new(edit),
            answer: None,
        });
    }

    fn merge(&mut self, p: u8) -> Option<()> {
        let (epoch, view) = self.at(p).leading_view()?;
        if self.at(p).merged.is_some() || view.files.len() < 2 || !self.bucket.has_all(&view) {
            return None;
        }
        spend(&mut self.left.merges)?;
        let inputs: Vec<String> = view.files.keys().cloned().collect();
        let files = inputs.iter().filter_map(|name| self.bucket.files.get(name));
        let rows: Rows = files.flatten().map(|(s, n)| (*s, *n)).collect();
        let output = self.upload(p, epoch, &rows);
        self.at(p).merged = Some(Merged {
            epoch,
            inputs,
            output,
        });
        Some(())
    }

    fn edit_merge(&mut self, p: u8) -> Option<()> {
        if self.at(p).pending.is_some() {
            return None;
        }
        let merged = self.at(p).merged.clone()?;
        let Some((epoch, view)) = self.at(p).leading_view() else {
            return self.end_merge(p, Uploads::Unknown);
        };
        if epoch != merged.epoch || !merge_fits(&merged.inputs, &view, |_| true) {
            return self.end_merge(p, Uploads::Void);
        }
        let id = format!("{p}.{}", self.at(p).name());
        let mut edit = view.edit_files(epoch, id)?;
        edit.remove = merged.inputs;
        edit.add = vec![merged.output];
        edit.deleted = self.at(p).cleaning.deleted(&view);
        self.begin(p, Purpose::Merge, view, edit);
        Some(())
    }

    fn end_merge(&mut self, p: u8, uploads: Uploads) -> Option<()> {
        let merged = self.at(p).merged.take()?;
        self.discard(&[merged.output.name], uploads);
        Some(())
    }

    fn discard(&mut self, names: &[String], uploads: Uploads) {
        if uploads.are_deleted() {
            self.bucket.files.retain(|name, _| !names.contains(name));
        }
    }

    /// A merge ends with an error after its put.
    fn give_up(&mut self, p: u8) -> Option<()> {
        let pending = self.at(p).pending.as_ref()?;
        if pending.purpose != Purpose::Merge || pending.answer.is_none() {
            return None;
        }
        spend(&mut self.left.given_up)?;
        self.at(p).pending = None;
        self.end_merge(p, Uploads::Unknown)
    }

    fn put(&mut self, p: u8, put: Put) -> Option<()> {
        let pending = self.at(p).pending.as_ref()?;
        if pending.answer.is_some() {
            return None;
        }
        let edit = pending.edit.clone();
        if put != Put::Answered {
            spend(&mut self.left.unsure)?;
        }
        let worked = match put {
            Put::Late => {
                self.bucket.late.push(edit);
                false
            }
            Put::AnswerLost => {
                self.bucket.put(&edit);
                false
            }
            Put::Answered => self.bucket.put(&edit),
        };
        self.at(p).pending.as_mut()?.answer = Some(worked);
        Some(())
    }

    fn arrive(&mut self, at: u8) -> Option<()> {
        let edit = self.bucket.late.remove(at as usize);
        self.bucket.put(&edit);
        Some(())
    }

    /// The writer reads the version back and goes on from what it finds.
    fn read_back(&mut self, p: u8) -> Option<()> {
        let pending = self.at(p).pending.clone()?;
        let answer = pending.answer?;
        let found = self.bucket.read(pending.edit.version);
        match after_put(&pending.base, &pending.edit, answer, found).ok()? {
            AfterPut::Again => self.at(p).pending.as_mut()?.answer = None,
            AfterPut::Adopt(view) => {
                let process = self.at(p);
                process.pending = None;
                if pending.purpose == Purpose::Merge {
                    process.merged = None;
                }
                process.cleaning.adopted(&view);
                process.adopt(view);
            }
            AfterPut::Renew(view) => {
                self.at(p).pending = None;
                let names: Vec<String> = pending.edit.add.iter().map(|f| f.name.clone()).collect();
                if pending.purpose == Purpose::Flush {
                    self.discard(&names, Uploads::Void);
                }
                let newest = self.bucket.advance(&view)?;
                self.at(p).take(newest);
            }
        }
        Some(())
    }

    fn load(&mut self, p: u8) -> Option<()> {
        let process = self.at(p);
        let wants = process.serves().is_some() || (self.left.hot && !self.at(p).lead.leads);
        let process = self.at(p);
        if !wants || process.pending.is_some() || !process.trimmed.wants_view(process.view.as_deref()) {
            return None;
        }
        let newest = self.bucket.newest.clone()?;
        self.at(p).take(View::clone(&newest));
        Some(())
    }

    /// A reader finds a file missing, or a person asks.
    fn look(&mut self, p: u8) -> Option<()> {
        let process = self.at(p);
        process.serves()?;
        if process.pending.is_some() || process.view.is_none() {
            return None;
        }
        spend(&mut self.left.looks)?;
        let newest = self.bucket.newest.clone()?;
        self.at(p).take(View::clone(&newest));
        Some(())
    }

    fn trim(&mut self, p: u8) -> Option<()> {
        let (_, view) = self.at(p).leading_view()?;
        let process = self.at(p);
        let checkpoint: Checkpoint = process.trimmed.next(&view, process.applied)?;
        spend(&mut self.left.trims)?;
        self.propose(p, Body::Trim(Shared::new(checkpoint)));
        Some(())
    }

    /// Deletes what the view says was removed.
    fn clean(&mut self, p: u8) -> Option<()> {
        let (epoch, view) = self.at(p).leading_view()?;
        let nobody_reads = self.reader.is_none();
        let cleaning = &mut self.at(p).cleaning;
        let mut due = cleaning.due(&view, HOME, Duration::ZERO, GRACE);
        if nobody_reads {
            // The grace period is longer than any reader.
            due = cleaning.due(&view, HOME, GRACE, GRACE);
        }
        if due.is_empty() {
            return None;
        }
        if !may_delete(&view, epoch) {
            return self.claim(p, epoch, view);
        }
        spend(&mut self.left.cleanings)?;
        self.delete(p, &due);
        Some(())
    }

    fn claim(&mut self, p: u8, epoch: u64, view: Shared<View>) -> Option<()> {
        if self.at(p).pending.is_some() {
            return None;
        }
        spend(&mut self.left.cleanings)?;
        let id = format!("{p}.{}", self.at(p).name());
        let mut edit = view.edit_files(epoch, id)?;
        edit.deleted = self.at(p).cleaning.deleted(&view);
        self.begin(p, Purpose::Claim, view, edit);
        Some(())
    }

    fn delete(&mut self, p: u8, names: &[String]) {
        self.bucket.files.retain(|name, _| !names.contains(name));
        for name in names {
            self.at(p).cleaning.gone(name);
        }
    }

    fn list(&mut self, p: u8) -> Option<()> {
        self.at(p).leading_view()?;
        spend(&mut self.left.cleanings)?;
        let listed = |name: &String| Listed {
            name: name.clone(),
            modified_ms: 0,
        };
        let names = self.bucket.files.keys().map(listed).collect();
        self.at(p).listed = Some(names);
        Some(())
    }

    fn collect(&mut self, p: u8) -> Option<()> {
        let (epoch, view) = self.at(p).leading_view()?;
        if self.at(p).pending.is_some() {
            return None;
        }
        let listed = self.at(p).listed.clone()?;
        if listed.iter().any(|f| is_foreign(&view, &f.name)) && !may_delete(&view, epoch) {
            return self.claim(p, epoch, view);
        }
        self.at(p).listed = None;
        let found = orphans(&listed, &view, epoch, 1, 1);
        self.delete(p, &found);
        Some(())
    }

    fn begin_read(&mut self, p: u8) -> Option<()> {
        if self.reader.is_some() || !self.is_newest(p) {
            return None;
        }
        let (_, view) = self.at(p).leading_view()?;
        if !self.bucket.has_all(&view) {
            return None;
        }
        spend(&mut self.left.readers)?;
        self.reader = Some(view);
        Some(())
    }
}
