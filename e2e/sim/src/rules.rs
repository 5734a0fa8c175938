//! The rules of the region core that a simulation can do without, by their names in the datanode.

/// Whether a rule holds, as it always does but in a run that takes it away.
#[cfg(debug_assertions)]
pub fn holds(rule: &str) -> bool {
    !greptime_defences::is_away(rule)
}

/// Whether a rule holds: without debug assertions always.
#[cfg(not(debug_assertions))]
pub fn holds(_: &str) -> bool {
    true
}
