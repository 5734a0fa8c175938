//! All settings of the database program. One file serves every role; a role reads what concerns it.

use std::path::PathBuf;
use std::time::Duration;

use greptime_datanode::DatanodeConfig;
use greptime_frontend::FrontendConfig;
use greptime_metasrv::store::EtcdConfig;
use greptime_metasrv::{MetasrvConfig, Policy};
use greptime_object_store::ObjectStoreConfig;
use greptime_telemetry::LogConfig;
use greptime_types::{Error, Result};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub cluster: Cluster,
    pub node: Node,
    pub http: Http,
    pub grpc: Grpc,
    pub mysql: Mysql,
    pub postgres: Postgres,
    pub metasrv: Metasrv,
    pub store: Store,
    pub object_store: ObjectStoreConfig,
    pub auth: Auth,
    pub log: LogConfig,
    pub datanode: DatanodeConfig,
    pub frontend: FrontendConfig,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Shown to people; the identity of a cluster is a random id of its own.
    pub name: String,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "greptime".into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Number of this node within its role; in Kubernetes the ordinal of its pod.
    pub id: u64,
    /// host:port that other nodes dial; the gRPC address if empty.
    pub advertise_address: String,
    /// Where this node fails together with others, such as a zone of the cloud: replicas of a region are spread over
    /// zones. Empty if it is not known.
    pub zone: String,
    pub data_dir: PathBuf,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: 0,
            advertise_address: String::new(),
            zone: String::new(),
            data_dir: "./greptime-data".into(),
        }
    }
}

/// A section that is just one address, empty for "the role's default port on all interfaces".
macro_rules! address_section {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            pub address: String,
        }
    )*};
}

address_section! {
    /// Probes, metrics and the HTTP API; port 4000.
    Http,
    /// metasrv 3002, datanode 3001.
    Grpc,
    /// Port 4002.
    Mysql,
    /// Port 4003.
    Postgres,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metasrv {
    /// Where datanodes and frontends find metasrv: host:port of any of them.
    pub addresses: Vec<String>,
    #[serde(with = "greptime_settings::duration")]
    pub heartbeat_interval: Duration,
    /// No datanode loses its leaders for a pause shorter than this.
    #[serde(with = "greptime_settings::duration")]
    pub pause_tolerance: Duration,
    /// A node that is silent for longer counts as away.
    #[serde(with = "greptime_settings::duration")]
    pub session_timeout: Duration,
    /// Copies of the log of a new region, each on another datanode: 1 or 3. With fewer than three datanodes it is one.
    pub replicas: usize,
    /// A datanode that has been dead for so long is not waited for: its replicas are made anew on others.
    #[serde(with = "greptime_settings::duration")]
    pub replace_after: Duration,
}

const SHORTEST_BEAT: Duration = Duration::from_millis(10);

impl Default for Metasrv {
    fn default() -> Self {
        let MetasrvConfig {
            heartbeat_interval,
            session_timeout,
            replicas,
            replace_after,
        } = MetasrvConfig::default();
        Self {
            addresses: vec![],
            heartbeat_interval,
            pause_tolerance: Policy::default().pause,
            session_timeout,
            replicas,
            replace_after,
        }
    }
}

impl Metasrv {
    pub fn config(&self) -> MetasrvConfig {
        MetasrvConfig {
            heartbeat_interval: self.heartbeat_interval,
            session_timeout: self.session_timeout,
            replicas: self.replicas,
            replace_after: self.replace_after,
        }
    }

    /// The numbers of failover.
    pub fn policy(&self) -> Result<Policy> {
        if self.heartbeat_interval < SHORTEST_BEAT {
            return Err(Error::invalid(format!(
                "metasrv.heartbeat_interval is {:?}; it must be at least {SHORTEST_BEAT:?}",
                self.heartbeat_interval
            )));
        }
        let policy = Policy::of(self.heartbeat_interval, self.pause_tolerance);
        policy.validate().map_err(|broken| {
            let broken: Vec<String> = broken.iter().map(ToString::to_string).collect();
            Error::invalid(format!(
                "metasrv.heartbeat_interval ({:?}) and metasrv.pause_tolerance ({:?}) are too long or too short: {}",
                self.heartbeat_interval,
                self.pause_tolerance,
                broken.join("; ")
            ))
        })?;
        Ok(policy)
    }
}

/// Where metasrv keeps the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    pub etcd: EtcdConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// One `name=password` a line; read again when it changes. Without it nobody is asked.
    pub users_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_that_cannot_work_are_refused_with_the_names_of_the_settings() {
        let of = |beat, pause| {
            let metasrv = Metasrv {
                heartbeat_interval: Duration::from_millis(beat),
                pause_tolerance: Duration::from_millis(pause),
                ..Metasrv::default()
            };
            metasrv.policy()
        };
        assert_eq!(Metasrv::default().policy(), Ok(Policy::default()));
        assert_eq!(
            of(50, 400).map(|policy| policy.pause),
            Ok(Duration::from_millis(400))
        );
        for (beat, pause) in [(9, 150), (3_000, 150), (100, 5_000)] {
            let error = of(beat, pause).unwrap_err().message;
            assert!(
                error.contains("metasrv.heartbeat_interval"),
                "{beat} {pause}: {error}"
            );
        }
    }
}
