//! What metasrv answers to `GET /v1/cluster`, as far as the operator reads it. A metasrv of another version
//! may say more or less, so every field may be missing and unknown ones are passed over.

use std::collections::BTreeSet;

use serde::Deserialize;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MetasrvReport {
    pub cluster_id: Option<String>,
    /// Whether the one that answered leads.
    pub leader: bool,
    pub leader_address: Option<String>,
    pub revision: u64,
    pub dependencies: Vec<DependencyReport>,
    pub nodes: Vec<NodeReport>,
    pub regions: Vec<RegionReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DependencyReport {
    /// `etcd` or `object_store`.
    pub name: String,
    pub ok: bool,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    pub role: String,
    pub id: u64,
    pub address: Option<String>,
    pub alive: bool,
    pub version: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RegionReport {
    pub region: String,
    pub table: Option<String>,
    /// `leading`, `opening`, `disk_lost`, `majority_lost` or `no_leader`.
    pub state: String,
    /// Why nobody leads it, or can.
    pub waiting: Option<String>,
    pub leader: Option<u64>,
    /// Datanodes that hold the region's log.
    pub voters: Vec<u64>,
}

impl MetasrvReport {
    /// Whether some metasrv leads; a follower knows as well.
    pub fn has_leader(&self) -> bool {
        self.leader
            || self
                .leader_address
                .as_deref()
                .is_some_and(|address| !address.is_empty())
    }

    /// Dependencies that do not answer, each once.
    pub fn failing(&self) -> Vec<&DependencyReport> {
        let mut seen = BTreeSet::new();
        let failing = self.dependencies.iter().filter(|d| !d.ok);
        failing.filter(|d| seen.insert((&d.name, &d.message))).collect()
    }

    /// Regions that nobody serves. One that is being opened is not among them: that takes moments.
    pub fn unserved(&self) -> impl Iterator<Item = &RegionReport> {
        self.regions
            .iter()
            .filter(|region| matches!(region.state.as_str(), "no_leader" | "disk_lost" | "majority_lost"))
    }

    /// How many datanodes it takes to keep every pod that holds a region, counted from ordinal 0.
    pub fn datanodes_in_use(&self) -> u64 {
        let highest = self.regions.iter().flat_map(|region| &region.voters).max();
        highest.map_or(0, |id| id.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::MetasrvReport;

    #[test]
    fn an_answer_with_more_and_less_fields_is_read() {
        let answer = r#"{"cluster_id": null, "leader": false, "leader_address": "10.0.0.1:3002", "new": [1],
            "nodes": [{"role": "datanode", "id": 2, "alive": false}],
            "regions": [{"region": "1024:0", "table": null, "state": "opening", "leader": null, "voters": [2]}]}"#;
        let report: MetasrvReport = serde_json::from_str(answer).unwrap();
        assert!(report.has_leader());
        assert_eq!(report.datanodes_in_use(), 3);
        assert_eq!(report.unserved().count(), 0);
        assert!(!MetasrvReport::default().has_leader());
    }
}
