//! What every reconcile needs, made once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use greptime_clock::{SharedClock, SharedIds};
use k8s_openapi::jiff::Timestamp;
use kube::Client;

use crate::backoff::{Backoff, Key};
use crate::events::Announcer;
use crate::metasrv::MetasrvClient;
use crate::metrics::OperatorMetrics;

pub struct Context {
    pub client: Client,
    pub clock: SharedClock,
    pub ids: SharedIds,
    /// The database image of clusters that name none.
    pub default_image: String,
    pub metasrv: MetasrvClient,
    pub metrics: OperatorMetrics,
    pub announcer: Announcer,
    pub backoff: Backoff,
    pub settled: Settled,
}

impl Context {
    /// Now, to the second, as conditions write it.
    pub fn now(&self) -> String {
        let now = Timestamp::from_millisecond(self.clock.wall_ms()).unwrap_or(Timestamp::UNIX_EPOCH);
        // Conditions have no fractions of seconds.
        Timestamp::from_second(now.as_second()).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
    }
}

/// Writes that turned out to change nothing: what was wanted, and what it was wanted of.
///
/// The API server may rewrite a value in a way that [`crate::diff`] does not know. Then it sees a difference for
/// ever; this memory makes it one needless write, instead of one with every reconcile.
#[derive(Debug, Default)]
pub struct Settled {
    known: Mutex<BTreeMap<(Key, String), Fingerprint>>,
}

/// Hashes of the wanted and of the live object.
pub type Fingerprint = (u64, u64);

impl Settled {
    pub fn is(&self, key: &Key, child: &str, fingerprint: Fingerprint) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(key.clone(), child.to_owned())) == Some(&fingerprint)
    }

    pub fn remember(&self, key: &Key, child: &str, fingerprint: Fingerprint) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((key.clone(), child.to_owned()), fingerprint);
    }

    /// Called when a cluster is gone.
    pub fn forget(&self, key: &Key) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(cluster, _), _| cluster != key);
    }
}
