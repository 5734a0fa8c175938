//! Whether other datanodes have all that the log of this one had.

use std::time::Duration;

use greptime_proto::transport::MetaLink;
use greptime_types::{NodeId, RegionId};
use serde::Deserialize;

/// How long a cluster that is just starting may take until its regions are led. The process ends then, and the next one
/// asks again.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(500);
/// So often in a row they must have everything, which takes longer than the session of somebody who has gone lasts.
const IN_A_ROW: usize = 9;

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
    electorate: Electorate,
}

#[derive(Debug, Deserialize)]
struct Electorate {
    /// Who may have a vote.
    voters: Vec<NodeId>,
    /// Of these, whose replica is there.
    live: Vec<NodeId>,
    /// How many others have one, of whom nothing is known: this datanode may be one of them.
    strangers: usize,
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
    for Region {
        region,
        leader,
        electorate,
    } in &cluster.regions
    {
        let Electorate {
            voters,
            live,
            strangers,
        } = electorate;
        if !voters.contains(&node) && *strangers == 0 {
            continue;
        }
        let others = |nodes: &[NodeId]| nodes.iter().filter(|other| **other != node).count();
        let majority = (voters.len() + strangers) / 2 + 1;
        if others(voters) + strangers < majority {
            return Answer::TheyHaveNot(format!(
                "region {region} needs this datanode for a majority of its voters"
            ));
        }
        if others(live) < majority {
            waits = Some(format!(
                "no majority of the other voters of region {region} is there"
            ));
        } else if leader.is_none_or(|leader| leader == node) {
            waits = Some(format!("no other datanode leads region {region}"));
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
        let electorate = json!({"voters": [0, 1, 2], "live": [1, 2], "strangers": 0});
        json!({
            "cluster_id": "c",
            "leader": true,
            "nodes": [],
            "regions": [{"region": "1024:0", "leader": 1, "electorate": electorate, "epoch": 7}],
        })
    }

    /// What is said of node 0 after changes of places in the answer.
    fn after(changes: &[(&str, Value)]) -> Answer {
        let mut cluster = cluster();
        for (pointer, value) in changes {
            *cluster.pointer_mut(pointer).unwrap() = value.clone();
        }
        answer(&serde_json::from_value(cluster).unwrap(), 0, "c")
    }

    const LEADER: &str = "/regions/0/leader";
    const VOTERS: &str = "/regions/0/electorate/voters";
    const LIVE: &str = "/regions/0/electorate/live";
    const STRANGERS: &str = "/regions/0/electorate/strangers";

    #[test]
    fn others_have_what_they_lead_with_a_majority_that_lives() {
        for changes in [
            vec![],
            vec![("/regions", json!([]))],
            // A region of others is nothing to this node.
            vec![(VOTERS, json!([1, 2, 3])), (LEADER, Value::Null)],
            // It left, and the leader has not heard of that yet.
            vec![
                (VOTERS, json!([1, 2, 3])),
                (LIVE, json!([1, 2, 3])),
                (STRANGERS, json!(1)),
            ],
        ] {
            assert_eq!(after(&changes), Answer::TheyHave, "{changes:?}");
        }
    }

    #[test]
    fn what_may_come_is_waited_for() {
        for changes in [
            vec![("/leader", json!(false))],
            vec![("/cluster_id", Value::Null)],
            vec![(LIVE, json!([1]))],
            vec![(LIVE, json!([0, 1]))],
            vec![(LEADER, Value::Null)],
            vec![(LEADER, json!(0))],
            // A move of the only replica, which has taken over: who is recorded no more still votes.
            vec![(VOTERS, json!([1])), (LIVE, json!([1])), (STRANGERS, json!(1))],
            // The newcomer is recorded in the place of this node, which votes as a fourth.
            vec![
                (VOTERS, json!([3, 1, 2])),
                (LIVE, json!([3, 1])),
                (STRANGERS, json!(1)),
            ],
            vec![
                (VOTERS, json!([3, 1, 2])),
                (LEADER, Value::Null),
                (STRANGERS, json!(1)),
            ],
        ] {
            let answer = after(&changes);
            assert!(matches!(answer, Answer::NotYet(_)), "{changes:?}: {answer:?}");
        }
    }

    #[test]
    fn the_only_copy_is_kept() {
        for changes in [
            vec![("/cluster_id", json!("another"))],
            vec![(VOTERS, json!([0])), (LIVE, json!([]))],
            vec![(VOTERS, json!([0, 1])), (LIVE, json!([1]))],
        ] {
            let answer = after(&changes);
            assert!(
                matches!(answer, Answer::TheyHaveNot(_)),
                "{changes:?}: {answer:?}"
            );
        }
    }
}
