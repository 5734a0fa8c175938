//! A cluster of plain processes: etcd, some metasrv, datanodes, a frontend.

mod damage;
mod metasrvs;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::disk::OwnDisk;
use crate::metrics::Metrics;
use crate::network::{Cut, Network, Site};
use crate::process::Process;
use crate::steps::{LogTail, Moment};
use metasrvs::{Member, Metasrvs};
use report::ClusterReport;
pub use report::RegionReport;

/// A cluster that takes longer for anything has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Where a datanode and the frontend know when a step of a handover is done. They say it at the level debug.
const STEPS_OF_DATANODE: &str = "greptime_datanode::server::regions";
const STEPS_OF_FRONTEND: &str = "greptime_frontend::route::session";

/// What a cluster is made of.
#[derive(Clone)]
pub struct Shape {
    pub node: PathBuf,
    /// What its processes are before they are started again; nothing if that is `node` too.
    pub before: Option<PathBuf>,
    pub etcd: PathBuf,
    /// Data and logs.
    pub dir: PathBuf,
    pub metasrvs: usize,
    pub datanodes: usize,
    /// Of each region: 1 or 3.
    pub voters: usize,
    /// Each datanode has a disk of its own, which can hang.
    pub disks: bool,
    /// Each step of a handover is logged.
    pub tells_steps: bool,
}

impl Shape {
    /// A process of the database.
    fn process(&self, site: Site, log: &str, arguments: &str) -> Process {
        Process::new(&self.node, site, self.dir.join(log), arguments).beginning_with(self.before.clone())
    }

    /// What is logged, as arguments. `module`: who knows of steps.
    fn logging(&self, module: &str) -> String {
        match self.tells_steps {
            true => format!("--set log.format=json --log-level info,{module}=debug"),
            false => "--set log.format=json".to_owned(),
        }
    }
}

/// Fields are dropped in their order: processes end before their disks and their network go.
pub struct Cluster {
    datanodes: Vec<Process>,
    /// Where each datanode answers by HTTP.
    datanodes_http: Vec<String>,
    /// The directory of each datanode's log.
    logs: Vec<PathBuf>,
    bucket: PathBuf,
    frontend: Process,
    metasrvs: Metasrvs,
    etcd: Process,
    disks: Vec<OwnDisk>,
    network: Arc<Network>,
    client: reqwest::Client,
    voters: usize,
    pub frontend_http: String,
}

/// Addresses of what others dial.
struct Addresses {
    etcd_url: String,
    /// Those of all metasrv, as arguments.
    metasrvs: String,
    /// Where objects are, as arguments.
    bucket: String,
}

impl Cluster {
    /// Starts everything and waits until a statement is answered and all datanodes are there. Regions that were made
    /// before would be on fewer, and get others afterwards.
    pub async fn start(shape: &Shape, network: Arc<Network>) -> Result<Self> {
        let mut cluster = Self::lay_out(shape, network)?;
        cluster.start_missing()?;
        cluster.until_answered("SELECT 1").await?;
        cluster.until_all_beat().await?;
        Ok(cluster)
    }

    fn lay_out(shape: &Shape, network: Arc<Network>) -> Result<Self> {
        let dir = &shape.dir;
        let bucket = dir.join("bucket");
        std::fs::create_dir_all(&bucket)?;
        let (etcd, etcd_url) = etcd(shape, network.site("etcd")?)?;
        let mut addresses = Addresses {
            etcd_url,
            metasrvs: String::new(),
            bucket: format!(
                "--set object_store.kind=local --set object_store.dir={}",
                bucket.display()
            ),
        };
        let mut members = Vec::new();
        for number in 0..shape.metasrvs {
            let member = metasrv(shape, network.site(&format!("meta{number}"))?, &addresses, number)?;
            addresses.metasrvs += &format!(" --metasrv {}", member.grpc);
            members.push(member);
        }
        let (mut datanodes, mut datanodes_http, mut disks) = (Vec::new(), Vec::new(), Vec::new());
        for id in 0..shape.datanodes {
            if shape.disks {
                disks.push(OwnDisk::make(id, dir, &data_dir(dir, id))?);
            }
            let site = network.site(&format!("dn{id}"))?;
            let (process, http) = datanode(shape, site, &addresses, id)?;
            datanodes.push(process);
            datanodes_http.push(http);
        }
        let site = network.site("front")?;
        let [http, mysql, postgres] = site.ports()?;
        let frontend_http = format!("http://{}", site.address(http));
        let arguments = format!(
            "frontend --http-addr {} --mysql-addr {} --postgres-addr {}{} {}",
            site.address(http),
            site.address(mysql),
            site.address(postgres),
            addresses.metasrvs,
            shape.logging(STEPS_OF_FRONTEND)
        );
        let frontend = shape.process(site, "frontend.log", &arguments);
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        let log = |id| data_of(dir, id).join("log");
        Ok(Self {
            datanodes,
            datanodes_http,
            logs: (0..shape.datanodes).map(log).collect(),
            bucket,
            frontend,
            metasrvs: Metasrvs::new(members, client.clone()),
            etcd,
            disks,
            network,
            client,
            voters: shape.voters,
            frontend_http,
        })
    }

    /// Starts whatever is not running.
    pub fn start_missing(&mut self) -> Result<()> {
        self.processes().try_for_each(Process::start)
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        [&mut self.etcd]
            .into_iter()
            .chain(self.metasrvs.processes())
            .chain(&mut self.datanodes)
            .chain([&mut self.frontend])
    }

    /// Undoes everything that a fault may have left undone.
    pub fn mend(&mut self) -> Result<()> {
        self.disks.iter().for_each(|disk| disk.thaw());
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
            // While nobody leads, nobody can tell.
            let report = self.metasrvs.report().await.unwrap_or_default();
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
        Ok(self.metasrvs.report().await?.regions)
    }

    /// Waits until every metasrv knows who leads, every datanode is there with its regions, and every region is led,
    /// has all voters, and a second one is ready to lead.
    pub async fn until_whole(&self) -> Result<Vec<RegionReport>> {
        self.metasrvs.until_whole().await?;
        let lacks = |report: &ClusterReport| report.lacks(self.datanodes.len(), self.voters);
        Ok(self.until_it_lacks_nothing(lacks).await?.regions)
    }

    /// The datanode's process, as metasrv knows it; nothing if it knows none.
    pub async fn incarnation(&self, node: usize) -> Result<Option<u64>> {
        Ok(self.metasrvs.report().await?.incarnation(node))
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

    /// What a datanode counts.
    pub async fn datanode_metrics(&self, node: usize) -> Result<Metrics> {
        let url = format!("http://{}/metrics", self.datanodes_http[node]);
        Ok(Metrics(self.client.get(url).send().await?.text().await?))
    }

    /// The most memory that a datanode's process ever had, in bytes.
    pub fn peak_memory(&self, node: usize) -> Result<u64> {
        self.datanodes[node].peak_memory()
    }

    /// Bytes that the frontend has sent, with their headers; nothing where they are not counted.
    pub fn sent_by_frontend(&self) -> Result<Option<u64>> {
        self.frontend.site.sent()
    }

    /// The directory that is the object store.
    pub fn bucket(&self) -> &Path {
        &self.bucket
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

    /// Flips a bit of the log of a datanode that does not run, where rows that were acknowledged are.
    pub fn damage_log(&self, node: usize) -> Result<()> {
        damage::flip_a_bit(&self.logs[node])
    }

    /// Stops a datanode where it is, or lets it go on.
    pub fn freeze_datanode(&self, node: usize, frozen: bool) -> Result<()> {
        self.datanodes[node].signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    pub fn cut_datanode(&self, node: usize, cut: Cut<'_>) -> Result<()> {
        self.network.cut(&self.datanodes[node].site, cut)
    }

    pub fn cut_datanode_from_metasrv(&self, node: usize) -> Result<()> {
        self.cut_datanode(node, Cut::From(&self.metasrvs.sites()))
    }

    /// From the other datanodes.
    pub fn cut_datanode_from_others(&self, node: usize) -> Result<()> {
        let others = self.datanodes.iter().enumerate().filter(|(n, _)| *n != node);
        let sites: Vec<&Site> = others.map(|(_, process)| &process.site).collect();
        self.cut_datanode(node, Cut::From(&sites))
    }

    pub fn heal_network(&self) -> Result<()> {
        self.network.heal()
    }

    /// Makes writes of a datanode's disk hang, from when that is asked for; the moment is returned.
    pub fn freeze_disk(&self, node: usize) -> Result<Moment> {
        let disk = self.disk(node)?;
        disk.sync()?;
        let asked = Moment::now();
        disk.freeze()?;
        Ok(asked)
    }

    /// Lets writes of a datanode's disk go on.
    pub fn thaw_disk(&self, node: usize) -> Result<()> {
        self.disk(node).map(|disk| disk.thaw())
    }

    fn disk(&self, node: usize) -> Result<&OwnDisk> {
        self.disks
            .get(node)
            .context("the datanode has no disk of its own")
    }

    /// Which metasrv leads; an error while none does.
    pub async fn leading_metasrv(&self) -> Result<usize> {
        self.metasrvs.leader().await
    }

    /// Which metasrv led when that was last asked.
    pub fn known_to_lead(&self) -> usize {
        self.metasrvs.known_to_lead()
    }

    /// No packet reaches a datanode and a metasrv, or leaves them.
    pub fn cut_both(&self, node: usize, metasrv: usize) -> Result<()> {
        let sites = [&self.datanodes[node].site, self.metasrvs.sites()[metasrv]];
        self.network.cut_off(&sites)
    }

    pub fn kill_metasrv(&mut self, number: usize) -> Result<()> {
        self.metasrvs.kill(number)
    }

    pub fn start_metasrv(&mut self, number: usize) -> Result<()> {
        self.metasrvs.start(number)
    }

    pub fn kill_etcd(&mut self) -> Result<()> {
        self.etcd.kill()
    }

    pub fn start_etcd(&mut self) -> Result<()> {
        self.etcd.start()
    }

    /// What all metasrv log from now on.
    pub fn metasrv_log(&self) -> LogTail {
        LogTail::of(self.metasrvs.logs())
    }

    /// What all processes of the database log from now on.
    pub fn log(&self) -> LogTail {
        let others = self.datanodes.iter().chain([&self.frontend]);
        LogTail::of(self.metasrvs.logs().chain(others.map(Process::log)))
    }

    /// Moves a region and waits until that is done.
    pub async fn migrate(&self, region: &str, from: usize, to: usize) -> Result<()> {
        migrate(&self.client, &self.frontend_http, region, from, to).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A process that waits for a frozen disk cannot be killed.
        self.disks.iter().for_each(|disk| disk.thaw());
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

fn metasrv(shape: &Shape, site: Site, addresses: &Addresses, number: usize) -> Result<Member> {
    let [grpc, http] = site.ports()?;
    let (grpc, http) = (site.address(grpc), site.address(http));
    let arguments = format!(
        "metasrv --node-id {number} --grpc-addr {grpc} --http-addr {http} --set store.etcd.endpoints=[{}] {} --set \
         metasrv.replicas={} --set log.format=json",
        addresses.etcd_url, addresses.bucket, shape.voters
    );
    let log = format!("metasrv-{number}.log");
    Ok(Member {
        process: shape.process(site, &log, &arguments),
        grpc,
        http,
    })
}

/// The process, and where it answers by HTTP.
fn datanode(shape: &Shape, site: Site, addresses: &Addresses, id: usize) -> Result<(Process, String)> {
    let [grpc, http] = site.ports()?;
    let arguments = format!(
        "datanode --node-id {id} --data-dir {} --grpc-addr {} --http-addr {}{} {} --set datanode.cache_disk=0B {}",
        data_of(&shape.dir, id).display(),
        site.address(grpc),
        site.address(http),
        addresses.metasrvs,
        addresses.bucket,
        shape.logging(STEPS_OF_DATANODE)
    );
    let log = format!("datanode-{id}.log");
    let http = site.address(http);
    Ok((shape.process(site, &log, &arguments), http))
}

fn data_dir(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("datanode-{id}"))
}

/// What is a datanode's: a file system has files of its own at its root.
fn data_of(dir: &Path, id: usize) -> PathBuf {
    data_dir(dir, id).join("data")
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

    fn shape(tells_steps: bool) -> Shape {
        Shape {
            node: PathBuf::from("node"),
            before: None,
            etcd: PathBuf::from("etcd"),
            dir: PathBuf::from("dir"),
            metasrvs: 1,
            datanodes: 3,
            voters: 3,
            disks: false,
            tells_steps,
        }
    }

    #[test]
    fn steps_are_logged_where_somebody_reads_them() {
        let logging = |tells_steps| shape(tells_steps).logging("a::b");
        assert_eq!(logging(false), "--set log.format=json");
        assert_eq!(logging(true), "--set log.format=json --log-level info,a::b=debug");
    }

    #[test]
    fn the_state_of_a_move_is_found_in_csv() {
        let answer = "state\n\"{\"\"id\"\":\"\"7\"\",\"\"state\"\": \"\"done\"\"}\"\n";
        assert_eq!(state_of(answer), Some("done"));
        assert_eq!(state_of("{\"state\":\"running\"}"), Some("running"));
        assert_eq!(state_of("nothing"), None);
    }
}
