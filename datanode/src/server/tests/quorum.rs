//! A region with replicas on three datanodes, over one bucket and a network that can be cut.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use greptime_peers::PeerHandler;
use greptime_peers::testing::{Fault, Network};
use greptime_proto::SessionHandler;
use greptime_proto::v1::{self, push};
use greptime_types::format::QUORUM_FORMAT;
use greptime_types::{Change, ErrorKind, RegionId};

use crate::testing::{FaultyStore, Node, Place, WriteOptions, row, table};

const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    nodes: Vec<Node>,
    network: Arc<Network>,
}

fn members(count: u64) -> Vec<v1::RegionMember> {
    let member = |node| v1::RegionMember {
        raft_id: node + 1,
        node,
    };
    (0..count).map(member).collect()
}

impl Cluster {
    /// Three nodes, where node 0 leads, 1 is hot and 2 keeps the log only.
    async fn new(append_mode: bool) -> Self {
        let cluster = Self::empty(append_mode).await;
        for node in &cluster.nodes {
            cluster.initialise(node, &[1, 2, 3]).await;
        }
        cluster.role(0, true);
        cluster.role(1, true);
        cluster.lead(0).await;
        cluster
    }

    async fn empty(append_mode: bool) -> Self {
        let (network, store) = (Network::new(), Arc::new(FaultyStore::default()));
        let mut nodes = Vec::new();
        for id in 0..3 {
            let place = Place {
                id,
                network: Some(Arc::clone(&network)),
            };
            nodes.push(Node::at(place, Arc::clone(&store), table(1024, append_mode)).await);
        }
        let cluster = Self { nodes, network };
        cluster.introduce();
        cluster
    }

    /// Tells everybody where everybody is.
    fn introduce(&self) {
        let welcome = v1::Welcome {
            metasrv_epoch: 1,
            heartbeat_interval_ms: 100,
            format_version: QUORUM_FORMAT,
            ..Default::default()
        };
        for node in &self.nodes {
            node.datanode.told(push::Body::Welcome(welcome.clone()));
        }
        self.tell_peers(&[0, 1, 2]);
    }

    /// Tells everybody where those are who have come to metasrv.
    fn tell_peers(&self, come: &[u64]) {
        let peer = |node: &Node| v1::Peer {
            node: node.place.id,
            address: node.place.address(),
            incarnation: 0,
        };
        let (here, awaited): (Vec<_>, Vec<_>) =
            self.nodes.iter().partition(|node| come.contains(&node.place.id));
        let update = v1::PeerUpdate {
            peers: here.into_iter().map(peer).collect(),
            awaited: awaited.into_iter().map(|node| node.place.id).collect(),
        };
        for node in &self.nodes {
            node.datanode.told(push::Body::Peers(update.clone()));
        }
    }

    async fn initialise(&self, node: &Node, voters: &[u64]) {
        let order = v1::InitialiseRegion {
            region_id: node.region.as_u64(),
            raft_id: node.place.id + 1,
            voters: voters.to_vec(),
            members: members(3),
            table_json: serde_json::to_string(&node.table).unwrap(),
        };
        node.datanode.initialise(order).await.unwrap();
    }

    fn role(&self, node: usize, hot: bool) {
        let region_id = self.nodes[0].region.as_u64();
        let role = v1::SetRegionRole {
            region_id,
            hot,
            warm: false,
        };
        self.nodes[node].datanode.told(push::Body::SetRole(role));
    }

    fn report(&self, node: usize) -> v1::RegionReport {
        let reports = self.nodes[node].datanode.reports();
        reports.into_iter().next().unwrap_or_default()
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !condition() {
            let all: Vec<_> = (0..3).map(|n| self.report(n)).collect();
            assert!(tokio::time::Instant::now() < deadline, "never: {what}: {all:#?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn leads(&self, node: usize) -> bool {
        self.report(node).role() == v1::RegionRole::Leader
    }

    /// As metasrv does it: told again until it leads.
    async fn lead(&self, node: usize) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.leads(node) {
            assert!(tokio::time::Instant::now() < deadline, "{:#?}", self.report(node));
            let seen_term = (0..3).map(|n| self.report(n).epoch).max().unwrap_or(0);
            let campaign = v1::CampaignRegion {
                region_id: self.nodes[node].region.as_u64(),
                raft_id: node as u64 + 1,
                seen_term,
            };
            self.nodes[node].datanode.told(push::Body::Campaign(campaign));
            for _ in 0..50 {
                if self.leads(node) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        self.nodes[node].wait_until_readable().await;
    }

    /// Until a node has all that the leader has, and so can be elected whoever else votes.
    async fn until_caught_up(&self, node: usize) {
        let caught_up = || self.report(node).last_index == self.report(0).last_index;
        self.until("it has caught up", caught_up).await;
    }

    /// The power of a node goes; it is back with what was on its disk.
    async fn crash(mut self, node: usize) -> Self {
        let crashed = self.nodes.remove(node);
        let log = crashed.log.reopen();
        let back = crashed.restart_on(log).await;
        self.nodes.insert(node, back);
        self.introduce();
        self
    }

    fn isolate(&self, node: usize, fault: Fault) {
        let address = self.nodes[node].place.address();
        for other in self.nodes.iter().filter(|n| n.place.address() != address) {
            self.network.set_both(&address, &other.place.address(), fault);
        }
    }

    fn memory(&self, node: usize) -> usize {
        let regions = self.nodes[node].datanode.regions().all();
        regions[0].with_state(|s| s.memory())
    }

    fn applied(&self, node: usize) -> u64 {
        let regions = self.nodes[node].datanode.regions().all();
        regions[0].with_state(|s| s.applied())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_read_and_written_on_when_the_leader_is_gone() {
    let mut cluster = Cluster::new(false).await;
    for ts in 1..=5 {
        cluster.nodes[0].write(&[row("a", ts, 1.0)]).await.unwrap();
    }
    cluster.nodes[0].flush().await.unwrap();
    cluster.nodes[0].write(&[row("a", 6, 1.0)]).await.unwrap();
    cluster.until_caught_up(1).await;
    cluster.isolate(0, Fault::Cut);
    cluster.lead(1).await;
    assert_eq!(cluster.nodes[1].read().await.unwrap().len(), 6);
    cluster.nodes[1].write(&[row("a", 7, 1.0)]).await.unwrap();
    cluster.isolate(0, Fault::None);
    cluster = cluster.crash(0).await;
    cluster.role(0, true);
    cluster
        .until("it has everything", || {
            cluster.applied(0) == cluster.applied(1) && !cluster.leads(0)
        })
        .await;
    cluster.lead(0).await;
    assert_eq!(cluster.nodes[0].read().await.unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_follower_has_rows_until_they_are_in_files_and_a_log_only_one_has_none() {
    let cluster = Cluster::new(false).await;
    let mut last = 0;
    for ts in 1..=20 {
        last = cluster.nodes[0]
            .write(&[row("a", ts, 1.0)])
            .await
            .unwrap()
            .sequence;
    }
    cluster.until("it follows", || cluster.applied(1) >= last).await;
    assert!(cluster.memory(1) > 0 && cluster.memory(2) == 0);
    let flushed = cluster.nodes[0].flush().await.unwrap();
    assert!(flushed >= last);
    cluster
        .until("its rows are in files", || {
            cluster.memory(1) == 0 && cluster.report(1).flushed_index == flushed
        })
        .await;
    for node in 0..3 {
        let bounds = || cluster.nodes[node].log.bounds_of_first();
        cluster
            .until("the log is trimmed", || {
                bounds().is_none_or(|(first, _)| first > last)
            })
            .await;
    }
    cluster.nodes[0].write(&[row("b", 1, 1.0)]).await.unwrap();
    cluster.lead(2).await;
    assert_eq!(cluster.nodes[2].read().await.unwrap().len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_repeated_at_the_next_leader_is_applied_once() {
    let cluster = Cluster::new(true).await;
    let options = WriteOptions {
        number: 5,
        ..cluster.nodes[0].options()
    };
    let rows = [row("a", 1, 1.0)];
    assert!(
        !cluster.nodes[0]
            .write_with(options, &rows)
            .await
            .unwrap()
            .duplicate
    );
    cluster.until_caught_up(1).await;
    cluster.isolate(0, Fault::Cut);
    cluster.lead(1).await;
    assert!(
        cluster.nodes[1]
            .write_with(options, &rows)
            .await
            .unwrap()
            .duplicate
    );
    cluster.nodes[1].flush().await.unwrap();
    cluster.isolate(0, Fault::None);
    cluster.lead(2).await;
    assert!(
        cluster.nodes[2]
            .write_with(options, &rows)
            .await
            .unwrap()
            .duplicate
    );
    assert_eq!(cluster.nodes[2].read().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_cut_off_gives_no_rows() {
    let cluster = Cluster::new(false).await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    assert_eq!(cluster.nodes[0].read().await.unwrap().len(), 1);
    cluster.until_caught_up(1).await;
    cluster.isolate(0, Fault::Cut);
    cluster.lead(1).await;
    cluster.nodes[1].write(&[row("a", 1, 2.0)]).await.unwrap();
    assert!(cluster.leads(0), "it has not heard of the other");
    let error = cluster.nodes[0].read().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(cluster.nodes[1].read().await.unwrap(), [row("a", 1, 2.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_metasrv_that_awaits_others_ends_no_stream_to_them() {
    let cluster = Cluster::new(false).await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    cluster.tell_peers(&[1]);
    let rows = [row("a", 2, 2.0)];
    let written = tokio::time::timeout(Duration::from_secs(1), cluster.nodes[0].write(&rows)).await;
    assert!(
        written.is_ok_and(|written| written.is_ok()),
        "the followers are where they were"
    );
    assert_eq!(cluster.nodes[0].read().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gives_way_when_memory_comes_near_the_limit() {
    let cluster = Cluster::new(false).await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    cluster
        .until("applied by the follower", || cluster.memory(1) > 0)
        .await;
    let (node, others) = (&cluster.nodes[1].datanode, 500 << 20);
    node.budget.changed(0, others);
    cluster
        .until("it keeps the log only", || !cluster.report(1).hot)
        .await;
    assert_eq!(cluster.memory(1), 0);
    assert!(cluster.report(0).hot && cluster.memory(0) > 0, "leaders stay");
    // As metasrv says again and again.
    cluster.role(1, true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!cluster.report(1).hot);
    cluster.nodes[0].write(&[row("b", 1, 2.0)]).await.unwrap();
    node.budget.changed(others, 0);
    cluster.role(1, true);
    cluster
        .until("it is hot again", || {
            cluster.report(1).hot && cluster.memory(1) > 0
        })
        .await;
    cluster.until_caught_up(1).await;
    cluster.isolate(0, Fault::Cut);
    cluster.lead(1).await;
    assert_eq!(cluster.nodes[1].read().await.unwrap().len(), 2);
}

fn welcome(node: &Node, metasrv_epoch: u64) {
    let welcome = v1::Welcome {
        cluster_id: node.datanode.identity().cluster_id,
        metasrv_epoch,
        ..Default::default()
    };
    node.datanode.told(push::Body::Welcome(welcome));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_says_that_metasrv_was_heard_when_the_log_has_taken_it() {
    let cluster = Cluster::new(false).await;
    let node = &cluster.nodes[1];
    welcome(node, 3);
    node.wait_for("that the log knows of it", || {
        node.datanode.tick(1, 7).answered == 7
    })
    .await;
    // Its disk hangs at its own vote.
    node.log.set_full(true);
    let campaign = v1::CampaignRegion {
        region_id: node.region.as_u64(),
        raft_id: 2,
        seen_term: cluster.report(1).epoch,
    };
    node.datanode.told(push::Body::Campaign(campaign));
    node.wait_for("an append that waits", || {
        node.datanode.tick(1, 7).oldest_append_ms > 0
    })
    .await;
    assert_eq!(node.datanode.tick(1, 7).answered, 7);
    welcome(node, 4);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        node.datanode.tick(2, 8).answered,
        0,
        "it may vote for an order of the one before"
    );
    node.log.set_full(false);
    node.wait_for("that the log knows of the new one", || {
        node.datanode.tick(3, 9).answered == 9
    })
    .await;
}

/// metasrv answers a beat with the promise of a lease.
fn promise(node: &Node, number: u64, without_lease: Vec<u64>) {
    node.datanode.tick(number, 0);
    node.datanode.answered(&v1::Tock {
        number,
        lease_ms: 60_000,
        without_lease,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_lease_asks_nobody() {
    let cluster = Cluster::new(false).await;
    let leader = &cluster.nodes[0];
    leader.write(&[row("a", 1, 1.0)]).await.unwrap();
    let reads_under_lease = async || {
        let before = leader.datanode.metrics.queries_under_lease.get();
        assert_eq!(leader.read().await.unwrap().len(), 1);
        leader.datanode.metrics.queries_under_lease.get() > before
    };
    assert!(!reads_under_lease().await);
    promise(leader, 1, vec![leader.region.as_u64()]);
    assert!(!reads_under_lease().await);
    promise(leader, 2, vec![]);
    assert!(reads_under_lease().await);
    cluster.isolate(0, Fault::Cut);
    let transfer = v1::TransferRegion {
        region_id: leader.region.as_u64(),
        epoch: cluster.report(0).epoch,
        to_raft_id: 2,
    };
    leader.datanode.told(push::Body::Transfer(transfer));
    assert!(!is_leased(leader));
    // What is promised in the same term comes too late: the heir may lead any moment.
    promise(leader, 3, vec![]);
    assert!(!is_leased(leader));
    let error = leader.read().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
}

/// Whether a node answers reads of its region without asking anybody.
fn is_leased(node: &Node) -> bool {
    let region = node.datanode.regions().get(node.region).unwrap();
    let term = region.with_state(|state| state.report().epoch);
    region.is_leased(term, node.datanode.clock.now())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_sees_that_it_cannot_lead_renounces() {
    let cluster = Cluster::new(false).await;
    let leader = &cluster.nodes[0];
    let renounced = |number| leader.datanode.tick(number, number).renounced;
    let answer = |number| {
        leader.datanode.answered(&v1::Tock {
            number,
            lease_ms: 60_000,
            without_lease: vec![],
        });
    };
    let all = vec![leader.region.as_u64()];
    promise(leader, 1, vec![]);
    assert!(is_leased(leader));
    // It hears no answers.
    assert!(renounced(2).is_empty());
    tokio::time::sleep(Duration::from_millis(160)).await;
    assert_eq!(renounced(3), all);
    assert!(!is_leased(leader));
    for late in [2, 3] {
        answer(late);
        assert!(!is_leased(leader), "by the answer to beat {late}");
    }
    promise(leader, 4, vec![]);
    assert!(is_leased(leader));
    // Its disk hangs, at its vote for another.
    leader.log.set_full(true);
    let campaign = v1::CampaignRegion {
        region_id: leader.region.as_u64(),
        raft_id: 2,
        seen_term: cluster.report(1).epoch,
    };
    cluster.nodes[1].datanode.told(push::Body::Campaign(campaign));
    leader
        .wait_for("an append that waits for long", || renounced(5) == all)
        .await;
    answer(5);
    assert!(!is_leased(leader));
    leader.log.set_full(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_reaches_nobody_renounces() {
    let cluster = Cluster::new(false).await;
    let leader = &cluster.nodes[0];
    promise(leader, 1, vec![]);
    cluster.isolate(0, Fault::Cut);
    assert!(is_leased(leader));
    let missed = || {
        let given_up = leader.datanode.tick(2, 1).renounced;
        promise(leader, 3, vec![]);
        given_up == [leader.region.as_u64()]
    };
    leader.wait_for("that the others are missed", missed).await;
    assert!(!is_leased(leader));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datanode_that_is_about_to_stop_takes_no_leases() {
    let cluster = Cluster::new(false).await;
    let leader = &cluster.nodes[0];
    promise(leader, 1, vec![]);
    cluster.isolate(0, Fault::Cut);
    assert!(is_leased(leader));
    // Nobody takes over, so it waits for as long as it may.
    leader.datanode.hand_over(Duration::from_millis(50)).await;
    assert!(leader.datanode.tick(2, 0).stopping);
    promise(leader, 3, vec![]);
    assert!(!is_leased(leader));
    let error = leader.read().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
}

/// It leads no more when another one asks for its vote. Without the vote nobody leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_datanode_stops_when_another_one_leads_and_not_when_it_leads_no_more() {
    let cluster = Cluster::new(false).await;
    cluster.until_caught_up(1).await;
    let addresses = cluster.nodes.iter().map(|node| node.place.address());
    let addresses: Vec<_> = addresses.collect();
    let has_stopped = Cell::new(false);
    let stop = async {
        cluster.nodes[0].datanode.hand_over(PATIENCE).await;
        has_stopped.set(true);
    };
    let campaign = async {
        // Its vote does not arrive, and the third one is not asked.
        cluster.network.set_both(&addresses[1], &addresses[2], Fault::Cut);
        cluster.network.set(&addresses[0], &addresses[1], Fault::Cut);
        let campaign = v1::CampaignRegion {
            region_id: cluster.nodes[1].region.as_u64(),
            raft_id: 2,
            seen_term: cluster.report(1).epoch,
        };
        cluster.nodes[1].datanode.told(push::Body::Campaign(campaign));
        cluster.until("it votes", || !cluster.leads(0)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!has_stopped.get(), "nobody leads");
        cluster.network.set(&addresses[0], &addresses[1], Fault::None);
        cluster.lead(1).await;
    };
    let asked = tokio::time::Instant::now();
    tokio::join!(stop, campaign);
    assert!(asked.elapsed() < PATIENCE, "it learns who leads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_cut_off_from_the_others_but_not_from_the_bucket_does_no_harm() {
    let cluster = Cluster::new(false).await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    cluster.until_caught_up(1).await;
    cluster.isolate(0, Fault::Cut);
    cluster.lead(1).await;
    cluster.nodes[1].write(&[row("a", 2, 2.0)]).await.unwrap();
    // What it has committed itself is everybody's.
    cluster.nodes[0].flush().await.unwrap();
    cluster.nodes[1].flush().await.unwrap();
    cluster.nodes[1].write(&[row("a", 3, 3.0)]).await.unwrap();
    assert_eq!(cluster.nodes[1].read().await.unwrap().len(), 3);
    cluster.isolate(0, Fault::None);
    cluster.until("it hears of the other", || !cluster.leads(0)).await;
    cluster.lead(0).await;
    assert_eq!(cluster.nodes[0].read().await.unwrap().len(), 3);
}

/// A hot follower whose bucket is away tries to load its files after 0.2, 0.6, 1.4, 3 and 6.2 seconds.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_lead_does_not_wait_for_the_next_attempt_of_a_follower() {
    let mut cluster = Cluster::new(false).await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    cluster.nodes[0].flush().await.unwrap();
    cluster.nodes[1].store.set_away(true);
    cluster = cluster.crash(1).await;
    cluster.role(1, true);
    tokio::time::sleep(Duration::from_millis(3_300)).await;
    cluster.nodes[1].store.set_away(false);
    let back = tokio::time::Instant::now();
    cluster.lead(1).await;
    assert!(
        back.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(cluster.nodes[1].read().await.unwrap(), [row("a", 1, 1.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_meets_files_of_a_later_epoch_stops_and_may_lead_again() {
    let cluster = Cluster::new(false).await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    cluster.until_caught_up(1).await;
    cluster.isolate(0, Fault::Cut);
    cluster.lead(1).await;
    cluster.nodes[1].write(&[row("a", 2, 2.0)]).await.unwrap();
    cluster.nodes[1].flush().await.unwrap();
    assert!(cluster.leads(0));
    let error = cluster.nodes[0].flush().await.unwrap_err();
    assert!(error.message.contains("another leader"), "{error}");
    assert!(!cluster.leads(0));
    assert_eq!(cluster.nodes[1].read().await.unwrap().len(), 2);
    cluster.isolate(0, Fault::None);
    cluster.lead(0).await;
    assert_eq!(cluster.nodes[0].read().await.unwrap().len(), 2);
}

/// The manifest has what the lost ones have put into files; what they had beyond that is lost with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_goes_on_alone_begins_where_the_files_of_the_lost_ones_end() {
    let mut cluster = Cluster::new(false).await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    let has_all = || cluster.report(2).last_index == cluster.report(0).last_index;
    cluster.until("it has what there is", has_all).await;
    cluster.isolate(2, Fault::Cut);
    cluster.nodes[0].write(&[row("a", 2, 2.0)]).await.unwrap();
    let flushed = cluster.nodes[0].flush().await.unwrap();
    cluster.nodes[0].write(&[row("a", 3, 3.0)]).await.unwrap();
    assert!(cluster.report(2).last_index < flushed);
    cluster.isolate(0, Fault::Cut);
    cluster.isolate(1, Fault::Cut);
    let order = v1::RecoverRegion {
        region_id: cluster.nodes[2].region.as_u64(),
        raft_id: 3,
        seen_term: cluster.report(0).epoch,
    };
    // As metasrv does it: again until it leads.
    let told = tokio::time::Instant::now();
    while !cluster.leads(2) {
        assert!(told.elapsed() < PATIENCE, "{:#?}", cluster.report(2));
        cluster.nodes[2].datanode.told(push::Body::Recover(order));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(cluster.report(2).epoch > cluster.report(0).epoch);
    let kept = [row("a", 1, 1.0), row("a", 2, 2.0)];
    cluster.nodes[2].wait_until_readable().await;
    assert_eq!(cluster.nodes[2].read().await.unwrap(), kept);
    cluster.nodes[2].write(&[row("a", 4, 4.0)]).await.unwrap();
    let expected = [kept.as_slice(), &[row("a", 4, 4.0)]].concat();
    assert_eq!(cluster.nodes[2].read().await.unwrap(), expected);
    cluster = cluster.crash(2).await;
    cluster.nodes[2].wait_until_leading().await;
    cluster.nodes[2].wait_until_readable().await;
    assert_eq!(cluster.nodes[2].read().await.unwrap(), expected);
    cluster.nodes[2].flush().await.unwrap();
    assert_eq!(cluster.nodes[2].read().await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_metasrv_the_others_elect_a_leader_among_themselves() {
    let cluster = Cluster::new(false).await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    cluster.isolate(0, Fault::Cut);
    cluster
        .until("one of the others leads", || cluster.leads(1) || cluster.leads(2))
        .await;
    let leader = if cluster.leads(1) { 1 } else { 2 };
    cluster.nodes[leader].wait_until_readable().await;
    cluster.nodes[leader].write(&[row("a", 2, 1.0)]).await.unwrap();
    assert_eq!(cluster.nodes[leader].read().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_given_up_when_the_heir_does_not_answer() {
    let cluster = Cluster::new(false).await;
    cluster.isolate(1, Fault::Stall);
    let transfer = v1::TransferRegion {
        region_id: cluster.nodes[0].region.as_u64(),
        epoch: cluster.report(0).epoch,
        to_raft_id: 2,
    };
    cluster.nodes[0].datanode.told(push::Body::Transfer(transfer));
    let written = async {
        while let Err(error) = cluster.nodes[0].write(&[row("a", 1, 1.0)]).await {
            assert!(error.is_retryable(), "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("it goes on");
    assert!(cluster.leads(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_of_one_replica_gets_two_more_while_it_is_written_to() {
    let mut cluster = Cluster::empty(false).await;
    cluster.initialise(&cluster.nodes[0], &[1]).await;
    cluster.nodes[0].wait_until_leading().await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    cluster.nodes[0].flush().await.unwrap();
    cluster.nodes[0].write(&[row("a", 2, 1.0)]).await.unwrap();
    for node in [1, 2] {
        cluster.initialise(&cluster.nodes[node], &[]).await;
    }
    let order = |learners: Vec<v1::RegionMember>, voters: Vec<v1::RegionMember>| v1::ChangeMembers {
        region_id: cluster.nodes[0].region.as_u64(),
        epoch: cluster.report(0).epoch,
        learners,
        voters,
        remove: vec![],
        members: members(3),
    };
    let new = members(3)[1..].to_vec();
    let tell = |order| cluster.nodes[0].datanode.told(push::Body::ChangeMembers(order));
    tell(order(new.clone(), vec![]));
    let has_all = |n| cluster.report(n).last_index == cluster.report(0).last_index;
    cluster.until("they learn", || has_all(1) && has_all(2)).await;
    cluster.nodes[0].write(&[row("a", 3, 1.0)]).await.unwrap();
    tell(order(vec![], new));
    let votes = |n: usize| cluster.report(n).voters.len() == 3;
    cluster
        .until("they vote", || votes(0) && votes(1) && votes(2))
        .await;
    cluster.nodes[0].write(&[row("a", 4, 1.0)]).await.unwrap();
    cluster.isolate(0, Fault::Cut);
    cluster.lead(2).await;
    assert_eq!(cluster.nodes[2].read().await.unwrap().len(), 4);
    // The group is as it was after a restart of everybody.
    cluster.isolate(0, Fault::None);
    for node in 0..3 {
        cluster = cluster.crash(node).await;
    }
    cluster.lead(1).await;
    assert_eq!(cluster.nodes[1].read().await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_leaves_forgets_its_log_and_no_file() {
    let cluster = Cluster::new(false).await;
    cluster.nodes[0].write(&[row("a", 1, 1.0)]).await.unwrap();
    cluster.nodes[0].flush().await.unwrap();
    let order = v1::DropRegion {
        region_id: cluster.nodes[2].region.as_u64(),
        only_replica: true,
    };
    cluster.nodes[2].datanode.told(push::Body::Drop(order));
    cluster
        .until("it is gone", || cluster.nodes[2].datanode.reports().is_empty())
        .await;
    cluster.nodes[0].write(&[row("a", 2, 1.0)]).await.unwrap();
    assert_eq!(cluster.nodes[0].read().await.unwrap().len(), 2);
    assert_eq!(cluster.nodes[2].log.bounds_of_first(), None);
}

#[tokio::test]
async fn a_stream_for_another_node_or_cluster_is_refused() {
    let node = Node::new().await;
    let me = PeerHandler::me(node.datanode.as_ref());
    let hello = v1::PeerHello {
        from: Some(v1::NodeIdentity {
            node_id: 9,
            ..me.clone()
        }),
        to_node: me.node_id,
        to_incarnation: me.incarnation,
        min_format: 1,
        max_format: 1,
    };
    let answer = |hello: &v1::PeerHello| PeerHandler::hello(node.datanode.as_ref(), hello);
    assert_eq!(answer(&hello).unwrap(), me.incarnation);
    let other_node = v1::PeerHello {
        to_node: me.node_id + 1,
        ..hello.clone()
    };
    let other_start = v1::PeerHello {
        to_incarnation: me.incarnation ^ 1,
        ..hello.clone()
    };
    let other_cluster = v1::PeerHello {
        from: Some(v1::NodeIdentity {
            cluster_id: "other".into(),
            ..me
        }),
        ..hello
    };
    for wrong in [other_node, other_start] {
        assert!(answer(&wrong).unwrap_err().message.contains("was meant"));
    }
    let refused = answer(&other_cluster).unwrap_err();
    assert!(refused.message.contains("of cluster `other`"), "{refused}");
}

async fn soon(what: &str, condition: &dyn Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not soon: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The majority is gone: neither a change of the table nor one of the members comes to an end.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_stuck_holds_up_no_orders() {
    let cluster = Cluster::new(false).await;
    let (node, id) = (&cluster.nodes[0], cluster.nodes[0].region);
    cluster.isolate(0, Fault::Cut);
    let change = Change::SetTtl {
        ttl: Some("1d".parse().unwrap()),
    };
    let altered = node.table.altered(&[change]).unwrap().unwrap();
    let epoch = cluster.report(0).epoch;
    node.datanode.told(push::Body::Alter(v1::AlterRegion {
        region_id: id.as_u64(),
        table_json: serde_json::to_string(&altered).unwrap(),
    }));
    node.datanode.told(push::Body::ChangeMembers(v1::ChangeMembers {
        region_id: id.as_u64(),
        epoch,
        remove: vec![2, 3],
        ..Default::default()
    }));
    let other = RegionId::new(1024, 1);
    node.datanode.told(push::Body::Initialise(v1::InitialiseRegion {
        region_id: other.as_u64(),
        raft_id: 77,
        voters: vec![77],
        members: vec![],
        table_json: serde_json::to_string(&node.table).unwrap(),
    }));
    let leads = |id: RegionId, alone: bool| {
        let reports = node.datanode.reports();
        let report = reports.iter().find(|r| r.region_id == id.as_u64());
        report.is_some_and(|r| r.role() == v1::RegionRole::Leader && (!alone || r.voters.len() <= 1))
    };
    soon("another region begins", &|| leads(other, false)).await;
    node.datanode.told(push::Body::Recover(v1::RecoverRegion {
        region_id: id.as_u64(),
        raft_id: 1,
        seen_term: epoch,
    }));
    soon("it goes on alone", &|| {
        leads(id, true) && cluster.report(0).epoch > epoch
    })
    .await;
}

/// It was carried out long ago, and two others have got a vote since.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_go_on_alone_that_comes_late_changes_nothing() {
    let cluster = Cluster::new(false).await;
    let (node, epoch) = (&cluster.nodes[0], cluster.report(0).epoch);
    for _ in 0..3 {
        node.datanode.told(push::Body::Recover(v1::RecoverRegion {
            region_id: node.region.as_u64(),
            raft_id: 1,
            seen_term: epoch - 1,
        }));
    }
    for ts in 1..=5 {
        node.write(&[row("a", ts, 1.0)]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let report = cluster.report(0);
    assert_eq!((report.epoch, report.voters.len()), (epoch, 3), "{report:?}");
}
