//! In which order the kinds of faults come: by turns, so that a run that is cut short has all of them in proportion.

use crate::faults::Fault;

/// How much has been done of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub fault: Fault,
    pub done: usize,
    pub wanted: usize,
}

impl Share {
    pub fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.done)
    }
}

/// The kind of which the smallest share is done, the first of several; nothing when all are.
pub fn next(shares: &[Share]) -> Option<Fault> {
    let missing = shares.iter().filter(|share| share.missing() > 0);
    // done / wanted of each, brought to the same denominator.
    let least = missing.min_by(|a, b| (a.done * b.wanted).cmp(&(b.done * a.wanted)));
    least.map(|share| share.fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_cut_short_has_all_kinds_in_proportion() {
        let share = |fault, wanted| Share {
            fault,
            done: 0,
            wanted,
        };
        let mut shares = [
            share(Fault::Kill, 1_000),
            share(Fault::Stop, 200),
            share(Fault::EtcdKill, 20),
        ];
        let mut order = Vec::new();
        while let Some(fault) = next(&shares) {
            order.push(fault);
            if let Some(share) = shares.iter_mut().find(|share| share.fault == fault) {
                share.done += 1;
            }
            // Nobody is ahead of the others by more than one.
            for share in &shares {
                let expected = order.len() * share.wanted / 1_220;
                assert!(share.done.abs_diff(expected) <= 1, "{shares:?}");
            }
        }
        assert_eq!(order.len(), 1_220);
        assert_eq!(
            order[..4],
            [Fault::Kill, Fault::Stop, Fault::EtcdKill, Fault::Kill]
        );
    }

    #[test]
    fn what_is_done_already_does_not_come_again() {
        let share = |fault, done| Share {
            fault,
            done,
            wanted: 3,
        };
        assert_eq!(
            next(&[share(Fault::Kill, 3), share(Fault::Stop, 2)]),
            Some(Fault::Stop)
        );
        assert_eq!(next(&[share(Fault::Kill, 3), share(Fault::Stop, 4)]), None);
    }
}
