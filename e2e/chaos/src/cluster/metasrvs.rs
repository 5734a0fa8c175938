//! The metasrv: some processes, of which one leads.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::time::Instant;

use super::report::ClusterReport;
use super::{LOOK_EVERY, PATIENCE};
use crate::network::Site;
use crate::process::Process;

/// One that says nothing for so long is not waited for: its address may be silent.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

pub struct Metasrvs {
    members: Vec<Member>,
    client: reqwest::Client,
    /// Who led when somebody asked; the first to be asked.
    led: AtomicUsize,
}

/// One of them, with where it is reached.
pub struct Member {
    pub process: Process,
    pub grpc: String,
    pub http: String,
}

impl Metasrvs {
    pub fn new(members: Vec<Member>, client: reqwest::Client) -> Self {
        Self {
            members,
            client,
            led: AtomicUsize::new(0),
        }
    }

    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.members.iter_mut().map(|member| &mut member.process)
    }

    pub fn sites(&self) -> Vec<&Site> {
        self.members.iter().map(|member| &member.process.site).collect()
    }

    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.members[number].process.kill()
    }

    pub fn start(&mut self, number: usize) -> Result<()> {
        self.members[number].process.start()
    }

    /// Where they log.
    pub fn logs(&self) -> impl Iterator<Item = &Path> {
        self.members.iter().map(|member| member.process.log())
    }

    /// Which one leads.
    pub async fn leader(&self) -> Result<usize> {
        Ok(self.ask_leader().await?.0)
    }

    /// Which led when that was last asked.
    pub fn known_to_lead(&self) -> usize {
        self.led.load(Ordering::SeqCst)
    }

    /// What the one that leads tells.
    pub async fn report(&self) -> Result<ClusterReport> {
        Ok(self.ask_leader().await?.1)
    }

    async fn ask_leader(&self) -> Result<(usize, ClusterReport)> {
        let first = self.led.load(Ordering::SeqCst);
        for number in in_turn(first, self.members.len()) {
            // One that is being killed does not answer.
            if let Ok(report) = self.ask(number).await
                && report.leader
            {
                self.led.store(number, Ordering::SeqCst);
                return Ok((number, report));
            }
        }
        bail!("no metasrv leads")
    }

    async fn ask(&self, number: usize) -> Result<ClusterReport> {
        let url = format!("http://{}/v1/cluster", self.members[number].http);
        let request = self.client.get(url).timeout(ANSWERS_WITHIN);
        let text = request.send().await?.text().await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until one leads and all others know which.
    pub async fn until_whole(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(lacks) = self.lacks().await {
            ensure!(
                Instant::now() < deadline,
                "metasrv does not become whole: {lacks}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn lacks(&self) -> Option<String> {
        let Ok(leader) = self.leader().await else {
            return Some("nobody leads".to_owned());
        };
        let address = &self.members[leader].grpc;
        for number in 0..self.members.len() {
            match self.ask(number).await {
                Ok(report) if report.leader_address == *address => {}
                Ok(report) => {
                    let other = report.leader_address;
                    return Some(format!("{number} says that {other:?} leads, and it is {address}"));
                }
                Err(error) => return Some(format!("{number} does not answer: {error:#}")),
            }
        }
        None
    }
}

/// So many numbers, beginning with one of them.
fn in_turn(first: usize, all: usize) -> impl Iterator<Item = usize> {
    (0..all).map(move |turn| (first + turn) % all)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::path::PathBuf;

    use super::*;
    use crate::network::Network;

    /// Answers every request with this report, as long as the test runs.
    fn member(report: String) -> Member {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let http = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    report.len()
                );
                stream.write_all((head + &report).as_bytes()).unwrap();
            }
        });
        let site = Network::Loopback.site("meta").unwrap();
        Member {
            process: Process::new(Path::new("none"), site, PathBuf::from("none.log"), ""),
            grpc: http.clone(),
            http,
        }
    }

    fn says(leader: bool, address: &str) -> String {
        format!(r#"{{"leader": {leader}, "leader_address": "{address}", "nodes": [], "regions": []}}"#)
    }

    fn group(members: Vec<Member>) -> Metasrvs {
        Metasrvs::new(members, reqwest::Client::builder().no_proxy().build().unwrap())
    }

    #[tokio::test]
    async fn the_one_that_says_so_leads_and_is_asked_first_from_then_on() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut first = member(says(false, ""));
        first.http = silent.to_string();
        let members = vec![first, member(says(false, "")), member(says(true, ""))];
        let metasrvs = group(members);
        assert_eq!(metasrvs.leader().await.unwrap(), 2);
        assert_eq!(in_turn(metasrvs.led.load(Ordering::SeqCst), 3).next(), Some(2));
        let leaderless = group(vec![member(says(false, ""))]);
        assert!(leaderless.leader().await.is_err());
    }

    #[tokio::test]
    async fn a_group_is_whole_when_all_know_the_same_leader() {
        let mut leader = member(says(true, "m0:3002"));
        leader.grpc = "m0:3002".to_owned();
        let metasrvs = group(vec![leader, member(says(false, "m0:3002"))]);
        assert_eq!(metasrvs.lacks().await, None);
        let mut leader = member(says(true, "m0:3002"));
        leader.grpc = "m0:3002".to_owned();
        let metasrvs = group(vec![leader, member(says(false, "m1:3002"))]);
        let lacks = metasrvs.lacks().await.unwrap();
        assert_eq!(lacks, "1 says that \"m1:3002\" leads, and it is m0:3002");
    }

    #[test]
    fn all_are_asked_once() {
        assert_eq!(in_turn(2, 3).collect::<Vec<_>>(), [2, 0, 1]);
    }
}
