//! One key under a lease, as `election` of metasrv has it.

use std::rc::Rc;
use std::time::Duration;

use greptime_types::{Error, Result};

use super::Metasrv;
use crate::message::{EtcdAnswer, EtcdRequest};
use crate::sim::{SECOND, Signal};
use crate::trace::Branch;

const SESSION_MS: u64 = 5_000;
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A leader that has not renewed for so long stops leading by itself.
const GIVE_UP: Duration = Duration::from_millis(SESSION_MS - 1_000);
const AGAIN: Duration = Duration::from_millis(500);
const KEY: &str = "election";

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
        loop {
            if !self.leads.get() && self.create(lease).await? {
                self.sim.hit(Branch::MetasrvIsElected);
                self.tell_leadership(true);
            }
            self.sim.sleep(KEEP_ALIVE).await;
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

    /// Whether the key is this one's.
    async fn create(&self, lease: u64) -> Result<bool> {
        let create = EtcdRequest::Create {
            key: KEY.into(),
            value: self.me.to_string().into_bytes(),
            lease,
        };
        match self.etcd.ask(create, 2 * SECOND).await? {
            EtcdAnswer::Created(None) => Ok(true),
            // The answer to the creation was lost.
            EtcdAnswer::Created(Some((_, owner))) => Ok(owner == lease),
            _ => Ok(false),
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
