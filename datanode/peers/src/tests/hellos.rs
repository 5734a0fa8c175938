//! Who is let in, and who has to wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use greptime_proto::v1::{self, peer_answer, peer_frame};
use greptime_types::Result;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::fixture::{LONG, Recorder, Speaker, at, message, patient, until};
use crate::testing::Network;
use crate::{PeerAddress, PeerHandler, PeerLink};

/// Dials `to` from node 1, and returns why that is refused.
async fn refusal(two: Arc<Recorder>, to: PeerAddress) -> String {
    let network = Network::new();
    network.serve("two", Arc::clone(&two) as _);
    let config = patient();
    let pause = config.last_retry / 2;
    let one = Speaker::start(&Recorder::new(1, 11), network.link("one"), config);
    let start = Instant::now();
    one.peers.know(vec![to], &BTreeSet::new());
    until("the refusal", || one.status().problem.contains("refuses")).await;
    let problem = one.status().problem;
    // Long enough for many attempts, if they were not held back.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let hellos = two.hellos.load(Ordering::SeqCst) as u32;
    let most = 1 + start.elapsed().as_millis() / pause.as_millis();
    assert!(u128::from(hellos) <= most, "{hellos} attempts");
    assert!(!one.peers.send(two.me().node_id, vec![message(0, 1)]));
    assert_eq!(one.handler.connects(), 0);
    problem
}

#[tokio::test]
async fn a_node_that_was_not_meant_refuses() {
    let why = refusal(Recorder::new(3, 22), at(2, "two", 22)).await;
    assert!(why.contains("2 was meant, this is 3"), "{why}");
}

#[tokio::test]
async fn another_start_of_the_node_refuses() {
    let why = refusal(Recorder::new(2, 23), at(2, "two", 22)).await;
    assert!(why.contains("start 22 was meant, this is 23"), "{why}");
}

#[tokio::test]
async fn any_start_is_fine_if_none_is_known() {
    let network = Network::new();
    let two = Recorder::new(2, 22);
    network.serve("two", Arc::clone(&two) as _);
    let one = Speaker::start(&Recorder::new(1, 11), network.link("one"), patient());
    one.connect(at(2, "two", 0)).await;
}

#[tokio::test]
async fn a_refused_node_is_dialled_at_once_when_the_right_start_is_known() {
    let network = Network::new();
    let two = Recorder::new(2, 23);
    network.serve("two", Arc::clone(&two) as _);
    let mut config = patient();
    config.last_retry = Duration::from_secs(3600);
    let one = Speaker::start(&Recorder::new(1, 11), network.link("one"), config);
    one.peers.know(vec![at(2, "two", 22)], &BTreeSet::new());
    until("the refusal", || one.status().problem.contains("refuses")).await;
    one.connect(at(2, "two", 23)).await;
}

/// Node 2 as an older program, which welcomes everybody.
struct Welcomes {
    incarnation: u64,
    dials: AtomicUsize,
}

#[async_trait]
impl PeerLink for Welcomes {
    async fn exchange(
        &self,
        _: &str,
        _: BoxStream<'static, v1::PeerFrame>,
    ) -> Result<BoxStream<'static, Result<v1::PeerAnswer>>> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let incarnation = self.incarnation;
        let body = Some(peer_answer::Body::Welcome(v1::PeerWelcome { incarnation }));
        let welcome = stream::iter([Ok(v1::PeerAnswer { body })]);
        Ok(welcome.chain(stream::pending()).boxed())
    }
}

#[tokio::test]
async fn a_welcome_of_another_start_is_not_taken() {
    let link = Arc::new(Welcomes {
        incarnation: 23,
        dials: AtomicUsize::new(0),
    });
    let mut config = patient();
    config.last_retry = Duration::from_secs(3600);
    let one = Speaker::start(&Recorder::new(1, 11), Arc::clone(&link) as _, config);
    one.peers.know(vec![at(2, "two", 22)], &BTreeSet::new());
    until("the refusal", || one.status().problem.contains("refuses")).await;
    assert!(!one.peers.send(2, vec![message(0, 1)]));
    assert_eq!(one.handler.connects(), 0);
    assert_eq!(link.dials.load(Ordering::SeqCst), 1);
    one.connect(at(2, "two", 23)).await;
}

/// A stream to node 2 that is written by hand.
struct Stream {
    frames: mpsc::UnboundedSender<v1::PeerFrame>,
    answers: BoxStream<'static, Result<v1::PeerAnswer>>,
}

impl Stream {
    async fn open(link: &Arc<dyn PeerLink>) -> Self {
        let (frames, sent) = mpsc::unbounded_channel();
        let sent = UnboundedReceiverStream::new(sent).boxed();
        let answers = link.exchange("two", sent).await.unwrap();
        Self { frames, answers }
    }

    fn hello(&self, cluster: &str) {
        let from = v1::NodeIdentity {
            cluster_id: cluster.into(),
            node_id: 1,
            ..v1::NodeIdentity::default()
        };
        self.say(peer_frame::Body::Hello(v1::PeerHello {
            from: Some(from),
            to_node: 2,
            ..v1::PeerHello::default()
        }));
    }

    fn say(&self, body: peer_frame::Body) {
        // Whoever has closed the stream does not hear it.
        let _ = self.frames.send(v1::PeerFrame { body: Some(body) });
    }

    fn batch(&self, number: u64) {
        let messages = vec![message(number, 1)];
        self.say(peer_frame::Body::Batch(v1::PeerBatch { messages }));
    }

    async fn answer(&mut self) -> Option<peer_answer::Body> {
        let answer = tokio::time::timeout(LONG, self.answers.next()).await;
        answer.expect("no answer comes")?.unwrap().body
    }
}

fn served() -> (Arc<Network>, Arc<Recorder>, Arc<dyn PeerLink>) {
    let network = Network::new();
    let two = Recorder::new(2, 22);
    network.serve("two", Arc::clone(&two) as _);
    let link = network.link("one");
    (network, two, link)
}

fn reason(answer: Option<peer_answer::Body>) -> String {
    match answer {
        Some(peer_answer::Body::Refused(refused)) => refused.reason,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn another_cluster_is_refused_and_the_stream_ends() {
    let (_network, two, link) = served();
    let mut stream = Stream::open(&link).await;
    stream.hello("green");
    stream.batch(1);
    assert!(reason(stream.answer().await).contains("cluster `green` is another"));
    assert_eq!(stream.answer().await, None);
    assert_eq!(two.heard(), 0);
}

#[tokio::test]
async fn whoever_does_not_begin_with_a_hello_is_refused() {
    let (_network, two, link) = served();
    let mut stream = Stream::open(&link).await;
    stream.batch(1);
    assert!(reason(stream.answer().await).contains("must be a hello"));
    assert_eq!(stream.answer().await, None);
    assert_eq!(two.heard(), 0);

    let answers = link.exchange("two", stream::empty().boxed()).await;
    let first = answers.unwrap().next().await.unwrap().unwrap();
    assert!(reason(first.body).contains("must be a hello"));
}

#[tokio::test]
async fn pings_are_answered_in_order_with_batches() {
    let (_network, two, link) = served();
    let mut stream = Stream::open(&link).await;
    stream.hello("blue");
    let welcome = v1::PeerWelcome { incarnation: 22 };
    assert_eq!(stream.answer().await, Some(peer_answer::Body::Welcome(welcome)));
    stream.batch(1);
    stream.say(peer_frame::Body::Ping(v1::PeerPing { number: 7 }));
    let pong = v1::PeerPong { number: 7 };
    assert_eq!(stream.answer().await, Some(peer_answer::Body::Pong(pong)));
    assert_eq!(*two.numbers.lock(), [1]);
}

#[tokio::test]
async fn a_sender_hears_that_the_node_is_there_while_its_pings_wait() {
    let (_network, two, link) = served();
    let mut stream = Stream::open(&link).await;
    stream.hello("blue");
    stream.answer().await.unwrap();
    // As over a slow network: each batch is taken at once, and comes before the next sign of life is due.
    for number in 0..10 {
        stream.batch(number);
        until("the batch", || two.heard() as u64 == number + 1).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    for _ in 0..2 {
        let pong = v1::PeerPong { number: 0 };
        assert_eq!(stream.answer().await, Some(peer_answer::Body::Pong(pong)));
    }
}

#[tokio::test]
async fn a_newer_stream_of_a_node_replaces_the_older_one_even_if_it_hangs() {
    let (_network, two, link) = served();
    let mut older = Stream::open(&link).await;
    older.hello("blue");
    older.answer().await.unwrap();
    two.take(false);
    older.batch(1);
    older.batch(2);
    // It hangs in the first batch, and says that the node is there.
    assert!(matches!(older.answer().await, Some(peer_answer::Body::Pong(_))));

    let mut newer = Stream::open(&link).await;
    newer.hello("blue");
    assert!(matches!(
        newer.answer().await,
        Some(peer_answer::Body::Welcome(_))
    ));
    while let Some(answer) = older.answer().await {
        assert!(matches!(answer, peer_answer::Body::Pong(_)));
    }
    two.take(true);
    older.batch(3);
    newer.batch(4);
    until("the newer stream", || two.heard() == 1).await;
    assert_eq!(*two.numbers.lock(), [4]);
}
