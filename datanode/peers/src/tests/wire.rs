//! The same over sockets: what HTTP/2 and the kernel add.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::fixture::{Recorder, Speaker, at, message, patient, until, watchful};
use crate::{CONNECTION_WINDOW, PeerConfig, STREAM_WINDOW, peers_service};

/// A server with a runtime of its own, so that it can be killed and frozen like a process.
pub struct Process {
    pub address: SocketAddr,
    runtime: Runtime,
}

impl Process {
    pub async fn start(handler: &Arc<Recorder>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), handler).await
    }

    pub async fn start_at(address: SocketAddr, handler: &Arc<Recorder>) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = peers_service(Arc::clone(handler) as _);
        let listener = runtime.spawn(TcpListener::bind(address)).await.unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(
            server()
                .add_service(service)
                .serve_with_incoming(incoming(listener)),
        );
        Self { address, runtime }
    }

    pub fn kill(self) {
        self.runtime.shutdown_background();
    }

    /// Nothing runs any more until the guard is dropped; the kernel goes on accepting.
    fn freeze(&self) -> std_mpsc::Sender<()> {
        let (thaw, frozen) = std_mpsc::channel();
        self.runtime.spawn(async move { frozen.recv().is_ok() });
        thaw
    }
}

/// The setting of the server is for listeners that it opens itself.
fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

#[tokio::test]
async fn messages_small_and_large_arrive_in_order() {
    let two = Recorder::new(2, 22);
    let process = Process::start(&two).await;
    let one = Speaker::over_sockets(&Recorder::new(1, 11), patient());
    one.connect(at(2, &process.address.to_string(), 22)).await;
    one.say(2, 0..1000, 200).await;
    // Larger than a frame: each goes alone.
    one.say(2, 1000..1003, 10 << 20).await;
    one.say(2, 1003..2000, 1000).await;
    // As large as one can be.
    one.say(2, 2000..2001, crate::queue::LARGEST_MESSAGE).await;
    one.say(2, 2001..3000, 0).await;
    until("all messages", || two.heard() == 3000).await;
    assert!(two.numbers.lock().iter().copied().eq(0..3000));
    assert_eq!(one.handler.losses(), Vec::<String>::new());
    process.kill();
}

#[tokio::test]
async fn a_message_that_fits_into_no_frame_breaks_nothing() {
    let two = Recorder::new(2, 22);
    let process = Process::start(&two).await;
    let one = Speaker::over_sockets(&Recorder::new(1, 11), patient());
    one.connect(at(2, &process.address.to_string(), 22)).await;
    let messages = vec![
        message(0, 1),
        message(1, crate::queue::LARGEST_MESSAGE + 1),
        message(2, 1),
    ];
    assert!(!one.peers.send(2, messages));
    one.say(2, 3..4, 1).await;
    until("the others", || two.heard() == 3).await;
    assert_eq!(*two.numbers.lock(), [0, 2, 3]);
    process.kill();
}

#[tokio::test]
async fn a_server_that_was_gone_is_found_soon_after_it_is_back() {
    let two = Recorder::new(2, 22);
    let mut process = Process::start(&two).await;
    let one = Speaker::over_sockets(&Recorder::new(1, 11), patient());
    one.connect(at(2, &process.address.to_string(), 22)).await;
    let mut took = Vec::new();
    for round in 1..=5 {
        let address = process.address;
        // A stream that broke at once would count as a failed attempt.
        tokio::time::sleep(Duration::from_millis(150)).await;
        process.kill();
        until("the loss", || one.handler.losses().len() == round).await;
        until("a refused dial", || one.status().problem.contains("refused")).await;
        process = Process::start_at(address, &two).await;
        let back = Instant::now();
        until("a new stream", || one.handler.connects() == round + 1).await;
        took.push(back.elapsed());
    }
    // On a busy machine single ones may take longer.
    let best = took.iter().min().unwrap();
    assert!(*best < Duration::from_millis(50), "{took:?}");
    process.kill();
}

#[tokio::test]
async fn a_refusal_comes_with_its_reason() {
    let two = Recorder::new(2, 23);
    let process = Process::start(&two).await;
    let one = Speaker::over_sockets(&Recorder::new(1, 11), patient());
    let address = process.address.to_string();
    one.peers.know(vec![at(2, &address, 22)], &BTreeSet::new());
    until("the refusal", || {
        one.status().problem.contains("start 22 was meant, this is 23")
    })
    .await;
    one.connect(at(2, &address, 23)).await;
    process.kill();
}

#[tokio::test]
async fn a_server_without_the_service_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = tonic::service::Routes::default();
    let serving = server()
        .add_routes(routes)
        .serve_with_incoming(incoming(listener));
    let serving = tokio::spawn(serving);
    let one = Speaker::over_sockets(&Recorder::new(1, 11), patient());
    one.peers.know(vec![at(2, &address, 22)], &BTreeSet::new());
    until("the refusal", || one.status().problem.contains("refuses")).await;
    serving.abort();
}

#[tokio::test]
async fn a_frozen_process_is_noticed_holds_bounded_memory_and_is_found_again() {
    let config = PeerConfig {
        queue_bytes: 8 << 20,
        frame_bytes: 1 << 20,
        ..watchful()
    };
    let after = config.unreachable_after;
    let two = Recorder::new(2, 22);
    let process = Process::start(&two).await;
    let one = Speaker::over_sockets(&Recorder::new(1, 11), config);
    one.connect(at(2, &process.address.to_string(), 22)).await;

    let start = Instant::now();
    let thaw = process.freeze();
    // What the queue, two frames, the window and the kernel take is far below this.
    let (mut sent, most) = (0, 100);
    while sent < most && one.peers.send(2, vec![message(sent, 1 << 20)]) {
        sent += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(sent < most, "{sent} MiB were taken");
    assert!(one.status().waiting_bytes <= 8 << 20);
    until("the silence", || one.peers.unreachable() == [2]).await;
    assert!(start.elapsed() < 10 * after, "after {:?}", start.elapsed());
    until("the loss", || one.handler.losses().len() == 1).await;
    assert_eq!(one.status().waiting_bytes, 0);
    // It accepts, and says nothing.
    until("a dial in vain", || {
        one.status().problem.contains("did not answer the hello")
    })
    .await;

    drop(thaw);
    until("a new stream", || one.status().is_connected).await;
    assert_eq!(one.peers.unreachable(), Vec::<u64>::new());
    process.kill();
}

#[tokio::test]
async fn a_process_that_overslept_accuses_nobody() {
    let config = PeerConfig::default();
    let oversleep = 3 * config.unreachable_after;
    let two = Recorder::new(2, 22);
    let process = Process::start(&two).await;
    let one = Speaker::over_sockets(&Recorder::new(1, 11), config);
    one.connect(at(2, &process.address.to_string(), 22)).await;
    for _ in 0..3 {
        // One thread runs all of this node, so all of it sleeps.
        std::thread::sleep(oversleep);
        assert_eq!(one.peers.unreachable(), Vec::<u64>::new());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(one.peers.unreachable(), Vec::<u64>::new());
        assert_eq!(one.handler.losses(), Vec::<String>::new());
    }
    process.kill();
}

/// A connection on which no welcome comes is given back.
#[tokio::test]
async fn connections_to_a_mute_server_do_not_pile_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = PeerConfig {
        welcome_within: Duration::from_millis(100),
        ..watchful()
    };
    let one = Speaker::over_sockets(&Recorder::new(1, 11), config);
    one.peers.know(vec![at(2, &address, 22)], &BTreeSet::new());
    let closed = tokio::task::spawn_blocking(move || {
        let (mut connection, _) = listener.accept().unwrap();
        connection
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut all = Vec::new();
        // Until the other end closes it; an abort is an end too.
        match connection.read_to_end(&mut all) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    });
    assert!(closed.await.unwrap(), "the connection stays open");
}

#[tokio::test]
async fn a_server_that_goes_does_not_wait_for_the_streams_of_others() {
    let two = Recorder::new(2, 22);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let closing = crate::PeerHandler::closing(two.as_ref());
    let serving = server()
        .add_service(peers_service(Arc::clone(&two) as _))
        .serve_with_incoming_shutdown(incoming(listener), closing.cancelled_owned());
    let serving = tokio::spawn(serving);
    let one = Speaker::over_sockets(&Recorder::new(1, 11), patient());
    one.connect(at(2, &address, 22)).await;
    two.close();
    until("the end of the server", || serving.is_finished()).await;
    until("the loss", || one.handler.losses().len() == 1).await;
}
