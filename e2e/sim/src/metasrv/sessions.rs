//! Who is connected, and what they last said, as `sessions` of metasrv keeps it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use greptime_metasrv_plan::assignment::Replica;
use greptime_metasrv_plan::lease::{Granted, LeaderBeat, Touch};
use greptime_metasrv_plan::watch::{Beat, Place};
use greptime_metasrv_plan::{Command, Reported};
use greptime_types::{NodeId, RegionId};

use super::driver::versions;
use super::{Metasrv, SESSION_TIMEOUT};
use crate::message::{Peers, Push, RegionReport, RegionRole, Register, Said, Tick};
use crate::process::Address;
use crate::trace::Branch;

const SAY_AGAIN: Duration = Duration::from_secs(2);
const SECOND_PROCESS: Duration = Duration::from_secs(2);

pub struct Session {
    pub connection: u64,
    pub incarnation: u64,
    pub last_beat: Duration,
    pub reports: BTreeMap<RegionId, RegionReport>,
    told: BTreeMap<RegionId, (Command, Duration)>,
    pub touch: Touch,
}

impl Session {
    /// Whether `command` is news for the node, or old enough to be repeated.
    pub fn should_say(&mut self, region: RegionId, command: &Command, now: Duration) -> bool {
        let told = self.told.get(&region);
        let again = told.is_none_or(|(last, at)| last != command || now.saturating_sub(*at) >= SAY_AGAIN);
        if again {
            self.told.insert(region, (command.clone(), now));
        }
        again
    }

    pub fn reported(&self) -> BTreeMap<RegionId, Reported> {
        let reported = |report: &RegionReport| Reported {
            schema_version: report.schema_version,
            leading: report.role == RegionRole::Leader,
            hot: report.hot,
            // Nobody has caches to fill.
            warm: true,
        };
        self.reports
            .iter()
            .map(|(region, report)| (*region, reported(report)))
            .collect()
    }

    pub fn replica(&self, region: RegionId) -> Replica {
        match self.reports.get(&region) {
            None => Replica::Missing,
            Some(report) if report.role == RegionRole::Leader => Replica::Leading { epoch: report.epoch },
            Some(_) => Replica::Opening,
        }
    }
}

#[derive(Default)]
pub struct Sessions {
    pub datanodes: BTreeMap<NodeId, Session>,
    /// Connections of frontends, with when they last beat.
    frontends: BTreeMap<Address, (u64, Duration)>,
    /// What datanodes said before they went away.
    away: BTreeMap<NodeId, BTreeMap<RegionId, RegionReport>>,
}

impl Sessions {
    pub fn connections(&self) -> Vec<u64> {
        let datanodes = self.datanodes.values().map(|s| s.connection);
        datanodes
            .chain(self.frontends.values().map(|(c, _)| *c))
            .collect()
    }

    pub fn frontends(&self) -> Vec<u64> {
        self.frontends
            .values()
            .map(|(connection, _)| *connection)
            .collect()
    }

    /// What a datanode says of a region, or said before it went away.
    pub fn last_said(&self, node: NodeId, region: RegionId) -> Option<&RegionReport> {
        let reports = match self.datanodes.get(&node) {
            Some(session) => &session.reports,
            None => self.away.get(&node)?,
        };
        reports.get(&region)
    }

    pub fn occupied(&self, node: NodeId, incarnation: u64, now: Duration) -> bool {
        let session = self.datanodes.get(&node);
        session
            .is_some_and(|s| s.incarnation != incarnation && now.saturating_sub(s.last_beat) < SECOND_PROCESS)
    }
}

fn by_region(reports: &[RegionReport]) -> BTreeMap<RegionId, RegionReport> {
    reports.iter().map(|r| (r.region, r.clone())).collect()
}

impl Metasrv {
    pub(super) fn push(&self, connection: u64, push: Push) {
        self.sim.say(connection, self.me, Said::Push(push));
    }

    /// Somebody has said something on a connection.
    pub fn said(self: &Rc<Self>, from: Address, connection: u64, said: Said) {
        match said {
            Said::Register(register) => self.register(from, connection, register),
            Said::Tick(tick) if from.is_datanode() => self.tick(from.node(), connection, tick),
            Said::Tick(tick) => {
                let now = self.now();
                let mut state = self.state.borrow_mut();
                let known = state.sessions.frontends.get_mut(&from);
                if let Some(known) = known.filter(|(c, _)| *c == connection) {
                    known.1 = now;
                    drop(state);
                    let tock = Push::Tock {
                        number: tick.number,
                        lease_ms: 0,
                        without_lease: vec![],
                    };
                    self.push(connection, tock);
                }
            }
            _ => {}
        }
    }

    fn register(self: &Rc<Self>, from: Address, connection: u64, register: Register) {
        let Some(catalog) = self.catalog() else {
            self.push(connection, Push::NotLeader);
            return;
        };
        if from.is_datanode() {
            let admitted = Rc::clone(self).admit(from.node(), connection, register);
            self.sim.spawn(self.me, admitted);
            return;
        }
        let now = self.now();
        let (older, routes) = {
            let mut state = self.state.borrow_mut();
            let older = state.sessions.frontends.insert(from, (connection, now));
            (older, state.routes.values().cloned().collect())
        };
        older
            .into_iter()
            .for_each(|(older, _)| self.sim.hang_up(older, self.me));
        let metasrv_epoch = catalog.root.metasrv_epoch;
        self.push(connection, Push::Welcome { metasrv_epoch });
        self.push(connection, Push::Tables(versions(&catalog)));
        self.push(
            connection,
            Push::Routes {
                is_complete: true,
                routes,
            },
        );
    }

    pub(super) fn welcome(&self, node: NodeId, connection: u64, register: &Register) {
        let now = self.now();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let (Some(catalog), Some(watch)) = (&state.catalog, &mut state.watch) else {
            drop(guard);
            self.sim.hang_up(connection, self.me);
            return;
        };
        let metasrv_epoch = catalog.root.metasrv_epoch;
        let session = Session {
            connection,
            incarnation: register.incarnation,
            last_beat: now,
            reports: by_region(&register.reports),
            told: BTreeMap::new(),
            touch: Touch::default(),
        };
        let older = state.sessions.datanodes.insert(node, session);
        let place = Place {
            node,
            address: Address::datanode(node).to_string(),
            incarnation: register.incarnation,
        };
        watch.registered(place, connection, now);
        state.peers_told = Peers::default();
        drop(guard);
        older
            .into_iter()
            .for_each(|s| self.sim.hang_up(s.connection, self.me));
        self.push(connection, Push::Welcome { metasrv_epoch });
        self.note_change();
    }

    fn tick(&self, node: NodeId, connection: u64, tick: Tick) {
        let now = self.now();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let oldest_append = Duration::from_millis(tick.oldest_append_ms);
        let session = state.sessions.datanodes.get_mut(&node);
        let Some(session) = session.filter(|s| s.connection == connection) else {
            return;
        };
        session.last_beat = now;
        session.touch.beat(tick.number, tick.answered, now);
        let unheard = session.touch.unheard();
        if let Some(watch) = state.watch.as_mut() {
            let beat = Beat {
                oldest_append,
                unheard,
                unreachable: tick.unreachable.iter().copied().collect(),
                is_stopping: tick.stopping,
            };
            watch.beat((node, connection), beat, now);
        }
        let mut changed = false;
        if let Some(reports) = &tick.reports {
            let reports = by_region(reports);
            changed = reports != session.reports;
            session.reports = reports;
        }
        let unanswered = unheard.map_or(Duration::ZERO, |u| now.saturating_sub(u.first));
        let beat = LeaderBeat {
            node,
            led: Vec::new(),
            oldest_append,
            unanswered,
            renounced: tick.renounced.iter().copied().collect(),
        };
        let Granted { length, without } = self.lease(state, beat, now);
        drop(guard);
        let number = tick.number;
        self.push(
            connection,
            Push::Tock {
                number,
                lease_ms: length.as_millis() as u64,
                without_lease: without,
            },
        );
        if changed {
            self.note_change();
        }
    }

    /// A connection is gone.
    pub fn broken(&self, connection: u64) {
        let now = self.now();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        state.sessions.frontends.retain(|_, (c, _)| *c != connection);
        let found = state
            .sessions
            .datanodes
            .iter()
            .find(|(_, s)| s.connection == connection);
        let Some(node) = found.map(|(node, _)| *node) else {
            return;
        };
        if let Some(gone) = state.sessions.datanodes.remove(&node) {
            state.sessions.away.insert(node, gone.reports);
        }
        if let Some(watch) = state.watch.as_mut() {
            watch.broken(node, connection, now);
        }
        drop(guard);
        self.note_change();
    }

    /// Cuts off whoever has been silent for long.
    pub(super) fn expire(&self) {
        let now = self.now();
        let silent = |at: Duration| now.saturating_sub(at) > SESSION_TIMEOUT;
        let gone: Vec<u64> = {
            let state = self.state.borrow();
            let datanodes = state
                .sessions
                .datanodes
                .values()
                .map(|s| (s.connection, s.last_beat));
            let all = datanodes.chain(state.sessions.frontends.values().copied());
            all.filter(|(_, at)| silent(*at)).map(|(c, _)| c).collect()
        };
        for connection in gone {
            self.sim.hit(Branch::SilentSessionEnds);
            self.sim.hang_up(connection, self.me);
            self.broken(connection);
        }
    }
}
