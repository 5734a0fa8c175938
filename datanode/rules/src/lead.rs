//! When a replica serves its region, and what it does with a view of the manifest that others may have written.

use crate::defences::Defence;
use crate::view::View;

/// What a replica knows of its own lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lead {
    /// It leads, as its log says; another may lead in a later term without its knowledge.
    pub leads: bool,
    /// Of the log; the epoch of the region while this replica leads.
    pub term: u64,
    /// Term of the last applied entry.
    pub applied_term: u64,
    /// The last term of its own in which it found that another leads in a later one.
    pub deposed_in: u64,
}

/// Why a replica does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotServing {
    Follows,
    /// Another leads in a later epoch, as the manifest says.
    Deposed,
    /// It has yet to apply what earlier leaders acknowledged.
    Opening,
}

impl Lead {
    /// The epoch in which it serves: it leads, and has applied an entry of its own term, so that everything that any
    /// earlier leader had acknowledged is applied too.
    pub fn serves(&self) -> Result<u64, NotServing> {
        match self {
            lead if !lead.leads => Err(NotServing::Follows),
            lead if lead.term <= lead.deposed_in => Err(NotServing::Deposed),
            lead if lead.applied_term != lead.term && Defence::OwnTermIsApplied.holds() => {
                Err(NotServing::Opening)
            }
            lead => Ok(lead.term),
        }
    }
}

/// What a leader holds against a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In which it leads.
    pub epoch: u64,
    /// Index of its last applied entry, and of the first of its epoch.
    pub applied: u64,
    pub term_began: u64,
    /// It has had no view since it started.
    pub is_first: bool,
}

/// What a view says to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    Adopt,
    /// Another leads in a later epoch: this one stops for good.
    Replaced,
    /// The log has lost its end: new rows would get sequences that readers take for rows in files.
    LogLostItsEnd,
}

/// What a leader does with a view that others may have written.
pub fn meet(view: &View, standing: &Standing) -> Meeting {
    let Standing {
        epoch,
        applied,
        term_began,
        is_first,
    } = *standing;
    if view.epoch > epoch && Defence::HigherEpochStops.holds() {
        return Meeting::Replaced;
    }
    // Others have no rows where this epoch has entries of its own, unless the end of the log was lost. The first view is
    // of others, whatever its epoch: an earlier start from the same state of the disk led in the same one.
    let is_of_others = view.epoch < epoch || is_first;
    let is_replaced =
        is_of_others && view.flushed_seq >= term_began && Defence::OthersEndBeforeTheOwn.holds();
    let is_above = view.flushed_seq > applied && Defence::FilesEndWithTheLog.holds();
    match is_above || is_replaced {
        true => Meeting::LogLostItsEnd,
        false => Meeting::Adopt,
    }
}

/// Whether a follower takes a view that its leader has written: it has all entries that the view has rows of.
pub fn may_follow(view: &View, applied: u64) -> bool {
    view.flushed_seq <= applied || !Defence::FollowerTakesNoRowsAhead.holds()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(epoch: u64, flushed_seq: u64) -> View {
        View {
            epoch,
            flushed_seq,
            ..View::default()
        }
    }

    #[test]
    fn files_that_know_more_than_the_log_stop_a_leader() {
        let standing = Standing {
            epoch: 2,
            applied: 7,
            term_began: 5,
            is_first: false,
        };
        assert_eq!(meet(&view(2, 7), &standing), Meeting::Adopt);
        assert_eq!(meet(&view(2, 8), &standing), Meeting::LogLostItsEnd);
        assert_eq!(meet(&view(1, 4), &standing), Meeting::Adopt);
        assert_eq!(meet(&view(1, 5), &standing), Meeting::LogLostItsEnd);
        let first = Standing {
            is_first: true,
            ..standing
        };
        assert_eq!(meet(&view(2, 5), &first), Meeting::LogLostItsEnd);
        assert_eq!(meet(&view(3, 4), &standing), Meeting::Replaced);
    }

    #[test]
    fn a_follower_takes_no_rows_that_it_has_yet_to_apply() {
        assert!(may_follow(&view(2, 7), 7));
        assert!(!may_follow(&view(2, 8), 7));
    }
}
