//! The version of everything that is persisted, in one place.

use crate::error::{Error, Result};

/// The newest format this program can read, and the one it writes unless the cluster still has older nodes.
pub const FORMAT_VERSION: u32 = 1;

/// Refuses what a newer program wrote, naming both versions.
pub fn check(what: &str, version: u32) -> Result<()> {
    if version > FORMAT_VERSION {
        return Err(Error::unsupported(format!(
            "{what} has format version {version}, this program reads up to {FORMAT_VERSION}; start a newer version"
        )));
    }
    Ok(())
}
