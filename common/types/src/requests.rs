//! Which requests of a frontend process are finished, so that regions can forget them and refuse late copies.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Requests of one frontend process of which no attempt will be sent any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Finished {
    /// All below it are finished.
    pub lowest_unfinished: u64,
    /// Of those from it on: ranges of finished ones in which some were given up, in order. Nobody knows whether one that
    /// was given up was applied, and a late copy of it may still be on its way.
    pub given_up: Vec<RangeInclusive<u64>>,
}

impl Finished {
    /// All below a number, and no others.
    pub fn below(lowest_unfinished: u64) -> Self {
        Self {
            lowest_unfinished,
            given_up: Vec::new(),
        }
    }
}

/// The numbers that a frontend process has given to its requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requests {
    next: u64,
    unfinished: BTreeSet<u64>,
    /// Given up, and above the lowest that is unfinished. Of several between the same two unfinished ones it has the first
    /// only: it is never larger than `unfinished`.
    given_up: BTreeSet<u64>,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            next: 1,
            unfinished: BTreeSet::new(),
            given_up: BTreeSet::new(),
        }
    }
}

impl Requests {
    /// A new number, unfinished from now on.
    pub fn begin(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.unfinished.insert(number);
        number
    }

    /// No attempt of it will be sent any more, and its answer is known.
    pub fn answered(&mut self, number: u64) {
        self.end(number, false);
    }

    /// No attempt of it will be sent any more, and nobody knows what became of those that were.
    pub fn give_up(&mut self, number: u64) {
        self.end(number, true);
    }

    fn end(&mut self, number: u64, is_given_up: bool) {
        if !self.unfinished.remove(&number) {
            return;
        }
        if is_given_up {
            self.given_up.insert(number);
        }
        let lowest = self.lowest_unfinished();
        self.given_up = self.given_up.split_off(&lowest);
        let around = self.finished_around(number);
        let others: Vec<u64> = self.given_up.range(around).skip(1).copied().collect();
        for other in others {
            self.given_up.remove(&other);
        }
    }

    pub fn lowest_unfinished(&self) -> u64 {
        self.unfinished.first().copied().unwrap_or(self.next)
    }

    /// The finished numbers around one of them, up to the next unfinished ones.
    fn finished_around(&self, number: u64) -> RangeInclusive<u64> {
        let before = self.unfinished.range(..number).next_back();
        let after = self.unfinished.range(number..).next();
        before.map_or(1, |n| n + 1)..=after.unwrap_or(&self.next) - 1
    }

    pub fn finished(&self) -> Finished {
        Finished {
            lowest_unfinished: self.lowest_unfinished(),
            given_up: self.given_up.iter().map(|n| self.finished_around(*n)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stays_at_the_oldest_unfinished_request() {
        let mut requests = Requests::default();
        assert_eq!(requests.finished(), Finished::below(1));
        let (first, second) = (requests.begin(), requests.begin());
        requests.answered(second);
        assert_eq!(requests.finished(), Finished::below(1));
        requests.answered(first);
        assert_eq!(requests.finished(), Finished::below(3));
    }

    #[test]
    fn what_was_given_up_above_the_mark_is_named() {
        let mut requests = Requests::default();
        for _ in 1..=8 {
            requests.begin();
        }
        requests.give_up(3);
        requests.answered(7);
        assert_eq!(requests.finished().given_up, [3..=3]);
        requests.answered(2);
        requests.give_up(6);
        assert_eq!(requests.finished().given_up, [2..=3, 6..=7]);
        requests.answered(1);
        assert_eq!(
            requests.finished(),
            Finished {
                lowest_unfinished: 4,
                given_up: vec![6..=7]
            }
        );
        for number in [4, 5, 8] {
            requests.give_up(number);
        }
        assert_eq!(requests.finished(), Finished::below(9));
    }

    /// However long the oldest takes, and however many are given up meanwhile.
    #[test]
    fn the_given_up_ones_stay_few() {
        let mut requests = Requests::default();
        requests.begin();
        for _ in 0..1000 {
            let (one, other) = (requests.begin(), requests.begin());
            requests.give_up(other);
            requests.answered(one);
            assert!(requests.given_up.len() <= requests.unfinished.len());
        }
        assert_eq!(requests.finished().given_up, [2..=2001]);
    }
}
