//! The version of everything that is persisted, in one place.

use crate::error::{Error, Result};

/// The newest format this program can read, and the one it writes unless the cluster still has older nodes.
pub const FORMAT_VERSION: u32 = 1;

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
