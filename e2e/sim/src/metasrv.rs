//! A metasrv: the real planners and the real catalog, with drivers that read like those of metasrv.

mod alter;
mod driver;
mod election;
mod failover;
mod lead;
mod leases;
mod migrations;
mod recover;
mod repair;
mod sessions;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use greptime_metasrv_plan::Policy;
use greptime_metasrv_plan::members::MemberStep;
use greptime_metasrv_plan::watch::Watch;
use greptime_types::{NodeId, RegionId, TableId};

use crate::catalog::Catalog;
use crate::etcd::EtcdClient;
use crate::message::{Peers, Route};
use crate::process::Address;
use crate::sim::{Lock, Signal, Sim};
use sessions::Sessions;

/// A node that is silent for longer counts as away.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);
/// A datanode that has been dead for so long is not waited for. Much shorter than in earnest.
const REPLACE_AFTER: Duration = Duration::from_secs(6);
const REPLICAS: usize = 3;

/// What is gone when this metasrv does not lead any more.
#[derive(Default)]
struct State {
    catalog: Option<Rc<Catalog>>,
    leading_since: Duration,
    /// The outcome of a change is unknown: the catalog is loaded again before the next one.
    is_stale: bool,
    sessions: Sessions,
    routes: BTreeMap<RegionId, Route>,
    watch: Option<Watch>,
    peers_told: Peers,
    tables_told: Rc<BTreeMap<TableId, u64>>,
    /// The epoch that everybody was told.
    welcomed_to: u64,
    is_unserved: bool,
    member_orders: BTreeMap<RegionId, (MemberStep, Duration)>,
    told_to_hand_over: BTreeMap<RegionId, Duration>,
    told_to_recover: BTreeMap<RegionId, Duration>,
}

pub struct Metasrv {
    sim: Sim,
    me: Address,
    etcd: EtcdClient,
    policy: Policy,
    state: RefCell<State>,
    /// Changes of the catalog take turns.
    turn: Lock,
    leads: Cell<bool>,
    /// Until when this metasrv surely leads, if it does.
    session_ends: Cell<Duration>,
    leadership: Signal,
    /// Something has changed: whoever waits looks again.
    changes: Signal,
    change: Cell<u64>,
}

impl Metasrv {
    pub fn start(sim: &Sim, me: Address) -> Rc<Self> {
        let metasrv = Rc::new(Self {
            sim: sim.clone(),
            me,
            etcd: EtcdClient { sim: sim.clone(), me },
            policy: Policy::default(),
            state: RefCell::default(),
            turn: Lock::default(),
            leads: Cell::new(false),
            session_ends: Cell::new(Duration::ZERO),
            leadership: Signal::default(),
            changes: Signal::default(),
            change: Cell::new(0),
        });
        let spawn = |future: std::pin::Pin<Box<dyn Future<Output = ()>>>| sim.spawn(me, future);
        spawn(Box::pin(Rc::clone(&metasrv).elect()));
        spawn(Box::pin(Rc::clone(&metasrv).lead()));
        spawn(Box::pin(Rc::clone(&metasrv).look()));
        spawn(Box::pin(Rc::clone(&metasrv).drive()));
        spawn(Box::pin(Rc::clone(&metasrv).mend()));
        spawn(Box::pin(Rc::clone(&metasrv).migrate()));
        spawn(Box::pin(Rc::clone(&metasrv).wish()));
        spawn(Box::pin(Rc::clone(&metasrv).alter_now_and_then()));
        metasrv
    }

    fn now(&self) -> Duration {
        self.sim.clock(self.me)
    }

    /// How many a region should have, as the settings say.
    fn replicas(&self) -> usize {
        match self.sim.now() < self.sim.grows_at.get() {
            true => 1,
            false => REPLICAS,
        }
    }

    fn note_change(&self) {
        self.change.set(self.change.get() + 1);
        self.changes.give(&self.sim);
    }

    fn catalog(&self) -> Option<Rc<Catalog>> {
        self.state.borrow().catalog.clone()
    }

    /// Whether it leads with a catalog.
    pub fn is_leading(&self) -> bool {
        self.state.borrow().catalog.is_some()
    }

    /// Who is recorded as a member of a region; none if this metasrv does not lead.
    pub fn recorded(&self, region: RegionId) -> Vec<(u64, NodeId)> {
        let catalog = self.catalog();
        let members = catalog.as_ref().map(|c| c.members(region)).unwrap_or_default();
        members.iter().map(|m| (m.raft_id, m.node)).collect()
    }
}
