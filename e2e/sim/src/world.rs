//! All processes of a cluster, and what happens to them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use greptime_types::{NodeId, RegionId};

use crate::bucket::Bucket;
use crate::datanode::{Datanode, Machine};
use crate::disk::Disk;
use crate::etcd::Etcd;
use crate::frontend::{self, Frontend};
use crate::message::{Answer, Body, Envelope, Request, Said};
use crate::metasrv::Metasrv;
use crate::process::{Address, BUCKET, Clock, ETCD};
use crate::sim::{Event, MS, Micros, SECOND, Sim};
use crate::tables::{APPENDED, OVERWRITTEN, REGIONS};
use crate::trace::Branch;

pub struct World {
    pub sim: Sim,
    pub regions: Vec<RegionId>,
    metasrvs: RefCell<BTreeMap<Address, Rc<Metasrv>>>,
    datanodes: RefCell<BTreeMap<Address, Rc<Datanode>>>,
    frontends: RefCell<BTreeMap<Address, Rc<Frontend>>>,
    machines: RefCell<BTreeMap<Address, Machine>>,
    pub etcd: Etcd,
    pub bucket: Rc<Bucket>,
    /// Replicas whose disk is lost, by region and Raft id.
    lost: RefCell<BTreeSet<(RegionId, u64)>>,
    disks: Cell<u64>,
}

/// All regions of the simulated tables.
pub fn regions() -> Vec<RegionId> {
    let tables = [APPENDED, OVERWRITTEN].into_iter();
    tables
        .flat_map(|table| (0..REGIONS).map(move |n| RegionId::new(table, n)))
        .collect()
}

/// How long a datanode that stops waits until others lead what it leads, and between two looks.
const HAND_OVER: Micros = 5 * SECOND;
const LOOKS_EVERY: Micros = 10 * MS;

impl World {
    /// A cluster that has just been started.
    pub fn start(sim: Sim) -> Rc<Self> {
        let world = Rc::new(Self {
            sim,
            regions: regions(),
            metasrvs: RefCell::default(),
            datanodes: RefCell::default(),
            frontends: RefCell::default(),
            machines: RefCell::default(),
            etcd: Etcd::default(),
            bucket: Rc::default(),
            lost: RefCell::default(),
            disks: Cell::new(0),
        });
        if world.sim.dice.borrow_mut().per_mille(200) {
            let grows_at = world.sim.dice.borrow_mut().between(SECOND, 12 * SECOND);
            world.sim.grows_at.set(grows_at);
        }
        for at in [ETCD, BUCKET] {
            world.sim.process(at, |p| p.is_up = true);
        }
        for at in Address::datanodes() {
            let machine = world.new_machine();
            world.machines.borrow_mut().insert(at, machine);
        }
        let all = Address::metasrvs()
            .chain(Address::datanodes())
            .chain(Address::frontends());
        for at in all {
            let clock = world.draw_clock();
            world.sim.process(at, |p| p.clock = clock);
            world.begin(at);
        }
        world
    }

    fn new_machine(&self) -> Machine {
        self.disks.set(self.disks.get() + 1);
        let mut dice = self.sim.dice.borrow_mut();
        let is_slow = dice.per_mille(250);
        let usual = if is_slow {
            dice.between(2 * MS, 30 * MS)
        } else {
            900
        };
        let flush_age = Duration::from_millis(if dice.per_mille(300) { 300 } else { 1500 });
        Machine {
            usual,
            flush_age,
            disk: Disk::empty(),
            disk_id: format!("disk-{}", self.disks.get()),
            slow: Rc::default(),
        }
    }

    /// Mostly good clocks; some drift by a thousandth.
    fn draw_clock(&self) -> Clock {
        let mut dice = self.sim.dice.borrow_mut();
        let most = if dice.per_mille(100) { 1_000 } else { 100 };
        Clock {
            drift: dice.below(2 * most + 1) as i64 - most as i64,
            wall_offset: dice.below(2_001) as i64 - 1_000,
        }
    }

    // ---------------------------------------------------------------------------------------------- processes

    /// Starts the process at an address, if there is none.
    pub fn begin(&self, at: Address) {
        let sim = &self.sim;
        if sim.process(at, |p| std::mem::replace(&mut p.is_up, true)) {
            return;
        }
        sim.process(at, |p| {
            p.life += 1;
            p.host_refuses = true;
            p.is_paused = false;
        });
        sim.note(|| format!("{at} starts"));
        if Address::metasrvs().any(|m| m == at) {
            self.metasrvs.borrow_mut().insert(at, Metasrv::start(sim, at));
        } else if at.is_datanode() {
            let machine = self.machines.borrow().get(&at).cloned();
            let machine = machine.unwrap_or_else(|| self.new_machine());
            self.datanodes
                .borrow_mut()
                .insert(at, Datanode::start(sim, at, machine));
        } else {
            let frontend = Frontend::start(sim, at, &self.regions);
            self.frontends.borrow_mut().insert(at, frontend);
        }
    }

    /// Ends a process. `is_heard`: its machine goes on, and says that nobody is there.
    pub fn end(&self, at: Address, is_heard: bool) {
        let sim = &self.sim;
        if !sim.process(at, |p| std::mem::replace(&mut p.is_up, false)) {
            return;
        }
        sim.note(|| format!("{at} is gone, heard {is_heard}"));
        sim.process(at, |p| {
            p.host_refuses = is_heard;
            p.is_paused = false;
        });
        sim.end_tasks(at);
        sim.break_all(at, is_heard);
        self.metasrvs.borrow_mut().remove(&at);
        self.frontends.borrow_mut().remove(&at);
        if self.datanodes.borrow_mut().remove(&at).is_some() {
            let keeps = sim.dice.borrow_mut().per_mille(500);
            if let Some(machine) = self.machines.borrow_mut().get_mut(&at) {
                if machine.disk.has_pending() && !keeps {
                    sim.hit(Branch::UnsyncedIsLost);
                }
                machine.disk = machine.disk.after_crash(keeps);
            }
        }
    }

    /// Tells a datanode to end in good order, and starts it again when it has; whether it could be told.
    pub fn stop(self: &Rc<Self>, at: Address) -> bool {
        let node = self.datanodes.borrow().get(&at).cloned();
        if node.is_none_or(|node| node.stopping.replace(true)) {
            return false;
        }
        self.sim.note(|| format!("{at} is told to stop"));
        let life = self.sim.process(at, |p| p.life);
        self.end_when_handed_over((at, life), self.sim.now() + HAND_OVER, BTreeSet::new());
        true
    }

    /// Looks now and again whether others lead what it `led`; it does not wait for that for ever.
    fn end_when_handed_over(
        self: &Rc<Self>,
        (at, life): (Address, u64),
        patience: Micros,
        mut led: BTreeSet<RegionId>,
    ) {
        let sim = &self.sim;
        let (is_it, is_paused) = sim.process(at, |p| (p.is_up && p.life == life, p.is_paused));
        let node = self.datanodes.borrow().get(&at).cloned();
        let Some(node) = node.filter(|_| is_it) else {
            return;
        };
        let is_done = node.has_handed_over(&mut led);
        let world = Rc::clone(self);
        if is_paused || !(is_done || sim.now() >= patience) {
            let later = sim.now() + LOOKS_EVERY;
            sim.act(later, move || {
                world.end_when_handed_over((at, life), patience, led)
            });
            return;
        }
        if is_done {
            sim.hit(Branch::HandedOverBeforeAStop);
        }
        node.give_up_all_leases();
        self.end(at, true);
        let again = sim.now() + sim.dice.borrow_mut().between(200 * MS, 1500 * MS);
        sim.act(again, move || world.begin(at));
    }

    /// Takes the disk of a datanode away, if no region loses a second copy by that; whether it did.
    pub fn lose_disk(&self, at: Address) -> bool {
        let node = at.node();
        let mut gone = Vec::new();
        for region in &self.regions {
            let mut voters = BTreeMap::new();
            for other in self.datanodes.borrow().values() {
                if let Some(members) = other.membership(*region) {
                    if members.voters.len() < 3 {
                        return false;
                    }
                    let known = members.voters.iter().chain(&members.learners);
                    voters.extend(known.map(|id| (*id, members.nodes.get(id).copied())));
                }
            }
            if voters
                .keys()
                .any(|id| self.lost.borrow().contains(&(*region, *id)))
            {
                return false;
            }
            let here = voters.into_iter().filter(|(_, at)| *at == Some(node));
            gone.extend(here.map(|(id, _)| (*region, id)));
        }
        // Only of a cluster that is whole otherwise: whoever is away may know of members that nobody else knows.
        if Address::datanodes().any(|other| !self.sim.process(other, |p| p.is_up)) {
            return false;
        }
        self.end(at, false);
        self.lost.borrow_mut().extend(gone);
        let machine = self.new_machine();
        self.sim
            .note(|| format!("{at} has lost its disk, and has {}", machine.disk_id));
        self.machines.borrow_mut().insert(at, machine);
        true
    }

    /// Takes the disks of two datanodes away at once, if all regions have a replica elsewhere; whether it did. Then somebody
    /// agrees, region by region, that one replica goes on alone.
    pub fn lose_disks(self: &Rc<Self>, gone: [Address; 2]) -> bool {
        if Address::datanodes().any(|at| !self.sim.process(at, |p| p.is_up)) {
            return false;
        }
        let groups: Option<Vec<_>> = self.regions.iter().map(|r| self.settled_group(*r)).collect();
        let Some(groups) = groups else {
            return false;
        };
        let mut given_up = Vec::new();
        for (region, group) in self.regions.iter().zip(&groups) {
            let here = group
                .iter()
                .filter(|(_, node)| gone.iter().any(|at| at.node() == **node));
            let here: Vec<u64> = here.map(|(raft_id, _)| *raft_id).collect();
            let left = group.iter().find(|(raft_id, _)| !here.contains(raft_id));
            if let Some((_, node)) = left.filter(|_| here.len() > 1) {
                given_up.push((*region, *node));
            }
            let lost = here.into_iter().map(|raft_id| (*region, raft_id));
            self.lost.borrow_mut().extend(lost);
        }
        for at in gone {
            self.end(at, false);
            let machine = self.new_machine();
            self.sim
                .note(|| format!("{at} has lost its disk, and has {}", machine.disk_id));
            self.machines.borrow_mut().insert(at, machine);
        }
        self.sim
            .note(|| format!("{} regions have lost their majority", given_up.len()));
        given_up.iter().for_each(|(region, _)| self.sim.gives_up(*region));
        self.give_up_later(given_up);
        true
    }

    /// Raft ids and nodes of a group that has three voters, all of which agree on that, and has lost none.
    fn settled_group(&self, region: RegionId) -> Option<BTreeMap<u64, NodeId>> {
        let datanodes = self.datanodes.borrow();
        let known: Vec<_> = datanodes.values().filter_map(|d| d.membership(region)).collect();
        let voters = &known.first()?.voters;
        let is_settled = known.iter().all(|m| m.voters == *voters && m.learners.is_empty());
        let mut has_lost = voters
            .iter()
            .filter(|id| self.lost.borrow().contains(&(region, **id)));
        if voters.len() != 3 || known.len() != 3 || !is_settled || has_lost.next().is_some() {
            return None;
        }
        let nodes = &known.first()?.nodes;
        voters.iter().map(|id| Some((*id, *nodes.get(id)?))).collect()
    }

    /// A person looks now and again, and asks the metasrv that leads; who is left of each region is known.
    fn give_up_later(self: &Rc<Self>, mut left: Vec<(RegionId, NodeId)>) {
        let world = Rc::clone(self);
        let pause = self.sim.dice.borrow_mut().between(300 * MS, 1500 * MS);
        self.sim.act(self.sim.now() + pause, move || {
            left.retain(|(region, _)| world.sim.is_given_up(*region));
            let metasrvs = world.metasrvs.borrow();
            let leads = metasrvs.iter().find(|(_, metasrv)| metasrv.is_leading());
            for (region, node) in &left {
                if let Some((at, metasrv)) = leads {
                    let asked = Rc::clone(metasrv).force_recover(*region, *node);
                    world.sim.spawn(*at, asked);
                }
            }
            drop(metasrvs);
            if !left.is_empty() {
                world.give_up_later(left);
            }
        });
    }

    pub fn machine(&self, at: Address) -> Option<Machine> {
        self.machines.borrow().get(&at).cloned()
    }

    pub fn pause(&self, at: Address) {
        self.sim.note(|| format!("{at} is paused"));
        self.sim.process(at, |p| p.is_paused = true);
    }

    pub fn resume(&self, at: Address) {
        if !self
            .sim
            .process(at, |p| std::mem::replace(&mut p.is_paused, false))
        {
            return;
        }
        self.sim.note(|| format!("{at} goes on"));
        if at == ETCD {
            self.etcd.renew_leases(self.sim.now());
        }
        let all = std::mem::take(&mut *self.sim.deferred.borrow_mut());
        let (mine, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(to, _)| *to == at);
        *self.sim.deferred.borrow_mut() = others;
        let now = self.sim.now();
        mine.into_iter()
            .for_each(|(_, event)| self.sim.schedule(now, event));
    }

    // ------------------------------------------------------------------------------------------------- events

    /// Lets everything happen up to `end`, or to the first violation.
    pub fn run(self: &Rc<Self>, end: Micros) {
        self.sim.run_ready();
        while let Some(event) = self.sim.next(end) {
            match event {
                Event::Deliver(envelope) => self.deliver(*envelope),
                Event::Wake(task) => self.sim.wake(task),
                Event::Act(act) => act(),
            }
            self.sim.run_ready();
            for at in self.sim.take_restarts() {
                self.end(at, true);
                let (world, wait) = (
                    Rc::clone(self),
                    self.sim.dice.borrow_mut().between(200 * MS, 1500 * MS),
                );
                self.sim.act(self.sim.now() + wait, move || world.begin(at));
                self.sim.run_ready();
            }
            if self.sim.trace.borrow().has_violations() {
                return;
            }
        }
    }

    fn deliver(&self, envelope: Envelope) {
        let (from, to) = (envelope.from, envelope.to);
        let (is_up, is_paused, refuses) = self.sim.process(to, |p| (p.is_up, p.is_paused, p.host_refuses));
        if is_paused {
            self.sim
                .deferred
                .borrow_mut()
                .push((to, Event::Deliver(Box::new(envelope))));
            return;
        }
        if !is_up {
            if refuses {
                self.refuse(envelope);
            }
            return;
        }
        if to == BUCKET {
            self.bucket.take(&self.sim, envelope);
            return;
        }
        match envelope.body {
            Body::Answer { call, answer } => self.sim.answered(call, answer),
            Body::Request { call, request } => self.ask((from, to), call, request),
            Body::Said { connection, said } => self.say((from, to), connection, said),
            Body::Broken { connection } => self.broken(to, connection),
        }
    }

    /// No process is there, and its machine says so.
    fn refuse(&self, envelope: Envelope) {
        if let Some(answer) = envelope.answer(Answer::Refused) {
            self.sim.send(answer);
        } else if let Some(connection) = envelope.connection() {
            self.sim.hang_up(connection, envelope.to);
        }
    }

    fn ask(&self, (from, to): (Address, Address), call: u64, request: Request) {
        let answer = move |answer| crate::message::answer_to((to, from), call, answer);
        if to == ETCD {
            if let Request::Etcd(request) = request {
                let answered = self.etcd.answer(&self.sim, request);
                self.sim.send(answer(Answer::Etcd(answered)));
            }
            return;
        }
        let sim = self.sim.clone();
        if self.metasrvs.borrow().contains_key(&to) {
            // Whoever asks wants to know whether somebody is there.
            sim.send(answer(Answer::Identity { incarnation: 0 }));
            return;
        }
        let Some(node) = self.datanodes.borrow().get(&to).cloned() else {
            return;
        };
        match request {
            Request::Identify => {
                let incarnation = node.incarnation;
                sim.send(answer(Answer::Identity { incarnation }));
            }
            Request::Write(write) => self.sim.spawn(to, async move {
                let written = node.write(write).await;
                sim.send(answer(Answer::Write(written)));
            }),
            Request::Query(query) => self.sim.spawn(to, async move {
                let rows = node.query(query).await;
                sim.send(answer(Answer::Query(rows)));
            }),
            Request::Etcd(_) | Request::Bucket(_) => {}
        }
    }

    fn say(&self, (from, to): (Address, Address), connection: u64, said: Said) {
        if let Some(metasrv) = self.metasrvs.borrow().get(&to) {
            metasrv.said(from, connection, said);
        } else if let Some(node) = self.datanodes.borrow().get(&to) {
            node.said(from, connection, said);
        } else if let (Some(frontend), Said::Push(push)) = (self.frontends.borrow().get(&to), said) {
            frontend.session_event(frontend::SessionEvent::Push(connection, push));
        }
    }

    fn broken(&self, to: Address, connection: u64) {
        if let Some(metasrv) = self.metasrvs.borrow().get(&to) {
            metasrv.broken(connection);
        } else if let Some(node) = self.datanodes.borrow().get(&to) {
            node.broken(connection);
        } else if let Some(frontend) = self.frontends.borrow().get(&to) {
            frontend.session_event(frontend::SessionEvent::Broken(connection));
        }
    }

    /// What everybody says of a region, for a person.
    pub fn state_of(&self, region: RegionId) -> String {
        let datanodes = self.datanodes.borrow();
        let of_nodes = datanodes
            .iter()
            .filter_map(|(at, node)| Some(format!("{at}: {}", node.describe(region)?)));
        let metasrvs = self.metasrvs.borrow();
        let of_metasrv = metasrvs.iter().filter(|(_, m)| m.is_leading());
        let of_metasrv = of_metasrv.map(|(at, m)| format!("{at} has recorded {:?}", m.recorded(region)));
        of_metasrv.chain(of_nodes).collect::<Vec<_>>().join("; ")
    }
}
