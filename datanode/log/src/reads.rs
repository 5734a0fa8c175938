//! Reads that wait until a majority has confirmed who leads. All that come in one turn share a round.

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<u64>,
    rounds: VecDeque<(u64, Vec<u64>)>,
    next_round: u64,
}

impl Reads {
    pub fn ask(&mut self, token: u64) {
        self.waiting.push(token);
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Somebody has not been answered.
    pub fn is_open(&self) -> bool {
        self.is_waiting() || !self.rounds.is_empty()
    }

    /// The name of the round that all waiting reads go into; `None` if there are none.
    pub fn begin_round(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() {
            return None;
        }
        self.next_round += 1;
        let tokens = std::mem::take(&mut self.waiting);
        self.rounds.push_back((self.next_round, tokens));
        Some(self.next_round.to_be_bytes().to_vec())
    }

    /// A round was confirmed, and with it those before: the reads of all of them.
    pub fn end_round(&mut self, name: &[u8]) -> Vec<u64> {
        let Ok(name) = name.try_into().map(u64::from_be_bytes) else {
            return Vec::new();
        };
        let mut done = Vec::new();
        while self.rounds.front().is_some_and(|(round, _)| *round <= name) {
            done.extend(self.rounds.pop_front().into_iter().flat_map(|(_, tokens)| tokens));
        }
        done
    }

    /// Nobody will confirm them any more.
    pub fn give_up(&mut self) -> Vec<u64> {
        let mut tokens = std::mem::take(&mut self.waiting);
        tokens.extend(self.rounds.drain(..).flat_map(|(_, tokens)| tokens));
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmed_round_answers_those_before_it() {
        let mut reads = Reads::default();
        assert_eq!(reads.begin_round(), None);
        reads.ask(1);
        reads.ask(2);
        reads.begin_round().unwrap();
        reads.ask(3);
        let second = reads.begin_round().unwrap();
        reads.ask(4);
        assert_eq!(reads.end_round(&second), [1, 2, 3]);
        assert_eq!(reads.end_round(&second), [0u64; 0]);
        assert_eq!(reads.give_up(), [4]);
    }
}
