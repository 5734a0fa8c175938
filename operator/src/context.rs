//! What every reconcile needs, made once.

use greptime_clock::{SharedClock, SharedIds};
use k8s_openapi::jiff::Timestamp;
use kube::Client;

use crate::backoff::Backoff;
use crate::events::Announcer;
use crate::metasrv::MetasrvClient;
use crate::metrics::OperatorMetrics;

pub struct Context {
    pub client: Client,
    pub clock: SharedClock,
    /// The database image of clusters that name none.
    pub default_image: String,
    pub metasrv: MetasrvClient,
    pub metrics: OperatorMetrics,
    pub announcer: Announcer,
    pub backoff: Backoff,
}

/// What a process is told and a test replaces.
pub struct Parts {
    pub client: Client,
    pub clock: SharedClock,
    pub ids: SharedIds,
    pub metrics: OperatorMetrics,
    pub default_image: String,
    /// Who writes events.
    pub identity: String,
    pub metasrv_url: String,
}

impl Context {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            client,
            clock,
            ids,
            metrics,
            default_image,
            identity,
            metasrv_url,
        } = parts;
        Self {
            announcer: Announcer::new(client.clone(), &identity),
            metasrv: MetasrvClient::new(&metasrv_url),
            backoff: Backoff::new(ids),
            client,
            clock,
            default_image,
            metrics,
        }
    }

    /// Now, to the second: times in conditions have no fractions, and one with them would differ from itself when it
    /// is read back.
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::from_millisecond(self.clock.wall_ms()).unwrap_or(Timestamp::UNIX_EPOCH);
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }
}
