//! One known peer: whether it is connected, and how it answers.
//!
//! ```text
//!   Down ──up──▶ Up ──down──▶ Down        retire: to Gone from both, and out of it never
//! ```

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::handler::PeerHandler;
use crate::lane::{Lane, Ticket};
use crate::metrics::PeerMetrics;
use crate::peers::{PeerAddress, PeerStatus, Shared};
use crate::queue::QueueLimits;
use crate::reach::{Pings, Reach};

pub struct Peer {
    pub address: PeerAddress,
    pub lane: Arc<Lane>,
    /// Ends the task that keeps its stream.
    pub stop: CancellationToken,
    handler: Weak<dyn PeerHandler>,
    metrics: PeerMetrics,
    /// Held while the handler is told, so that it hears of connections and losses in turn.
    state: Mutex<State>,
    pulse: Mutex<Pulse>,
}

#[derive(Debug)]
enum State {
    Down {
        problem: String,
    },
    Up,
    /// It moved, was started anew or left the cluster; whoever still keeps a stream to it gives up.
    Gone,
}

struct Pulse {
    reach: Reach,
    pings: Pings,
}

impl Peer {
    pub fn new(shared: &Shared, address: PeerAddress) -> Self {
        let config = &shared.config;
        let limits = QueueLimits {
            bytes: config.queue_bytes,
            messages: config.queue_messages,
            frame_bytes: config.frame_bytes,
        };
        let problem = "not connected yet".to_string();
        Self {
            address,
            lane: Lane::new(limits, shared.metrics.clone()),
            stop: shared.stop.child_token(),
            handler: Weak::clone(&shared.handler),
            metrics: shared.metrics.clone(),
            state: Mutex::new(State::Down { problem }),
            pulse: Mutex::new(Pulse {
                reach: Reach::new(config.unreachable_after, Instant::now()),
                pings: Pings::default(),
            }),
        }
    }

    /// A stream was welcomed. False if the peer is gone.
    pub fn up(&self, ticket: Ticket) -> bool {
        let mut state = self.state.lock();
        if matches!(*state, State::Gone) {
            return false;
        }
        *state = State::Up;
        {
            let mut pulse = self.pulse.lock();
            pulse.reach.heard(Instant::now());
            pulse.pings = Pings::default();
        }
        self.lane.open(ticket);
        self.metrics.connects.inc();
        self.metrics.connected.inc();
        if let Some(handler) = self.handler.upgrade() {
            handler.connected(self.address.node);
        }
        true
    }

    /// There is no stream, whether there was one or not.
    pub fn down(&self, why: &str) {
        let problem = why.to_string();
        self.leave(State::Down { problem }, Some(why));
    }

    pub fn retire(&self, why: &str) {
        self.leave(State::Gone, Some(why));
        self.stop.cancel();
    }

    /// This node goes: nobody is told.
    pub fn abandon(&self) {
        self.leave(State::Gone, None);
    }

    fn leave(&self, to: State, why: Option<&str>) {
        let mut state = self.state.lock();
        if matches!(*state, State::Gone) {
            return;
        }
        let was_up = matches!(*state, State::Up);
        *state = to;
        self.lane.close();
        if !was_up {
            return;
        }
        self.metrics.losses.inc();
        self.metrics.connected.dec();
        if let (Some(why), Some(handler)) = (why, self.handler.upgrade()) {
            handler.lost(self.address.node, why);
        }
    }

    /// It has answered, to the ping of this number if it says one.
    pub fn heard(&self, ping: Option<u64>) {
        let now = Instant::now();
        let mut pulse = self.pulse.lock();
        pulse.reach.heard(now);
        let took = ping.and_then(|number| pulse.pings.answered(number, now));
        drop(pulse);
        if let Some(took) = took {
            self.metrics.ping_seconds.observe(took.as_secs_f64());
        }
    }

    /// Judges it; returns whether it has just become unreachable.
    pub fn look(&self, now: Instant, late: Duration) -> bool {
        let reach = &mut self.pulse.lock().reach;
        let before = reach.is_unreachable();
        reach.look(now, late);
        reach.is_unreachable() && !before
    }

    /// Pings it if it is connected.
    pub fn ping(&self, now: Instant) {
        let is_up = matches!(*self.state.lock(), State::Up);
        let mut pulse = self.pulse.lock();
        if is_up {
            let number = pulse.pings.send(now);
            self.lane.ping(number);
        }
    }

    pub fn is_unreachable(&self) -> bool {
        self.pulse.lock().reach.is_unreachable()
    }

    pub fn status(&self) -> PeerStatus {
        let (is_connected, problem) = match &*self.state.lock() {
            State::Down { problem } => (false, problem.clone()),
            State::Up => (true, String::new()),
            State::Gone => (false, "gone".into()),
        };
        PeerStatus {
            address: self.address.clone(),
            is_connected,
            is_unreachable: self.is_unreachable(),
            problem,
            waiting_bytes: self.lane.bytes(),
        }
    }
}
