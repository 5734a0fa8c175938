//! What nodes in one process hear of each other, and what they notice when something breaks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::fixture::{Recorder, Speaker, at, message, patient, until, watchful};
use crate::PeerConfig;
use crate::testing::{Fault, Network};

/// Node 1 speaks to node 2.
struct Pair {
    network: Arc<Network>,
    one: Speaker,
    two: Arc<Recorder>,
}

async fn pair(config: PeerConfig) -> Pair {
    let network = Network::new();
    let (one, two) = (Recorder::new(1, 11), Recorder::new(2, 22));
    network.serve("two", Arc::clone(&two) as _);
    let one = Speaker::start(&one, network.link("one"), config);
    one.connect(at(2, "two", 22)).await;
    Pair { network, one, two }
}

#[tokio::test]
async fn messages_arrive_in_order() {
    let pair = pair(patient()).await;
    pair.one.say(2, 0..20_000, 100).await;
    until("all messages", || pair.two.heard() == 20_000).await;
    assert!(pair.two.numbers.lock().iter().copied().eq(0..20_000));
}

#[tokio::test]
async fn what_is_said_while_the_stream_is_busy_becomes_few_frames() {
    let pair = pair(patient()).await;
    pair.two.take(false);
    pair.one.say(2, 0..1000, 200).await;
    pair.two.take(true);
    until("all messages", || pair.two.heard() == 1000).await;
    assert!(pair.two.numbers.lock().iter().copied().eq(0..1000));
    let frames = pair.two.frames.load(Ordering::SeqCst);
    assert!(frames <= 3, "{frames} frames");
}

#[tokio::test]
async fn a_peer_that_is_behind_fills_its_queue_and_is_not_taken_for_dead() {
    let config = PeerConfig {
        queue_bytes: 1 << 20,
        frame_bytes: 64 << 10,
        ..watchful()
    };
    let after = config.unreachable_after;
    let pair = pair(config).await;
    pair.two.take(false);
    let mut sent = 0;
    while pair.one.peers.send(2, vec![message(sent, 1000)]) {
        sent += 1;
        assert!(sent < 10_000, "nothing stops it");
        tokio::task::yield_now().await;
    }
    let waiting = pair.one.status().waiting_bytes;
    assert!((900_000..=1 << 20).contains(&waiting), "{waiting} bytes wait");
    // That nothing happens has to be waited for.
    tokio::time::sleep(2 * after).await;
    assert_eq!(pair.one.handler.losses(), Vec::<String>::new());
    assert_eq!(pair.one.peers.unreachable(), Vec::<u64>::new());
    pair.two.take(true);
    until("all messages", || pair.two.heard() as u64 == sent).await;
    assert!(pair.two.numbers.lock().iter().copied().eq(0..sent));
}

#[tokio::test]
async fn a_stalled_peer_is_unreachable_in_time_and_not_before_and_recovery_clears_it() {
    let config = watchful();
    let after = config.unreachable_after;
    let pair = pair(config).await;
    assert_eq!(pair.one.peers.unreachable(), Vec::<u64>::new());
    for (round, fault) in [Fault::Stall, Fault::Swallow].into_iter().enumerate() {
        let start = Instant::now();
        pair.network.set("one", "two", fault);
        until("the silence", || pair.one.peers.unreachable() == [2]).await;
        let took = start.elapsed();
        assert!(took > after / 2, "{fault:?} noticed after {took:?}");
        assert!(took < 10 * after, "{fault:?} noticed after {took:?}");
        until("the loss", || pair.one.handler.losses().len() == round + 1).await;
        assert!(pair.one.handler.losses()[round].contains("not answered"));
        assert!(!pair.one.peers.send(2, vec![message(0, 1)]));
        assert_eq!(pair.one.status().waiting_bytes, 0);
        // The other end lets go of the stream, although no end of the frames can reach it.
        until("the end", || pair.network.open_streams("two") == 0).await;

        pair.network.set("one", "two", Fault::None);
        until("the recovery", || pair.one.peers.unreachable().is_empty()).await;
        until("a new stream", || pair.one.status().is_connected).await;
        let heard = pair.two.heard();
        pair.one.say(2, 0..1, 1).await;
        until("a message", || pair.two.heard() == heard + 1).await;
    }
}

#[tokio::test]
async fn one_direction_may_be_stalled_alone() {
    let network = Network::new();
    let (one, two) = (Recorder::new(1, 11), Recorder::new(2, 22));
    network.serve("one", Arc::clone(&one) as _);
    network.serve("two", Arc::clone(&two) as _);
    let one = Speaker::start(&one, network.link("one"), watchful());
    let two = Speaker::start(&two, network.link("two"), watchful());
    one.connect(at(2, "two", 22)).await;
    two.connect(at(1, "one", 11)).await;

    network.set("one", "two", Fault::Stall);
    until("the silence", || one.peers.unreachable() == [2]).await;
    two.say(1, 0..10, 10).await;
    until("the other direction", || one.handler.heard() == 10).await;
    assert_eq!(two.peers.unreachable(), Vec::<u64>::new());
    assert_eq!(two.handler.losses(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cut_is_noticed_at_once_and_dialled_until_it_heals() {
    let pair = pair(patient()).await;
    pair.network.set_both("one", "two", Fault::Cut);
    until("the loss", || pair.one.handler.losses().len() == 1).await;
    assert!(!pair.one.peers.send(2, vec![message(0, 1)]));
    until("a refused dial", || pair.one.status().problem.contains("cut off")).await;
    pair.network.set_both("one", "two", Fault::None);
    until("a new stream", || pair.one.handler.connects() == 2).await;
    pair.one.say(2, 0..1, 1).await;
    until("a message", || pair.two.heard() == 1).await;
}

#[tokio::test]
async fn a_peer_that_never_answered_is_unreachable_after_a_while() {
    let network = Network::new();
    let config = watchful();
    let after = config.unreachable_after;
    let one = Speaker::start(&Recorder::new(1, 11), network.link("one"), config);
    let start = Instant::now();
    one.peers.know(vec![at(2, "two", 22)], &BTreeSet::new());
    assert_eq!(one.peers.unreachable(), Vec::<u64>::new());
    until("the judgement", || one.peers.unreachable() == [2]).await;
    assert!(start.elapsed() >= after);
    until("the reason", || one.status().problem.contains("nobody is at two")).await;
    assert_eq!(one.handler.losses(), Vec::<String>::new());
}

#[tokio::test]
async fn another_start_of_a_peer_is_dialled_at_once() {
    let pair = pair(patient()).await;
    // The old process still seems to be there.
    let again = Recorder::new(2, 23);
    pair.network.serve("two, again", Arc::clone(&again) as _);
    pair.one.connect(at(2, "two, again", 23)).await;
    assert!(pair.one.handler.losses()[0].contains("started anew"));
    pair.one.say(2, 0..1, 1).await;
    until("a message", || again.heard() == 1).await;

    let third = Recorder::new(2, 24);
    pair.network.serve("two, again", Arc::clone(&third) as _);
    pair.one.connect(at(2, "two, again", 24)).await;
    pair.one.say(2, 0..1, 1).await;
    until("a message", || third.heard() == 1).await;
    assert_eq!((pair.two.heard(), again.heard()), (0, 1));
}

#[tokio::test]
async fn the_same_peers_said_again_change_nothing() {
    let pair = pair(patient()).await;
    pair.one
        .peers
        .know(vec![at(2, "two", 22), at(1, "one", 11)], &BTreeSet::new());
    pair.one.say(2, 0..1, 1).await;
    until("a message", || pair.two.heard() == 1).await;
    assert_eq!(pair.one.handler.connects(), 1);
    assert_eq!(pair.one.handler.losses(), Vec::<String>::new());
    assert_eq!(pair.one.peers.status().len(), 1, "a node is no peer of itself");
}

#[tokio::test]
async fn a_peer_that_left_is_forgotten_and_may_come_back() {
    let pair = pair(patient()).await;
    pair.one.peers.know(vec![], &BTreeSet::new());
    assert_eq!(pair.one.handler.losses(), ["it is no longer in the cluster"]);
    assert!(!pair.one.peers.send(2, vec![message(0, 1)]));
    assert_eq!(pair.one.peers.unreachable(), Vec::<u64>::new());
    // Both ends let go of the stream.
    until("the end of the stream", || pair.network.open_streams("two") == 0).await;
    pair.one.connect(at(2, "two", 22)).await;
    pair.one.say(2, 0..1, 1).await;
    until("a message", || pair.two.heard() == 1).await;
}

#[tokio::test]
async fn a_peer_that_metasrv_awaits_stays_as_it_is() {
    let pair = pair(patient()).await;
    pair.one
        .peers
        .know(vec![at(1, "one", 11)], &BTreeSet::from([2, 3]));
    pair.one.say(2, 0..1, 1).await;
    until("a message", || pair.two.heard() == 1).await;
    assert_eq!(pair.one.handler.losses(), Vec::<String>::new());
    assert_eq!(pair.one.peers.status().len(), 1, "nobody knows where 3 is");
}

#[tokio::test]
async fn a_killed_peer_is_lost_at_once_and_found_when_it_is_back() {
    let pair = pair(patient()).await;
    pair.network.stop("two");
    until("the loss", || pair.one.handler.losses().len() == 1).await;
    pair.network.serve("two", Arc::clone(&pair.two) as _);
    until("a new stream", || pair.one.handler.connects() == 2).await;
}

#[tokio::test]
async fn shutdown_ends_all_tasks_and_tells_nobody() {
    let Pair { network, one, two } = pair(patient()).await;
    one.peers
        .know(vec![at(2, "two", 22), at(3, "three", 33)], &BTreeSet::new());
    one.shutdown.cancel();
    one.peers.finished().await;
    assert!(!one.peers.send(2, vec![message(0, 1)]));
    assert_eq!(one.handler.losses(), Vec::<String>::new());
    until("the end of the stream", || network.open_streams("two") == 0).await;
    // What is learnt afterwards starts nothing.
    one.peers.know(vec![at(4, "two", 22)], &BTreeSet::new());
    assert!(!one.peers.send(4, vec![message(0, 1)]));
    network.stop("two");
    until("the end of the other node", || Arc::strong_count(&two) == 1).await;
}

#[tokio::test]
async fn a_dropped_owner_ends_its_streams() {
    let Pair { network, one, .. } = pair(patient()).await;
    assert_eq!(network.open_streams("two"), 1);
    let handler = one.handler;
    drop(one.peers);
    until("the end of the stream", || network.open_streams("two") == 0).await;
    assert_eq!(Arc::strong_count(&handler), 1);
}

#[tokio::test]
async fn a_node_that_goes_ends_the_streams_of_others() {
    let pair = pair(patient()).await;
    pair.two.close();
    until("the loss", || {
        pair.one.handler.losses() == ["it closed the stream"]
    })
    .await;
    until("a refused dial", || {
        pair.one.status().problem.contains("nobody is at two")
    })
    .await;
}
