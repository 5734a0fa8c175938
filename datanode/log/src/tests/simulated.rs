//! What the simulation of a cluster has found.

use super::net::{Net, REGION, members};
use super::*;

/// Found by the simulation (seeds 6, 16, 20): the leader goes on speaking to the replica whose disk was lost.
#[test]
fn a_new_replica_does_not_listen_to_what_is_said_to_the_one_before() {
    let mut net = Net::of(3);
    net.write(1, 1);
    let last = net.write(1, 2);
    net.kill(3);
    // Its disk is lost, and another replica is to take its place there.
    net.add_as((3, 13), &[], &[1, 2, 3]);
    for input in [Input::PeerLost(3), Input::PeerFound(3)] {
        net.step(1, input);
    }
    net.settle();
    let status = net.status(3);
    assert_eq!((status.raft_id, status.committed, status.last_index), (13, 0, 0));
    let comes = Member { raft_id: 13, node: 3 };
    for (token, changes) in [
        (10, vec![Change::AddLearner(comes)]),
        (11, vec![Change::AddVoter(comes), Change::Remove { raft_id: 3 }]),
    ] {
        net.step(
            1,
            Input::Change {
                region: REGION,
                token,
                changes,
                members: [members(&[1, 2]), vec![comes]].concat(),
            },
        );
        net.settle();
    }
    let next = net.write(1, 3);
    assert!(next > last);
    assert_eq!(net.replica(3).members.voters, [1, 2, 13].into());
    assert_eq!(net.replica(3).machine, net.replica(1).machine);
}

/// Found by the simulation (seeds 22, 73, 96): the record of members is ahead of the group.
#[test]
fn a_replica_without_a_vote_does_not_campaign() {
    let mut net = Net::of(3);
    net.write(1, 1);
    net.add(4, &[], &[1, 2, 3, 4]);
    let comes = Member { raft_id: 4, node: 4 };
    let ask = |net: &mut Net| {
        net.campaign(4);
        net.settle();
        for _ in 0..20 {
            net.step(4, Input::Tick { orphaned: true });
            net.settle();
        }
        assert!(net.status(1).leads && !net.status(4).leads);
        assert_eq!(net.status(1).term, 2);
    };
    ask(&mut net);
    net.change(1, 10, vec![Change::AddLearner(comes)], &[1, 2, 3, 4]);
    net.settle();
    ask(&mut net);
    net.write(1, 2);
}

/// Found by the simulation (seeds 70, 126): the replica forgot that it is trimmed as far as the snapshot says, and found
/// its log damaged at the next trim.
#[test]
fn a_trim_and_a_snapshot_that_goes_further_share_a_turn() {
    let mut net = Net::of(3);
    let first = net.write(1, 1);
    net.trim(1, first);
    net.turn(1);
    let deliver_all = |net: &mut Net| {
        while !net.queue.is_empty() {
            net.deliver()
        }
    };
    deliver_all(&mut net);
    // The third has the entry of the trim, and does not hear that it is committed.
    net.cut.insert((1, 3));
    net.settle();
    let second = net.write(1, 2);
    net.trim(1, second);
    net.settle();
    net.heal();
    for node in [1, 3, 1] {
        net.turn(node);
        deliver_all(&mut net);
    }
    net.turn(3);
    net.settle();
    net.write(1, 3);
    for _ in 0..2 {
        let (first, _) = net.replica(3).log.bounds(REGION).unwrap();
        assert_eq!(first, second + 1);
        assert_eq!(net.replica(3).machine, net.replica(1).machine);
        net.crash(3);
        net.step(
            3,
            Input::Role {
                region: REGION,
                is_hot: true,
            },
        );
        net.settle();
    }
}

/// Found by the simulation (seed 129): streams come back one direction at a time, and the leader's first.
#[test]
fn a_leader_whose_followers_could_not_answer_goes_on_when_they_can() {
    let mut net = Net::of(3);
    net.write(1, 1);
    net.cut.extend([(2, 1), (3, 1)]);
    for node in [2, 3] {
        net.step(1, Input::PeerLost(node));
        net.step(1, Input::PeerFound(node));
    }
    net.settle();
    net.propose(1, 2);
    net.settle();
    assert!(!net.done.contains_key(&2), "nobody has answered");
    net.cut.clear();
    for node in [2, 3] {
        net.step(node, Input::PeerFound(1));
    }
    net.settle();
    assert!(net.done[&2].is_ok());
    assert_eq!(net.replica(3).machine, net.replica(1).machine);
}

/// Found by the simulation (seed 83): the others have come to a newer term, and nobody was elected in it.
#[test]
fn a_leader_that_could_not_be_told_of_a_newer_term_learns_of_it() {
    let mut net = Net::of(3);
    net.write(1, 1);
    net.cut.extend([(2, 1), (3, 1), (2, 3), (3, 2)]);
    net.campaign(2);
    net.campaign(3);
    net.settle();
    for node in [2, 3] {
        net.step(1, Input::PeerLost(node));
        net.step(1, Input::PeerFound(node));
    }
    net.settle();
    assert!(net.status(1).leads, "what the others have answered is lost");
    net.cut.clear();
    for node in [2, 3] {
        net.step(node, Input::PeerFound(1));
    }
    net.settle();
    assert!(!net.status(1).leads && net.status(1).term == net.status(2).term);
}
