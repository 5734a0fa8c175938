//! The loop of the log, as `driver` of the log has it: take what arrived, one turn, apply, answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use greptime_log::{CommittedEntry, Input, LogStore, Network, Outgoing, Output};
use greptime_rules::Checkpoint;
use greptime_types::{Error, NodeId, RegionId, RequestId, Result};

use super::Datanode;
use super::session::SessionEvent;
use crate::message::Written;
use crate::region::{Region, State};
use crate::sim::{MS, Micros, SECOND, Signal};
use crate::trace::Branch;

/// Somebody waits for what only the log can say.
pub struct Pending {
    region: RegionId,
    request: Option<RequestId>,
    answer: RefCell<Option<Result<Written>>>,
    signal: Signal,
}

/// Messages of a turn, before its batch is written and after.
#[derive(Default)]
struct Sent {
    early: Vec<Outgoing>,
    late: Vec<Outgoing>,
    is_written: bool,
}

impl Network for Sent {
    fn send(&mut self, message: Outgoing) {
        match self.is_written {
            false => self.early.push(message),
            true => self.late.push(message),
        }
    }

    fn flush(&mut self) {
        self.is_written = true;
    }
}

impl Datanode {
    /// Hands something to the log without waiting.
    pub fn tell(&self, inputs: Vec<Input>) {
        self.inbox.borrow_mut().extend(inputs);
        self.inbox_signal.give(&self.sim);
    }

    /// Hands something to the log and waits for what comes of it.
    pub async fn ask(
        &self,
        region: RegionId,
        request: Option<RequestId>,
        until: Micros,
        input: impl FnOnce(u64) -> Input,
    ) -> Result<Written> {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        let pending = Rc::new(Pending {
            region,
            request,
            answer: RefCell::default(),
            signal: Signal::default(),
        });
        self.pending.borrow_mut().insert(token, Rc::clone(&pending));
        self.tell(vec![input(token)]);
        let signals = [&pending.signal];
        let answer = self
            .sim
            .wait(&signals, until, || pending.answer.borrow_mut().take());
        answer
            .await
            .unwrap_or_else(|| Err(Error::deadline("the log has not answered in time")))
    }

    pub(super) async fn run_log(self: Rc<Self>) {
        loop {
            let has_work = || !self.inbox.borrow().is_empty() || self.core.borrow().has_work();
            self.sim
                .wait(&[&self.inbox_signal], Micros::MAX, || has_work().then_some(()))
                .await;
            let inputs = std::mem::take(&mut *self.inbox.borrow_mut());
            let is_found = |input: &&Input| matches!(input, Input::MetasrvFound);
            let found = inputs.iter().filter(is_found).count();
            let mut sent = Sent::default();
            let turn = {
                let mut core = self.core.borrow_mut();
                inputs.into_iter().for_each(|input| core.step(input));
                core.turn(&mut sent)
            };
            let output = match turn {
                Ok(output) => output,
                Err(error) => return self.fail(&error.to_string()),
            };
            self.send(sent.early);
            if self.machine.disk.has_pending() {
                self.append_began.set(Some(self.sim.clock(self.me)));
                self.sync().await;
                self.append_began.set(None);
            }
            self.finish(output);
            self.untaken.set(self.untaken.get() - found);
            self.send(sent.late);
        }
    }

    /// The disk goes on when the process is stopped.
    async fn sync(&self) {
        let takes = {
            let mut dice = self.sim.dice.borrow_mut();
            let usual = if dice.per_mille(5) {
                dice.between(5 * MS, 40 * MS)
            } else {
                dice.between(150, self.machine.usual)
            };
            let slow = self.machine.slow.get();
            usual + if slow > 0 { dice.between(slow / 4, slow) } else { 0 }
        };
        let (at, disk) = (self.sim.now() + takes, std::sync::Arc::clone(&self.machine.disk));
        self.sim.act(at, move || disk.synced());
        self.sim.wait(&[], at + 1, || None::<()>).await;
    }

    /// Everything in `output` is on disk: apply, then answer.
    fn finish(self: &Rc<Self>, output: Output) {
        for restored in output.restored {
            self.restored(restored.region, &restored.checkpoint);
        }
        let changed: Vec<RegionId> = output.members.iter().map(|(region, _)| *region).collect();
        for (region, members) in output.members {
            if let Some(region) = self.region(region) {
                region.set_members(members);
            }
        }
        for (region, status) in output.status {
            self.sim.saw_status((self.me, self.incarnation), region, &status);
            if let Some(region) = self.region(region) {
                let before = region.read(|s| s.status());
                region.set_status(status);
                if (before.leads, before.term, before.is_hot) != (status.leads, status.term, status.is_hot) {
                    self.note_status(&region);
                }
            }
        }
        changed.into_iter().for_each(|region| self.note_alone(region));
        for committed in output.committed {
            for entry in &committed.entries {
                self.apply(committed.region, entry);
            }
            if let Some(last) = committed.entries.last() {
                self.core.borrow_mut().applied(committed.region, last.index);
            }
        }
        for trimmed in output.trimmed {
            self.trimmed(trimmed.region, &trimmed.checkpoint);
        }
        for (token, error) in output.refused {
            self.answer(token, Err(error));
        }
        self.reads.borrow_mut().extend(output.reads);
        self.answer_reads();
        for region in output.initialised {
            self.sim.note(|| format!("{} has begun region {region}", self.me));
        }
    }

    /// What there is of a region whose majority is lost, if its replica here is the only one now.
    pub(super) fn note_alone(&self, id: RegionId) {
        let Some(region) = self.region(id).filter(|_| self.sim.is_given_up(id)) else {
            return;
        };
        if !region.read(State::is_alone) {
            return;
        }
        let disk = &self.machine.disk;
        let entries = disk
            .bounds(id)
            .map(|(first, last)| disk.entries(id, first, last + 1, u64::MAX));
        let entries = entries.and_then(Result::ok).unwrap_or_default();
        let terms = entries
            .into_iter()
            .map(|entry| (entry.index, entry.term))
            .collect();
        let last = region.read(|s| s.status().last_index);
        self.sim.saw_alone(self.me, id, last, &terms);
    }

    fn note_status(self: &Rc<Self>, region: &Rc<Region>) {
        let status = region.read(|s| s.status());
        if status.leads && self.is_missed.get() {
            self.sim.hit(Branch::FallbackElection);
        }
        self.sim.note(|| {
            let (id, leads, term) = (region.id, status.leads, status.term);
            format!(
                "{} region {id}: leads {leads}, term {term}, leader {}",
                self.me, status.leader
            )
        });
        self.look_at_manifest(region);
        self.session.put(&self.sim, SessionEvent::News);
    }

    fn apply(self: &Rc<Self>, id: RegionId, entry: &CommittedEntry) {
        let Some(region) = self.region(id) else {
            if let Some(token) = entry.token {
                self.answer(token, Err(Error::unavailable("the region is not here")));
            }
            return;
        };
        let now = self.sim.clock(self.me);
        let (applied, result) = region.change(|s| s.apply(entry, now));
        self.sim.saw_applied(self.me, id, entry, applied);
        if entry.data.is_empty() {
            self.look_at_manifest(&region);
            self.session.put(&self.sim, SessionEvent::News);
        }
        if let Some(token) = entry.token {
            self.answer(token, result);
        }
    }

    fn restored(self: &Rc<Self>, id: RegionId, checkpoint: &Bytes) {
        let (Some(region), Ok(checkpoint)) = (self.region(id), Checkpoint::decode(checkpoint)) else {
            return;
        };
        self.sim.hit(Branch::SnapshotByCheckpoint);
        self.sim.saw_trim(self.me, id, checkpoint.flushed_seq);
        region.change(|s| s.restore(checkpoint));
    }

    fn trimmed(self: &Rc<Self>, id: RegionId, checkpoint: &Bytes) {
        let (Some(region), Ok(checkpoint)) = (self.region(id), Checkpoint::decode(checkpoint)) else {
            return;
        };
        if region.read(|s| s.follows()) {
            self.sim.hit(Branch::TrimFollowed);
        }
        self.sim.saw_trim(self.me, id, checkpoint.flushed_seq);
        region.change(|s| s.trimmed(&checkpoint));
        self.look_at_manifest(&region);
    }

    fn answer(&self, token: u64, result: Result<Written>) {
        let Some(pending) = self.pending.borrow_mut().remove(&token) else {
            return;
        };
        if result.is_err()
            && let (Some(request), Some(region)) = (pending.request, self.region(pending.region))
        {
            region.change(|s| s.refused(request));
        }
        *pending.answer.borrow_mut() = Some(result);
        pending.signal.give(&self.sim);
    }

    fn answer_reads(&self) {
        let core = self.core.borrow();
        let is_open = |(region, token, index): &(RegionId, u64, u64)| {
            let applied = core.machine_applied(*region);
            if applied.is_some_and(|applied| applied < *index) {
                return true;
            }
            let done = Written {
                epoch: 0,
                sequence: *index,
                duplicate: false,
            };
            self.answer(
                *token,
                applied
                    .map(|_| done)
                    .ok_or_else(|| Error::not_found("it was dropped")),
            );
            false
        };
        self.reads.borrow_mut().retain(is_open);
    }

    /// One bundle for each node; what cannot be sent is told to Raft.
    fn send(&self, messages: Vec<Outgoing>) {
        let mut by_node: BTreeMap<NodeId, Vec<Outgoing>> = BTreeMap::new();
        for message in messages {
            by_node.entry(message.to).or_default().push(message);
        }
        for (node, messages) in by_node {
            if !self.send_to_peer(node, messages) {
                self.missed.borrow_mut().insert(node);
                self.inbox.borrow_mut().push_back(Input::PeerLost(node));
            }
        }
    }

    /// Whether the disk of the log has no room.
    pub fn is_full(&self) -> bool {
        self.machine.disk.is_full()
    }

    /// How long the append under way has taken.
    pub fn oldest_append_ms(&self) -> u64 {
        let began = self.append_began.get();
        began.map_or(0, |at| {
            self.sim.clock(self.me).saturating_sub(at).as_millis() as u64
        })
    }
}

/// A change of members that takes longer is asked for again.
pub const CHANGE_WITHIN: Micros = 10 * SECOND;
