//! Clients that go away while their query runs: within a moment nothing of it is held, and nothing of it runs.

use std::time::Duration;

use greptime_frontend::FrontendConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::{mysql, postgres};

/// What is promised, and kept by the median of several tries.
const PROMISED: Duration = Duration::from_millis(100);
/// What no try exceeds: a busy machine may not give us a thread for as long as is promised.
const SOON: Duration = Duration::from_secs(1);

/// Queries over the product of a table with itself, which would take for ever.
const ENDLESS: [&str; 3] = [
    "SELECT count(*) FROM cpu a, cpu b, cpu c, cpu d, cpu e",
    "SELECT a.n * 1000000 + b.n * 10000 + c.n * 100 + d.n AS k, count(*) FROM cpu a, cpu b, cpu c, cpu d GROUP BY 1",
    "SELECT a.n, a.host FROM cpu a, cpu b, cpu c, cpu d ORDER BY a.n * b.n + c.n - d.n, a.host",
];

fn small(config: &mut FrontendConfig) {
    config.query_memory = 32 << 20;
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

async fn http(cluster: &Cluster, sql: &str) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = cluster.frontend.http_router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /v1/sql HTTP/1.1\r\nhost: here\r\ncontent-length: {}\r\n\r\n{sql}",
        sql.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn by_mysql(cluster: &Cluster, sql: &str) -> TcpStream {
    let mut client = mysql::Client::connect(cluster, "anyone", "", "public")
        .await
        .unwrap();
    client.begin(3, sql.as_bytes()).await;
    client.stream
}

async fn by_postgres(cluster: &Cluster, sql: &str) -> TcpStream {
    let client = postgres::Client::connect(cluster, "anyone", None).await;
    let mut client = client.unwrap_or_else(|e| panic!("{e:?}"));
    client.write(b'Q', format!("{sql}\0").as_bytes()).await;
    client.stream
}

/// How long it takes until nothing is held and no task is there that was not there before.
async fn end_of(what: &str, cluster: &Cluster, before: usize) -> Duration {
    let gone = Instant::now();
    while cluster.frontend.executor.engine.held() != (0, 0) || tasks() > before {
        let held = cluster.frontend.executor.engine.held();
        assert!(
            gone.elapsed() < SOON,
            "{what}: {held:?} are held after a second, and {} tasks run, of which {before} were there before",
            tasks()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    gone.elapsed()
}

fn assert_prompt(what: &str, mut took: Vec<Duration>) {
    took.sort();
    println!("{what}: over after {took:?}");
    let median = took[took.len() / 2];
    assert!(median <= PROMISED, "{what}: over after {median:?} as a rule");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_whose_client_is_gone_is_over() {
    for protocol in ["http", "mysql", "postgres"] {
        for sql in ENDLESS {
            let cluster = Cluster::with(small, None).await;
            cluster.fill_cpu().await;
            // What serves a protocol stays; each connection has a server of its own here.
            let before = tasks() + 1;
            let mut took = Vec::new();
            for (n, after) in [10, 30, 50, 150, 400].into_iter().enumerate() {
                let stream = match protocol {
                    "http" => http(&cluster, sql).await,
                    "mysql" => by_mysql(&cluster, sql).await,
                    _ => by_postgres(&cluster, sql).await,
                };
                tokio::time::sleep(Duration::from_millis(after)).await;
                assert!(tasks() > before + n, "{protocol}: {sql} ended by itself");
                drop(stream);
                let what = format!("{protocol}, after {after} ms: {sql}");
                took.push(end_of(&what, &cluster, before + n).await);
            }
            assert_prompt(&format!("{protocol}: {sql}"), took);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_ran_out_of_time_is_over() {
    // The last one may run out of memory first.
    for sql in &ENDLESS[..2] {
        let deadline = Duration::from_millis(300);
        let change = |config: &mut FrontendConfig| {
            small(config);
            config.query_timeout = deadline;
        };
        let cluster = Cluster::with(change, None).await;
        // With the same time to fill the table.
        cluster.fill_cpu().await;
        let (mut late, mut took) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let before = tasks();
            let started = Instant::now();
            let (status, message) = cluster.error(sql).await;
            late.push(started.elapsed().saturating_sub(deadline));
            assert_eq!(status, 504, "{message}");
            took.push(end_of(sql, &cluster, before).await);
        }
        assert!(late.iter().all(|late| *late < SOON), "{late:?} late: {sql}");
        assert_prompt(&format!("the answer at its deadline: {sql}"), late);
        assert_prompt(&format!("the query at its deadline: {sql}"), took);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_sent_more_is_missed_too() {
    let cluster = Cluster::with(small, None).await;
    cluster.fill_cpu().await;
    let before = tasks() + 1;
    let mut stream = by_postgres(&cluster, ENDLESS[0]).await;
    stream.write_all(b"Q\0\0\0\x0dSELECT 1\0").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    end_of("postgres", &cluster, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stays_gets_its_rows() {
    let cluster = Cluster::with(small, None).await;
    cluster.fill_cpu().await;
    let mut stream = by_postgres(&cluster, "SELECT count(*) FROM cpu a, cpu b, cpu c").await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"I") || answer.len() < 6 || answer[answer.len() - 6] != b'Z' {
        let mut more = [0; 1024];
        let read = stream.read(&mut more).await.unwrap();
        assert!(read > 0, "the connection was closed");
        answer.extend_from_slice(&more[..read]);
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.contains("729000"), "{text}");
}
