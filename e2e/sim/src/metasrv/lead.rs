//! Taking the catalog over, and changing it, as `server` of metasrv does.

use std::rc::Rc;
use std::time::Duration;

use greptime_metasrv_plan::watch::Watch;
use greptime_types::format::FORMAT_VERSION;
use greptime_types::{Error, NodeId, Result};

use super::{Metasrv, State};
use crate::catalog::{Birth, Catalog, DatanodeRecord, Edit};
use crate::message::{Push, Register};
use crate::trace::Branch;

/// A commit without an answer: the catalog is to be loaded again.
struct OutcomeUnknown<'a>(Option<&'a Metasrv>);

impl Drop for OutcomeUnknown<'_> {
    fn drop(&mut self) {
        if let Some(metasrv) = self.0 {
            metasrv.sim.hit(Branch::CatalogOutcomeUnknown);
            let mut state = metasrv.state.borrow_mut();
            state.is_stale = state.catalog.is_some();
            drop(state);
            metasrv.note_change();
        }
    }
}

impl Metasrv {
    /// Follows the election: takes the catalog over when elected, lets everything go when not.
    pub(super) async fn lead(self: Rc<Self>) {
        loop {
            let leads = self.leads.get();
            if leads {
                if let Err(error) = self.take_over().await {
                    self.sim.note(|| format!("{} cannot take over: {error}", self.me));
                    self.until_leadership_changes(leads, Some(Duration::from_millis(500)))
                        .await;
                    continue;
                }
            } else {
                self.step_down();
            }
            self.until_leadership_changes(leads, None).await;
        }
    }

    fn step_down(&self) {
        let connections = self.state.borrow().sessions.connections();
        *self.state.borrow_mut() = State::default();
        connections.into_iter().for_each(|c| self.sim.hang_up(c, self.me));
    }

    async fn take_over(&self) -> Result<()> {
        let _turn = self.turn.take(&self.sim).await;
        let birth = Birth {
            cluster_id: "sim".into(),
            name: "sim".into(),
            now_ms: self.sim.wall_ms(self.me),
        };
        let catalog = Catalog::take_over(&self.etcd, birth).await?;
        self.sim.hit(Branch::CatalogIsTakenOver);
        let epoch = catalog.root.metasrv_epoch;
        self.sim
            .note(|| format!("{} leads with the catalog in epoch {epoch}", self.me));
        self.sim.saw_metasrv(self.me, epoch);
        {
            if !self.leads.get() {
                return Err(not_leading());
            }
            let now = self.now();
            let mut state = self.state.borrow_mut();
            state.leading_since = now;
            let (policy, known) = (self.policy.clone(), catalog.datanodes.keys().copied());
            state.watch.get_or_insert_with(|| Watch::new(policy, now, known));
        }
        self.install(catalog)
    }

    fn install(&self, catalog: Catalog) -> Result<()> {
        if !self.leads.get() {
            return Err(not_leading());
        }
        let mut state = self.state.borrow_mut();
        state.catalog = Some(Rc::new(catalog));
        state.is_stale = false;
        drop(state);
        self.note_change();
        Ok(())
    }

    /// Changes the catalog: `decide` sees the newest one and returns what to change, or nothing.
    pub(super) async fn change(
        &self,
        decide: impl FnOnce(&Catalog) -> Result<Vec<Edit>>,
    ) -> Result<Rc<Catalog>> {
        let turn = self.turn.take(&self.sim).await;
        if self.state.borrow().is_stale {
            drop(turn);
            if !self.leads.get() {
                return Err(not_leading());
            }
            self.take_over().await?;
            return Err(Error::unavailable("the catalog was just loaded anew"));
        }
        let catalog = self.catalog().ok_or_else(not_leading)?;
        let edits = decide(&catalog)?;
        if edits.is_empty() {
            return Ok(catalog);
        }
        let mut unknown = OutcomeUnknown(Some(self));
        let next = catalog.commit(&self.etcd, &edits).await?;
        unknown.0 = None;
        self.install(next)?;
        self.catalog().ok_or_else(not_leading)
    }

    /// Takes a datanode in, or says why not.
    pub(super) async fn admit(self: Rc<Self>, node: NodeId, connection: u64, register: Register) {
        let occupied = {
            let state = self.state.borrow();
            state.sessions.occupied(node, register.incarnation, self.now())
        };
        if occupied {
            self.sim.hit(Branch::SecondProcessRefused);
            self.push(connection, Push::Refused("it is already running".into()));
            return;
        }
        let record = DatanodeRecord {
            format: FORMAT_VERSION,
            disk_id: register.disk_id.clone(),
            zone: None,
        };
        let recorded = self.change(|catalog| {
            let is_news = catalog.datanodes.get(&node) != Some(&record);
            Ok(if is_news {
                vec![Edit::PutDatanode(node, record)]
            } else {
                vec![]
            })
        });
        if recorded.await.is_err() {
            self.sim.hang_up(connection, self.me);
            return;
        }
        self.welcome(node, connection, &register);
    }
}

pub(super) fn not_leading() -> Error {
    Error::unavailable("this metasrv does not lead")
}
