//! What processes say to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use greptime_log::Outgoing;
use greptime_metasrv_plan::assignment::Member;
use greptime_rules::Edit;
use greptime_types::{Error, Finished, NodeId, RegionId, RequestId, TableId, TableInfo};

use crate::process::Address;
use crate::store::{Change, Expect, Versioned};

/// On its way.
#[derive(Debug)]
pub struct Envelope {
    pub from: Address,
    pub to: Address,
    pub body: Body,
}

impl Envelope {
    pub fn request((from, to): (Address, Address), call: u64, request: Request) -> Self {
        let body = Body::Request { call, request };
        Self { from, to, body }
    }

    pub fn answer(&self, answer: Answer) -> Option<Self> {
        let Body::Request { call, .. } = self.body else {
            return None;
        };
        Some(answer_to((self.to, self.from), call, answer))
    }

    pub fn connection(&self) -> Option<u64> {
        match self.body {
            Body::Said { connection, .. } => Some(connection),
            _ => None,
        }
    }
}

pub fn answer_to((from, to): (Address, Address), call: u64, answer: Answer) -> Envelope {
    let body = Body::Answer { call, answer };
    Envelope { from, to, body }
}

#[derive(Debug)]
pub enum Body {
    Request {
        call: u64,
        request: Request,
    },
    Answer {
        call: u64,
        answer: Answer,
    },
    /// In order with everything else that is said on the connection.
    Said {
        connection: u64,
        said: Said,
    },
    /// The connection is gone.
    Broken {
        connection: u64,
    },
}

/// Answered by itself, in no order.
#[derive(Debug)]
pub enum Request {
    Write(Write),
    Query(Query),
    /// Who is there?
    Identify,
    Etcd(EtcdRequest),
    Bucket(BucketRequest),
}

#[derive(Debug)]
pub enum Answer {
    Write(Result<Written, Error>),
    Query(Result<Rows, Error>),
    Identity {
        incarnation: u64,
    },
    Etcd(EtcdAnswer),
    Bucket(Result<Object, BucketError>),
    /// There is no process.
    Refused,
}

#[derive(Clone, Debug)]
pub struct Write {
    pub region: RegionId,
    pub epoch: u64,
    pub request: RequestId,
    pub finished: Finished,
    /// Version of the table whose columns the rows have.
    pub made_for: u64,
    pub op: Op,
    /// Milliseconds that the sender will wait.
    pub deadline_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub epoch: u64,
    pub sequence: u64,
    pub duplicate: bool,
}

#[derive(Clone, Debug)]
pub struct Query {
    pub region: RegionId,
    pub epoch: u64,
    pub deadline_ms: u64,
}

/// `value` is one more with every row that anybody writes to the region, and so names the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub key: u32,
    pub value: u64,
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Put(Row),
    /// Everything that was written before is gone. The number names it, as its value names a row.
    Truncate(u64),
}

/// Rows with their sequences.
pub type Rows = Rc<Vec<(u64, Row)>>;

#[derive(Debug)]
pub enum EtcdRequest {
    List(String),
    Commit(Expect, Vec<Change>),
    /// Milliseconds.
    Grant(u64),
    KeepAlive(u64),
    Revoke(u64),
    /// Makes a key under a lease, if it is not there.
    Create {
        key: String,
        value: Vec<u8>,
        lease: u64,
    },
}

#[derive(Debug)]
pub enum EtcdAnswer {
    Listed(BTreeMap<String, Versioned>),
    Committed(Option<i64>),
    /// The lease, or 0 if there is none.
    Lease(u64),
    /// Who had it before, under which lease; `None` if it was made.
    Created(Option<(Vec<u8>, u64)>),
}

/// What lies in the bucket under a region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Manifest(u64),
    File(String),
}

#[derive(Clone, Debug)]
pub enum Object {
    Edit(Rc<Edit>),
    File(Rows),
    /// Names of files with the time of their putting by the bucket's clock, in milliseconds.
    Listed(Vec<(String, i64)>),
    Done,
}

#[derive(Clone, Debug)]
pub struct BucketRequest {
    pub region: RegionId,
    pub operation: Operation,
}

#[derive(Clone, Debug)]
pub enum Operation {
    /// Only if nothing is there, unless it `replaces`.
    Put {
        key: Key,
        object: Object,
        replaces: bool,
    },
    Get(Key),
    Has(Key),
    Delete(Key),
    List,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketError {
    NotFound,
    AlreadyThere,
    /// Whatever was asked for may have happened, or may happen.
    Away,
}

/// On a connection.
#[derive(Debug)]
pub enum Said {
    // between a node and metasrv
    Register(Register),
    Tick(Tick),
    Push(Push),
    // between datanodes
    Hello { to_incarnation: u64 },
    Welcome,
    NotMe,
    Ping,
    Pong,
    Groups(Vec<Outgoing>),
}

#[derive(Clone, Debug)]
pub struct Register {
    pub incarnation: u64,
    /// Of a datanode.
    pub disk_id: String,
    pub reports: Vec<RegionReport>,
}

#[derive(Clone, Debug)]
pub struct Tick {
    pub number: u64,
    pub oldest_append_ms: u64,
    /// Number of the newest tick whose answer has come.
    pub answered: u64,
    /// Present when they have changed.
    pub reports: Option<Vec<RegionReport>>,
    pub unreachable: Vec<NodeId>,
    /// Of which it has given up every lease.
    pub renounced: Vec<RegionId>,
    pub stopping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionRole {
    Opening,
    Leader,
    Follower,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionReport {
    pub region: RegionId,
    pub raft_id: u64,
    pub role: RegionRole,
    pub epoch: u64,
    pub last_index: u64,
    pub last_term: u64,
    pub applied_index: u64,
    pub schema_version: u64,
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
    pub hot: bool,
    /// It leads its group and does not serve yet.
    pub is_elected: bool,
}

#[derive(Clone, Debug)]
pub enum Push {
    Welcome {
        metasrv_epoch: u64,
    },
    NotLeader,
    Refused(String),
    Tock {
        number: u64,
        /// How long reads need nobody else's word, from when the tick was sent; 0: not at all.
        lease_ms: u64,
        without_lease: Vec<RegionId>,
    },
    Peers(Peers),
    Initialise(Initialise),
    Campaign {
        region: RegionId,
        seen_term: u64,
    },
    Transfer {
        region: RegionId,
        to: u64,
    },
    Role {
        region: RegionId,
        is_hot: bool,
    },
    /// The others are lost, and a person agrees to what only they had being lost too.
    Recover {
        region: RegionId,
        raft_id: u64,
        seen_term: u64,
    },
    ChangeMembers(ChangeMembers),
    /// To the leader of a region whose table is older.
    Alter(RegionId, Rc<TableInfo>),
    DropReplica(RegionId),
    /// Versions of all tables.
    Tables(Rc<BTreeMap<TableId, u64>>),
    Routes {
        is_complete: bool,
        routes: Vec<Route>,
    },
}

/// Where the other datanodes are; whoever is not in it is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    pub here: Vec<Peer>,
    /// Those that have not come to this metasrv yet.
    pub awaited: BTreeSet<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    pub incarnation: u64,
}

#[derive(Clone, Debug)]
pub struct Initialise {
    pub region: RegionId,
    pub raft_id: u64,
    /// Empty: it joins.
    pub voters: Vec<u64>,
    pub members: Vec<Member>,
    pub table: Rc<TableInfo>,
}

#[derive(Clone, Debug)]
pub struct ChangeMembers {
    pub region: RegionId,
    pub epoch: u64,
    pub learners: Vec<Member>,
    pub voters: Vec<Member>,
    pub remove: Vec<u64>,
    pub members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub region: RegionId,
    /// 0: nobody leads.
    pub epoch: u64,
    pub leader: NodeId,
}
