//! A cluster of plain processes: etcd, metasrv, datanodes, a frontend.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use tokio::time::Instant;

use crate::disk::Disk;
use crate::network::{Cut, Network, Site};
use crate::process::Process;

/// A cluster that takes longer for anything has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const VOTERS: usize = 3;
/// Datanodes beat every 100 ms.
const JUST_NOW_MS: u64 = 300;

/// What a cluster is made of.
pub struct Shape {
    pub node: PathBuf,
    pub etcd: PathBuf,
    /// Data and logs.
    pub dir: PathBuf,
    pub datanodes: usize,
    /// Each datanode has a disk of its own, which can hang.
    pub disks: bool,
}

/// What `GET /v1/cluster` says of a region.
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
struct NodeReport {
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

#[derive(Debug, Default, Deserialize)]
struct ClusterReport {
    nodes: Vec<NodeReport>,
    regions: Vec<RegionReport>,
}

/// Fields are dropped in their order: processes end before their disks and their network go.
pub struct Cluster {
    datanodes: Vec<Process>,
    frontend: Process,
    metasrv: Process,
    etcd: Process,
    disks: Vec<Disk>,
    network: Network,
    client: reqwest::Client,
    metasrv_http: String,
    pub frontend_http: String,
}

/// Addresses of what others dial.
struct Addresses {
    etcd_url: String,
    meta_grpc: String,
    bucket: String,
}

impl Cluster {
    /// Starts everything and waits until a statement is answered and all datanodes are there. Regions that were made
    /// before would be on fewer, and get others afterwards.
    pub async fn start(shape: &Shape, network: Network) -> Result<Self> {
        let mut cluster = Self::lay_out(shape, network)?;
        cluster.start_missing()?;
        cluster.until_answered("SELECT 1").await?;
        cluster.until_all_beat().await?;
        Ok(cluster)
    }

    fn lay_out(shape: &Shape, mut network: Network) -> Result<Self> {
        let dir = &shape.dir;
        std::fs::create_dir_all(dir.join("bucket"))?;
        let (etcd, etcd_url) = etcd(shape, network.site("etcd")?)?;
        let site = network.site("meta")?;
        let [grpc, http] = site.ports()?;
        let addresses = Addresses {
            etcd_url,
            meta_grpc: site.address(grpc),
            bucket: format!(
                "--set object_store.kind=local --set object_store.dir={}",
                dir.join("bucket").display()
            ),
        };
        let metasrv_http = format!("http://{}", site.address(http));
        let metasrv = metasrv(shape, site, &addresses, http);
        let (mut datanodes, mut disks) = (Vec::new(), Vec::new());
        for id in 0..shape.datanodes {
            if shape.disks {
                disks.push(Disk::make(id, dir, &data_dir(dir, id))?);
            }
            datanodes.push(datanode(
                shape,
                network.site(&format!("dn{id}"))?,
                &addresses,
                id,
            )?);
        }
        let site = network.site("front")?;
        let [http, mysql, postgres] = site.ports()?;
        let frontend_http = format!("http://{}", site.address(http));
        let arguments = format!(
            "frontend --http-addr {} --mysql-addr {} --postgres-addr {} --metasrv {} --set log.format=json",
            site.address(http),
            site.address(mysql),
            site.address(postgres),
            addresses.meta_grpc
        );
        let frontend = Process::new(&shape.node, site, dir.join("frontend.log"), &arguments);
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        Ok(Self {
            datanodes,
            frontend,
            metasrv,
            etcd,
            disks,
            network,
            client,
            metasrv_http,
            frontend_http,
        })
    }

    /// Starts whatever is not running.
    fn start_missing(&mut self) -> Result<()> {
        self.processes().try_for_each(Process::start)
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        [&mut self.etcd, &mut self.metasrv]
            .into_iter()
            .chain(&mut self.datanodes)
            .chain([&mut self.frontend])
    }

    /// Undoes everything that a fault may have left undone.
    pub fn mend(&mut self) -> Result<()> {
        self.disks.iter().for_each(Disk::thaw);
        self.network.heal()?;
        for process in self.processes() {
            // One that is not running is started.
            let _ = process.signal(Signal::CONT);
        }
        self.start_missing()
    }

    /// An error if a process that should be running has ended.
    pub fn check_processes(&mut self) -> Result<()> {
        self.processes().try_for_each(Process::check)
    }

    /// What came of something, and if it failed and a process has ended by itself, that this is why.
    pub fn explained(&mut self, outcome: Result<()>) -> Result<()> {
        let ended = self.check_processes();
        outcome.map_err(|error| match ended {
            Err(ended) if ended.to_string() != error.to_string() => error.context(ended.to_string()),
            _ => error,
        })
    }

    async fn until_answered(&self, statement: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.sql(statement).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("the cluster never answers"));
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn until_all_beat(&self) -> Result<()> {
        let lacks = |report: &ClusterReport| report.lacks_datanodes(self.datanodes.len());
        self.until_it_lacks_nothing(lacks).await.map(drop)
    }

    /// Waits until metasrv's report lacks nothing any more.
    async fn until_it_lacks_nothing(
        &self,
        lacks: impl Fn(&ClusterReport) -> Option<String>,
    ) -> Result<ClusterReport> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A metasrv that is being killed does not answer.
            let report = self.report().await.unwrap_or_default();
            let Some(lacks) = lacks(&report) else {
                return Ok(report);
            };
            ensure!(
                Instant::now() < deadline,
                "the cluster does not become whole: {lacks}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Runs a statement; the answer as CSV.
    pub async fn sql(&self, statement: &str) -> Result<String> {
        sql(&self.client, &self.frontend_http, statement).await
    }

    /// The regions as metasrv sees them now.
    pub async fn regions(&self) -> Result<Vec<RegionReport>> {
        Ok(self.report().await?.regions)
    }

    async fn report(&self) -> Result<ClusterReport> {
        let url = format!("{}/v1/cluster", self.metasrv_http);
        let text = self.client.get(url).send().await?.text().await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until every datanode is there with its regions, and every region is led, has three voters, and a second
    /// one is ready to lead.
    pub async fn until_whole(&self) -> Result<Vec<RegionReport>> {
        let lacks = |report: &ClusterReport| report.lacks(self.datanodes.len());
        Ok(self.until_it_lacks_nothing(lacks).await?.regions)
    }

    /// The datanode's process, as metasrv knows it; nothing if it knows none.
    pub async fn incarnation(&self, node: usize) -> Result<Option<u64>> {
        Ok(self.report().await?.incarnation(node))
    }

    /// Waits until metasrv knows another process of a datanode than that of before.
    pub async fn until_another(&self, node: usize, before: Option<u64>) -> Result<()> {
        let lacks = |report: &ClusterReport| {
            let now = report.incarnation(node);
            let is_another = now.is_some() && now != before;
            (!is_another).then(|| format!("datanode {node} has not come back"))
        };
        self.until_it_lacks_nothing(lacks).await.map(drop)
    }

    pub fn datanodes(&self) -> usize {
        self.datanodes.len()
    }

    pub fn kill_datanode(&mut self, node: usize) -> Result<()> {
        self.datanodes[node].kill()
    }

    pub async fn end_datanode(&mut self, node: usize) -> Result<()> {
        self.datanodes[node].end(PATIENCE).await
    }

    pub fn start_datanode(&mut self, node: usize) -> Result<()> {
        self.datanodes[node].start()
    }

    /// Stops a datanode where it is, or lets it go on.
    pub fn freeze_datanode(&self, node: usize, frozen: bool) -> Result<()> {
        self.datanodes[node].signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    pub fn cut_datanode(&self, node: usize, cut: Cut<'_>) -> Result<()> {
        self.network.cut(&self.datanodes[node].site, cut)
    }

    pub fn cut_datanode_from_metasrv(&self, node: usize) -> Result<()> {
        self.cut_datanode(node, Cut::From(&self.metasrv.site))
    }

    pub fn heal_network(&self) -> Result<()> {
        self.network.heal()
    }

    /// Makes writes of a datanode's disk hang, or lets them go on.
    pub fn freeze_disk(&self, node: usize, frozen: bool) -> Result<()> {
        let disk = self
            .disks
            .get(node)
            .context("the datanode has no disk of its own")?;
        match frozen {
            true => disk.freeze(),
            false => {
                disk.thaw();
                Ok(())
            }
        }
    }

    pub fn kill_metasrv(&mut self) -> Result<()> {
        self.metasrv.kill()
    }

    pub fn start_metasrv(&mut self) -> Result<()> {
        self.metasrv.start()
    }

    pub fn kill_etcd(&mut self) -> Result<()> {
        self.etcd.kill()
    }

    pub fn start_etcd(&mut self) -> Result<()> {
        self.etcd.start()
    }

    pub fn metasrv_log(&self) -> &Path {
        self.metasrv.log()
    }

    /// Moves a region and waits until that is done.
    pub async fn migrate(&self, region: &str, from: usize, to: usize) -> Result<()> {
        migrate(&self.client, &self.frontend_http, region, from, to).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A process that waits for a frozen disk cannot be killed.
        self.disks.iter().for_each(Disk::thaw);
    }
}

impl ClusterReport {
    fn incarnation(&self, node: usize) -> Option<u64> {
        let is_it = |n: &&NodeReport| n.role == "datanode" && n.id == node;
        self.nodes.iter().find(is_it)?.incarnation
    }

    fn beating(&self) -> impl Iterator<Item = &NodeReport> {
        self.nodes.iter().filter(|n| n.role == "datanode" && n.beats())
    }

    fn lacks_datanodes(&self, datanodes: usize) -> Option<String> {
        let beating = self.beating().count();
        (beating < datanodes).then(|| format!("{beating} of {datanodes} datanodes beat"))
    }

    /// What it lacks to be whole; nothing if it is.
    fn lacks(&self, datanodes: usize) -> Option<String> {
        if let Some(lacks) = self.lacks_datanodes(datanodes) {
            return Some(lacks);
        }
        let replicas: usize = self.beating().map(|n| n.regions).sum();
        let wanted = VOTERS * self.regions.len();
        if wanted == 0 || replicas < wanted {
            return Some(format!("datanodes have {replicas} of {wanted} replicas"));
        }
        let is_whole = |r: &&RegionReport| r.leader.is_some() && r.voters.len() == VOTERS && r.hot.len() >= 2;
        let broken = self.regions.iter().find(|region| !is_whole(region))?;
        Some(format!("{broken:?}"))
    }
}

fn etcd(shape: &Shape, site: Site) -> Result<(Process, String)> {
    let [peer, client] = site.ports()?;
    let (url, peer) = (
        format!("http://{}", site.address(client)),
        format!("http://{}", site.address(peer)),
    );
    let arguments = format!(
        "--data-dir {} --listen-client-urls {url} --advertise-client-urls {url} --listen-peer-urls {peer} \
         --initial-advertise-peer-urls {peer} --initial-cluster default={peer}",
        shape.dir.join("etcd").display()
    );
    let log = shape.dir.join("etcd.log");
    Ok((Process::new(&shape.etcd, site, log, &arguments), url))
}

fn metasrv(shape: &Shape, site: Site, addresses: &Addresses, http: u16) -> Process {
    let arguments = format!(
        "metasrv --grpc-addr {} --http-addr {} --set store.etcd.endpoints=[{}] {} --set log.format=json",
        addresses.meta_grpc,
        site.address(http),
        addresses.etcd_url,
        addresses.bucket
    );
    Process::new(&shape.node, site, shape.dir.join("metasrv.log"), &arguments)
}

fn datanode(shape: &Shape, site: Site, addresses: &Addresses, id: usize) -> Result<Process> {
    let [grpc, http] = site.ports()?;
    let arguments = format!(
        "datanode --node-id {id} --data-dir {} --grpc-addr {} --http-addr {} --metasrv {} {} --set \
         datanode.cache_disk=0B --set log.format=json",
        // A file system has files of its own at its root.
        data_dir(&shape.dir, id).join("data").display(),
        site.address(grpc),
        site.address(http),
        addresses.meta_grpc,
        addresses.bucket
    );
    let log = shape.dir.join(format!("datanode-{id}.log"));
    Ok(Process::new(&shape.node, site, log, &arguments))
}

fn data_dir(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("datanode-{id}"))
}

pub async fn sql(client: &reqwest::Client, frontend: &str, statement: &str) -> Result<String> {
    let form = [("sql", statement), ("format", "csv")];
    let answer = client
        .post(format!("{frontend}/v1/sql"))
        .form(&form)
        .send()
        .await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{statement}: {status}: {text}");
    Ok(text)
}

/// Moves a region and waits until that is done.
pub async fn migrate(
    client: &reqwest::Client,
    frontend: &str,
    region: &str,
    from: usize,
    to: usize,
) -> Result<()> {
    let order = format!("ADMIN migrate_region('{region}', {from}, {to})");
    let id = sql(client, frontend, &order).await?;
    let id = id.trim().lines().last().unwrap_or_default().trim_matches('"');
    let ask = format!("ADMIN procedure_state('{id}')");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = sql(client, frontend, &ask).await?;
        match state_of(&answer) {
            Some("done") => return Ok(()),
            Some("running") => {}
            _ => bail!("moving region {region} from {from} to {to}: {answer}"),
        }
        ensure!(
            Instant::now() < deadline,
            "the move of {region} does not end: {answer}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The field "state" of a JSON text that may be quoted as a field of CSV.
fn state_of(answer: &str) -> Option<&'static str> {
    let states = ["running", "done", "aborted", "failed"];
    let plain: String = answer.chars().filter(|c| !"\" \\".contains(*c)).collect();
    states
        .into_iter()
        .find(|state| plain.contains(&format!("state:{state}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_move_is_found_in_csv() {
        let answer = "state\n\"{\"\"id\"\":\"\"7\"\",\"\"state\"\": \"\"done\"\"}\"\n";
        assert_eq!(state_of(answer), Some("done"));
        assert_eq!(state_of("{\"state\":\"running\"}"), Some("running"));
        assert_eq!(state_of("nothing"), None);
    }

    #[test]
    fn a_cluster_whose_datanode_is_away_is_not_whole() {
        let report = |second: &str| {
            let text = format!(
                r#"{{"nodes": [{{"role": "datanode", "id": 0, "incarnation": 7, "alive": true, "last_beat_ms_ago": 20, "regions": 3}}, {second}],
                "regions": [{{"region": "1024:0", "table": "t", "leader": 0, "voters": [0, 1, 2], "hot": [0, 1]}}]}}"#
            );
            serde_json::from_str::<ClusterReport>(&text).unwrap()
        };
        let there =
            report(r#"{"role": "datanode", "id": 1, "alive": true, "last_beat_ms_ago": 90, "regions": 1}"#);
        assert_eq!(there.lacks(2), None);
        assert_eq!(there.regions[0].number(), Some(0));
        let away = report(r#"{"role": "datanode", "id": 1, "alive": false}"#);
        assert_eq!(away.lacks(2).unwrap(), "1 of 2 datanodes beat");
        assert_eq!((there.beating().count(), away.beating().count()), (2, 1));
        assert_eq!((away.incarnation(0), away.incarnation(1)), (Some(7), None));
        let silent =
            report(r#"{"role": "datanode", "id": 1, "alive": true, "last_beat_ms_ago": 900, "regions": 1}"#);
        assert!(
            silent.lacks(2).is_some(),
            "its session is that of a process that may be gone"
        );
    }
}
