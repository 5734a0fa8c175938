//! Datanodes that beat and should not lead.

use std::collections::BTreeMap;
use std::time::Duration;

use greptime_types::NodeId;

use super::{Ailment, Observed};
use crate::Policy;

/// What is found of a datanode beside what it says of itself.
pub(super) struct Suffers {
    /// It does not hear the answers to its beats, for so long.
    pub(super) deaf: Option<Duration>,
    /// See [`cut_off_from`].
    pub(super) cut_from: Vec<NodeId>,
}

/// What is remembered of one datanode's health.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// Since when it has been cut off from most others.
    cut_since: Option<Duration>,
    ailing: Option<Ailing>,
}

#[derive(Clone, Debug)]
struct Ailing {
    since: Duration,
    last_sign: Duration,
    why: Ailment,
}

impl Health {
    /// Takes in what is seen now; returns what it suffers from, and since when.
    pub(super) fn look(
        &mut self,
        node: NodeId,
        observed: &Observed,
        suffers: Suffers,
        policy: &Policy,
        now: Duration,
    ) -> Option<(Duration, Ailment)> {
        let Suffers { deaf, cut_from } = suffers;
        debug_assert!(!cut_from.contains(&node));
        self.cut_since = match (cut_from.is_empty(), self.cut_since) {
            (true, _) => None,
            (false, since) => since.or(Some(now)),
        };
        let cut_for = self.cut_since.map(|since| now.saturating_sub(since));
        let sign = if let Some(unheard) = deaf {
            Some(Ailment::Deaf { unheard })
        } else if observed.is_stopping {
            Some(Ailment::Stopping)
        } else if observed.oldest_append >= policy.slow_append {
            Some(Ailment::HungDisk {
                oldest_append: observed.oldest_append,
            })
        } else if cut_for.is_some_and(|for_| for_ >= policy.unreachable_for) {
            Some(Ailment::CutOff { from: cut_from })
        } else {
            None
        };
        if let Some(Ailing { why, .. }) = &mut self.ailing {
            match why {
                Ailment::HungDisk { .. } => *why = Ailment::SlowDisk,
                Ailment::Deaf { .. } => *why = Ailment::WasDeaf,
                _ => {}
            }
        }
        if let Some(why) = sign {
            let since = self.ailing.take().map_or(now, |a| a.since);
            self.ailing = Some(Ailing {
                since,
                last_sign: now,
                why,
            });
        }
        let over = |a: &Ailing| now.saturating_sub(a.last_sign) >= policy.unwell_holds;
        if self.ailing.as_ref().is_some_and(over) {
            self.ailing = None;
        }
        self.ailing.as_ref().map(|a| (a.since, a.why.clone()))
    }
}

/// The living datanodes that `node` is cut off from, if they are most of the others; else none.
///
/// Of two datanodes that cannot reach each other nobody can say whose fault it is, so at least two others are needed.
pub(super) fn cut_off_from(node: NodeId, living: &BTreeMap<NodeId, &Observed>) -> Vec<NodeId> {
    let Some(own) = living.get(&node) else {
        return vec![];
    };
    let apart: Vec<NodeId> = living
        .iter()
        .filter(|(other, _)| **other != node)
        .filter(|(other, seen)| own.unreachable.contains(other) || seen.unreachable.contains(&node))
        .map(|(other, _)| *other)
        .collect();
    let others = living.len() - 1;
    if others >= 2 && apart.len() * 2 > others {
        apart
    } else {
        vec![]
    }
}
