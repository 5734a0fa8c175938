//! Names that say which run something belongs to, so that what a killed run has left behind can be told from what
//! another one is using.

use std::path::Path;

const PREFIX: &str = "greptime-chaos-";

/// The name of something of this run.
pub fn name(what: &str) -> String {
    format!("{PREFIX}{}-{what}", std::process::id())
}

/// Whether something of this name belongs to a run that is no more.
pub fn is_left_behind(name: &str) -> bool {
    owner(name).is_some_and(|pid| !is_running(pid))
}

fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

/// Whether a process of this number is a run. Numbers are used again, so its program counts: ours, whatever it is called
/// here.
fn is_running(pid: u32) -> bool {
    let name = |process: &str| std::fs::read_to_string(Path::new("/proc").join(process).join("comm"));
    let (Ok(theirs), Ok(ours)) = (name(&pid.to_string()), name("self")) else {
        return false;
    };
    theirs == ours || theirs.trim() == PREFIX.trim_end_matches('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_runs_that_ended_are_left_behind() {
        assert_eq!(owner(&name("dn0")), Some(std::process::id()));
        assert!(!is_left_behind(&name("dn0")), "this one is running");
        // No process has this number.
        assert!(is_left_behind("greptime-chaos-4294967295-dn0"));
        assert!(!is_left_behind("greptime-lab-4294967295-dn0"));
        assert!(!is_left_behind("greptime-chaos-dn0"));
    }
}
