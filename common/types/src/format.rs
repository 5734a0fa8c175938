//! The version of everything that is persisted, in one place.

use crate::error::{Error, Result};

/// The newest format this program can read, and the one it writes unless the cluster still has older nodes.
pub const FORMAT_VERSION: u32 = 1;

/// Formats that nodes agree on before any of them writes it. Each of them says at its registration what it speaks; the
/// cluster's is the newest that all of them do, as metasrv tells them.
pub const OLDEST_CLUSTER_FORMAT: u32 = 1;
/// From this one on, requests and log entries say each set of tags once.
pub const SERIES_FORMAT: u32 = 2;
/// From this one on, datanodes are sent prepared plans.
pub const PREPARED_FORMAT: u32 = 3;
/// From this one on, regions may have several voters.
pub const QUORUM_FORMAT: u32 = 4;
/// From this one on, log entries name the requests that were given up.
pub const GIVEN_UP_FORMAT: u32 = 5;
/// From this one on, log entries say which frontend processes are forgotten.
pub const FORGET_FORMAT: u32 = 6;
pub const NEWEST_CLUSTER_FORMAT: u32 = FORGET_FORMAT;

/// Refuses what a newer program wrote, naming both versions.
pub fn check(what: &str, version: u32) -> Result<()> {
    check_up_to(what, version, FORMAT_VERSION)
}

/// The same for a thing that has versions of its own, of which `newest` is the last that this program knows.
pub fn check_up_to(what: &str, version: u32, newest: u32) -> Result<()> {
    if version > newest {
        return Err(Error::unsupported(format!(
            "{what} has format version {version}, this program reads up to {newest}; start a newer version"
        )));
    }
    Ok(())
}
