//! The other end: what a node does with streams that others open.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use greptime_proto::v1::peers_server::{Peers, PeersServer};
use greptime_proto::v1::{self, peer_answer, peer_frame};
use greptime_proto::{MAX_MESSAGE, error_from_status};
use greptime_types::{Error, NodeId, Result};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

use crate::handler::PeerHandler;

/// A stream that says nothing for so long after it was opened is closed.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// While batches arrive, or the handler takes its time, the sender hears this often that the node is there.
const STILL_HERE: Duration = Duration::from_millis(100);
/// Answers that may wait; those that do not fit are left out, since only the newest says anything.
const ANSWERS: usize = 16;

type Frames = BoxStream<'static, Result<v1::PeerFrame>>;
type Answers = mpsc::Sender<v1::PeerAnswer>;

/// The service that other datanodes call, for the routes of this one's server.
pub fn peers_service(handler: Arc<dyn PeerHandler>) -> PeersServer<PeersService> {
    let acceptor = Acceptor::new(handler);
    PeersServer::new(PeersService { acceptor })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// See [`peers_service`].
pub struct PeersService {
    acceptor: Arc<Acceptor>,
}

#[tonic::async_trait]
impl Peers for PeersService {
    type ExchangeStream = BoxStream<'static, Result<v1::PeerAnswer, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::PeerFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let frames = request.into_inner().map_err(|status| error_from_status(&status));
        let answers = self.acceptor.accept(frames.boxed());
        Ok(Response::new(answers.map(Ok).boxed()))
    }
}

/// Takes streams, one of each node.
pub struct Acceptor {
    handler: Arc<dyn PeerHandler>,
    senders: Mutex<Senders>,
}

#[derive(Default)]
struct Senders {
    streams: u64,
    current: BTreeMap<NodeId, Current>,
}

/// The newest stream of a node.
struct Current {
    stream: u64,
    replaced: CancellationToken,
    ended: CancellationToken,
}

/// One stream's turn, until a newer stream of the same node comes.
struct Turn<'a> {
    acceptor: &'a Acceptor,
    from: NodeId,
    stream: u64,
    replaced: CancellationToken,
    _ended: DropGuard,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut senders = self.acceptor.senders.lock();
        let is_mine = |current: &Current| current.stream == self.stream;
        if senders.current.get(&self.from).is_some_and(is_mine) {
            senders.current.remove(&self.from);
        }
    }
}

impl Acceptor {
    pub fn new(handler: Arc<dyn PeerHandler>) -> Arc<Self> {
        Arc::new(Self {
            handler,
            senders: Mutex::default(),
        })
    }

    /// Nodes whose streams are listened to.
    pub fn open_streams(&self) -> usize {
        self.senders.lock().current.len()
    }

    /// Listens to a stream in a task of its own.
    pub fn accept(self: &Arc<Self>, frames: Frames) -> BoxStream<'static, v1::PeerAnswer> {
        let (answers, answered) = mpsc::channel(ANSWERS);
        let acceptor = Arc::clone(self);
        let closing = self.handler.closing();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = acceptor.listen(frames, answers) => {}
            }
        });
        ReceiverStream::new(answered).boxed()
    }

    async fn listen(&self, mut frames: Frames, answers: Answers) {
        let admitted = match hello(&mut frames).await {
            Ok(hello) => self.admit(&hello),
            Err(error) => Err(error),
        };
        let (incarnation, from) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                let reason = error.message;
                return answer(&answers, peer_answer::Body::Refused(v1::Refused { reason }));
            }
        };
        let (turn, older) = self.begin(from);
        if let Some(older) = older {
            // It drops what it is doing; nothing of it is handed on after what is said here.
            older.cancelled().await;
        }
        let welcome = v1::PeerWelcome { incarnation };
        answer(&answers, peer_answer::Body::Welcome(welcome));
        tokio::select! {
            biased;
            () = turn.replaced.cancelled() => {}
            () = self.pass_on(from, frames, &answers) => {}
        }
    }

    fn admit(&self, hello: &v1::PeerHello) -> Result<(u64, NodeId)> {
        let from = hello
            .from
            .as_ref()
            .ok_or_else(|| Error::invalid("a hello must say who speaks"))?;
        Ok((self.handler.hello(hello)?, from.node_id))
    }

    /// Takes the turn from an older stream, whose end is to be waited for.
    fn begin(&self, from: NodeId) -> (Turn<'_>, Option<CancellationToken>) {
        let (replaced, ended) = (CancellationToken::new(), CancellationToken::new());
        let mut senders = self.senders.lock();
        senders.streams += 1;
        let stream = senders.streams;
        let current = Current {
            stream,
            replaced: replaced.clone(),
            ended: ended.clone(),
        };
        let older = senders.current.insert(from, current).map(|older| {
            older.replaced.cancel();
            older.ended
        });
        let turn = Turn {
            acceptor: self,
            from,
            stream,
            replaced,
            _ended: ended.drop_guard(),
        };
        (turn, older)
    }

    async fn pass_on(&self, from: NodeId, mut frames: Frames, answers: &Answers) {
        let mut pongs = Pongs::new(answers);
        loop {
            let frame = tokio::select! {
                biased;
                () = answers.closed() => return,
                frame = frames.next() => frame,
            };
            // Whoever opened the stream says why it broke.
            let Some(Ok(frame)) = frame else {
                return;
            };
            match frame.body {
                Some(peer_frame::Body::Ping(ping)) => pongs.say(ping.number),
                Some(peer_frame::Body::Batch(batch)) => {
                    pongs.repeat_if_due();
                    self.receive(from, batch, &mut pongs).await;
                }
                Some(peer_frame::Body::Hello(_)) | None => {}
            }
        }
    }

    async fn receive(&self, from: NodeId, batch: v1::PeerBatch, pongs: &mut Pongs<'_>) {
        let mut received = pin!(self.handler.receive(from, batch));
        loop {
            tokio::select! {
                biased;
                () = &mut received => return,
                () = tokio::time::sleep_until(pongs.due) => pongs.repeat_if_due(),
            }
        }
    }
}

/// What the sender hears. Its pings wait behind what was sent before them, and neither a slow disk nor a full network is
/// a dead node: so the last answer is repeated as long as something arrives or is being taken.
struct Pongs<'a> {
    answers: &'a Answers,
    number: u64,
    due: Instant,
}

impl<'a> Pongs<'a> {
    fn new(answers: &'a Answers) -> Self {
        Self {
            answers,
            number: 0,
            due: Instant::now() + STILL_HERE,
        }
    }

    fn say(&mut self, number: u64) {
        self.number = number;
        self.due = Instant::now() + STILL_HERE;
        answer(self.answers, peer_answer::Body::Pong(v1::PeerPong { number }));
    }

    fn repeat_if_due(&mut self) {
        if Instant::now() >= self.due {
            self.say(self.number);
        }
    }
}

async fn hello(frames: &mut Frames) -> Result<v1::PeerHello> {
    let first = tokio::time::timeout(HELLO_WITHIN, frames.next()).await;
    match first.ok().flatten().transpose()?.and_then(|frame| frame.body) {
        Some(peer_frame::Body::Hello(hello)) => Ok(hello),
        _ => Err(Error::invalid(format!(
            "the first frame must be a hello, within {HELLO_WITHIN:?}"
        ))),
    }
}

/// A sender that does not read its answers is not waited for.
fn answer(answers: &Answers, body: peer_answer::Body) {
    let _ = answers.try_send(v1::PeerAnswer { body: Some(body) });
}
