//! The session with metasrv, as `session` of the protocol and `server::session` of the datanode have it.

use std::rc::Rc;
use std::time::Duration;

use greptime_log::{Authority, Input};
use greptime_rules::Grant;
use greptime_types::RegionId;

use super::Datanode;
use crate::client::{FIRST_RETRY, HANGS_MS, HURRIED, INTERVAL, LAST_RETRY, SILENCE};
use crate::message::{Push, Register, Said, Tick};
use crate::process::Address;
use crate::trace::Branch;

/// What the session waits for.
pub enum SessionEvent {
    Push(u64, Push),
    Broken(u64),
    /// Something that metasrv should hear at once.
    News,
}

/// A transfer that takes longer is given up.
const TRANSFER_WITHIN: Duration = Duration::from_millis(50);
/// How often time passes for the log while metasrv is silent.
const TICK: Duration = Duration::from_millis(500);
const SILENT_AFTER: Duration = Duration::from_secs(1);
const ORPHANED_AFTER: Duration = Duration::from_secs(4);
/// Who has heard no answer for so long, or whose append has waited for so long, is about to be replaced.
const CANNOT_LEAD_AFTER: Duration = Duration::from_millis(150);

impl Datanode {
    pub(super) async fn keep_session(self: Rc<Self>) {
        let metasrvs: Vec<Address> = Address::metasrvs().collect();
        let (mut retry, mut turn) = (FIRST_RETRY, self.node as usize);
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
    async fn one_session(self: &Rc<Self>, metasrv: Address) -> bool {
        let (sim, me) = (&self.sim, self.me);
        self.session.clear();
        let connection = sim.connect(me, metasrv);
        self.connection.set(connection);
        *self.reported.borrow_mut() = None;
        self.ticks.borrow_mut().clear();
        self.answered.set(0);
        let register = Register {
            incarnation: self.incarnation,
            disk_id: self.machine.disk_id.clone(),
            reports: self.reports(),
        };
        sim.say(connection, me, Said::Register(register));
        let (mut welcomed, mut number, mut hangs) = (false, 0, false);
        let now = sim.clock(me);
        let (mut heard, mut next_beat, mut sent) = (now, now, now);
        loop {
            let now = sim.clock(me);
            if now >= heard + SILENCE {
                return welcomed;
            }
            if welcomed && now >= next_beat {
                number += 1;
                let tick = self.tick(number);
                hangs = tick.oldest_append_ms >= HANGS_MS;
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
                        Push::NotLeader => return welcomed,
                        Push::Refused(_) => {
                            self.told(push);
                            return welcomed;
                        }
                        Push::Tock { number: answered, .. } if answered == number && !hangs => {
                            next_beat = sent + INTERVAL
                        }
                        // It has been followed by another, and may not know it yet.
                        Push::Welcome { metasrv_epoch } if metasrv_epoch < self.metasrv_epoch.get() => {
                            return welcomed;
                        }
                        Push::Welcome { .. } => welcomed = true,
                        _ => {}
                    }
                    self.told(push);
                }
                Some(SessionEvent::Broken(on)) if on == connection => return welcomed,
                Some(SessionEvent::News) => next_beat = sim.clock(me),
                _ => {}
            }
        }
    }

    fn tick(&self, number: u64) -> Tick {
        // Before the reports: if a vote was given until then, they have its term.
        let heard = !self.is_missed.get() && self.untaken.get() == 0;
        let reports = self.reports();
        let led = self.regions().into_iter().filter_map(|region| {
            let term = region.read(|s| s.leading_epoch()).ok()?;
            Some((region.id, term))
        });
        // Taken before it is sent: what is promised in the answer counts from no later moment.
        let (now, led) = (self.sim.clock(self.me), led.collect::<Vec<_>>());
        let (oldest_append_ms, unreachable) = (self.oldest_append_ms(), self.unreachable());
        let renounced = self.renounce(now, oldest_append_ms, unreachable.len(), &led);
        self.ticks.borrow_mut().insert(number, (now, led));
        let mut reported = self.reported.borrow_mut();
        let changed = reported.as_ref() != Some(&reports);
        if changed {
            *reported = Some(reports.clone());
        }
        Tick {
            number,
            oldest_append_ms,
            answered: if heard { self.answered.get() } else { 0 },
            reports: changed.then_some(reports),
            unreachable,
            renounced,
            stopping: self.stopping.get(),
        }
    }

    /// Gives up the leases of what it leads, if it sees that it cannot lead.
    fn renounce(
        &self,
        now: Duration,
        oldest_append_ms: u64,
        unreachable: usize,
        led: &[(RegionId, u64)],
    ) -> Vec<RegionId> {
        let ticks = self.ticks.borrow();
        let first = ticks.first_key_value();
        let unanswered = first.map_or(Duration::ZERO, |(_, (sent, _))| now.saturating_sub(*sent));
        let hangs = oldest_append_ms >= CANNOT_LEAD_AFTER.as_millis() as u64;
        let is_cut_off = unreachable * 2 > self.peers.borrow().len();
        if unanswered < CANNOT_LEAD_AFTER && !hangs && !is_cut_off {
            return Vec::new();
        }
        let given_up = led.iter().filter_map(|(id, _)| self.region(*id));
        given_up
            .map(|region| {
                self.sim.hit(Branch::LeaseIsRenounced);
                region.change(|s| s.lease.renounce(now));
                region.id
            })
            .collect()
    }

    /// metasrv has answered a tick; what it promises is of the terms that were led when that was sent.
    fn take_leases(&self, number: u64, lease_ms: u64, without: &[RegionId]) {
        let mut ticks = self.ticks.borrow_mut();
        let Some((sent, led)) = ticks.remove(&number) else {
            return;
        };
        *ticks = ticks.split_off(&number);
        self.answered.set(number);
        let (received, length) = (self.sim.clock(self.me), Duration::from_millis(lease_ms));
        if lease_ms == 0 || self.stopping.get() {
            return;
        }
        for (id, term) in led {
            if let Some(region) = self.region(id).filter(|_| !without.contains(&id)) {
                let grant = Grant {
                    term,
                    sent,
                    received,
                    length,
                };
                region.change(|s| s.lease.granted(grant));
            }
        }
    }

    pub fn session_event(&self, event: SessionEvent) {
        self.session.put(&self.sim, event);
    }

    fn told(self: &Rc<Self>, push: Push) {
        if let Push::Welcome { metasrv_epoch } = push
            && self.metasrv_epoch.replace(metasrv_epoch) < metasrv_epoch
        {
            self.is_missed.set(true);
        }
        self.heard_metasrv();
        match push {
            Push::Tock {
                number,
                lease_ms,
                without_lease,
            } => self.take_leases(number, lease_ms, &without_lease),
            Push::Refused(why) => self.sim.note(|| format!("{} is refused: {why}", self.me)),
            Push::Peers(peers) => self.know_peers(peers),
            Push::Initialise(_)
            | Push::ChangeMembers(_)
            | Push::Alter(..)
            | Push::Recover { .. }
            | Push::DropReplica(_) => {
                self.orders.put(&self.sim, push);
            }
            Push::Campaign { region, seen_term } => {
                let has = self.region(region).map_or(0, |r| r.read(|s| s.status().term));
                if has > seen_term {
                    self.sim.hit(Branch::LateCampaignIgnored);
                }
                let epoch = self.metasrv_epoch.get();
                let authority = Authority::Metasrv { epoch };
                self.tell(vec![Input::Campaign {
                    region,
                    seen_term,
                    authority,
                }]);
            }
            Push::Transfer { region, to } => {
                if let Some(region) = self.region(region) {
                    self.sim.hit(Branch::LeaseIsGivenUp);
                    region.change(|s| s.lease.give_up(s.status().term));
                }
                self.abort_later(region);
                self.tell(vec![Input::Transfer { region, to }]);
            }
            Push::Role { region, is_hot } => self.tell(vec![Input::Role { region, is_hot }]),
            _ => {}
        }
    }

    /// While a leader hands over it takes no writes; one whose heir does not answer goes on.
    fn abort_later(self: &Rc<Self>, region: RegionId) {
        let node = Rc::clone(self);
        self.sim.spawn(self.me, async move {
            node.sim.sleep(TRANSFER_WITHIN).await;
            node.tell(vec![Input::AbortTransfer { region }]);
        });
    }

    fn heard_metasrv(&self) {
        self.heard.set(self.sim.clock(self.me));
        if self.is_missed.replace(false) {
            self.untaken.set(self.untaken.get() + 1);
            let epoch = self.metasrv_epoch.get();
            self.tell(vec![Input::MetasrvEpoch(epoch), Input::MetasrvFound]);
        }
    }

    /// Lets time pass for the log while metasrv is silent.
    pub(super) async fn tick_without_metasrv(self: Rc<Self>) {
        loop {
            self.sim.sleep(TICK).await;
            let silence = self.sim.clock(self.me).saturating_sub(self.heard.get());
            if silence < SILENT_AFTER {
                continue;
            }
            self.is_missed.set(true);
            let orphaned = silence >= ORPHANED_AFTER;
            if orphaned {
                self.sim.hit(Branch::Orphaned);
            }
            self.tell(vec![Input::Tick { orphaned }]);
        }
    }
}
