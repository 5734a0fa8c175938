//! Request ids of writes (`incarnation`, number), and the lowest that is not finished.

use std::collections::BTreeSet;
use std::sync::Arc;

use greptime_types::RequestId;
use parking_lot::Mutex;

#[derive(Debug)]
struct State {
    next: u64,
    unfinished: BTreeSet<u64>,
}

/// Gives numbers to the writes of one frontend process.
#[derive(Clone, Debug)]
pub struct RequestIds {
    incarnation: u64,
    state: Arc<Mutex<State>>,
}

impl RequestIds {
    /// `incarnation` is random and new at each start of the process.
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            state: Arc::new(Mutex::new(State {
                next: 1,
                unfinished: BTreeSet::new(),
            })),
        }
    }

    /// A number that counts as unfinished until the guard is dropped. All attempts of one write share it.
    pub fn begin(&self) -> Unfinished {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.unfinished.insert(number);
        Unfinished {
            ids: self.clone(),
            number,
        }
    }

    /// Below it regions may forget: no attempt of a lower number will be sent any more.
    pub fn lowest_unfinished(&self) -> u64 {
        let state = self.state.lock();
        state.unfinished.first().copied().unwrap_or(state.next)
    }
}

#[derive(Debug)]
pub struct Unfinished {
    ids: RequestIds,
    number: u64,
}

impl Unfinished {
    pub fn id(&self) -> RequestId {
        RequestId {
            incarnation: self.ids.incarnation,
            number: self.number,
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.ids.state.lock().unfinished.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stays_at_the_oldest_unfinished_write() {
        let ids = RequestIds::new(9);
        assert_eq!(ids.lowest_unfinished(), 1);
        let first = ids.begin();
        let second = ids.begin();
        assert_eq!(
            first.id(),
            RequestId {
                incarnation: 9,
                number: 1
            }
        );
        drop(second);
        assert_eq!(ids.lowest_unfinished(), 1);
        drop(first);
        assert_eq!(ids.lowest_unfinished(), 3);
    }
}
