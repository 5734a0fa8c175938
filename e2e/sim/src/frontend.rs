//! A frontend: the real request ids and the real hold, with clients that write and read.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use greptime_types::{Error, NodeId, RegionId, Result, TableId};

use crate::client::{FIRST_RETRY, HURRIED, INTERVAL, LAST_RETRY, SILENCE};
use crate::hold::{Failure, Hold, HoldPolicy, Next};
use crate::ids::RequestIds;
use crate::message::{Answer, Op, Push, Query, Register, Request, Route, Rows, Said, Tick, Write, Written};
use crate::process::Address;
use crate::sim::{Mailbox, Micros, SECOND, Signal, Sim};
use crate::trace::Branch;

const HOLD: HoldPolicy = HoldPolicy {
    first_pause: Duration::from_millis(20),
    last_pause: Duration::from_millis(500),
    max_held_bytes: 1 << 20,
};
/// Shorter than in earnest, so that outcomes become unknown often.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of some writes: a request may be given up while an older one of the same frontend goes on.
const MUCH_PATIENCE: Duration = Duration::from_secs(9);

/// The longest time between two truncations of a region by one frontend.
const TRUNCATIONS: Micros = 60 * SECOND;

/// Clients that write to a region through one frontend.
const WRITERS: u64 = 2;

pub enum SessionEvent {
    Push(u64, Push),
    Broken(u64),
}

pub struct Frontend {
    sim: Sim,
    me: Address,
    incarnation: u64,
    ids: RequestIds,
    routes: RefCell<BTreeMap<RegionId, Route>>,
    /// Versions of the tables.
    tables: RefCell<Rc<BTreeMap<TableId, u64>>>,
    new_routes: Signal,
    session: Mailbox<SessionEvent>,
    connection: Cell<u64>,
}

impl Frontend {
    pub fn start(sim: &Sim, me: Address, regions: &[RegionId]) -> Rc<Self> {
        let incarnation = sim.dice.borrow_mut().number();
        let frontend = Rc::new(Self {
            sim: sim.clone(),
            me,
            incarnation,
            ids: RequestIds::new(incarnation),
            routes: RefCell::default(),
            tables: RefCell::default(),
            new_routes: Signal::default(),
            session: Mailbox::default(),
            connection: Cell::new(0),
        });
        sim.spawn(me, Rc::clone(&frontend).keep_session());
        for region in regions {
            for _ in 0..WRITERS {
                sim.spawn(me, Rc::clone(&frontend).write_on_and_on(*region));
            }
            sim.spawn(me, Rc::clone(&frontend).read_on_and_on(*region));
            sim.spawn(me, Rc::clone(&frontend).truncate_now_and_then(*region));
        }
        frontend
    }

    // ------------------------------------------------------------------------------------------------ session

    pub fn session_event(&self, event: SessionEvent) {
        self.session.put(&self.sim, event);
    }

    async fn keep_session(self: Rc<Self>) {
        let metasrvs: Vec<Address> = Address::metasrvs().collect();
        let (mut retry, mut turn) = (FIRST_RETRY, usize::from(self.me.0));
        loop {
            turn += 1;
            let welcomed = self.one_session(metasrvs[turn % metasrvs.len()]).await;
            self.sim.hang_up(self.connection.get(), self.me);
            if welcomed {
                retry = FIRST_RETRY;
            }
            let half = retry / 2;
            let jitter = self.sim.dice.borrow_mut().below(half.as_micros() as u64);
            self.sim.sleep(half + Duration::from_micros(jitter)).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// Whether metasrv took this node in.
    async fn one_session(&self, metasrv: Address) -> bool {
        let (sim, me) = (&self.sim, self.me);
        self.session.clear();
        let connection = sim.connect(me, metasrv);
        self.connection.set(connection);
        let register = Register {
            incarnation: self.incarnation,
            disk_id: String::new(),
            reports: vec![],
        };
        sim.say(connection, me, Said::Register(register));
        let (mut welcomed, mut number) = (false, 0);
        let now = sim.clock(me);
        let (mut heard, mut next_beat, mut sent) = (now, now, now);
        loop {
            let now = sim.clock(me);
            if now >= heard + SILENCE {
                return welcomed;
            }
            if welcomed && now >= next_beat {
                number += 1;
                let tick = Tick {
                    number,
                    oldest_append_ms: 0,
                    answered: 0,
                    reports: None,
                    unreachable: vec![],
                    renounced: vec![],
                    stopping: false,
                };
                sim.say(connection, me, Said::Tick(tick));
                sent = now;
                next_beat = sent + HURRIED;
            }
            let due = if welcomed {
                next_beat.min(heard + SILENCE)
            } else {
                heard + SILENCE
            };
            let until = sim.after(me, due.saturating_sub(now));
            match self.session.take(sim, until).await {
                Some(SessionEvent::Push(on, push)) if on == connection => {
                    heard = sim.clock(me);
                    match push {
                        Push::NotLeader | Push::Refused(_) => return welcomed,
                        Push::Tock { number: answered, .. } if answered == number => {
                            next_beat = sent + INTERVAL
                        }
                        Push::Welcome { .. } => welcomed = true,
                        Push::Routes { is_complete, routes } => self.know(is_complete, routes),
                        Push::Tables(tables) => *self.tables.borrow_mut() = tables,
                        _ => {}
                    }
                }
                Some(SessionEvent::Broken(on)) if on == connection => return welcomed,
                _ => {}
            }
        }
    }

    /// A leader that is known is replaced by one of the same or a later epoch only.
    fn know(&self, is_complete: bool, routes: Vec<Route>) {
        let mut known = self.routes.borrow_mut();
        let old = known.clone();
        if is_complete {
            known.clear();
        }
        for next in routes {
            let route = match old.get(&next.region) {
                Some(before) if before.epoch > next.epoch => {
                    self.sim.hit(Branch::OlderRouteIsIgnored);
                    before.clone()
                }
                _ => next,
            };
            known.insert(route.region, route);
        }
        drop(known);
        self.new_routes.give(&self.sim);
    }

    // ----------------------------------------------------------------------------------------------- requests

    fn target(&self, region: RegionId) -> Option<(u64, NodeId)> {
        let routes = self.routes.borrow();
        let route = routes.get(&region).filter(|route| route.epoch > 0)?;
        Some((route.epoch, route.leader))
    }

    fn has_newer(&self, region: RegionId, than: u64) -> bool {
        self.target(region).is_some_and(|(epoch, _)| epoch > than)
    }

    /// Attempt, hold, attempt again, as the router does.
    async fn deliver<T>(
        &self,
        region: RegionId,
        patience: Duration,
        attempt: impl AsyncFn(u64, NodeId, Micros) -> Result<T>,
    ) -> Result<T> {
        let deadline = self.sim.clock(self.me) + patience;
        let until = self.sim.after(self.me, patience);
        let mut hold = Hold::new(HOLD, region, deadline);
        loop {
            let target = self.target(region);
            let result = match target {
                None => Err(Error::unavailable("it has no leader")),
                Some((epoch, node)) => attempt(epoch, node, until).await,
            };
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.sim.hit(Branch::RequestIsHeld);
            let failure = Failure {
                tried_epoch: target.map(|(epoch, _)| epoch),
                known_epoch: self.target(region).map(|(epoch, _)| epoch),
                table_exists: true,
                stale: false,
                held_bytes: 100,
                error,
            };
            match hold.after(self.sim.clock(self.me), failure) {
                Next::GiveUp(error) => return Err(error),
                Next::Again { after } => self.sim.sleep(after).await,
                Next::AwaitRoute { than, at_most } => {
                    let until = self.sim.after(self.me, at_most);
                    let newer = || self.has_newer(region, than).then_some(());
                    self.sim.wait(&[&self.new_routes], until, newer).await;
                }
            }
        }
    }

    /// The version for which rows are made now.
    fn version(&self, table: TableId) -> u64 {
        self.tables.borrow().get(&table).copied().unwrap_or(0)
    }

    async fn write(&self, region: RegionId, op: Op) -> Result<Written> {
        let unfinished = self.ids.begin();
        let is_patient = self.sim.dice.borrow_mut().per_mille(250);
        let patience = if is_patient { MUCH_PATIENCE } else { PATIENCE };
        let written = self.deliver(region, patience, async |epoch, node, until| {
            let write = Write {
                region,
                epoch,
                request: unfinished.id(),
                finished: self.ids.finished(),
                made_for: self.version(region.table()),
                op,
                deadline_ms: until.saturating_sub(self.sim.now()).max(1000) / 1000,
            };
            let route = (self.me, Address::datanode(node));
            let newer = (&self.new_routes, || self.has_newer(region, epoch));
            match self.sim.call(route, Request::Write(write), until, newer).await {
                Some(Answer::Write(answer)) => answer,
                Some(_) => Err(Error::unavailable("nobody listens there")),
                None if self.has_newer(region, epoch) => Err(Error::unavailable("it has a new leader")),
                None => Err(Error::deadline("no answer in time")),
            }
        });
        let written = written.await?;
        unfinished.answered();
        Ok(written)
    }

    async fn query(&self, region: RegionId) -> Result<Rows> {
        self.deliver(region, PATIENCE, async |epoch, node, until| {
            let query = Query {
                region,
                epoch,
                deadline_ms: until.saturating_sub(self.sim.now()).max(1000) / 1000,
            };
            let route = (self.me, Address::datanode(node));
            let newer = (&self.new_routes, || self.has_newer(region, epoch));
            match self.sim.call(route, Request::Query(query), until, newer).await {
                Some(Answer::Query(answer)) => answer,
                Some(_) => Err(Error::unavailable("nobody listens there")),
                None => Err(Error::unavailable("no answer in time")),
            }
        })
        .await
    }

    // ------------------------------------------------------------------------------------------------ clients

    async fn write_on_and_on(self: Rc<Self>, region: RegionId) {
        let mut turn = 0;
        let first_key = self.sim.take_keys(3);
        loop {
            let pause = self.sim.dice.borrow_mut().between(20, 160) * WRITERS;
            self.sim.sleep(Duration::from_millis(pause)).await;
            turn += 1;
            let row = self.sim.next_row(region, first_key + turn % 3);
            match self.write(region, Op::Put(row)).await {
                Ok(written) => self.sim.saw_ack(region, row, written),
                Err(error) => self.sim.note(|| {
                    let value = row.value;
                    format!("{} gives row {value} of {region} up: {error}", self.me)
                }),
            }
        }
    }

    async fn truncate_now_and_then(self: Rc<Self>, region: RegionId) {
        loop {
            let pause = self.sim.dice.borrow_mut().between(3 * SECOND, TRUNCATIONS);
            self.sim.sleep(Duration::from_micros(pause)).await;
            let number = self.sim.next_truncation(region);
            match self.write(region, Op::Truncate(number)).await {
                Ok(written) => {
                    self.sim
                        .note(|| format!("{} has truncated {region}: {number}", self.me));
                    self.sim.saw_truncated(region, number, written);
                }
                Err(error) => self
                    .sim
                    .note(|| format!("{} gives truncation {number} of {region} up: {error}", self.me)),
            }
        }
    }

    async fn read_on_and_on(self: Rc<Self>, region: RegionId) {
        loop {
            let pause = self.sim.dice.borrow_mut().between(150, 900);
            self.sim.sleep(Duration::from_millis(pause)).await;
            let expected = self.sim.expect_of_read(region);
            match self.query(region).await {
                Ok(rows) => self.sim.saw_read(self.me, region, &expected, &rows),
                Err(error) => self
                    .sim
                    .note(|| format!("{} cannot read {region}: {error}", self.me)),
            }
        }
    }
}
