//! Queries that nobody waits for any more: within a moment nothing of them is held, and nothing of them runs.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket};
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use greptime_proto::{error_from_status, v1};
use greptime_query::RegionScan;
use greptime_types::ErrorKind;
use prost::Message as _;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::memory::{grouped, reserved, sorted, spill_files, spilled};
use super::wire::{connect, serve};
use crate::config::DatanodeConfig;
use crate::testing::{Fault, Node, Request, Row, row};

/// What is promised, and kept by the median of several tries.
const PROMISED: Duration = Duration::from_millis(100);
/// What no try exceeds: a busy machine may not give us a thread for as long as is promised.
const SOON: Duration = Duration::from_secs(1);

const ROWS: usize = 1_000_000;
const FILES: usize = 8;
const HOSTS: usize = 9;

type Plan = Arc<dyn ExecutionPlan>;

/// The rows of one file, of all numbers one after the other in no order. Times of files overlap by three quarters.
fn rows_of_file(file: usize) -> Vec<Row> {
    let each = ROWS / FILES;
    let first_time = file * each / HOSTS / 4;
    let usage = |n: usize| (n * 7919 % ROWS) as f64;
    let row = |n: usize| {
        let host = format!("host_{}", n % HOSTS);
        row(&host, (first_time + n / HOSTS) as i64, usage(file * each + n))
    };
    (0..each).map(row).collect()
}

/// Files that are put behind each other, or merged.
async fn filled(query_memory: u64, append_mode: bool) -> Node {
    let config = DatanodeConfig {
        query_memory,
        ..DatanodeConfig::default()
    };
    let node = Node::with(config, append_mode).await;
    for file in 0..FILES {
        for rows in rows_of_file(file).chunks(60_000) {
            node.write(rows).await.unwrap();
        }
        node.flush().await.unwrap();
    }
    node
}

fn all(node: &Node) -> Plan {
    Arc::new(RegionScan::try_new(node.spec()).unwrap())
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// A connection whose tasks have all begun, since a request was answered, and the one that accepts more.
async fn connected(node: &Node) -> (Channel, AbortHandle) {
    let (channel, server) = serve(node).await;
    let mut client = FlightServiceClient::new(channel.clone());
    let refused = client.do_get(Ticket::new(vec![0xff])).await;
    assert!(refused.is_err());
    (channel, server)
}

/// Asks through gRPC. With a deadline, it travels with the request.
async fn ask(node: &Node, channel: &Channel, plan: &Plan, deadline_ms: u64) -> tonic::Streaming<FlightData> {
    let request = v1::QueryRequest {
        header: node.header().map(|header| v1::RequestHeader {
            deadline_ms,
            ..header
        }),
        ..node.query_request(plan)
    };
    let mut client = FlightServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let asked = client.do_get(Ticket::new(request.encode_to_vec())).await;
    asked.unwrap().into_inner()
}

/// How long it takes until a query has given back everything, and none of its tasks is there.
async fn end_of(what: &str, node: &Node, before: usize) -> Duration {
    let gone = Instant::now();
    loop {
        let held = (reserved(node), spilled(node), spill_files(node));
        let tasks = tasks().saturating_sub(before);
        if (held, tasks) == ((0, 0, 0), 0) {
            return gone.elapsed();
        }
        assert!(
            gone.elapsed() < SOON,
            "{what}: after a second {held:?} are held, and {tasks} tasks run"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn assert_prompt(what: &str, mut took: Vec<Duration>) {
    took.sort();
    println!("{what}: over after {took:?}");
    let median = took[took.len() / 2];
    assert!(median <= PROMISED, "{what}: over after {median:?} as a rule");
}

/// Lets `plan` run for parts of the time that it takes, and drops it then. What is dropped is the answer, or the whole
/// connection.
async fn drop_in_the_middle(what: &str, node: &Node, plan: &Plan) {
    let (channel, _) = connected(node).await;
    let before = tasks();
    let started = Instant::now();
    let mut rows = ask(node, &channel, plan, 0).await;
    while rows.next().await.is_some() {}
    let whole = started.elapsed();
    end_of(what, node, before).await;
    let (mut held, mut took) = (0, Vec::new());
    for part in 1..16 {
        let after = whole * part / 16;
        let (own, given_up) = match part % 2 {
            0 => (connect(node).await, tasks()),
            _ => (channel.clone(), tasks()),
        };
        let mut rows = ask(node, &own, plan, 0).await;
        let read = async { while rows.next().await.is_some() {} };
        let _ = tokio::time::timeout(after, read).await;
        held = held.max(reserved(node));
        drop((rows, own));
        let what = format!("{what}, after {after:?} of {whole:?}");
        took.push(end_of(&what, node, given_up).await);
    }
    assert!(held > 0, "{what}: nothing was held at any moment");
    println!("{what}: {whole:?} as a whole, {} KiB held", held >> 10);
    assert_prompt(what, took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_whose_client_is_gone_is_over() {
    for (memory, append_mode) in [(16 << 20, true), (512 << 20, true), (512 << 20, false)] {
        let node = filled(memory, append_mode).await;
        let plans = [
            ("all rows", all(&node)),
            ("sorted", sorted(&node)),
            ("by usage", grouped(&node, "usage")),
            ("by host", grouped(&node, "host")),
        ];
        for (name, plan) in plans {
            // What is computed beside files that are not merged holds nothing for long.
            if (name, append_mode) != ("by host", true) {
                let kind = if append_mode { "apart" } else { "merged" };
                let what = format!("{name}, files {kind}, {} MiB of memory", memory >> 20);
                drop_in_the_middle(&what, &node, &plan).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_ran_out_of_time_is_over() {
    let node = filled(512 << 20, false).await;
    let (channel, _) = connected(&node).await;
    for (what, plan) in [("sorted", sorted(&node)), ("by usage", grouped(&node, "usage"))] {
        let (mut late, mut took) = (Vec::new(), Vec::new());
        for deadline in [2, 5, 10, 15, 20] {
            let before = tasks();
            let started = Instant::now();
            let mut rows = ask(&node, &channel, &plan, deadline).await;
            let error = loop {
                match rows.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(status)) => break error_from_status(&status),
                    None => panic!("it was done within {deadline} ms"),
                }
            };
            assert_eq!(error.kind, ErrorKind::DeadlineExceeded, "{error}");
            late.push(started.elapsed().saturating_sub(Duration::from_millis(deadline)));
            // The answer was read to its end.
            drop(rows);
            took.push(end_of("after the deadline", &node, before).await);
        }
        assert!(late.iter().all(|late| *late < SOON), "{what}: {late:?} late");
        assert_prompt(&format!("{what}, the answer at its deadline"), late);
        assert_prompt(&format!("{what}, the query at its deadline"), took);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_waits_for_the_bucket_asks_it_for_nothing_more() {
    const SLOW: Duration = Duration::from_millis(30);
    let mut node = filled(512 << 20, false).await;
    type PlanOf = fn(&Node) -> Plan;
    let plans: [(&str, PlanOf); 3] = [
        ("all rows", all),
        ("sorted", sorted),
        ("by host", |node| grouped(node, "host")),
    ];
    for (what, plan) in plans {
        let mut took = Vec::new();
        for wanted in [1, 3, FILES + 1] {
            // Nothing is in a cache.
            node.store.forget_faults();
            node = node.crash().await;
            node.wait_until_readable().await;
            let (channel, server) = connected(&node).await;
            let before = tasks();
            node.store
                .plan(Request::Get, "/sst/", Fault::Slow(SLOW), usize::MAX);
            let asked = || usize::MAX - node.store.faults_left();
            let rows = ask(&node, &channel, &plan(&node), 0).await;
            let reading = tokio::spawn(rows.for_each(|_| std::future::ready(())));
            node.wait_for("it reads files", || asked() >= wanted).await;
            assert!(!reading.is_finished());
            reading.abort();
            took.push(end_of("while it waits for the bucket", &node, before).await);
            let at_the_end = asked();
            tokio::time::sleep(10 * SLOW).await;
            assert_eq!(asked(), at_the_end, "the bucket is asked though nobody waits");
            println!("{what}: dropped after {wanted} requests, {at_the_end} in the end");
            // It holds the node.
            server.abort();
        }
        assert_prompt(&format!("{what}, waiting for the bucket"), took);
    }
}

/// How often a query gives way until it is done.
async fn turns(node: &Node, plan: &Plan) -> usize {
    let mut rows = node.datanode.query(node.query_request(plan)).await.unwrap().rows;
    let mut turns = 0;
    let ended = poll_fn(|cx| {
        turns += 1;
        while let std::task::Poll::Ready(next) = rows.poll_next_unpin(cx) {
            match next {
                Some(batch) => drop(batch.unwrap()),
                None => return std::task::Poll::Ready(()),
            }
        }
        std::task::Poll::Pending
    });
    ended.await;
    turns
}

#[tokio::test]
async fn a_query_gives_way_after_every_few_batches() {
    let node = filled(512 << 20, false).await;
    // One stream, in the task of the query.
    let state = node.datanode.queries.state_ref();
    state
        .write()
        .config_mut()
        .options_mut()
        .execution
        .target_partitions = 1;
    for (what, plan) in [
        ("sorted", sorted(&node)),
        ("by usage", grouped(&node, "usage")),
        ("by host", grouped(&node, "host")),
    ] {
        let turns = turns(&node, &plan).await;
        println!("{what}: {turns} turns");
        // Some fifty batches are left when the files are merged.
        assert!(turns > 10, "{what}: {turns} turns");
    }
}
