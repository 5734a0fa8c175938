//! What waits for one peer: bounded by bytes and by count, and cut into frames.

use std::collections::VecDeque;

use greptime_proto::MAX_MESSAGE;
use greptime_proto::v1::{GroupMessage, PeerBatch, PeerPing, peer_frame};

/// At most, what protobuf puts around a message in a batch: two tags and lengths, and two numbers.
const MESSAGE_OVERHEAD: usize = 48;
/// And around a batch in a frame.
const FRAME_OVERHEAD: usize = 16;

/// A message larger than this fits into no frame.
pub const LARGEST_MESSAGE: usize = MAX_MESSAGE - MESSAGE_OVERHEAD - FRAME_OVERHEAD;

#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Bytes that may wait, with what protobuf adds.
    pub bytes: usize,
    pub messages: usize,
    /// A frame takes messages up to this size.
    pub frame_bytes: usize,
}

/// Why messages were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// No stream to the peer is open.
    NotConnected,
    /// None was taken.
    Full,
    /// Those that fit into a frame were taken.
    TooLarge { messages: usize },
}

/// Messages in order, and at most one ping, which overtakes them.
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    messages: VecDeque<GroupMessage>,
    bytes: usize,
    ping: Option<u64>,
}

fn size(message: &GroupMessage) -> usize {
    message.message.len() + MESSAGE_OVERHEAD
}

impl Queue {
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            messages: VecDeque::new(),
            bytes: 0,
            ping: None,
        }
    }

    /// Takes all messages or none, apart from those that are too large for any frame. An empty queue takes whatever it
    /// is given, since a turn of the log that is larger than the limit would never get through.
    pub fn push(&mut self, mut messages: Vec<GroupMessage>) -> Result<(), Unsent> {
        let all = messages.len();
        messages.retain(|message| message.message.len() <= LARGEST_MESSAGE);
        let too_large = all - messages.len();
        let bytes: usize = messages.iter().map(size).sum();
        let is_full = self.bytes + bytes > self.limits.bytes
            || self.messages.len() + messages.len() > self.limits.messages;
        if is_full && !self.messages.is_empty() {
            return Err(Unsent::Full);
        }
        self.bytes += bytes;
        self.messages.extend(messages);
        match too_large {
            0 => Ok(()),
            messages => Err(Unsent::TooLarge { messages }),
        }
    }

    /// Replaces a ping that has not gone out yet: only the newest says anything.
    pub fn ping(&mut self, number: u64) {
        self.ping = Some(number);
    }

    /// What goes out next: a ping if there is one, else as many messages as fit into a frame, and at least one.
    pub fn next(&mut self) -> Option<peer_frame::Body> {
        if let Some(number) = self.ping.take() {
            return Some(peer_frame::Body::Ping(PeerPing { number }));
        }
        let (mut count, mut bytes) = (0, 0);
        for message in &self.messages {
            let size = size(message);
            if count > 0 && bytes + size > self.limits.frame_bytes {
                break;
            }
            (count, bytes) = (count + 1, bytes + size);
        }
        if count == 0 {
            return None;
        }
        self.bytes -= bytes;
        let messages = self.messages.drain(..count).collect();
        if self.messages.is_empty() {
            // After a jam the room would be kept for ever.
            self.messages.shrink_to(1024);
        }
        Some(peer_frame::Body::Batch(PeerBatch { messages }))
    }

    pub fn clear(&mut self) {
        self.messages = VecDeque::new();
        self.bytes = 0;
        self.ping = None;
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: QueueLimits = QueueLimits {
        bytes: 10_000,
        messages: 20,
        frame_bytes: 1000,
    };

    fn message(region_id: u64, bytes: usize) -> GroupMessage {
        GroupMessage {
            region_id,
            message: vec![0; bytes].into(),
            authority: u64::MAX,
        }
    }

    fn batch(queue: &mut Queue) -> Vec<u64> {
        match queue.next() {
            Some(peer_frame::Body::Batch(batch)) => batch.messages.iter().map(|m| m.region_id).collect(),
            other => panic!("a batch was expected, not {other:?}"),
        }
    }

    #[test]
    fn a_ping_overtakes_and_only_the_newest_is_kept() {
        let mut queue = Queue::new(LIMITS);
        queue.push(vec![message(1, 10)]).unwrap();
        queue.ping(1);
        queue.ping(2);
        assert_eq!(queue.next(), Some(peer_frame::Body::Ping(PeerPing { number: 2 })));
        assert_eq!(batch(&mut queue), [1]);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_message_above_the_frame_limit_goes_alone() {
        let mut queue = Queue::new(LIMITS);
        queue
            .push(vec![message(1, 10), message(2, 5000), message(3, 10)])
            .unwrap();
        assert_eq!(batch(&mut queue), [1]);
        assert_eq!(batch(&mut queue), [2]);
        assert_eq!(batch(&mut queue), [3]);
    }

    #[test]
    fn full_by_bytes_or_by_count_takes_none() {
        let mut queue = Queue::new(LIMITS);
        queue.push(vec![message(1, 9000)]).unwrap();
        assert_eq!(
            queue.push(vec![message(2, 10), message(3, 1000)]),
            Err(Unsent::Full)
        );
        assert_eq!(batch(&mut queue), [1]);
        assert_eq!(queue.next(), None);
        queue.push((0..20).map(|n| message(n, 1)).collect()).unwrap();
        assert_eq!(queue.push(vec![message(20, 1)]), Err(Unsent::Full));
    }

    #[test]
    fn an_empty_queue_takes_a_turn_above_the_limit() {
        let mut queue = Queue::new(LIMITS);
        queue.push(vec![message(1, 9000), message(2, 9000)]).unwrap();
        assert_eq!(queue.push(vec![message(3, 1)]), Err(Unsent::Full));
        assert_eq!(batch(&mut queue), [1]);
        assert_eq!(batch(&mut queue), [2]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn what_fits_into_no_frame_is_left_out_and_said() {
        let limits = QueueLimits {
            bytes: usize::MAX,
            ..LIMITS
        };
        let mut queue = Queue::new(limits);
        let messages = vec![
            message(1, 1),
            message(2, LARGEST_MESSAGE + 1),
            message(3, LARGEST_MESSAGE),
        ];
        assert_eq!(queue.push(messages), Err(Unsent::TooLarge { messages: 1 }));
        assert_eq!(batch(&mut queue), [1]);
        assert_eq!(batch(&mut queue), [3]);
        assert_eq!(queue.next(), None);
    }

    proptest! {
        #[test]
        fn order_limits_and_the_count_of_bytes_hold(
            steps in prop::collection::vec((0..8usize, 0..2500usize, any::<bool>()), 1..200)
        ) {
            let mut queue = Queue::new(LIMITS);
            let (mut pushed, mut taken, mut number) = (Vec::new(), Vec::new(), 0);
            for (count, bytes, take) in steps {
                let messages: Vec<_> = (0..count as u64).map(|n| message(number + n, bytes)).collect();
                let was_empty = queue.messages.is_empty();
                if queue.push(messages).is_ok() {
                    pushed.extend(number..number + count as u64);
                }
                number += count as u64;
                prop_assert!(was_empty || queue.bytes() <= LIMITS.bytes.max(8 * 2548));
                prop_assert!(queue.messages.len() <= LIMITS.messages);
                if take && let Some(peer_frame::Body::Batch(batch)) = queue.next() {
                    let bytes: usize = batch.messages.iter().map(size).sum();
                    prop_assert!(bytes <= LIMITS.frame_bytes || batch.messages.len() == 1);
                    taken.extend(batch.messages.iter().map(|m| m.region_id));
                }
                prop_assert_eq!(queue.bytes(), queue.messages.iter().map(size).sum::<usize>());
            }
            while let Some(peer_frame::Body::Batch(batch)) = queue.next() {
                taken.extend(batch.messages.iter().map(|m| m.region_id));
            }
            prop_assert_eq!(taken, pushed);
            prop_assert_eq!(queue.bytes(), 0);
        }
    }
}
