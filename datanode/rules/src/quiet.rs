//! Frontend processes of which a region may forget everything: they have not written to it for long.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::defences::Defence;
use crate::requests::{Mark, RequestTable};

/// When incarnations are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuietPolicy {
    /// No more than so many are all kept: they cost nothing.
    pub kept: usize,
    /// Longer than any attempt of a request can be under way after the one before it was applied.
    pub after: Duration,
}

/// For how long the incarnations of a request table have been quiet, as their leader saw it.
#[derive(Clone, Debug, Default)]
pub struct Quiet {
    /// By incarnation: what the table said of it at the last look, and for how long it has said so.
    known: BTreeMap<u64, (Mark, Duration)>,
}

impl Quiet {
    /// Incarnations to forget, as they are seen now. `passed`: the time since the last look, and of that only what this
    /// process has surely run: when one wakes up, copies of requests may lie before it that are older than it thinks.
    pub fn look(
        &mut self,
        requests: &RequestTable,
        passed: Duration,
        policy: &QuietPolicy,
    ) -> Vec<(u64, Mark)> {
        let quiet = |(incarnation, mark): (u64, Mark)| match self.known.get(&incarnation) {
            Some((before, quiet)) if *before == mark => (incarnation, (mark, *quiet + passed)),
            _ => (incarnation, (mark, Duration::ZERO)),
        };
        self.known = requests.marks().map(quiet).collect();
        if self.known.len() <= policy.kept {
            return Vec::new();
        }
        let is_over = |quiet: Duration| quiet >= policy.after || !Defence::OnlyTheQuietAreForgotten.holds();
        let known = self.known.iter();
        let quiet = known.filter(|(_, (_, quiet))| is_over(*quiet));
        quiet
            .map(|(incarnation, (mark, _))| (*incarnation, *mark))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use greptime_types::{Finished, RequestId};

    use super::*;
    use crate::requests::Seen;

    const MINUTE: Duration = Duration::from_secs(60);
    const POLICY: QuietPolicy = QuietPolicy {
        kept: 3,
        after: Duration::from_secs(3600),
    };

    fn id(incarnation: u64, number: u64) -> RequestId {
        RequestId { incarnation, number }
    }

    fn written_by(incarnations: std::ops::Range<u64>) -> RequestTable {
        let mut table = RequestTable::default();
        for incarnation in incarnations {
            table.apply(id(incarnation, 1), &Finished::below(1));
        }
        table
    }

    #[test]
    fn who_has_not_written_for_long_is_forgotten_and_nobody_else() {
        let mut table = written_by(0..5);
        let mut quiet = Quiet::default();
        for minute in 0..60 {
            assert_eq!(quiet.look(&table, MINUTE, &POLICY), [], "minute {minute}");
            // One that waits for an answer, and one that goes on.
            if minute == 30 {
                table.apply(id(1, 2), &Finished::below(1));
            }
            table.apply(id(2, minute + 2), &Finished::below(minute + 2));
        }
        let gone = quiet.look(&table, MINUTE, &POLICY);
        assert_eq!(gone.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [0, 3, 4]);
        // It comes back between the look and the entry that says what was seen.
        table.apply(id(3, 2), &Finished::below(2));
        table.forget(&gone);
        assert_eq!(table.look_up(id(3, 2)), Seen::Applied);
        assert_eq!(table.look_up(id(0, 1)), Seen::New);
        assert_eq!(table.look_up(id(1, 2)), Seen::Applied);
        assert_eq!(table.look_up(id(2, 5)), Seen::Finished);
        assert_eq!(table.marks().count(), 3);
        assert_eq!(quiet.look(&table, POLICY.after, &POLICY), [], "few are kept");
    }

    #[test]
    fn who_comes_to_lead_counts_from_then() {
        let table = written_by(0..5);
        let mut quiet = Quiet::default();
        quiet.look(&table, MINUTE, &POLICY);
        assert_eq!(quiet.look(&table, POLICY.after - MINUTE, &POLICY), []);
        let mut of_the_next = Quiet::default();
        assert_eq!(of_the_next.look(&table, POLICY.after, &POLICY), []);
        assert_eq!(quiet.look(&table, MINUTE, &POLICY).len(), 5);
    }

    #[test]
    fn a_table_does_not_grow_with_frontends_that_come_and_go() {
        let (mut table, mut quiet) = (RequestTable::default(), Quiet::default());
        for minute in 0..10_000 {
            table.apply(id(minute, 1), &Finished::below(1));
            let gone = quiet.look(&table, MINUTE, &POLICY);
            table.forget(&gone);
            assert!(table.marks().count() <= 61);
        }
    }
}
