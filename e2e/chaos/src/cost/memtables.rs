//! What rows in memory take on each datanode while writes go on, beside what they may take. A follower applies what is
//! committed and cannot refuse it, so it has to stay below by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::cluster::Cluster;
use crate::metrics::Metrics;

/// A datanode counts anew twice as often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The most that rows in memory ever took on datanodes, by what these do for the region. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memtables {
    pub leader: u64,
    pub hot_follower: u64,
    pub log_only_follower: u64,
    /// What they may take on each.
    pub limit: u64,
}

impl Memtables {
    /// The most of both, and the lower limit.
    pub fn and(self, other: Self) -> Self {
        Self {
            leader: self.leader.max(other.leader),
            hot_follower: self.hot_follower.max(other.hot_follower),
            log_only_follower: self.log_only_follower.max(other.log_only_follower),
            limit: self.limit.min(other.limit),
        }
    }

    /// Aims that were missed, in words.
    pub fn missed(&self) -> Vec<String> {
        let all = [
            ("leader", self.leader),
            ("hot follower", self.hot_follower),
            ("log-only follower", self.log_only_follower),
        ];
        let above = all.into_iter().filter(|(_, bytes)| *bytes > self.limit);
        let limit = self.limit;
        above
            .map(|(who, bytes)| {
                format!("rows in memory of the {who} took {bytes} bytes, aim at most {limit}")
            })
            .collect()
    }
}

impl fmt::Display for Memtables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(
            f,
            "leader {}, hot follower {}, log-only follower {}, of {} MiB that they may take",
            mib(self.leader),
            mib(self.hot_follower),
            mib(self.log_only_follower),
            mib(self.limit)
        )
    }
}

/// What was seen of each datanode.
#[derive(Default)]
pub struct Watch {
    most: BTreeMap<usize, u64>,
    limits: BTreeMap<usize, u64>,
}

impl Watch {
    /// Looks at all datanodes again and again, for so long.
    pub async fn look_for(&mut self, cluster: &Cluster, length: Duration) -> Result<()> {
        let until = Instant::now() + length;
        while Instant::now() < until {
            for node in 0..cluster.datanodes() {
                self.note(node, &cluster.datanode_metrics(node).await?);
            }
            sleep_until(until.min(Instant::now() + LOOK_EVERY)).await;
        }
        Ok(())
    }

    fn note(&mut self, node: usize, metrics: &Metrics) {
        let bytes = metrics.sum("greptime_datanode_memtable_bytes");
        let most = self.most.entry(node).or_default();
        *most = bytes.max(*most);
        let limit = metrics.sum_where("greptime_datanode_memory_limit_bytes", "budget=\"memtable\"");
        self.limits.insert(node, limit);
    }

    /// The most that the rows of a datanode took.
    pub fn most(&self, node: usize) -> u64 {
        self.most.get(&node).copied().unwrap_or_default()
    }

    /// The least that rows may take on a datanode; 0 if one does not tell.
    pub fn limit(&self) -> u64 {
        self.limits.values().copied().min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(memtable: u64, limits: &str) -> Metrics {
        Metrics(format!("greptime_datanode_memtable_bytes {memtable}\n{limits}"))
    }

    #[test]
    fn the_most_that_was_seen_of_each_datanode_counts() {
        let limits = "greptime_datanode_memory_limit_bytes{budget=\"memtable\"} 512\n\
                      greptime_datanode_memory_limit_bytes{budget=\"query\"} 9000\n";
        let mut watch = Watch::default();
        for (node, bytes) in [(0, 30), (0, 80), (1, 20), (0, 10)] {
            watch.note(node, &told(bytes, limits));
        }
        assert_eq!([0, 1, 2].map(|node| watch.most(node)), [80, 20, 0]);
        assert_eq!(watch.limit(), 512);
        watch.note(1, &told(20, ""));
        assert_eq!(watch.limit(), 0, "one does not tell");
    }

    #[test]
    fn of_several_clusters_the_most_counts_and_the_lower_limit() {
        let one = Memtables {
            leader: 70,
            hot_follower: 10,
            log_only_follower: 0,
            limit: 100,
        };
        let other = Memtables {
            leader: 20,
            hot_follower: 60,
            log_only_follower: 0,
            limit: 65,
        };
        let both = one.and(other);
        assert_eq!((both.leader, both.hot_follower, both.limit), (70, 60, 65));
        assert_eq!(
            both.missed(),
            ["rows in memory of the leader took 70 bytes, aim at most 65"]
        );
        assert!(one.missed().is_empty());
    }
}
