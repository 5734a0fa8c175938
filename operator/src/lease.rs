//! Leader election by a Lease: of several operators one writes, and another takes over when it is gone.
//!
//! Times of the lease are for people. Whether a holder is alive is judged by how long its lease has stayed the
//! same on *our* monotonic clock, so that clocks that disagree cannot make two leaders. A leader that could not
//! renew for [`RENEW_DEADLINE`] stops before anybody else may start after [`LEASE`].

use std::time::Duration;

use greptime_clock::SharedClock;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

/// How long a lease is respected after it was renewed last.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often the holder renews.
pub const RENEW: Duration = Duration::from_secs(5);
/// How long a holder goes on without having renewed. The rest of [`LEASE`] is for a write that is on its way.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often one that waits looks.
pub const RETRY: Duration = Duration::from_secs(2);
/// One request to the API server.
const REQUEST: Duration = Duration::from_secs(3);

/// Another holder's lease, as it was when we saw it change last.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    /// Resource version of the lease: it changes with every renewal.
    version: Option<String>,
    at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Renew,
    TakeOver,
    Wait,
}

/// What to do about the lease as it is, and what to remember of it.
fn decide(lease: Option<&Lease>, identity: &str, seen: Option<Seen>, now: Duration) -> (Step, Option<Seen>) {
    let Some(lease) = lease else {
        return (Step::Create, None);
    };
    let holder = lease
        .spec
        .as_ref()
        .and_then(|s| s.holder_identity.as_deref())
        .unwrap_or("");
    if holder == identity {
        return (Step::Renew, None);
    }
    if holder.is_empty() {
        return (Step::TakeOver, None);
    }
    let version = lease.metadata.resource_version.clone();
    let seen = match seen {
        Some(seen) if seen.version == version => seen,
        _ => Seen { version, at: now },
    };
    // The holder's own promise, should it differ from ours; never less than a second.
    let promised = lease
        .spec
        .as_ref()
        .and_then(|s| s.lease_duration_seconds)
        .unwrap_or(0)
        .max(1);
    let patience = Duration::from_secs(promised as u64).min(LEASE);
    let step = if now.saturating_sub(seen.at) >= patience {
        Step::TakeOver
    } else {
        Step::Wait
    };
    (step, Some(seen))
}

/// One operator that wants to lead, or does.
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    identity: String,
    clock: SharedClock,
    seen: Option<Seen>,
}

impl Elector {
    /// `identity` is the pod's name: a container that restarts in the same pod takes its own lease up at once.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, clock: SharedClock) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self {
            leases,
            name: name.into(),
            identity: identity.into(),
            clock,
            seen: None,
        }
    }

    /// Returns once the lease is ours.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "cannot read or write the lease; trying again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews until the lease is lost, and says why it was. Must follow [`Self::acquire`].
    pub async fn hold(&mut self) -> String {
        let mut renewed = self.clock.now();
        let mut pause = RENEW;
        loop {
            tokio::time::sleep(pause).await;
            let started = self.clock.now();
            let failure = match self.attempt().await {
                Ok(true) => {
                    // It counts from the start of the request: the server may have answered late.
                    renewed = started;
                    pause = RENEW;
                    continue;
                }
                Ok(false) => return "another operator has taken the lease".into(),
                Err(error) => error,
            };
            tracing::warn!(error = %failure, "cannot renew the lease; trying again");
            let left = RENEW_DEADLINE.saturating_sub(self.clock.now().saturating_sub(renewed));
            if left.is_zero() {
                return format!(
                    "the lease could not be renewed for {} s: {failure}",
                    RENEW_DEADLINE.as_secs()
                );
            }
            pause = left.min(Duration::from_secs(1));
        }
    }

    /// Gives the lease back, so that the next operator need not wait for it to expire.
    pub async fn release(&mut self) {
        let result = self.bounded(self.give_back()).await;
        if let Err(error) = result {
            tracing::warn!(%error, "cannot give the lease back; it expires by itself");
        }
    }

    async fn give_back(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        self.leases
            .replace(&self.name, &PostParams::default(), &lease)
            .await
            .map(|_| ())
    }

    /// One look at the lease and what follows from it; true if it is ours afterwards.
    pub async fn attempt(&mut self) -> Result<bool, String> {
        let lease = self.bounded(self.leases.get_opt(&self.name)).await?;
        let (step, seen) = decide(lease.as_ref(), &self.identity, self.seen.take(), self.clock.now());
        self.seen = seen;
        let written = match step {
            Step::Wait => return Ok(false),
            Step::Create => {
                let lease = self.next_lease(None);
                self.bounded_write(self.leases.create(&PostParams::default(), &lease))
                    .await?
            }
            Step::Renew | Step::TakeOver => {
                let lease = self.next_lease(lease);
                self.bounded_write(self.leases.replace(&self.name, &PostParams::default(), &lease))
                    .await?
            }
        };
        Ok(written)
    }

    /// The lease as we want it. It keeps the resource version, so that of two who try, one gets it.
    fn next_lease(&self, old: Option<Lease>) -> Lease {
        let now = Timestamp::from_millisecond(self.clock.wall_ms()).unwrap_or(Timestamp::UNIX_EPOCH);
        let name = self.name.clone();
        let mut lease = old.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(name),
                ..Default::default()
            },
            ..Default::default()
        });
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
            spec.acquire_time = Some(MicroTime(now));
            spec.holder_identity = Some(self.identity.clone());
        }
        spec.renew_time = Some(MicroTime(now));
        spec.lease_duration_seconds = Some(LEASE.as_secs() as i32);
        lease
    }

    /// A write that lost against another is no error: the next look shows who has the lease.
    async fn bounded_write<T>(
        &self,
        write: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<bool, String> {
        let write = async {
            match write.await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.bounded(write).await
    }

    async fn bounded<T>(&self, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
        match tokio::time::timeout(REQUEST, request).await {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(_) => Err(format!(
                "the API server did not answer within {} s",
                REQUEST.as_secs()
            )),
        }
    }
}

#[cfg(test)]
mod tests;
