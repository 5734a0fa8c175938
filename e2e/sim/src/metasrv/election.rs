//! One key under a lease, as `election` of metasrv has it.

use std::rc::Rc;
use std::time::Duration;

use greptime_types::{Error, Result};

use super::Metasrv;
use crate::message::{Answer, EtcdAnswer, EtcdRequest, Request};
use crate::process::Address;
use crate::sim::{SECOND, Signal};
use crate::trace::Branch;

const SESSION_MS: u64 = 5_000;
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A leader that has not renewed for so long stops leading by itself.
const GIVE_UP: Duration = Duration::from_millis(SESSION_MS - 1_000);
const AGAIN: Duration = Duration::from_millis(500);
/// How soon it is noticed that the process is gone which leads: a line to it breaks, and another one is refused.
const LOOK: Duration = Duration::from_millis(100);
const KEY: &str = "election";

/// Whose key it is.
#[derive(Clone, Copy)]
struct Holder {
    address: Address,
    lease: u64,
}

impl Metasrv {
    pub(super) async fn elect(self: Rc<Self>) {
        loop {
            // However it ended, the next begins anew.
            let _ = self.term().await;
            self.tell_leadership(false);
            self.sim.sleep(AGAIN).await;
        }
    }

    fn tell_leadership(&self, leads: bool) {
        if self.leads.replace(leads) != leads {
            self.sim.note(|| format!("{} leads: {leads}", self.me));
            self.leadership.give(&self.sim);
        }
    }

    /// Waits for the key, then leads until the lease cannot be renewed.
    async fn term(&self) -> Result<()> {
        let asked = self.now();
        let granted = self.etcd.ask(EtcdRequest::Grant(SESSION_MS), 2 * SECOND).await?;
        let EtcdAnswer::Lease(lease) = granted else {
            return Err(Error::internal("no lease"));
        };
        let session = Duration::from_millis(SESSION_MS);
        self.session_ends.set(asked + session);
        let mut renewed = self.now();
        let mut reached = 0;
        loop {
            let mut holder = None;
            if !self.leads.get() {
                holder = self.create(lease).await?;
                if holder.is_none() {
                    self.sim.hit(Branch::MetasrvIsElected);
                    self.tell_leadership(true);
                }
            }
            if let Some(gone) = self.until_due(holder, &mut reached).await {
                self.sim.hit(Branch::LeaseOfTheGoneIsEnded);
                self.etcd.ask(EtcdRequest::Revoke(gone), 2 * SECOND).await?;
                continue;
            }
            let sent = self.now();
            let left = GIVE_UP.saturating_sub(sent.saturating_sub(renewed));
            let patience = self.sim.after(self.me, left) - self.sim.now();
            match self.etcd.ask(EtcdRequest::KeepAlive(lease), patience).await? {
                EtcdAnswer::Lease(kept) if kept == lease => {
                    renewed = sent;
                    self.session_ends.set(sent + session);
                }
                _ => return Err(Error::unavailable("the lease has ended")),
            }
        }
    }

    /// Until the next renewal is due, or the process that holds the key is gone; its lease then. `reached`: the lease of
    /// the holder that was reached before, without which a refusal says nothing.
    async fn until_due(&self, holder: Option<Holder>, reached: &mut u64) -> Option<u64> {
        let due = self.now() + KEEP_ALIVE;
        loop {
            let left = due.saturating_sub(self.now());
            if left.is_zero() {
                return None;
            }
            self.sim.sleep(left.min(LOOK)).await;
            let Some(Holder { address, lease }) = holder else {
                continue;
            };
            let (until, never) = (self.sim.after(self.me, LOOK), (&Signal::default(), || false));
            let answer = self.sim.call((self.me, address), Request::Identify, until, never);
            match answer.await {
                Some(Answer::Identity { .. }) => *reached = lease,
                Some(Answer::Refused) if *reached == lease => return Some(lease),
                _ => {}
            }
        }
    }

    /// Who has the key; nobody else than this one if there is nothing.
    async fn create(&self, lease: u64) -> Result<Option<Holder>> {
        let create = EtcdRequest::Create {
            key: KEY.into(),
            value: self.me.to_string().into_bytes(),
            lease,
        };
        match self.etcd.ask(create, 2 * SECOND).await? {
            EtcdAnswer::Created(None) => Ok(None),
            // The answer to the creation was lost.
            EtcdAnswer::Created(Some((_, owner))) if owner == lease => Ok(None),
            EtcdAnswer::Created(Some((value, lease))) => {
                let is_it = |at: &Address| at.to_string().as_bytes() == value;
                let address = Address::metasrvs().find(is_it).unwrap_or(self.me);
                Ok(Some(Holder { address, lease }))
            }
            _ => Err(Error::internal("etcd answers something else")),
        }
    }

    /// Waits for news of the election, at most for a while.
    pub(super) async fn until_leadership_changes(&self, from: bool, at_most: Option<Duration>) {
        let until = at_most.map_or(u64::MAX, |d| self.sim.after(self.me, d));
        let signals: [&Signal; 1] = [&self.leadership];
        self.sim
            .wait(&signals, until, || (self.leads.get() != from).then_some(()))
            .await;
    }
}
