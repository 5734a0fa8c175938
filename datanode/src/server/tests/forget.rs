//! Frontend processes that are gone are forgotten, so that what a region knows of requests does not grow for ever.

use std::time::Duration;

use greptime_proto::SessionHandler;
use greptime_proto::v1::{self, push};
use greptime_types::format::{FORGET_FORMAT, GIVEN_UP_FORMAT};

use crate::testing::{Node, WriteOptions, row};

const LONG: Duration = Duration::from_secs(6 * 3600);

fn known(node: &Node) -> usize {
    node.datanode.regions().all()[0].with_state(|s| s.requests().marks().count())
}

/// Twenty frontends have written a row each. The options of the last write of the tenth.
async fn written_by_many(node: &Node) -> WriteOptions {
    let mut tenth = node.options();
    for incarnation in 1..=20 {
        let options = WriteOptions {
            incarnation,
            ..node.options()
        };
        if incarnation == 10 {
            tenth = options;
        }
        node.write_with(options, &[row("a", incarnation as i64, 1.0)])
            .await
            .unwrap();
    }
    tenth
}

#[tokio::test]
async fn who_is_gone_is_forgotten_and_who_writes_is_not() {
    let node = Node::appending().await;
    written_by_many(&node).await;
    node.datanode.forget_the_quiet(LONG);
    assert_eq!(
        known(&node),
        20,
        "at the first look nobody has been quiet for long"
    );
    let tenth = WriteOptions {
        incarnation: 10,
        ..node.options()
    };
    let rows = [row("a", 100, 1.0)];
    node.write_with(tenth, &rows).await.unwrap();
    node.datanode.forget_the_quiet(LONG);
    node.wait_for("the others are forgotten", || known(&node) == 1)
        .await;
    let mut node = node;
    for _ in 0..2 {
        assert!(node.write_with(tenth, &rows).await.unwrap().duplicate);
        assert_eq!(node.read().await.unwrap().len(), 21);
        node = node.crash().await;
        node.wait_until_readable().await;
        assert_eq!(known(&node), 1, "the log says it again, or the files do");
        node.flush().await.unwrap();
    }
}

#[tokio::test]
async fn nobody_is_forgotten_while_a_node_does_not_know_the_word_for_it() {
    let node = Node::new().await;
    written_by_many(&node).await;
    let told = |format_version| {
        let welcome = v1::Welcome {
            cluster_id: node.datanode.identity().cluster_id,
            format_version,
            ..Default::default()
        };
        node.datanode.told(push::Body::Welcome(welcome));
    };
    told(GIVEN_UP_FORMAT);
    for _ in 0..3 {
        node.datanode.forget_the_quiet(LONG);
    }
    // Whatever was proposed is applied meanwhile.
    for time in 100..110 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        node.write(&[row("a", time, 1.0)]).await.unwrap();
    }
    assert_eq!(known(&node), 21);
    told(FORGET_FORMAT);
    node.datanode.forget_the_quiet(LONG);
    node.datanode.forget_the_quiet(LONG);
    node.wait_for("all are forgotten", || known(&node) == 0).await;
}
