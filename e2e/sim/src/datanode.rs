//! A datanode: the real log core on a simulated disk, regions, and the loops around them.

mod log;
mod maintain;
mod orders;
mod peers;
mod serve;
mod session;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use greptime_log::{Input, Key, LogCore, LogOptions, LogStore, Membership};
use greptime_rules::Checkpoint;
use greptime_types::{NodeId, RegionId};

use crate::bucket::BucketClient;
use crate::disk::Disk;
use crate::message::{Push, RegionReport, Said};
use crate::process::Address;
use crate::region::Region;
use crate::sim::{Mailbox, Micros, Signal, Sim};
use crate::trace::Branch;
use log::Pending;
use orders::Lane;
use peers::Peer;
use session::SessionEvent;

/// What the machine keeps when the process goes.
#[derive(Clone)]
pub struct Machine {
    pub disk: Arc<Disk>,
    pub disk_id: String,
    /// How long a sync takes at most, mostly.
    pub usual: Micros,
    /// What may be added to that, while the disk is slow.
    pub slow: Rc<Cell<Micros>>,
    /// Rows are in memory for so long.
    pub flush_age: Duration,
}

/// Regions with the terms in which they are led.
type Led = Vec<(RegionId, u64)>;

pub struct Datanode {
    pub sim: Sim,
    pub me: Address,
    pub node: NodeId,
    pub incarnation: u64,
    pub bucket: BucketClient,
    pub machine: Machine,
    regions: RefCell<BTreeMap<RegionId, Rc<Region>>>,
    next_id: Cell<u64>,

    core: RefCell<LogCore>,
    inbox: RefCell<VecDeque<Input>>,
    inbox_signal: Signal,
    pending: RefCell<BTreeMap<u64, Rc<Pending>>>,
    next_token: Cell<u64>,
    /// Confirmed, with the index that must be applied before they are answered.
    reads: RefCell<Vec<(RegionId, u64, u64)>>,
    append_began: Cell<Option<Duration>>,
    /// It was told to end in good order.
    pub stopping: Cell<bool>,

    session: Mailbox<SessionEvent>,
    connection: Cell<u64>,
    reported: RefCell<Option<Vec<RegionReport>>>,
    /// Ticks that are not answered: when they were sent, and what was led then.
    ticks: RefCell<BTreeMap<u64, (Duration, Led)>>,
    answered: Cell<u64>,
    orders: Mailbox<Push>,
    lanes: RefCell<BTreeMap<Lane, VecDeque<Push>>>,
    metasrv_epoch: Cell<u64>,
    heard: Cell<Duration>,
    /// The log has to be told that metasrv is there, or that it is another one.
    is_missed: Cell<bool>,
    /// How often the log was told, and has not taken it yet.
    untaken: Cell<usize>,

    peers: RefCell<BTreeMap<NodeId, Peer>>,
    /// Connections that peers made, by the peer.
    incoming: RefCell<BTreeMap<NodeId, u64>>,
    missed: RefCell<BTreeSet<NodeId>>,
}

impl Datanode {
    /// Opens what is on the disk, and begins.
    pub fn start(sim: &Sim, me: Address, machine: Machine) -> Rc<Self> {
        let (regions, flushed) = open_regions(&machine.disk);
        let store = Arc::clone(&machine.disk) as Arc<dyn LogStore>;
        let (core, failed) = LogCore::open(store, LogOptions::default(), &flushed);
        for (region, error) in failed {
            sim.violation("a log opens again", || format!("{me}, region {region}: {error}"));
        }
        let node = Rc::new(Self {
            sim: sim.clone(),
            me,
            node: me.node(),
            incarnation: sim.dice.borrow_mut().number(),
            bucket: BucketClient { sim: sim.clone(), me },
            machine,
            regions: RefCell::new(regions),
            next_id: Cell::new(0),
            core: RefCell::new(core),
            inbox: RefCell::default(),
            inbox_signal: Signal::default(),
            pending: RefCell::default(),
            next_token: Cell::new(1),
            reads: RefCell::default(),
            append_began: Cell::new(None),
            stopping: Cell::new(false),
            session: Mailbox::default(),
            connection: Cell::new(0),
            reported: RefCell::default(),
            ticks: RefCell::default(),
            answered: Cell::new(0),
            orders: Mailbox::default(),
            lanes: RefCell::default(),
            metasrv_epoch: Cell::new(0),
            heard: Cell::new(sim.clock(me)),
            is_missed: Cell::new(false),
            untaken: Cell::new(0),
            peers: RefCell::default(),
            incoming: RefCell::default(),
            missed: RefCell::default(),
        });
        node.begin();
        node
    }

    fn begin(self: &Rc<Self>) {
        for region in self.regions() {
            let core = self.core.borrow();
            if let (Some(status), Some(members)) = (core.status(region.id), core.membership(region.id)) {
                region.set_status(status);
                region.set_members(members);
                self.note_alone(region.id);
            }
        }
        let spawn = |future: std::pin::Pin<Box<dyn Future<Output = ()>>>| self.sim.spawn(self.me, future);
        spawn(Box::pin(Rc::clone(self).run_log()));
        spawn(Box::pin(Rc::clone(self).keep_session()));
        spawn(Box::pin(Rc::clone(self).obey_orders()));
        spawn(Box::pin(Rc::clone(self).maintain()));
        spawn(Box::pin(Rc::clone(self).tick_without_metasrv()));
        spawn(Box::pin(Rc::clone(self).look_at_peers()));
        spawn(Box::pin(Rc::clone(self).repair_peers()));
    }

    pub fn regions(&self) -> Vec<Rc<Region>> {
        self.regions.borrow().values().cloned().collect()
    }

    pub fn region(&self, id: RegionId) -> Option<Rc<Region>> {
        self.regions.borrow().get(&id).cloned()
    }

    fn insert_region(&self, region: Rc<Region>) {
        self.regions.borrow_mut().insert(region.id, region);
    }

    fn reports(&self) -> Vec<RegionReport> {
        self.regions()
            .iter()
            .map(|region| region.read(|s| s.report()))
            .collect()
    }

    /// Whether others lead what it has led since `led` was empty, if they could.
    pub fn has_handed_over(&self, led: &mut BTreeSet<RegionId>) -> bool {
        let has_others = |region: &Rc<Region>| {
            let members = self.membership(region.id);
            members.is_some_and(|m| m.voters.len() + m.learners.len() > 1)
        };
        let leads = |region: &Rc<Region>| region.read(|s| s.status().leads) && has_others(region);
        let has_leader = |region: &Rc<Region>| region.read(|s| s.status().is_led_by_another());
        let regions = self.regions();
        led.extend(
            regions
                .iter()
                .filter(|region| leads(region))
                .map(|region| region.id),
        );
        regions
            .iter()
            .all(|region| !led.contains(&region.id) || has_leader(region))
    }

    pub fn give_up_all_leases(&self) {
        for region in self.regions() {
            region.change(|s| {
                let term = s.status().term;
                s.lease.give_up(term);
            });
        }
    }

    pub fn membership(&self, region: RegionId) -> Option<Membership> {
        self.core.borrow().membership(region)
    }

    /// A region here, for a person.
    pub fn describe(&self, id: RegionId) -> Option<String> {
        let (region, members) = (self.region(id)?, self.membership(id)?);
        let status = region.read(|s| s.status());
        let failed = region.read(|s| s.failed().map(str::to_owned));
        let (role, voters) = (region.read(|s| s.report().role), members.voters);
        Some(format!(
            "raft id {}, {role:?}, leads {}, term {}, last {} of term {}, committed {}, voters {voters:?}, learners {:?}, {failed:?}",
            status.raft_id,
            status.leads,
            status.term,
            status.last_index,
            status.last_term,
            status.committed,
            members.learners,
        ))
    }

    /// Somebody has said something on a connection.
    pub fn said(self: &Rc<Self>, from: Address, connection: u64, said: Said) {
        match said {
            Said::Push(push) => self.session_event(SessionEvent::Push(connection, push)),
            said => self.peer_said(from, connection, said),
        }
    }

    pub fn broken(&self, connection: u64) {
        match connection == self.connection.get() {
            true => self.session_event(SessionEvent::Broken(connection)),
            false => self.peer_broken(connection),
        }
    }

    /// Unique for ever.
    pub fn new_id(&self) -> String {
        let number = self.next_id.get() + 1;
        self.next_id.set(number);
        format!("{:016x}-{number}", self.incarnation)
    }

    /// Ends the process: what is on its disk is not known.
    fn fail(&self, why: &str) {
        self.sim.note(|| format!("{} ends: {why}", self.me));
        self.sim.hit(Branch::FailedWriteEndsTheNode);
        self.sim.wants_restart(self.me);
    }
}

/// Every region on disk from its checkpoint, and where each begins.
fn open_regions(disk: &Disk) -> (BTreeMap<RegionId, Rc<Region>>, BTreeMap<RegionId, u64>) {
    let (mut regions, mut flushed) = (BTreeMap::new(), BTreeMap::new());
    for id in disk.regions().unwrap_or_default() {
        let bytes = disk.get(id, Key::Checkpoint).ok().flatten().unwrap_or_default();
        if let Ok(checkpoint) = Checkpoint::decode(&bytes) {
            flushed.insert(id, checkpoint.flushed_seq);
            regions.insert(id, Region::new(id, checkpoint, None));
        }
    }
    (regions, flushed)
}
