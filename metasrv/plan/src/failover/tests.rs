mod losses;
mod oracle;
mod plans;
mod steps;
mod survivors;

use super::loss::Remains;
use super::*;
use crate::liveness::{Ailment, Death, Sign, Suspicion};
use crate::{Policy, Verdict};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const NOW: Duration = ms(100_000);

fn alive() -> Verdict {
    Verdict::Alive { since: ms(0) }
}

fn suspect() -> Verdict {
    Verdict::Suspect {
        since: NOW,
        why: Suspicion {
            sign: Sign::Silent { silence: ms(200) },
            held: None,
        },
    }
}

fn unwell() -> Verdict {
    Verdict::Unwell {
        since: NOW,
        why: Ailment::CutOff { from: vec![7, 8] },
    }
}

fn slow() -> Verdict {
    Verdict::Unwell {
        since: NOW,
        why: Ailment::SlowDisk,
    }
}

fn hung() -> Verdict {
    Verdict::Unwell {
        since: NOW,
        why: Ailment::HungDisk {
            oldest_append: ms(300),
        },
    }
}

/// Silent since 400 ms.
fn silent() -> Verdict {
    Verdict::Dead {
        gone_since: NOW - ms(400),
        why: Death::Silence { silence: ms(400) },
    }
}

/// Killed 10 ms ago.
fn killed() -> Verdict {
    Verdict::Dead {
        gone_since: NOW - ms(10),
        why: Death::Refused,
    }
}

fn log(last_term: u64, last_index: u64) -> Option<LogEnd> {
    Some(LogEnd {
        last_term,
        last_index,
        term: 5,
        applied_index: last_index,
        flushed_index: 40,
        at: NOW,
    })
}

/// Datanode 1 leads in term 5, 2 is hot, 3 is log-only; their logs are equal, and no lease is left.
fn region(verdicts: [Verdict; 3]) -> RegionSeen {
    let roles = [VoterRole::Hot, VoterRole::Hot, VoterRole::LogOnly];
    let voter = |(i, (verdict, role)): (usize, (Verdict, VoterRole))| Voter {
        node: i as NodeId + 1,
        raft_id: 100 + i as u64,
        role,
        verdict,
        log: log(5, 50),
        apart: BTreeSet::new(),
        had: None,
        leads: (i == 0).then_some(5),
        elected: None,
        lease_ends: NOW,
    };
    RegionSeen {
        voters: verdicts.into_iter().zip(roles).enumerate().map(voter).collect(),
        led: 5,
        lease_ends: ms(0),
        strangers: 0,
        tried: vec![],
    }
}

fn step(region: &RegionSeen) -> Step {
    decide(region, &Policy::default(), NOW)
}

fn tried(what: Attempt, to: NodeId, ago: u64) -> Tried {
    Tried {
        what,
        to,
        at: NOW - ms(ago),
    }
}

fn campaign(node: NodeId) -> Step {
    Step::Campaign {
        node,
        raft_id: 99 + node,
        seen_term: 5,
    }
}

fn nothing(reason: Reason) -> Step {
    Step::Nothing { reason }
}
