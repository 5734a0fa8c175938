//! The scenarios, in the order in which they run. They share one cluster where they can: starting one takes most
//! of a test's time.

mod bad_input;
mod clients;
mod faults;
mod first_sql;
mod memory;
mod operations;

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, ensure};
use greptime_lab::Cluster;
use greptime_lab::progress::Stopwatch;
use tokio::runtime::Runtime;

use crate::database::Database;
use crate::install::{self, Images};
use crate::sql::Http;

/// Namespace of the shared cluster.
pub const NAMESPACE: &str = "e2e";
/// Local port of the shared cluster's HTTP API; MySQL and PostgreSQL follow.
const PORT: u16 = 14000;
/// A cluster comes up in seconds; under a busy machine in more.
pub const READY: Duration = Duration::from_secs(180);

pub type Scenario = (&'static str, fn(&Suite) -> Result<()>);

/// What the scenarios share.
pub struct Suite {
    pub cluster: Cluster,
    pub images: Images,
    pub runtime: Runtime,
    main: OnceLock<Database>,
}

impl Suite {
    /// Pushes the images and installs the operator.
    pub fn start() -> Result<Self> {
        let watch = Stopwatch::start();
        let cluster = Cluster::from_env()?;
        ensure!(
            cluster.lab.is_some() || !install::is_installed(&cluster),
            "an operator is installed in {} already, and these tests would replace it; use another cluster",
            install::NAMESPACE
        );
        let images = Images::of(&cluster)?;
        watch.say("the images are there");
        install::operator(&cluster, &images, watch)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            cluster,
            images,
            runtime,
            main: OnceLock::new(),
        })
    }

    /// Leaves a cluster of one's own as it was, but for the definition. The laboratory goes as a whole.
    pub fn finish(&self) -> Result<()> {
        if self.cluster.lab.is_some() {
            return Ok(());
        }
        let main = Database::new(&self.cluster, NAMESPACE, "main");
        let all = ["delete", "greptimeclusters", "--all", "--timeout=150s"];
        main.kubectl(&all)?;
        main.discard()?;
        install::uninstall(&self.cluster)
    }

    /// The shared cluster, applied and ready.
    pub fn main(&self) -> Result<&Database> {
        if let Some(database) = self.main.get() {
            return Ok(database);
        }
        let database = Database::new(&self.cluster, NAMESPACE, "main");
        database.prepare()?;
        database.apply(&database.manifest())?;
        database.wait_ready(READY)?;
        Ok(self.main.get_or_init(|| database))
    }

    pub fn http(&self) -> Result<Http> {
        self.main()?.http(PORT)
    }
}

/// All scenarios. Those of the first list need the laboratory, since they break what a foreign cluster's owner
/// wants whole.
pub fn all(can_break: bool) -> Vec<Scenario> {
    let mut all: Vec<Scenario> = vec![
        ("apply_to_first_sql", first_sql::apply_to_first_sql),
        ("clients_psql_mysql_http", clients::psql_mysql_http),
        ("prometheus_remote_write", clients::prometheus_remote_write),
        ("pods_deleted_in_turn_under_load", faults::pods_deleted_in_turn),
        ("metasrv_replaced_under_load", faults::metasrv_replaced),
        ("scale_in_is_refused", operations::scale_in_is_refused),
        ("drift_is_repaired", operations::drift_is_repaired),
        ("operator_restart_restarts_no_pod", operations::operator_restart),
        ("two_clusters_are_independent", operations::two_clusters),
        ("bad_custom_resources", bad_input::custom_resources),
        ("bucket_of_another_cluster", bad_input::foreign_bucket),
        ("wrong_password", bad_input::wrong_password),
        ("deletion_retains_or_deletes", operations::deletion),
        ("memory_within_pod_limits", memory::memory_within_pod_limits),
    ];
    if can_break {
        all.extend([
            (
                "processes_killed_in_turn_under_load",
                faults::processes_killed as fn(&Suite) -> Result<()>,
            ),
            ("node_crash_and_return", faults::node_crash),
            ("etcd_restart_and_s3_outage", faults::stores_away),
            ("manifests_and_chart", operations::manifests_and_chart),
        ]);
    }
    all
}
