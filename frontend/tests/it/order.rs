//! What is sent on one connection before the answers come is done in the order in which it was sent.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::Cluster;
use crate::{mysql, postgres};

/// By turns for a region that is there and for one that is away; each is for the same row as the one before the last.
fn inserts() -> Vec<String> {
    let insert = |n: usize| {
        let host = ["host_4", "host_0"][n % 2];
        format!("INSERT INTO cpu VALUES ('{host}', 0, 1, {n})")
    };
    (1..=20).map(insert).collect()
}

async fn with_a_region_away() -> Cluster {
    let cluster = Cluster::with_cpu().await;
    cluster.fake.set_down(1, true);
    cluster
}

/// All have been sent. Only the first is done, until the region is back.
async fn wait_for_the_region(cluster: &Cluster) {
    let first = || cluster.sql("SELECT n FROM cpu WHERE ts = 0 AND host = 'host_0'");
    while first().await == json!([]) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        first().await,
        json!([[1]]),
        "the second waits, and with it all others"
    );
    cluster.fake.set_down(1, false);
}

/// All are answered.
async fn assert_the_last_are_there(cluster: &Cluster) {
    let last = "SELECT host, n FROM cpu WHERE ts = 0 AND host IN ('host_0', 'host_4') ORDER BY host";
    assert_eq!(cluster.sql(last).await, json!([["host_0", 19], ["host_4", 20]]));
}

#[tokio::test]
async fn statements_of_one_connection_keep_their_order_while_a_region_is_away() {
    let cluster = with_a_region_away().await;
    let mut client = postgres::Client::connect(&cluster, "anybody", None)
        .await
        .unwrap();
    for insert in inserts() {
        client.write(b'Q', format!("{insert}\0").as_bytes()).await;
    }
    wait_for_the_region(&cluster).await;
    for _ in inserts() {
        let (_, tags) = client.answer().await.unwrap();
        assert_eq!(tags, ["INSERT 0 1"]);
    }
    assert_the_last_are_there(&cluster).await;
}

#[tokio::test]
async fn commands_of_one_mysql_connection_keep_their_order_while_a_region_is_away() {
    let cluster = with_a_region_away().await;
    let mut client = mysql::Client::connect(&cluster, "", "", "public").await.unwrap();
    for insert in inserts() {
        client.begin(3, insert.as_bytes()).await;
    }
    wait_for_the_region(&cluster).await;
    for _ in inserts() {
        let packet = client.read().await;
        client.check(&packet).unwrap();
        assert_eq!(packet[..2], [0, 1], "done, one row");
    }
    assert_the_last_are_there(&cluster).await;
}

async fn http(cluster: &Cluster) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = cluster.frontend.http_router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test]
async fn requests_of_one_http_connection_keep_their_order_while_a_region_is_away() {
    let cluster = with_a_region_away().await;
    let mut stream = http(&cluster).await;
    let inserts = inserts();
    for (number, insert) in inserts.iter().enumerate() {
        let connection = match number + 1 == inserts.len() {
            true => "close",
            false => "keep-alive",
        };
        let request = format!(
            "POST /v1/sql HTTP/1.1\r\nhost: here\r\nconnection: {connection}\r\ncontent-length: {}\r\n\r\n{insert}",
            insert.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    wait_for_the_region(&cluster).await;
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let done = answers.matches("HTTP/1.1 200 OK").count();
    assert_eq!(done, inserts.len(), "{answers}");
    assert_eq!(answers.matches("\"affectedrows\":1").count(), done, "{answers}");
    assert_the_last_are_there(&cluster).await;
}
