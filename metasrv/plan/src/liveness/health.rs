//! Datanodes that beat and should not lead.

use std::time::Duration;

use greptime_types::NodeId;

use super::{Ailment, Observed};
use crate::Policy;

/// What is found of a datanode beside what it says of itself.
pub(super) struct Suffers {
    /// It does not hear the answers to its beats, for so long.
    pub(super) deaf: Option<Duration>,
    /// See [`cut_off_from`](super::reach::cut_off_from).
    pub(super) cut_from: Vec<NodeId>,
}

/// What is remembered of one datanode's health.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
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
        observed: &Observed,
        suffers: Suffers,
        policy: &Policy,
        now: Duration,
    ) -> Option<(Duration, Ailment)> {
        let Suffers { deaf, cut_from } = suffers;
        let sign = if let Some(unheard) = deaf {
            Some(Ailment::Deaf { unheard })
        } else if observed.is_stopping {
            Some(Ailment::Stopping)
        } else if observed.oldest_append >= policy.slow_append {
            Some(Ailment::HungDisk {
                oldest_append: observed.oldest_append,
            })
        } else if !cut_from.is_empty() {
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
