//! etcd, as its contract says: linearizable, compare-and-swap, leases. Answers may be lost, and requests may come late.

use std::cell::RefCell;
use std::collections::BTreeMap;

use async_trait::async_trait;
use greptime_types::{Error, Result};

use crate::message::{Answer, EtcdAnswer, EtcdRequest, Request};
use crate::process::{Address, ETCD};
use crate::sim::{MS, Micros, SECOND, Signal, Sim};
use crate::store::{Change, Expect, Store, Versioned};

#[derive(Default)]
struct State {
    values: BTreeMap<String, (Versioned, u64)>,
    revision: i64,
    /// When it ends, and how long it lasts.
    leases: BTreeMap<u64, (Micros, Micros)>,
    next_lease: u64,
}

#[derive(Default)]
pub struct Etcd {
    state: RefCell<State>,
}

impl Etcd {
    pub fn answer(&self, sim: &Sim, request: EtcdRequest) -> EtcdAnswer {
        let (mut state, now) = (self.state.borrow_mut(), sim.now());
        state.expire(now);
        match request {
            EtcdRequest::List(prefix) => EtcdAnswer::Listed(state.list(&prefix)),
            EtcdRequest::Commit(expect, changes) => EtcdAnswer::Committed(state.commit(&expect, changes)),
            EtcdRequest::Grant(ms) => {
                state.next_lease += 1;
                let (lease, lasts) = (state.next_lease, ms * MS);
                state.leases.insert(lease, (now + lasts, lasts));
                EtcdAnswer::Lease(lease)
            }
            EtcdRequest::KeepAlive(lease) => match state.leases.get_mut(&lease) {
                Some((ends, lasts)) => {
                    *ends = now + *lasts;
                    EtcdAnswer::Lease(lease)
                }
                None => EtcdAnswer::Lease(0),
            },
            EtcdRequest::Revoke(lease) => {
                state.leases.remove(&lease);
                state.expire(now);
                EtcdAnswer::Lease(0)
            }
            EtcdRequest::Create { key, value, lease } => EtcdAnswer::Created(state.create(key, value, lease)),
        }
    }

    /// It has been away: whoever leads etcd then gives all leases their full time again.
    pub fn renew_leases(&self, now: Micros) {
        for (ends, lasts) in self.state.borrow_mut().leases.values_mut() {
            *ends = now + *lasts;
        }
    }
}

impl State {
    fn expire(&mut self, now: Micros) {
        self.leases.retain(|_, (ends, _)| *ends > now);
        let leases = &self.leases;
        self.values
            .retain(|_, (_, lease)| *lease == 0 || leases.contains_key(lease));
    }

    fn list(&self, prefix: &str) -> BTreeMap<String, Versioned> {
        let from = self.values.range(prefix.to_owned()..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        found
            .map(|(key, (value, _))| (key.clone(), value.clone()))
            .collect()
    }

    fn commit(&mut self, expect: &Expect, changes: Vec<Change>) -> Option<i64> {
        let holds = match expect {
            Expect::Absent(key) => !self.values.contains_key(key),
            Expect::Revision(key, revision) => {
                self.values.get(key).is_some_and(|(v, _)| v.revision == *revision)
            }
        };
        if !holds {
            return None;
        }
        self.revision += 1;
        let revision = self.revision;
        for change in changes {
            match change {
                Change::Put(key, value) => drop(self.values.insert(key, (Versioned { value, revision }, 0))),
                Change::Delete(key) => drop(self.values.remove(&key)),
            }
        }
        Some(revision)
    }

    fn create(&mut self, key: String, value: Vec<u8>, lease: u64) -> Option<(Vec<u8>, u64)> {
        if let Some((found, owner)) = self.values.get(&key) {
            return Some((found.value.clone(), *owner));
        }
        if !self.leases.contains_key(&lease) {
            // Refused, as an error would be: whoever asks begins anew.
            return Some((Vec::new(), 0));
        }
        self.revision += 1;
        let revision = self.revision;
        self.values.insert(key, (Versioned { value, revision }, lease));
        None
    }
}

/// The way to etcd for one process.
#[derive(Clone)]
pub struct EtcdClient {
    pub sim: Sim,
    pub me: Address,
}

/// A request without an answer for so long has an unknown outcome.
const PATIENCE: Micros = 2 * SECOND;

impl EtcdClient {
    pub async fn ask(&self, request: EtcdRequest, patience: Micros) -> Result<EtcdAnswer> {
        let until = self.sim.now() + patience;
        let never = (&Signal::default(), || false);
        let answer = self
            .sim
            .call((self.me, ETCD), Request::Etcd(request), until, never)
            .await;
        match answer {
            Some(Answer::Etcd(answer)) => Ok(answer),
            _ => Err(Error::unavailable("etcd does not answer")),
        }
    }
}

#[async_trait(?Send)]
impl Store for EtcdClient {
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>> {
        match self.ask(EtcdRequest::List(prefix.into()), PATIENCE).await? {
            EtcdAnswer::Listed(found) => Ok(found),
            _ => Err(Error::internal("etcd answers something else")),
        }
    }

    async fn commit(&self, expect: Expect, changes: Vec<Change>) -> Result<Option<i64>> {
        match self.ask(EtcdRequest::Commit(expect, changes), PATIENCE).await? {
            EtcdAnswer::Committed(revision) => Ok(revision),
            _ => Err(Error::internal("etcd answers something else")),
        }
    }
}
