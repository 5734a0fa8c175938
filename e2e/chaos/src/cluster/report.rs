//! What a metasrv tells of the cluster: `GET /v1/cluster`.

use serde::Deserialize;

/// Datanodes beat every 100 ms.
const JUST_NOW_MS: u64 = 300;

#[derive(Clone, Debug, Deserialize)]
pub struct RegionReport {
    pub region: String,
    pub table: Option<String>,
    pub leader: Option<usize>,
    pub voters: Vec<usize>,
    pub hot: Vec<usize>,
}

impl RegionReport {
    /// Its number in its table.
    pub fn number(&self) -> Option<usize> {
        self.region.rsplit(':').next()?.parse().ok()
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct NodeReport {
    role: String,
    id: usize,
    /// Of its process; another one after each start.
    incarnation: Option<u64>,
    /// metasrv has a session with it, perhaps still that of a process that is gone.
    alive: bool,
    last_beat_ms_ago: Option<u64>,
    #[serde(default)]
    regions: usize,
}

impl NodeReport {
    fn beats(&self) -> bool {
        self.alive && self.last_beat_ms_ago.is_some_and(|ms| ms < JUST_NOW_MS)
    }
}

/// Of one that does not lead, it is about nobody.
#[derive(Debug, Default, Deserialize)]
pub struct ClusterReport {
    /// It leads, with the catalog loaded.
    pub leader: bool,
    /// Of the metasrv that leads, where others dial it; empty if it is not known.
    #[serde(default)]
    pub leader_address: String,
    nodes: Vec<NodeReport>,
    pub regions: Vec<RegionReport>,
}

impl ClusterReport {
    /// A datanode's process; nothing if metasrv knows none.
    pub fn incarnation(&self, node: usize) -> Option<u64> {
        let is_it = |n: &&NodeReport| n.role == "datanode" && n.id == node;
        self.nodes.iter().find(is_it)?.incarnation
    }

    fn beating(&self) -> impl Iterator<Item = &NodeReport> {
        self.nodes.iter().filter(|n| n.role == "datanode" && n.beats())
    }

    pub fn lacks_datanodes(&self, datanodes: usize) -> Option<String> {
        let beating = self.beating().count();
        (beating < datanodes).then(|| format!("{beating} of {datanodes} datanodes beat"))
    }

    /// What it lacks to be whole; nothing if it is. `voters`: of each region.
    pub fn lacks(&self, datanodes: usize, voters: usize) -> Option<String> {
        if let Some(lacks) = self.lacks_datanodes(datanodes) {
            return Some(lacks);
        }
        let replicas: usize = self.beating().map(|n| n.regions).sum();
        let wanted = voters * self.regions.len();
        if wanted == 0 || replicas < wanted {
            return Some(format!("datanodes have {replicas} of {wanted} replicas"));
        }
        let is_whole = |r: &&RegionReport| {
            r.leader.is_some() && r.voters.len() == voters && r.hot.len() >= voters.min(2)
        };
        let broken = self.regions.iter().find(|region| !is_whole(region))?;
        Some(format!("{broken:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_whose_datanode_is_away_is_not_whole() {
        let report = |second: &str| {
            let text = format!(
                r#"{{"leader": true, "nodes": [{{"role": "datanode", "id": 0, "incarnation": 7, "alive": true, "last_beat_ms_ago": 20, "regions": 3}}, {second}],
                "regions": [{{"region": "1024:0", "table": "t", "leader": 0, "voters": [0, 1, 2], "hot": [0, 1]}}]}}"#
            );
            serde_json::from_str::<ClusterReport>(&text).unwrap()
        };
        let there =
            report(r#"{"role": "datanode", "id": 1, "alive": true, "last_beat_ms_ago": 90, "regions": 1}"#);
        assert_eq!(there.lacks(2, 3), None);
        assert_eq!(there.regions[0].number(), Some(0));
        let away = report(r#"{"role": "datanode", "id": 1, "alive": false}"#);
        assert_eq!(away.lacks(2, 3).unwrap(), "1 of 2 datanodes beat");
        assert_eq!((there.beating().count(), away.beating().count()), (2, 1));
        assert_eq!((away.incarnation(0), away.incarnation(1)), (Some(7), None));
        let silent =
            report(r#"{"role": "datanode", "id": 1, "alive": true, "last_beat_ms_ago": 900, "regions": 1}"#);
        assert!(
            silent.lacks(2, 3).is_some(),
            "its session is that of a process that may be gone"
        );
    }
}
