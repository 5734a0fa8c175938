//! What a scan has still to read, and what is done for it before its turn.

use std::collections::VecDeque;

/// Parts `P`, of which the next ones are begun: that gives an `A`, or nothing.
pub struct Queue<P, A> {
    waiting: VecDeque<Waiting<P, A>>,
    taken: usize,
}

struct Waiting<P, A> {
    part: P,
    /// `None` if it was not tried yet.
    begun: Option<Option<A>>,
}

impl<P, A> Queue<P, A> {
    pub fn new(parts: impl Iterator<Item = P>) -> Self {
        let waiting = parts.map(|part| Waiting { part, begun: None });
        Self {
            waiting: waiting.collect(),
            taken: 0,
        }
    }

    /// Nobody wants the rest.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// The next part, and what came of its beginning. Of those after it as many are begun as were taken, since who wants
    /// few rows reads no further, but not more than `ahead`.
    pub fn take(&mut self, ahead: usize, begin: impl Fn(&P) -> Option<A>) -> Option<(P, Option<A>)> {
        let Waiting { part, begun } = self.waiting.pop_front()?;
        self.taken += 1;
        for next in self.waiting.iter_mut().take(self.taken.min(ahead)) {
            if next.begun.is_none() {
                next.begun = Some(begin(&next.part));
            }
        }
        Some((part, begun.flatten()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn as_many_parts_are_begun_as_were_taken_up_to_a_limit_and_each_once() {
        let begun = RefCell::new(Vec::new());
        let begin = |part: &usize| {
            begun.borrow_mut().push(*part);
            part.is_multiple_of(2).then_some(part * 10)
        };
        let mut queue = Queue::new(0..9_usize);
        let mut ahead = Vec::new();
        for part in 0..9 {
            assert_eq!(
                queue.take(4, begin),
                Some((part, (part > 0 && part % 2 == 0).then_some(part * 10)))
            );
            ahead.push(begun.borrow().len() - part);
        }
        assert_eq!(ahead, [1, 2, 3, 4, 4, 3, 2, 1, 0]);
        assert_eq!(*begun.borrow(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(queue.take(4, begin), None);
    }

    #[test]
    fn what_was_not_begun_can_be_later() {
        let mut queue = Queue::new(0..4);
        assert_eq!(queue.take(0, |_| Some("early")), Some((0, None)));
        assert_eq!(queue.take(1, |_| Some("late")), Some((1, None)));
        assert_eq!(queue.take(0, |_| Some("early")), Some((2, Some("late"))));
        assert_eq!(queue.take(0, |_| Some("early")), Some((3, None)));
    }
}
