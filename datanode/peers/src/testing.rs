//! Several datanodes in one process, and what can break between them.
//!
//! A [`Network`] knows what is served at which address. Each node gets a link of its own, so that a fault can be set for
//! one direction: from the node that dials to the node that is dialled, for the stream in this direction and for its
//! answers. The stream which the other node opens is a direction of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use greptime_proto::v1;
use greptime_types::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::handler::PeerHandler;
use crate::link::PeerLink;
use crate::server::Acceptor;

/// What is wrong with one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Streams break, dialling is refused.
    Cut,
    /// Nothing moves: dialling hangs, frames and answers wait until the fault is gone.
    Stall,
    /// Dialling hangs; frames are taken, and lost like the answers.
    Swallow,
}

/// All addresses of a process, and the faults between them.
#[derive(Default)]
pub struct Network {
    served: Mutex<BTreeMap<String, Served>>,
    /// By who dials and who is dialled.
    faults: Mutex<BTreeMap<(String, String), watch::Sender<Fault>>>,
}

#[derive(Clone)]
struct Served {
    acceptor: Arc<Acceptor>,
    handler: Arc<dyn PeerHandler>,
    stopped: CancellationToken,
}

impl Network {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on the handler is reached at this address; whoever was there before is stopped.
    pub fn serve(&self, address: &str, handler: Arc<dyn PeerHandler>) {
        let served = Served {
            acceptor: Acceptor::new(Arc::clone(&handler)),
            handler,
            stopped: CancellationToken::new(),
        };
        if let Some(before) = self.served.lock().insert(address.to_string(), served) {
            before.stopped.cancel();
        }
    }

    /// As if the process were killed: streams to it break, dialling is refused, and its handler is let go.
    pub fn stop(&self, address: &str) {
        if let Some(served) = self.served.lock().remove(address) {
            served.stopped.cancel();
        }
    }

    /// Streams that the node at this address has welcomed and still listens to.
    pub fn open_streams(&self, address: &str) -> usize {
        let served = self.served.lock().get(address).cloned();
        served.map_or(0, |served| served.acceptor.open_streams())
    }

    /// How the node at this address reaches others.
    pub fn link(self: &Arc<Self>, from: &str) -> Arc<dyn PeerLink> {
        Arc::new(InProcess {
            network: Arc::clone(self),
            from: from.to_string(),
        })
    }

    /// Sets what is wrong on the way from one address to another, also for streams that are open.
    pub fn set(&self, from: &str, to: &str, fault: Fault) {
        let mut faults = self.faults.lock();
        let direction = faults.entry((from.to_string(), to.to_string())).or_default();
        direction.send_replace(fault);
    }

    /// The same for both directions.
    pub fn set_both(&self, one: &str, other: &str, fault: Fault) {
        self.set(one, other, fault);
        self.set(other, one, fault);
    }

    fn fault(&self, from: &str, to: &str) -> watch::Receiver<Fault> {
        let mut faults = self.faults.lock();
        let direction = faults.entry((from.to_string(), to.to_string())).or_default();
        direction.subscribe()
    }

    fn served_at(&self, address: &str) -> Option<Served> {
        let served = self.served.lock().get(address).cloned();
        served.filter(|served| !served.handler.closing().is_cancelled())
    }
}

/// The link of one node of a [`Network`].
struct InProcess {
    network: Arc<Network>,
    from: String,
}

#[async_trait]
impl PeerLink for InProcess {
    async fn exchange(
        &self,
        address: &str,
        frames: BoxStream<'static, v1::PeerFrame>,
    ) -> Result<BoxStream<'static, Result<v1::PeerAnswer>>> {
        let mut fault = self.network.fault(&self.from, address);
        loop {
            let now = *fault.borrow_and_update();
            match now {
                Fault::None => break,
                Fault::Cut => return Err(Error::unavailable(format!("{address} is cut off"))),
                // The network keeps the other end as long as there is a link.
                Fault::Stall | Fault::Swallow => drop(fault.changed().await),
            }
        }
        let served = self.network.served_at(address);
        let served = served.ok_or_else(|| Error::unavailable(format!("nobody is at {address}")))?;
        let stopped = served.stopped;
        let frames = through(frames, fault.clone()).take_until(stopped.clone().cancelled_owned());
        let answers = served.acceptor.accept(frames.map(Ok).boxed());
        let answers = through(answers, fault).take_until(stopped.cancelled_owned());
        Ok(answers.map(Ok).boxed())
    }
}

/// A stream that suffers the fault of its direction.
fn through<T: Send + 'static>(
    items: BoxStream<'static, T>,
    fault: watch::Receiver<Fault>,
) -> BoxStream<'static, T> {
    stream::unfold((items, fault), |(mut items, mut fault)| async move {
        loop {
            let now = *fault.borrow_and_update();
            if now == Fault::Cut {
                return None;
            }
            tokio::select! {
                biased;
                changed = fault.changed() => changed.ok()?,
                item = items.next(), if now != Fault::Stall => {
                    let item = item?;
                    if now == Fault::None {
                        return Some((item, (items, fault)));
                    }
                }
            }
        }
    })
    .boxed()
}
