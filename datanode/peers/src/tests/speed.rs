//! Measurements, to be run by hand: `cargo test -p greptime-peers --profile dist -- --ignored --nocapture`.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::fixture::{Recorder, Speaker, at, message, patient, until};
use super::wire::Process;

async fn measure(what: &str, messages: u64, bytes: usize, turn: u64) {
    let two = Recorder::new(2, 22);
    let process = Process::start(&two).await;
    let one = Speaker::over_sockets(&Recorder::new(1, 11), patient());
    one.connect(at(2, &process.address.to_string(), 22)).await;
    let turns: Vec<_> = (0..turn).map(|number| message(number, bytes)).collect();
    let start = Instant::now();
    for _ in 0..messages / turn {
        while !one.peers.send(2, turns.clone()) {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
    }
    until("all messages", || two.heard() as u64 == messages).await;
    let seconds = start.elapsed().as_secs_f64();
    let (total, frames) = (
        two.bytes.load(Ordering::SeqCst),
        two.frames.load(Ordering::SeqCst),
    );
    println!(
        "{what}: {:.0} MB/s, {:.0} messages/s, {frames} frames",
        total as f64 / seconds / 1e6,
        messages as f64 / seconds
    );
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_over_loopback() {
    measure("messages of 4 MiB", 500, 4 << 20, 1).await;
    measure("messages of 100 KB, 40 a turn", 20_000, 100_000, 40).await;
    measure("messages of 1 KB, 100 a turn", 1_000_000, 1000, 100).await;
    measure("messages of 200 B, 100 a turn", 4_000_000, 200, 100).await;
    measure("messages of 200 B, 1 a turn", 1_000_000, 200, 1).await;
}
