//! Which format the cluster writes: the newest that all of its nodes speak, and never an older one again.

use std::time::Duration;

use greptime_proto::v1;
use greptime_types::format::{NEWEST_CLUSTER_FORMAT, OLDEST_CLUSTER_FORMAT};
use greptime_types::{Error, NodeRole, Result};
use tracing::info;

use crate::catalog::Catalog;
use crate::defences::Defence;
use crate::server::State;
use crate::sessions::Sessions;

/// The newest format that a node speaks; older nodes say nothing.
fn newest_of(register: &v1::Register) -> u32 {
    register.max_format.max(OLDEST_CLUSTER_FORMAT)
}

/// Refuses a node that cannot read what the others write.
pub(crate) fn admit(register: &v1::Register, cluster: u32) -> Result<()> {
    let (oldest, newest) = (register.min_format, newest_of(register));
    if (oldest..=newest).contains(&cluster) || !Defence::OldProgramIsRefused.holds() {
        return Ok(());
    }
    let version = &register.version;
    let why = match newest < cluster {
        true => format!(
            "version {version} of the node is too old: all nodes have spoken newer ones, and there is no way back below that"
        ),
        false => format!("version {version} of the node is too new: go over a version that speaks both"),
    };
    Err(Error::permission_denied(format!(
        "the cluster writes format {cluster}, the node speaks {oldest} to {newest}; {why}"
    )))
}

/// The format to go over to, once everybody has spoken it for the time `steady`: a node that is away for a moment may
/// come back as the old one. Where there is no table there is nobody to wait for.
pub(crate) fn to_raise(state: &mut State, catalog: &Catalog, now: Duration, steady: Duration) -> Option<u32> {
    let Some(newer) = spoken_by_all(&state.sessions, catalog).filter(|f| *f > catalog.root.format) else {
        state.newer_since = None;
        return None;
    };
    let since = *state.newer_since.get_or_insert(now);
    let is_steady = now.saturating_sub(since) >= steady || !Defence::FormatWaitsAWhile.holds();
    let waited = catalog.tables.is_empty() || is_steady;
    if waited {
        info!(
            format = newer,
            "all nodes speak a newer format; from now on the cluster writes it"
        );
    }
    waited.then_some(newer)
}

/// `None` as long as a datanode that should hold regions is not there.
fn spoken_by_all(sessions: &Sessions, catalog: &Catalog) -> Option<u32> {
    let is_there = |node| sessions.get(NodeRole::Datanode, node).is_some();
    let complete =
        catalog.regions_by_node().into_keys().all(is_there) || !Defence::FormatWaitsForTheAbsent.holds();
    sessions.of_role(NodeRole::Datanode).next().filter(|_| complete)?;
    let spoken = sessions.iter().map(|(_, session)| newest_of(&session.register));
    // What this metasrv does not know itself it cannot agree to.
    spoken.chain([NEWEST_CLUSTER_FORMAT]).min()
}
