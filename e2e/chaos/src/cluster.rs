//! A cluster of plain processes on the loopback: etcd, metasrv, three datanodes, a frontend.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::time::Instant;

/// A cluster that takes longer for anything has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Programs of the cluster.
pub struct Programs {
    pub node: PathBuf,
    pub etcd: PathBuf,
}

/// One process, with how to start it again. It is killed when this is dropped.
struct Process {
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    fn new(program: &Path, log: PathBuf, arguments: Vec<String>) -> Self {
        Self {
            program: program.to_owned(),
            arguments,
            log,
            child: None,
        }
    }

    fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the process is not running")?;
        let pid = Pid::from_raw(child.id() as i32).context("a process has a number")?;
        Ok(kill_process(pid, signal)?)
    }

    fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() {
            // It may have ended by itself.
            let _ = self.kill();
        }
    }
}

/// Ports of this machine that were free a moment ago.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
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

#[derive(Debug, Deserialize)]
struct ClusterReport {
    regions: Vec<RegionReport>,
}

pub struct Cluster {
    etcd: Process,
    metasrv: Process,
    datanodes: Vec<Process>,
    frontend: Process,
    client: reqwest::Client,
    metasrv_http: String,
    pub frontend_http: String,
}

impl Cluster {
    /// Starts everything below `dir` and waits until a statement is answered.
    pub async fn start(programs: &Programs, dir: &Path) -> Result<Self> {
        let [peer, client, meta, meta_http, http, mysql, postgres] = free_ports()?;
        let local = |port: u16| format!("127.0.0.1:{port}");
        let etcd_url = format!("http://{}", local(client));
        let peer_url = format!("http://{}", local(peer));
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<String>>();
        let etcd = words(&format!(
            "--data-dir {} --listen-client-urls {etcd_url} --advertise-client-urls {etcd_url} --listen-peer-urls \
             {peer_url} --initial-advertise-peer-urls {peer_url} --initial-cluster default={peer_url}",
            dir.join("etcd").display()
        ));
        let bucket = format!(
            "--set object_store.kind=local --set object_store.dir={}",
            dir.join("bucket").display()
        );
        let metasrv = words(&format!(
            "metasrv --grpc-addr {} --http-addr {} --set store.etcd.endpoints=[{etcd_url}] {bucket}",
            local(meta),
            local(meta_http)
        ));
        let mut datanodes = Vec::new();
        for id in 0..3 {
            let [grpc, http] = free_ports()?;
            let arguments = words(&format!(
                "datanode --node-id {id} --data-dir {} --grpc-addr {} --http-addr {} --metasrv {} {bucket} --set \
                 datanode.cache_disk=0B",
                dir.join(format!("datanode-{id}")).display(),
                local(grpc),
                local(http),
                local(meta)
            ));
            let log = dir.join(format!("datanode-{id}.log"));
            datanodes.push(Process::new(&programs.node, log, arguments));
        }
        let frontend = words(&format!(
            "frontend --http-addr {} --mysql-addr {} --postgres-addr {} --metasrv {}",
            local(http),
            local(mysql),
            local(postgres),
            local(meta)
        ));
        let mut cluster = Self {
            etcd: Process::new(&programs.etcd, dir.join("etcd.log"), etcd),
            metasrv: Process::new(&programs.node, dir.join("metasrv.log"), metasrv),
            datanodes,
            frontend: Process::new(&programs.node, dir.join("frontend.log"), frontend),
            client: reqwest::Client::builder().timeout(PATIENCE).build()?,
            metasrv_http: format!("http://{}", local(meta_http)),
            frontend_http: format!("http://{}", local(http)),
        };
        std::fs::create_dir_all(dir.join("bucket"))?;
        cluster.etcd.start()?;
        cluster.metasrv.start()?;
        for datanode in &mut cluster.datanodes {
            datanode.start()?;
        }
        cluster.frontend.start()?;
        cluster.until_answered("SELECT 1").await?;
        Ok(cluster)
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

    /// Runs a statement; the answer as CSV.
    pub async fn sql(&self, statement: &str) -> Result<String> {
        let url = format!("{}/v1/sql", self.frontend_http);
        let form = [("sql", statement), ("format", "csv")];
        let answer = self.client.post(url).form(&form).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{statement}: {status}: {text}");
        Ok(text)
    }

    /// The regions as metasrv sees them now.
    pub async fn regions(&self) -> Result<Vec<RegionReport>> {
        let url = format!("{}/v1/cluster", self.metasrv_http);
        let text = self.client.get(url).send().await?.text().await?;
        let report: ClusterReport = serde_json::from_str(&text)?;
        Ok(report.regions)
    }

    /// Waits until every region is led, has three voters, and a second one is ready to lead.
    pub async fn until_whole(&self) -> Result<Vec<RegionReport>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let regions = self.regions().await.unwrap_or_default();
            let is_whole = |r: &RegionReport| r.leader.is_some() && r.voters.len() == 3 && r.hot.len() >= 2;
            if !regions.is_empty() && regions.iter().all(is_whole) {
                return Ok(regions);
            }
            ensure!(
                Instant::now() < deadline,
                "the cluster does not become whole: {regions:#?}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub fn kill_datanode(&mut self, node: usize) -> Result<()> {
        self.datanodes[node].kill()
    }

    pub fn start_datanode(&mut self, node: usize) -> Result<()> {
        self.datanodes[node].start()
    }

    /// Stops a datanode where it is, or lets it go on.
    pub fn freeze_datanode(&self, node: usize, frozen: bool) -> Result<()> {
        self.datanodes[node].signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    pub fn kill_metasrv(&mut self) -> Result<()> {
        self.metasrv.kill()
    }

    pub fn start_metasrv(&mut self) -> Result<()> {
        self.metasrv.start()
    }
}
