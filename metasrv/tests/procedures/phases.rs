//! A migration from its beginning to its end.

use greptime_proto::v1;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::{Cluster, Move};
use crate::datanodes::Act;

/// What is recorded and told of a leader that goes to a datanode that had nothing. Each record is before everything that
/// is done in its phase.
pub fn whole(of: &Move) -> Vec<String> {
    let (Move { from, to, .. }, [second, third]) = (*of, of.stay);
    vec![
        format!("recorded: joining [{from}, {second}, {third}, {to}]"),
        format!("{to} joins"),
        format!("{from} changes members: learners [{to}], voters [], without []"),
        format!("{from} changes members: learners [], voters [{to}], without []"),
        "recorded: warming".into(),
        format!("{to} is to be hot and warm"),
        "recorded: handing_over".into(),
        format!("{from} hands over to {to}"),
        format!("recorded: leaving [{to}, {second}, {third}]"),
        format!("{to} changes members: learners [], voters [], without [{from}]"),
        "recorded: done".into(),
    ]
}

/// The region has moved, in the steps that it takes and in no others.
pub async fn has_moved(cluster: &Cluster, of: &Move, id: &str) {
    cluster.until_phase(id, "done").await;
    let [second, third] = of.stay;
    cluster.until_whole(of.region, [of.to, second, third]).await;
    // Its end is not waited for.
    cluster
        .world
        .until(|| !cluster.nodes.has(of.from, of.region))
        .await;
    let mut lines = cluster.journal().lines(of.region);
    let leaves = format!("{} drops its replica", of.from);
    lines.retain(|line| *line != leaves);
    assert_eq!(lines, whole(of));
}

#[tokio::test]
async fn each_phase_is_recorded_before_anything_of_it_is_done() {
    let (cluster, of) = Cluster::with_region().await;
    let id = cluster.migrate(of.request()).await.unwrap();
    has_moved(&cluster, &of, &id).await;
    let phases = cluster.phases(&id);
    assert_eq!(phases, ["joining", "warming", "handing_over", "leaving", "done"]);
}

/// What is waited for, and what is shown then.
const WAITS: [(Act, &str, &str); 7] = [
    (Act::Open, "joining", "datanodes [3] have yet to open it"),
    (Act::Learn, "joining", "its members are changing"),
    (Act::Vote, "joining", "its members are changing"),
    (Act::Heat, "warming", "datanode 3 has yet to apply what there is"),
    (
        Act::Warm,
        "warming",
        "datanode 3 has yet to bring near what queries need",
    ),
    (Act::HandOver, "handing_over", "datanode 0 has yet to hand over"),
    (Act::Leave, "leaving", "its members are changing"),
];

#[tokio::test]
async fn what_each_phase_waits_for_is_shown() {
    let (cluster, of) = Cluster::with_region().await;
    assert_eq!((of.from, of.to), (0, 3));
    for (act, ..) in WAITS {
        cluster.nodes.hold(of.region, act);
    }
    let id = cluster.migrate(of.request()).await.unwrap();
    for (act, phase, waiting) in WAITS {
        cluster.until_shown(&id, "waiting", waiting).await;
        let shown = cluster.procedure(&id);
        assert_eq!(
            (&shown["phase"], &shown["state"]),
            (&json!(phase), &json!("running"))
        );
        cluster.nodes.release(of.region, act);
    }
    has_moved(&cluster, &of, &id).await;
    let shown = cluster.procedure(&id);
    assert_eq!(shown["waiting"], Value::Null);
    assert_eq!(shown["reason"], Value::Null);
    assert!(shown["ended_ms"].as_i64() >= shown["started_ms"].as_i64());
}

/// The answer to `GET path`.
async fn get(cluster: &Cluster, path: &str) -> (String, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let router = greptime_metasrv::http_router(cluster.world.metasrv.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.lines().next().unwrap_or_default();
    (status.into(), serde_json::from_str(body).unwrap_or(body.into()))
}

#[tokio::test]
async fn a_migration_is_shown_over_http_with_its_table_and_what_it_waits_for() {
    let (cluster, of) = Cluster::with_region().await;
    let id = cluster.migrate_until(&of, Act::Open, "joining").await;
    cluster
        .until_shown(&id, "waiting", "datanodes [3] have yet to open it")
        .await;
    let (status, body) = get(&cluster, "/v1/procedures").await;
    assert_eq!(status, "HTTP/1.0 200 OK");
    let mut shown = body["procedures"][0].clone();
    let started_ms = shown["started_ms"].as_i64().unwrap();
    assert_eq!(shown["phases"][0]["at_ms"].as_i64(), Some(started_ms));
    assert_eq!(shown["deadline_ms"].as_i64(), Some(started_ms + 300_000));
    for time in ["started_ms", "deadline_ms"] {
        shown.as_object_mut().unwrap().remove(time);
    }
    let expected = json!({
        "id": id,
        "kind": "migrate_region",
        "region": of.region,
        "table": "public.t0",
        "from": 0,
        "to": 3,
        "leadership_only": false,
        "state": "running",
        "phase": "joining",
        "phases": [{"phase": "joining", "at_ms": started_ms}],
        "waiting": "datanodes [3] have yet to open it",
        "reason": null,
        "part_of": null,
        "ended_ms": null,
    });
    assert_eq!(shown, expected);
    cluster.world.metasrv.shutdown();
}

#[tokio::test]
async fn a_follower_moves_without_anything_being_handed_over() {
    let (cluster, of) = Cluster::with_region().await;
    let [second, third] = of.stay;
    let request = v1::MigrateRegion {
        from_node: second,
        ..of.request()
    };
    let id = cluster.migrate(request).await.unwrap();
    cluster.until_phase(&id, "done").await;
    cluster.until_whole(of.region, [of.from, of.to, third]).await;
    let lines = cluster.journal().lines(of.region);
    let said = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(!said("hands over") && !said("warming"), "{lines:?}");
}

#[tokio::test]
async fn leadership_goes_to_a_member_and_nobody_joins_or_leaves() {
    let (cluster, of) = Cluster::with_region().await;
    let (from, [second, third]) = (of.from, of.stay);
    let request = v1::MigrateRegion {
        to_node: third,
        ..of.request()
    };
    let id = cluster.migrate(request).await.unwrap();
    cluster.until_phase(&id, "done").await;
    cluster.until_whole(of.region, [third, second, from]).await;
    let lines = cluster.journal().lines(of.region);
    let expected = [
        "recorded: joining".into(),
        "recorded: warming".into(),
        format!("{third} is to be hot and warm"),
        "recorded: handing_over".into(),
        format!("{from} hands over to {third}"),
        format!("recorded: done [{third}, {second}, {from}]"),
    ];
    assert_eq!(lines[..6], expected);
}
