//! Elections over a real etcd, which dies and comes back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use greptime_clock::{SharedClock, SystemClock};
use greptime_metasrv::store::{EtcdConfig, EtcdStore};
use greptime_metasrv::{Election, EtcdElection, Leadership};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

struct Etcd {
    dir: tempfile::TempDir,
    client: String,
    peer: String,
    process: Child,
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn program() -> PathBuf {
    let cache = std::env::var("GREPTIME_CACHE");
    let cache =
        cache.unwrap_or_else(|_| format!("{}/.cache/greptimecluster", std::env::var("HOME").unwrap()));
    let etcd = Path::new(&cache).join("tools/bin/etcd");
    assert!(
        etcd.exists(),
        "{} is missing; `greptime-lab tools` builds it",
        etcd.display()
    );
    etcd
}

impl Etcd {
    fn start() -> Self {
        let (dir, client, peer) = (tempfile::tempdir().unwrap(), free_address(), free_address());
        let process = Self::run(dir.path(), &client, &peer);
        Self {
            dir,
            client,
            peer,
            process,
        }
    }

    fn run(dir: &Path, client: &str, peer: &str) -> Child {
        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        Command::new(program())
            .args(["--name", "one", "--log-level", "error", "--data-dir"])
            .arg(dir)
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .arg(format!("--initial-cluster=one={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = Self::run(self.dir.path(), &self.client, &self.peer);
    }

    fn store(&self) -> Arc<EtcdStore> {
        let config = EtcdConfig {
            endpoints: vec![format!("http://{}", self.client)],
            prefix: "/test".into(),
            ..EtcdConfig::default()
        };
        Arc::new(EtcdStore::new(config).unwrap())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One metasrv, as far as it stands for election.
struct Candidate {
    election: Arc<EtcdElection>,
    leadership: watch::Receiver<Leadership>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Candidate {
    fn stand(etcd: &Etcd, name: &str, clock: &SharedClock) -> Self {
        let election = Arc::new(EtcdElection::new(etcd.store(), name.into(), Arc::clone(clock)));
        let (tell, leadership) = watch::channel(Leadership::Unknown);
        let shutdown = CancellationToken::new();
        let (candidate, stop) = (Arc::clone(&election), shutdown.clone());
        let running = tokio::spawn(async move { candidate.run(tell, stop).await });
        Self {
            election,
            leadership,
            shutdown,
            running,
        }
    }

    fn leads(&self) -> bool {
        *self.leadership.borrow() == Leadership::Leader
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Leadership) -> bool) {
        let mut leadership = self.leadership.clone();
        let found = tokio::time::timeout(PATIENCE, leadership.wait_for(wanted)).await;
        assert!(found.is_ok(), "never: {what}; {:?}", self.leadership.borrow());
    }

    async fn leads_now(&self) {
        self.until("it leads", |now| *now == Leadership::Leader).await;
    }
}

async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_the_next_follows_at_once_when_it_stops() {
    let (etcd, clock) = (Etcd::start(), SystemClock::shared());
    let first = Candidate::stand(&etcd, "a:1", &clock);
    first.leads_now().await;
    let second = Candidate::stand(&etcd, "b:1", &clock);
    let follows = Leadership::Follower { leader: "a:1".into() };
    second.until("it follows", |now| *now == follows).await;
    let asked = clock.now();
    first.shutdown.cancel();
    second.leads_now().await;
    let took = clock.now() - asked;
    assert!(
        took < Duration::from_millis(2_500),
        "its key was left behind: {took:?}"
    );
    assert_eq!(first.election.surely_leads_until(), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_away_for_a_moment_ends_no_term() {
    let (mut etcd, clock) = (Etcd::start(), SystemClock::shared());
    let mut leader = Candidate::stand(&etcd, "a:1", &clock);
    leader.leads_now().await;
    leader.leadership.mark_unchanged();
    etcd.kill();
    pause(2).await;
    etcd.start_again();
    pause(6).await;
    assert!(
        leader.leads() && !leader.leadership.has_changed().unwrap(),
        "it lost the lead"
    );
    assert!(leader.election.surely_leads_until() > clock.now());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_etcd_gives_up_before_its_key_ends_and_leads_again_when_etcd_is_back() {
    let (mut etcd, clock) = (Etcd::start(), SystemClock::shared());
    let leader = Candidate::stand(&etcd, "a:1", &clock);
    leader.leads_now().await;
    etcd.kill();
    let surely = leader.election.surely_leads_until();
    leader
        .until("it gives up", |now| *now == Leadership::Unknown)
        .await;
    assert!(clock.now() < surely, "somebody else could have led");
    pause(1).await;
    etcd.start_again();
    let back = clock.now();
    leader.leads_now().await;
    let took = clock.now() - back;
    assert!(
        took < Duration::from_secs(4),
        "it waited for its own key: {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_gone_is_followed_when_it_surely_leads_no_more() {
    let (etcd, clock) = (Etcd::start(), SystemClock::shared());
    let first = Candidate::stand(&etcd, "a:1", &clock);
    first.leads_now().await;
    let second = Candidate::stand(&etcd, "b:1", &clock);
    pause(2).await;
    // As by SIGKILL: nothing is said to anybody.
    first.running.abort();
    let surely = first.election.surely_leads_until();
    second.leads_now().await;
    assert!(clock.now() >= surely, "two could have led");
}

/// Who leads, at the address of a listener, as a metasrv has one.
async fn leader_that_listens(etcd: &Etcd, clock: &SharedClock) -> (Candidate, TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let leader = Candidate::stand(etcd, &address, clock);
    leader.leads_now().await;
    (leader, listener, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_process_is_gone_is_followed_at_once() {
    let (etcd, clock) = (Etcd::start(), SystemClock::shared());
    let (first, listener, address) = leader_that_listens(&etcd, &clock).await;
    let second = Candidate::stand(&etcd, "b:1", &clock);
    let (line, _) = listener.accept().await.unwrap();
    let follows = Leadership::Follower { leader: address };
    second.until("it follows", |now| *now == follows).await;
    pause(1).await;
    // The system closes what a killed process had open.
    first.running.abort();
    drop((line, listener));
    let killed = clock.now();
    second.leads_now().await;
    let took = clock.now() - killed;
    assert!(took < Duration::from_secs(1), "it waited for the key: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_be_reached_goes_on_leading() {
    let (etcd, clock) = (Etcd::start(), SystemClock::shared());
    let (first, listener, _) = leader_that_listens(&etcd, &clock).await;
    let second = Candidate::stand(&etcd, "b:1", &clock);
    let breaking = async {
        loop {
            let (line, _) = listener.accept().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(line);
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), breaking).await;
    assert!(first.leads() && !second.leads());
}

#[test]
fn each_defence_is_missed_when_it_is_away() {
    greptime_defences::each_is_missed_in("election", greptime_metasrv::PROOFS_ELSEWHERE);
}
