//! Request ids of writes (`incarnation`, number), and which of them are finished.

use std::sync::Arc;

use greptime_types::{Finished, RequestId, Requests};
use parking_lot::Mutex;

use crate::defences::Defence;

/// Gives numbers to the writes of one frontend process.
#[derive(Clone, Debug)]
pub struct RequestIds {
    incarnation: u64,
    requests: Arc<Mutex<Requests>>,
}

impl RequestIds {
    /// `incarnation` is random and new at each start of the process.
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            requests: Arc::default(),
        }
    }

    /// A number that counts as unfinished until the guard is dropped. All attempts of one write share it.
    pub fn begin(&self) -> Unfinished {
        Unfinished {
            number: self.requests.lock().begin(),
            is_answered: false,
            ids: self.clone(),
        }
    }

    /// What regions may forget, and whose late copies they are to refuse.
    pub fn finished(&self) -> Finished {
        self.requests.lock().finished()
    }
}

/// Dropped without an answer, it is given up.
#[derive(Debug)]
pub struct Unfinished {
    ids: RequestIds,
    number: u64,
    is_answered: bool,
}

impl Unfinished {
    pub fn id(&self) -> RequestId {
        RequestId {
            incarnation: self.ids.incarnation,
            number: self.number,
        }
    }

    /// The region has said that it was applied.
    pub fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut requests = self.ids.requests.lock();
        match self.is_answered || !Defence::GivenUpIsNamed.holds() {
            true => requests.answered(self.number),
            false => requests.give_up(self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_without_an_answer_was_given_up() {
        let ids = RequestIds::new(9);
        let first = ids.begin();
        let id = RequestId {
            incarnation: 9,
            number: 1,
        };
        assert_eq!(first.id(), id);
        ids.begin().answered();
        assert_eq!(ids.finished(), Finished::below(1));
        drop(ids.begin());
        let given_up = vec![2..=3];
        let lowest_unfinished = 1;
        assert_eq!(
            ids.finished(),
            Finished {
                lowest_unfinished,
                given_up
            }
        );
        first.answered();
        assert_eq!(ids.finished(), Finished::below(4));
    }
}
