//! Whether other datanodes have all that the log of this one had.

use std::time::Duration;

use greptime_proto::transport::MetaLink;
use greptime_types::{NodeId, RegionId};
use serde::Deserialize;

/// How long a cluster that is just starting may take until its regions are led. The process ends then, and the next one
/// asks again.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(500);
/// So often in a row they must have everything: of who has just gone metasrv does not know it yet.
const IN_A_ROW: usize = 3;

/// What metasrv says of the cluster (`GET /v1/cluster`), as far as it is read here.
#[derive(Debug, Deserialize)]
struct Cluster {
    /// `None` if metasrv knows no records yet.
    cluster_id: Option<String>,
    /// Whether this metasrv leads; another one knows nothing of regions.
    leader: bool,
    regions: Vec<Region>,
}

#[derive(Debug, Deserialize)]
struct Region {
    region: RegionId,
    leader: Option<NodeId>,
    voters: Vec<NodeId>,
    /// Of these, whose replica is there: a node may have come back with another disk.
    live: Vec<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing that was acknowledged is on this disk alone.
    TheyHave,
    /// That may become true.
    NotYet(String),
    TheyHaveNot(String),
}

/// Asks metasrv until it knows, or for a while. `Err` says why the log is not given up.
pub(super) async fn have_everything(
    meta: &dyn MetaLink,
    node: NodeId,
    cluster_id: &str,
) -> Result<(), String> {
    let mut tries = PATIENCE.as_millis() / PAUSE.as_millis();
    let mut in_a_row = 0;
    loop {
        let answer = match meta.cluster().await {
            Ok(json) => match serde_json::from_str(&json) {
                Ok(cluster) => answer(&cluster, node, cluster_id),
                Err(error) => Answer::TheyHaveNot(format!("metasrv's answer cannot be read: {error}")),
            },
            Err(error) => Answer::NotYet(format!("metasrv does not answer: {error}")),
        };
        tries = tries.saturating_sub(1);
        match answer {
            Answer::TheyHave if in_a_row + 1 >= IN_A_ROW => return Ok(()),
            Answer::TheyHave => in_a_row += 1,
            Answer::NotYet(why) if tries > 0 => {
                tracing::warn!(
                    why,
                    "the log is damaged, and it is not known whether others have what was in it"
                );
                in_a_row = 0;
            }
            Answer::NotYet(why) | Answer::TheyHaveNot(why) => return Err(why),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A region that another node leads has all that was acknowledged there, and goes on having it as long as a majority of
/// its voters lives without this one.
fn answer(cluster: &Cluster, node: NodeId, cluster_id: &str) -> Answer {
    match &cluster.cluster_id {
        Some(_) if !cluster.leader => return Answer::NotYet("no metasrv leads".into()),
        None => return Answer::NotYet("metasrv has no records yet".into()),
        Some(other) if other != cluster_id => {
            return Answer::TheyHaveNot(format!("metasrv is of another cluster, {other}"));
        }
        Some(_) => {}
    }
    let mut waits = None;
    for region in cluster.regions.iter().filter(|r| r.voters.contains(&node)) {
        let (id, others) = (
            region.region,
            region.voters.iter().filter(|voter| **voter != node),
        );
        let majority = region.voters.len() / 2 + 1;
        if others.clone().count() < majority {
            return Answer::TheyHaveNot(format!(
                "region {id} needs this datanode for a majority of its voters"
            ));
        }
        if others.filter(|voter| region.live.contains(voter)).count() < majority {
            waits = Some(format!("no majority of the other voters of region {id} is there"));
        } else if region.leader.is_none_or(|leader| leader == node) {
            waits = Some(format!("no other datanode leads region {id}"));
        }
    }
    waits.map_or(Answer::TheyHave, Answer::NotYet)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A region of cluster `c` that node 1 leads, and node 2 follows.
    fn cluster() -> Value {
        json!({
            "cluster_id": "c",
            "leader": true,
            "nodes": [],
            "regions": [{"region": "1024:0", "leader": 1, "voters": [0, 1, 2], "live": [1, 2], "epoch": 7}],
        })
    }

    /// What is said of node 0 after a change of one place in the answer.
    fn after(pointer: &str, value: Value) -> Answer {
        let mut cluster = cluster();
        *cluster.pointer_mut(pointer).unwrap() = value;
        answer(&serde_json::from_value(cluster).unwrap(), 0, "c")
    }

    #[test]
    fn others_have_what_they_lead_with_a_majority_that_lives() {
        assert_eq!(after("/leader", json!(true)), Answer::TheyHave);
        assert_eq!(after("/regions", json!([])), Answer::TheyHave);
        assert_eq!(after("/regions/0/voters", json!([1, 2])), Answer::TheyHave);
    }

    #[test]
    fn what_may_come_is_waited_for() {
        for (pointer, value) in [
            ("/leader", json!(false)),
            ("/cluster_id", Value::Null),
            ("/regions/0/live", json!([1])),
            ("/regions/0/live", json!([0, 1])),
            ("/regions/0/leader", Value::Null),
            ("/regions/0/leader", json!(0)),
        ] {
            let answer = after(pointer, value.clone());
            assert!(
                matches!(answer, Answer::NotYet(_)),
                "{pointer} {value}: {answer:?}"
            );
        }
    }

    #[test]
    fn the_only_copy_is_kept() {
        for (pointer, value) in [
            ("/cluster_id", json!("another")),
            ("/regions/0/voters", json!([0])),
            ("/regions/0/voters", json!([0, 1])),
        ] {
            let answer = after(pointer, value.clone());
            assert!(
                matches!(answer, Answer::TheyHaveNot(_)),
                "{pointer} {value}: {answer:?}"
            );
        }
    }
}
