//! What goes into the core, and what comes out of it.

use bytes::Bytes;
use greptime_types::{Error, NodeId, RegionId};
use protobuf::Message as _;
use raft::eraftpb::Message;

use super::members::{Change, Member, Membership};
use super::record::encode_raft;

/// Limits of the core.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Payload that is taken into one turn; more throughput than without a limit, and a bounded delay.
    pub turn_bytes: u64,
    /// Proposed and not yet committed, per group; further proposals are refused.
    pub uncommitted_bytes: u64,
    /// Appends on their way to one follower of one group.
    pub inflight: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            turn_bytes: 4 << 20,
            uncommitted_bytes: 64 << 20,
            inflight: 32,
        }
    }
}

/// Starts a replica for good; repeated, it changes nothing.
#[derive(Clone, Debug)]
pub struct Initialise {
    pub region: RegionId,
    pub raft_id: u64,
    /// First voters of the group, this replica among them. Empty: the group is there already, and this replica joins it
    /// as soon as its leader sends it what there is.
    pub voters: Vec<u64>,
    /// Where members live. A group of one voter need not say.
    pub members: Vec<Member>,
    pub checkpoint: Bytes,
}

/// In whose name a candidate asks for votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Of the metasrv of this epoch, which knows that nobody holds a lease any more.
    Metasrv { epoch: u64 },
    /// Of nobody: metasrv has been out of reach for the whole time of a fallback election.
    Fallback,
}

impl Authority {
    /// As it travels with a message; 0 is fallback.
    pub fn code(self) -> u64 {
        match self {
            Self::Metasrv { epoch } => epoch,
            Self::Fallback => 0,
        }
    }

    /// What [`Self::code`] gave.
    pub fn of_code(code: u64) -> Self {
        match code {
            0 => Self::Fallback,
            epoch => Self::Metasrv { epoch },
        }
    }
}

#[derive(Debug)]
pub enum Input {
    Initialise(Initialise),
    /// `token` comes back with the committed entry, or as refused.
    Propose {
        region: RegionId,
        token: u64,
        data: Bytes,
    },
    /// The replica is to lead. `seen_term` is the highest that whoever says so has heard of; a replica that is further
    /// has been told by somebody newer.
    Campaign {
        region: RegionId,
        seen_term: u64,
        authority: Authority,
    },
    /// The leader is to hand over to a voter that has everything.
    Transfer {
        region: RegionId,
        to: u64,
    },
    /// The time for handing over is up; the leader goes on.
    AbortTransfer {
        region: RegionId,
    },
    /// Changes members; `members` says where all of them live afterwards. Answered like a proposal.
    Change {
        region: RegionId,
        token: u64,
        changes: Vec<Change>,
        members: Vec<Member>,
    },
    /// Asks the leader for the index up to which a read must have seen the log; answered in [`Output::reads`] when a
    /// majority has confirmed that it still leads, or as refused.
    Read {
        region: RegionId,
        token: u64,
    },
    /// From another replica of the region.
    Message {
        from: NodeId,
        region: RegionId,
        message: Box<Message>,
        /// [`Authority::code`] of a request for votes.
        authority: u64,
    },
    /// Messages to the node may have been lost.
    PeerLost(NodeId),
    /// Messages reach the node again.
    PeerFound(NodeId),
    /// Whether committed entries are applied by this replica while it follows, so that it can lead without a replay.
    /// One that leads always does.
    Role {
        region: RegionId,
        is_hot: bool,
    },
    /// The highest epoch of a metasrv that this node has heard of.
    MetasrvEpoch(u64),
    /// Time passes without metasrv. Leaders show that they are there; when `orphaned`, metasrv has been away for the whole
    /// time of a fallback election.
    Tick {
        orphaned: bool,
    },
    /// metasrv is there: no fallback any more.
    MetasrvFound,
    /// Rows up to `through` are in files of a known manifest version: forget their entries, and keep what a
    /// restart needs instead. In a group of several voters the leader says so to all of them.
    Trim {
        region: RegionId,
        through: u64,
        checkpoint: Bytes,
    },
    Drop {
        region: RegionId,
    },
    /// The replica is to be the only one of its group, in a term above `seen_term`: the majority is lost for good. A person
    /// has said so.
    Recover {
        region: RegionId,
        raft_id: u64,
        seen_term: u64,
        /// Where the region stands in files, if it has any.
        files: Option<InFiles>,
    },
}

/// How far a region is in files, whatever a replica's log has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFiles {
    /// Rows up to it are in files; they were committed.
    pub through: u64,
    /// No entry up to there is of a later term; not above the `seen_term` that comes with it.
    pub term: u64,
    /// [`super::Key::Checkpoint`] of a replica that begins there.
    pub checkpoint: Bytes,
}

impl Input {
    /// What a replica on another node has said; `None` if it cannot be read, which is as good as lost. Nothing of `bytes`
    /// is kept: they may be a part of much more.
    pub fn received(from: NodeId, region: RegionId, bytes: &Bytes, authority: u64) -> Option<Self> {
        let mut message = Message::parse_from_carllerche_bytes(bytes).ok()?;
        for entry in message.mut_entries().iter_mut() {
            entry.data = Bytes::copy_from_slice(&entry.data);
        }
        Some(Self::Message {
            from,
            region,
            message: Box::new(message),
            authority,
        })
    }

    /// Bytes that it adds to what a turn writes, about.
    pub fn payload(&self) -> usize {
        match self {
            Self::Propose { data, .. } => data.len(),
            Self::Trim { checkpoint, .. } => checkpoint.len(),
            Self::Message { message, .. } => message.entries.iter().map(|e| e.data.len()).sum(),
            _ => 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct CommittedEntry {
    pub index: u64,
    pub term: u64,
    /// Empty in the entry with which a leader begins its term, and in what is the log's own business.
    pub data: Bytes,
    /// Of the proposal that this process made.
    pub token: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Committed {
    pub region: RegionId,
    pub entries: Vec<CommittedEntry>,
}

/// Where a group stands after a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    pub raft_id: u64,
    pub leads: bool,
    /// Raft id of the leader as far as it is known; 0 is nobody.
    pub leader: u64,
    pub term: u64,
    pub last_index: u64,
    pub last_term: u64,
    pub committed: u64,
    /// It applies what is committed.
    pub is_hot: bool,
}

impl GroupStatus {
    /// As far as it is known. While one is elected, nobody is.
    pub fn is_led_by_another(&self) -> bool {
        self.leader != 0 && self.leader != self.raft_id
    }
}

/// A message for a replica on another node.
#[derive(Debug)]
pub struct Outgoing {
    pub to: NodeId,
    pub region: RegionId,
    pub message: Message,
    /// See [`Authority::code`].
    pub authority: u64,
}

impl Outgoing {
    /// The message as it travels; read by [`Input::received`].
    pub fn encode(&self) -> Bytes {
        encode_raft(&self.message)
    }
}

/// A checkpoint that a region must know of.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpointed {
    pub region: RegionId,
    pub checkpoint: Bytes,
}

#[derive(Debug, Default)]
pub struct Output {
    /// What these regions have in memory counts for nothing: they begin anew from the checkpoint, and are given what is
    /// committed behind it. To be done before anything of `committed`.
    pub restored: Vec<Checkpointed>,
    /// In the order of the log for each region. The caller applies them, says [`super::LogCore::applied`], and only
    /// then answers.
    pub committed: Vec<Committed>,
    /// The log of these regions has been trimmed to the checkpoint: their rows up to there are in files.
    pub trimmed: Vec<Checkpointed>,
    /// Proposals and reads that will not be done by this process; the sender may try elsewhere.
    pub refused: Vec<(u64, Error)>,
    /// Reads, by token, with the index that must be applied before.
    pub reads: Vec<(RegionId, u64, u64)>,
    pub status: Vec<(RegionId, GroupStatus)>,
    /// Members that have changed, or have just been read.
    pub members: Vec<(RegionId, Membership)>,
    /// Regions that this turn started or dropped, now on disk.
    pub initialised: Vec<RegionId>,
    pub dropped: Vec<RegionId>,
}

/// Where messages of a turn go. Those before [`Network::flush`] may leave before the turn's batch is on disk.
pub trait Network {
    fn send(&mut self, message: Outgoing);
    fn flush(&mut self);
}

/// Why a log takes no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Its disk has no space.
    Disk,
    /// It is as large as it may be.
    Limit,
}

impl Full {
    /// Nothing of the request was done.
    pub fn error(self) -> Error {
        Error::exhausted(match self {
            Self::Disk => "the disk of the datanode's log is full; make space on its volume, and retry",
            Self::Limit => {
                "the datanode's log is full, since nothing was put into files for long: look whether the object store \
                 can be reached, or raise datanode.log_limit, and retry"
            }
        })
    }
}
