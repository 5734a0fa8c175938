//! The log loop: one thread that takes what arrived, makes it durable, applies it, and then answers.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use greptime_types::{Error, RegionId, RequestId, Result};
use tokio::sync::{mpsc, oneshot, watch};

use super::LogError;
use crate::budget::Reservation;

use super::core::{CommittedEntry, GroupStatus, Initialise, Input, LogCore, Output};

/// What the loop applies committed entries to.
pub trait Apply: Send + Sync + 'static {
    /// Applies one committed entry; the result is what its proposer is told.
    fn apply(&self, region: RegionId, entry: &CommittedEntry) -> Result<Applied>;
    /// The write with this request id will not be committed by this process.
    fn refused(&self, region: RegionId, request: RequestId);
    fn status(&self, region: RegionId, status: GroupStatus);
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
    /// Memory that the entry takes until it is applied; given back when it is answered.
    pub reservation: Option<Reservation>,
}

enum Command {
    Propose(Proposal, oneshot::Sender<Result<Applied>>),
    Initialise(Initialise, oneshot::Sender<Result<()>>),
    Drop(RegionId, oneshot::Sender<Result<()>>),
    Trim {
        region: RegionId,
        through: u64,
        checkpoint: Bytes,
    },
    Stop,
}

/// How the rest of the program reaches the loop. The loop ends when the last handle is gone.
#[derive(Clone)]
pub struct LogHandle {
    commands: mpsc::Sender<Command>,
    failure: watch::Receiver<Option<String>>,
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
        self.send(Command::Trim {
            region,
            through,
            checkpoint,
        })
        .await
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

struct Pending {
    region: RegionId,
    request: Option<RequestId>,
    reply: oneshot::Sender<Result<Applied>>,
    /// Held, not read.
    _reservation: Option<Reservation>,
}

struct Driver {
    core: LogCore,
    stopping: bool,
    machine: Arc<dyn Apply>,
    next_token: u64,
    pending: HashMap<u64, Pending>,
    initialising: HashMap<RegionId, Vec<oneshot::Sender<Result<()>>>>,
    dropping: HashMap<RegionId, Vec<oneshot::Sender<Result<()>>>>,
}

/// Starts the loop over an opened core. `queue` commands may wait; `turn_bytes` are taken at once.
pub fn start(core: LogCore, machine: Arc<dyn Apply>, queue: usize, turn_bytes: usize) -> Result<LogHandle> {
    let (commands, mut arriving) = mpsc::channel(queue);
    let (failed, failure) = watch::channel(None);
    let mut driver = Driver {
        core,
        stopping: false,
        machine,
        next_token: 1,
        pending: HashMap::new(),
        initialising: HashMap::new(),
        dropping: HashMap::new(),
    };
    let run = move || {
        // The log engine panics when an fsync fails, and the Raft library when its storage does: either way
        // this process must never acknowledge anything again.
        let outcome = catch_unwind(AssertUnwindSafe(|| driver.run(&mut arriving, turn_bytes)));
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
    Ok(LogHandle { commands, failure })
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
            if !self.core.has_work() {
                match arriving.blocking_recv() {
                    Some(command) => self.take(command),
                    None => return Ok(()),
                };
            }
            let mut bytes = 0;
            while bytes < turn_bytes {
                match arriving.try_recv() {
                    Ok(command) => bytes += self.take(command),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    // What was taken is finished first; the next `blocking_recv` ends the loop.
                    Err(mpsc::error::TryRecvError::Disconnected) => break,
                }
            }
            // A group of one voter has nobody to send to; messages to peers come with a transport.
            match self.core.turn(&mut |_, _| {}) {
                Ok(output) => self.finish(output),
                Err(LogError::Full) => {
                    self.give_up();
                    return Ok(());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Hands a command to the core; returns the payload it adds to the turn.
    fn take(&mut self, command: Command) -> usize {
        match command {
            Command::Propose(proposal, reply) => {
                let token = self.next_token;
                self.next_token += 1;
                let (region, request, bytes) = (proposal.region, proposal.request, proposal.data.len());
                let pending = Pending {
                    region,
                    request,
                    reply,
                    _reservation: proposal.reservation,
                };
                self.pending.insert(token, pending);
                self.core.step(Input::Propose {
                    region,
                    token,
                    data: proposal.data,
                });
                bytes
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
                self.core.step(Input::Initialise(initialise));
                0
            }
            Command::Drop(region, reply) => {
                self.dropping.entry(region).or_default().push(reply);
                self.core.step(Input::Drop { region });
                0
            }
            Command::Stop => {
                self.stopping = true;
                0
            }
            Command::Trim {
                region,
                through,
                checkpoint,
            } => {
                let bytes = checkpoint.len();
                self.core.step(Input::Trim {
                    region,
                    through,
                    checkpoint,
                });
                bytes
            }
        }
    }

    /// Nothing of what is under way is on disk, and nothing of it will be: a group of one voter has no other copy.
    fn give_up(&mut self) {
        let undone =
            "the disk of the datanode's log is full and the node stops; the request was not done, retry";
        for (_, pending) in self.pending.drain() {
            if let Some(request) = pending.request {
                self.machine.refused(pending.region, request);
            }
            let _ = pending.reply.send(Err(Error::exhausted(undone)));
        }
    }

    /// Everything in `output` is on disk: apply, then answer.
    fn finish(&mut self, output: Output) {
        for (region, status) in output.status {
            self.machine.status(region, status);
        }
        for committed in output.committed {
            for entry in &committed.entries {
                let result = self.machine.apply(committed.region, entry);
                if let Some(pending) = entry.token.and_then(|token| self.pending.remove(&token)) {
                    // Whoever asked may have gone.
                    let _ = pending.reply.send(result);
                }
            }
            if let Some(last) = committed.entries.last() {
                self.core.applied(committed.region, last.index);
            }
        }
        for (token, error) in output.refused {
            let Some(pending) = self.pending.remove(&token) else {
                continue;
            };
            if let Some(request) = pending.request {
                self.machine.refused(pending.region, request);
            }
            let _ = pending.reply.send(Err(error));
        }
        for region in output.initialised {
            answer(self.initialising.remove(&region));
        }
        for region in output.dropped {
            answer(self.dropping.remove(&region));
        }
    }
}

fn answer(waiting: Option<Vec<oneshot::Sender<Result<()>>>>) {
    for reply in waiting.into_iter().flatten() {
        let _ = reply.send(Ok(()));
    }
}
