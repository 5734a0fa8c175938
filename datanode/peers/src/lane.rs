//! The queue of one peer, and the stream that draws from it.
//!
//! The transport draws a frame when it has room for one, and only then is the frame put together. So what is said while
//! a stream is busy becomes few large frames, a ping waits for what was drawn before it and for nothing else, and what
//! waits is counted in one place.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use greptime_proto::v1::{GroupMessage, PeerFrame, PeerHello, peer_frame};
use parking_lot::Mutex;

use crate::metrics::PeerMetrics;
use crate::queue::{Queue, QueueLimits, Unsent};

/// Whoever still draws for an older stream finds its ticket out of date, and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

pub struct Lane {
    inner: Mutex<Inner>,
    metrics: PeerMetrics,
}

struct Inner {
    queue: Queue,
    ticket: u64,
    /// The stream of this ticket has been welcomed.
    is_open: bool,
    /// Who draws, and found nothing.
    drawing: Option<Waker>,
}

impl Inner {
    fn change(&mut self) -> Option<Waker> {
        self.ticket += 1;
        self.is_open = false;
        self.queue.clear();
        self.drawing.take()
    }
}

impl Lane {
    pub fn new(limits: QueueLimits, metrics: PeerMetrics) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                queue: Queue::new(limits),
                ticket: 0,
                is_open: false,
                drawing: None,
            }),
            metrics,
        })
    }

    /// What a new stream sends: the hello, and everything that is pushed from [`Self::open`] on until the lane is
    /// closed or another stream is begun.
    pub fn begin(self: &Arc<Self>, hello: PeerHello) -> (Ticket, BoxStream<'static, PeerFrame>) {
        let (ticket, older) = {
            let mut inner = self.inner.lock();
            let older = inner.change();
            (inner.ticket, older)
        };
        wake(older);
        let lane = Arc::clone(self);
        let hello = PeerFrame {
            body: Some(peer_frame::Body::Hello(hello)),
        };
        let rest = stream::poll_fn(move |context| lane.draw(ticket, context));
        let frames = stream::once(async { hello }).chain(rest).boxed();
        (Ticket(ticket), frames)
    }

    /// The stream was welcomed.
    pub fn open(&self, ticket: Ticket) {
        let mut inner = self.inner.lock();
        inner.is_open |= inner.ticket == ticket.0;
    }

    /// Ends the stream; what waits is gone.
    pub fn close(&self) {
        let drawing = self.inner.lock().change();
        wake(drawing);
    }

    pub fn push(&self, messages: Vec<GroupMessage>) -> Result<(), Unsent> {
        let mut inner = self.inner.lock();
        if !inner.is_open {
            return Err(Unsent::NotConnected);
        }
        let pushed = inner.queue.push(messages);
        let drawing = inner.drawing.take();
        drop(inner);
        wake(drawing);
        pushed
    }

    pub fn ping(&self, number: u64) {
        let mut inner = self.inner.lock();
        if !inner.is_open {
            return;
        }
        inner.queue.ping(number);
        let drawing = inner.drawing.take();
        drop(inner);
        wake(drawing);
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.inner.lock().queue.bytes()
    }

    fn draw(&self, ticket: u64, context: &mut Context<'_>) -> Poll<Option<PeerFrame>> {
        let mut inner = self.inner.lock();
        if inner.ticket != ticket {
            return Poll::Ready(None);
        }
        let Some(body) = inner.queue.next() else {
            inner.drawing = Some(context.waker().clone());
            return Poll::Pending;
        };
        drop(inner);
        if let peer_frame::Body::Batch(batch) = &body {
            self.metrics.count_sent(batch);
        }
        Poll::Ready(Some(PeerFrame { body: Some(body) }))
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn lane() -> Arc<Lane> {
        let limits = QueueLimits {
            bytes: 1 << 20,
            messages: 1000,
            frame_bytes: 1 << 20,
        };
        Lane::new(limits, PeerMetrics::default())
    }

    fn said(region_id: u64) -> Vec<GroupMessage> {
        vec![GroupMessage {
            region_id,
            ..GroupMessage::default()
        }]
    }

    /// What the stream has to say now; `None` if it waits.
    fn drawn(frames: &mut BoxStream<'static, PeerFrame>) -> Option<Option<PeerFrame>> {
        frames.next().now_or_never()
    }

    fn regions(frame: Option<Option<PeerFrame>>) -> Vec<u64> {
        match frame.flatten().and_then(|frame| frame.body) {
            Some(peer_frame::Body::Batch(batch)) => batch.messages.iter().map(|m| m.region_id).collect(),
            other => panic!("a batch was expected, not {other:?}"),
        }
    }

    #[test]
    fn nothing_is_taken_before_the_welcome() {
        let lane = lane();
        assert_eq!(lane.push(said(1)), Err(Unsent::NotConnected));
        let (ticket, mut frames) = lane.begin(PeerHello::default());
        assert!(matches!(
            drawn(&mut frames).flatten().and_then(|frame| frame.body),
            Some(peer_frame::Body::Hello(_))
        ));
        assert_eq!(lane.push(said(1)), Err(Unsent::NotConnected));
        lane.open(ticket);
        lane.push(said(2)).unwrap();
        lane.push(said(3)).unwrap();
        assert_eq!(regions(drawn(&mut frames)), [2, 3]);
        assert_eq!(drawn(&mut frames), None);
    }

    #[test]
    fn an_older_stream_gets_nothing_of_a_newer_one() {
        let lane = lane();
        let (first, mut old) = lane.begin(PeerHello::default());
        drawn(&mut old);
        lane.open(first);
        lane.push(said(1)).unwrap();
        let (second, mut new) = lane.begin(PeerHello::default());
        drawn(&mut new);
        lane.open(first);
        assert_eq!(lane.push(said(2)), Err(Unsent::NotConnected));
        lane.open(second);
        lane.push(said(3)).unwrap();
        assert_eq!(drawn(&mut old), Some(None));
        assert_eq!(regions(drawn(&mut new)), [3]);
    }

    #[test]
    fn a_closed_lane_ends_its_stream_and_keeps_nothing() {
        let lane = lane();
        let (ticket, mut frames) = lane.begin(PeerHello::default());
        drawn(&mut frames);
        lane.open(ticket);
        lane.push(said(1)).unwrap();
        lane.close();
        assert_eq!(lane.bytes(), 0);
        assert_eq!(drawn(&mut frames), Some(None));
        assert_eq!(lane.push(said(2)), Err(Unsent::NotConnected));
    }
}
