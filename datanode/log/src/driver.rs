//! The log loop: one thread that takes what arrived, makes it durable, applies it, and then answers.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use greptime_types::{Error, NodeId, RegionId, RequestId, Result};
use tokio::sync::{mpsc, oneshot, watch};

use super::LogError;
use super::core::LogCore;
use super::defences::Defence;
use super::io::{CommittedEntry, GroupStatus, Initialise, Input, Output};
use super::mailbox::{Mailbox, Peers};
use super::members::{Change, Member, Membership};

/// What the loop applies committed entries to.
pub trait Apply: Send + Sync + 'static {
    /// Applies one committed entry; the result is what its proposer is told.
    fn apply(&self, region: RegionId, entry: &CommittedEntry) -> Result<Applied>;
    /// The write with this request id will not be committed by this process.
    fn refused(&self, region: RegionId, request: RequestId);
    fn status(&self, region: RegionId, status: GroupStatus);
    fn members(&self, region: RegionId, members: Membership);
    /// What the region has in memory counts for nothing: it begins anew from the checkpoint.
    fn restored(&self, region: RegionId, checkpoint: Bytes);
    /// The log was trimmed to the checkpoint: rows up to there are in files.
    fn trimmed(&self, region: RegionId, checkpoint: Bytes);
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    pub term: u64,
    /// The same request had been applied by an earlier entry; this one changed nothing.
    pub duplicate: bool,
}

/// An entry that is to be written.
#[derive(Debug)]
pub struct Proposal {
    pub region: RegionId,
    pub data: Bytes,
    /// Of a write.
    pub request: Option<RequestId>,
    /// Kept until the entry is answered: memory that it takes until it is applied.
    pub held: Option<Box<dyn Any + Send>>,
}

enum Command {
    Propose(Proposal, oneshot::Sender<Result<Applied>>),
    Change {
        region: RegionId,
        changes: Vec<Change>,
        members: Vec<Member>,
        reply: oneshot::Sender<Result<Applied>>,
    },
    Read(RegionId, oneshot::Sender<Result<u64>>),
    Pass(oneshot::Sender<Result<()>>),
    Initialise(Initialise, oneshot::Sender<Result<()>>),
    Drop(RegionId, oneshot::Sender<Result<()>>),
    /// Needs no answer.
    Tell(Vec<Input>),
    Stop,
}

/// How the rest of the program reaches the loop. The loop ends when the last handle is gone.
#[derive(Clone)]
pub struct LogHandle {
    commands: mpsc::Sender<Command>,
    failure: watch::Receiver<Option<String>>,
    mailbox: Arc<Mailbox>,
}

impl LogHandle {
    /// Queues an entry. The answer comes when it is on disk, committed and applied, in this order. An error
    /// says that it was not even queued.
    pub fn propose(&self, proposal: Proposal) -> Result<impl Future<Output = Result<Applied>> + use<>> {
        let (reply, answer) = oneshot::channel();
        self.try_send(Command::Propose(proposal, reply))?;
        let handle = self.clone();
        Ok(async move { handle.answer(answer).await })
    }

    /// Changes the members of a region that this node leads; returns when the change is committed. `members` says where
    /// all of them live afterwards.
    pub async fn change_members(
        &self,
        region: RegionId,
        changes: Vec<Change>,
        members: Vec<Member>,
    ) -> Result<Applied> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Change {
            region,
            changes,
            members,
            reply,
        };
        self.send(command).await?;
        self.answer(answer).await
    }

    /// Returns when this node is known to have led the region after the call began, with everything that was committed
    /// by then applied; says up to which index that is.
    pub async fn read_index(&self, region: RegionId) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        self.try_send(Command::Read(region, reply))?;
        self.answer(answer).await
    }

    /// Returns when the group is on disk. Repeated, it does nothing.
    pub async fn initialise(&self, initialise: Initialise) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Initialise(initialise, reply)).await?;
        self.answer(answer).await
    }

    /// Returns when the region's log is gone.
    pub async fn drop_region(&self, region: RegionId) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Drop(region, reply)).await?;
        self.answer(answer).await
    }

    /// Forgets entries whose rows are in files, and keeps what a restart needs instead.
    pub async fn trim(&self, region: RegionId, through: u64, checkpoint: Bytes) -> Result<()> {
        let trim = Input::Trim {
            region,
            through,
            checkpoint,
        };
        self.tell(vec![trim]).await
    }

    /// Hands over what needs no answer; waits while the loop has much to do.
    pub async fn tell(&self, inputs: Vec<Input>) -> Result<()> {
        self.send(Command::Tell(inputs)).await
    }

    /// Returns when what was handed over before has had its effect: it is on disk, and regions have said what has become
    /// of them.
    pub async fn passed(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Pass(reply)).await?;
        self.answer(answer).await
    }

    /// Nodes to which something could not be sent since this was last asked. Whoever leads them must say that it is there,
    /// by [`Input::PeerFound`], when they take messages again.
    pub fn take_missed(&self) -> Vec<NodeId> {
        self.mailbox.take_missed()
    }

    /// Ends the loop after what was queued before; returns when the log is closed.
    pub async fn stop(&self) {
        if self.send(Command::Stop).await.is_ok() {
            let mut failure = self.failure.clone();
            while failure.changed().await.is_ok() {}
        }
    }

    /// Why nothing can be written any more, if so.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Waits until the loop has failed, or ended.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the log loop has ended".into(),
        }
    }

    fn try_send(&self, command: Command) -> Result<()> {
        self.commands.try_send(command).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::exhausted("the write queue is full; retry later"),
            mpsc::error::TrySendError::Closed(_) => self.gone(),
        })
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| self.gone())
    }

    async fn answer<T>(&self, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> Error {
        let reason = self
            .failure()
            .unwrap_or_else(|| "the node is shutting down".into());
        Error::unavailable(format!("{reason}; whether the request was done is unknown"))
    }
}

/// Who waits for a token.
enum Pending {
    Entry {
        region: RegionId,
        request: Option<RequestId>,
        reply: oneshot::Sender<Result<Applied>>,
        /// Kept, not read.
        _held: Option<Box<dyn Any + Send>>,
    },
    Read(oneshot::Sender<Result<u64>>),
}

struct Driver {
    core: LogCore,
    stopping: bool,
    machine: Arc<dyn Apply>,
    mailbox: Arc<Mailbox>,
    next_token: u64,
    pending: HashMap<u64, Pending>,
    /// Reads that are confirmed and wait for their index to be applied.
    reads: Vec<(RegionId, u64, u64)>,
    initialising: HashMap<RegionId, Vec<oneshot::Sender<Result<()>>>>,
    dropping: HashMap<RegionId, Vec<oneshot::Sender<Result<()>>>>,
    /// Wait for the end of this turn.
    passing: Vec<oneshot::Sender<Result<()>>>,
}

/// Starts the loop over an opened core. `queue` commands may wait; `turn_bytes` are taken at once.
pub fn start(
    core: LogCore,
    machine: Arc<dyn Apply>,
    peers: Arc<dyn Peers>,
    queue: usize,
    turn_bytes: usize,
) -> Result<LogHandle> {
    let (commands, mut arriving) = mpsc::channel(queue);
    let (failed, failure) = watch::channel(None);
    let mailbox = Arc::new(Mailbox::new(peers));
    let mut driver = Driver {
        core,
        stopping: false,
        machine,
        mailbox: Arc::clone(&mailbox),
        next_token: 1,
        pending: HashMap::new(),
        reads: Vec::new(),
        initialising: HashMap::new(),
        dropping: HashMap::new(),
        passing: Vec::new(),
    };
    let run = move || {
        // The log engine panics when an fsync fails, and the Raft library when its storage does: either way
        // this process must never acknowledge anything again.
        let mut once = || catch_unwind(AssertUnwindSafe(|| driver.run(&mut arriving, turn_bytes)));
        let mut outcome = once();
        while outcome.is_err() && !Defence::PanicEndsTheLog.holds() {
            outcome = once();
        }
        let reason = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(panic) => Some(format!("the log loop panicked: {}", panic_text(panic.as_ref()))),
        };
        if let Some(reason) = reason {
            tracing::error!(
                reason,
                "the log has failed; this node takes no more writes and must restart"
            );
            failed.send_replace(Some(reason));
        }
        // Closes the log, and answers everybody who waits; a log engine that has panicked may do so again.
        let _ = catch_unwind(AssertUnwindSafe(move || drop((driver, arriving))));
        drop(failed);
    };
    std::thread::Builder::new()
        .name("log-loop".into())
        .spawn(run)
        .map_err(|e| Error::internal(format!("the log loop cannot start: {e}")))?;
    Ok(LogHandle {
        commands,
        failure,
        mailbox,
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

impl Driver {
    fn run(&mut self, arriving: &mut mpsc::Receiver<Command>, turn_bytes: usize) -> Result<(), String> {
        loop {
            if self.stopping && !self.core.has_work() {
                return Ok(());
            }
            let mut bytes = 0;
            if !self.core.has_work() {
                match arriving.blocking_recv() {
                    Some(command) => bytes += self.take(command),
                    None => return Ok(()),
                }
            }
            while bytes < turn_bytes {
                match arriving.try_recv() {
                    Ok(command) => bytes += self.take(command),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    // What was taken is finished first; the next `blocking_recv` ends the loop.
                    Err(mpsc::error::TryRecvError::Disconnected) => break,
                }
            }
            let turned = self.core.turn(&mut self.mailbox.open());
            match turned {
                Ok(output) => self.finish(output),
                Err(LogError::Full) => {
                    self.give_up();
                    return Ok(());
                }
                Err(LogError::Write(_)) if !Defence::FailedWriteEndsTheLog.holds() => {}
                Err(error) => return Err(error.to_string()),
            }
            self.tell_missed();
        }
    }

    /// Raft must not take what could not be sent for being on its way.
    fn tell_missed(&mut self) {
        for node in self.mailbox.missed_in_turn() {
            self.core.step(Input::PeerLost(node));
        }
    }

    /// Hands a command to the core; returns the payload it adds to the turn.
    fn take(&mut self, command: Command) -> usize {
        match command {
            Command::Propose(proposal, reply) => {
                let (region, data) = (proposal.region, proposal.data);
                let bytes = data.len();
                let token = self.wait(Pending::Entry {
                    region,
                    request: proposal.request,
                    reply,
                    _held: proposal.held,
                });
                self.core.step(Input::Propose { region, token, data });
                bytes
            }
            Command::Change {
                region,
                changes,
                members,
                reply,
            } => {
                let token = self.wait(Pending::Entry {
                    region,
                    request: None,
                    reply,
                    _held: None,
                });
                self.input(Input::Change {
                    region,
                    token,
                    changes,
                    members,
                })
            }
            Command::Read(region, reply) => {
                let token = self.wait(Pending::Read(reply));
                self.input(Input::Read { region, token })
            }
            Command::Pass(reply) => {
                self.passing.push(reply);
                0
            }
            Command::Initialise(initialise, reply) if self.core.has_group(initialise.region) => {
                let _ = reply.send(Ok(()));
                0
            }
            Command::Initialise(initialise, reply) => {
                self.initialising
                    .entry(initialise.region)
                    .or_default()
                    .push(reply);
                self.input(Input::Initialise(initialise))
            }
            Command::Drop(region, reply) => {
                self.dropping.entry(region).or_default().push(reply);
                self.input(Input::Drop { region })
            }
            Command::Stop => {
                self.stopping = true;
                0
            }
            Command::Tell(inputs) => {
                let mut bytes = 0;
                for input in inputs {
                    bytes += self.input(input);
                }
                bytes
            }
        }
    }

    fn wait(&mut self, pending: Pending) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, pending);
        token
    }

    fn input(&mut self, input: Input) -> usize {
        let bytes = input.payload();
        self.core.step(input);
        bytes
    }

    /// Nothing of what is under way is on disk here, and nothing of it will be. In a group of one voter there is no other
    /// copy.
    fn give_up(&mut self) {
        let undone =
            "the disk of the datanode's log is full and the node stops; the request was not done, retry";
        let tokens: Vec<u64> = self.pending.keys().copied().collect();
        for token in tokens {
            self.refuse(token, Error::exhausted(undone));
        }
    }

    fn refuse(&mut self, token: u64, error: Error) {
        // Whoever asked may have gone.
        match self.pending.remove(&token) {
            Some(Pending::Entry {
                region,
                request,
                reply,
                ..
            }) => {
                if let Some(request) = request {
                    self.machine.refused(region, request);
                }
                let _ = reply.send(Err(error));
            }
            Some(Pending::Read(reply)) => drop(reply.send(Err(error))),
            None => {}
        }
    }

    /// Everything in `output` is on disk: apply, then answer.
    fn finish(&mut self, output: Output) {
        for restored in output.restored {
            self.machine.restored(restored.region, restored.checkpoint);
        }
        for (region, members) in output.members {
            self.machine.members(region, members);
        }
        for (region, status) in output.status {
            self.machine.status(region, status);
        }
        for committed in output.committed {
            for entry in &committed.entries {
                let result = self.machine.apply(committed.region, entry);
                let waiting = entry.token.and_then(|token| self.pending.remove(&token));
                if let Some(Pending::Entry { reply, .. }) = waiting {
                    // Whoever asked may have gone.
                    let _ = reply.send(result);
                }
            }
            if let Some(last) = committed.entries.last() {
                self.core.applied(committed.region, last.index);
            }
        }
        for trimmed in output.trimmed {
            self.machine.trimmed(trimmed.region, trimmed.checkpoint);
        }
        for (token, error) in output.refused {
            self.refuse(token, error);
        }
        self.reads.extend(output.reads);
        self.answer_reads();
        for region in output.initialised {
            answer(self.initialising.remove(&region));
        }
        for region in output.dropped {
            answer(self.dropping.remove(&region));
        }
        answer(Some(std::mem::take(&mut self.passing)));
    }

    fn answer_reads(&mut self) {
        let (core, pending) = (&self.core, &mut self.pending);
        self.reads.retain(|(region, token, index)| {
            let applied = core.machine_applied(*region);
            if applied.is_some_and(|applied| applied < *index) {
                return true;
            }
            if let Some(Pending::Read(reply)) = pending.remove(token) {
                let gone = || Error::not_found(format!("region {region} was dropped"));
                let _ = reply.send(applied.map(|_| *index).ok_or_else(gone));
            }
            false
        });
    }
}

fn answer(waiting: Option<Vec<oneshot::Sender<Result<()>>>>) {
    for reply in waiting.into_iter().flatten() {
        let _ = reply.send(Ok(()));
    }
}
