//! Groups of several voters.

use std::collections::BTreeSet;

use greptime_types::NodeId;

use super::net::{Machine, Net, REGION, members};
use super::*;

fn role(is_hot: bool) -> Input {
    Input::Role {
        region: REGION,
        is_hot,
    }
}

fn texts(machine: &Machine) -> Vec<&str> {
    machine.texts.iter().map(String::as_str).collect()
}

fn voter(n: u64) -> Change {
    Change::AddVoter(members(&[n])[0])
}

fn learner(n: u64) -> Change {
    Change::AddLearner(members(&[n])[0])
}

#[test]
fn a_group_of_three_commits_and_all_have_the_same() {
    let mut net = Net::of(3);
    for token in 1..=5 {
        net.write(1, token);
    }
    for node in 1..=3 {
        assert_eq!(texts(&net.replica(node).machine), ["r1", "r2", "r3", "r4", "r5"]);
    }
}

#[test]
fn a_minority_commits_nothing_and_what_it_took_is_replaced() {
    let mut net = Net::of(3);
    net.write(1, 1);
    net.isolate(1);
    net.propose(1, 2);
    net.settle();
    assert!(!net.done.contains_key(&2), "it is not committed");
    net.lead(2);
    net.write(2, 3);
    net.heal();
    net.settle();
    assert!(net.done[&2].clone().unwrap_err().is_retryable());
    for node in 1..=3 {
        assert_eq!(texts(&net.replica(node).machine), ["r1", "r3"]);
    }
}

#[test]
fn what_was_acknowledged_survives_the_leader() {
    let mut net = Net::of(3);
    for token in 1..=9 {
        net.write(1, token);
    }
    net.kill(1);
    net.lead(2);
    assert_eq!(net.replica(2).machine.texts.len(), 9);
    net.write(2, 10);
    net.start(1);
    net.step(1, role(true));
    net.settle();
    assert_eq!(net.replica(1).machine, net.replica(2).machine);
}

#[test]
fn a_replica_that_is_not_hot_is_given_nothing_until_it_leads() {
    let mut net = Net::of(3);
    net.write(1, 1);
    net.step(3, role(false));
    net.settle();
    assert_eq!(texts(&net.replica(3).machine), [""; 0]);
    for token in 2..=4 {
        net.write(1, token);
    }
    assert_eq!(texts(&net.replica(3).machine), [""; 0]);
    net.kill(1);
    net.lead(3);
    assert_eq!(texts(&net.replica(3).machine), ["r1", "r2", "r3", "r4"]);
    net.write(3, 5);
    assert_eq!(net.replica(2).machine, net.replica(3).machine);
}

#[test]
fn a_trim_reaches_all_and_whoever_was_away_is_sent_a_snapshot() {
    let mut net = Net::of(3);
    net.step(2, role(false));
    net.kill(3);
    let mut last = 0;
    for token in 1..=5 {
        last = net.write(1, token);
    }
    net.trim(1, last - 1);
    net.settle();
    for node in [1, 2] {
        assert_eq!(
            net.replica(node).log.bounds(REGION).unwrap().0,
            last,
            "node {node}"
        );
    }
    assert_eq!(
        net.replica(2).machine.texts.len(),
        4,
        "it begins at the checkpoint"
    );
    net.start(3);
    net.step(3, role(true));
    net.settle();
    assert_eq!(net.replica(3).machine, net.replica(1).machine);
    assert_eq!(net.replica(3).log.bounds(REGION).unwrap().0, last);
    net.kill(1);
    net.lead(3);
    net.write(3, 6);
    net.lead(2);
    assert_eq!(net.replica(2).machine, net.replica(3).machine);
}

#[test]
fn what_a_snapshot_replaced_does_not_come_back() {
    let mut net = Net::of(3);
    net.write(1, 1);
    net.isolate(1);
    for token in 100..120 {
        net.propose(1, token);
    }
    net.settle();
    net.lead(2);
    let last = net.write(2, 2);
    net.trim(2, last);
    net.settle();
    let tail = net.replica(1).log.bounds(REGION).unwrap().1;
    assert!(tail > last, "it has more than the others");
    net.heal();
    // The snapshot arrives, and nothing after it.
    while !net.queue.is_empty() || net.replica(2).core.has_work() || net.replica(1).core.has_work() {
        net.turn(2);
        net.turn(1);
        net.deliver();
        if net.replica(1).log.get(REGION, Key::Checkpoint).unwrap().unwrap() != "1|" {
            break;
        }
    }
    net.crash(1);
    let status = net.status(1);
    assert!(status.last_index < tail && status.last_term > 2, "{status:?}");
    net.settle();
    net.lead(1);
    assert_eq!(texts(&net.replica(1).machine), ["r1", "r2"]);
}

/// Its members are of an entry that follows it.
#[test]
fn a_replica_that_was_sent_a_snapshot_and_nothing_after_it_opens_again() {
    let mut net = Net::of(3);
    let last = net.write(1, 1);
    net.trim(1, last);
    net.settle();
    net.write(1, 2);
    net.add(4, &[], &[1, 2, 3, 4]);
    net.change(1, 10, vec![learner(4)], &[1, 2, 3, 4]);
    let checkpoint = |net: &Net| net.replica(4).log.get(REGION, Key::Checkpoint).unwrap();
    let before = checkpoint(&net);
    while checkpoint(&net) == before {
        for node in 1..=4 {
            net.turn(node);
        }
        net.deliver();
    }
    net.crash(4);
    assert_eq!(net.status(4).last_index, last, "the entries that follow are lost");
    net.step(4, role(true));
    net.settle();
    assert_eq!(net.replica(4).machine, net.replica(1).machine);
    assert!(net.replica(4).members.learners.contains(&4));
}

#[test]
fn a_replica_joins_votes_and_takes_the_place_of_another() {
    let mut net = Net::of(3);
    let last = net.write(1, 1);
    net.trim(1, last);
    net.settle();
    net.write(1, 2);
    net.add(4, &[], &[1, 2, 3, 4]);
    net.change(1, 10, vec![learner(4)], &[1, 2, 3, 4]);
    net.settle();
    assert_eq!(net.replica(4).machine, net.replica(1).machine);
    assert!(net.replica(4).members.learners.contains(&4));
    net.change(1, 11, vec![voter(4), Change::Remove { raft_id: 3 }], &[1, 2, 4]);
    net.settle();
    for node in [1, 2, 4] {
        let members = &net.replica(node).members;
        assert_eq!(members.voters, BTreeSet::from([1, 2, 4]), "node {node}");
        assert!(!members.is_joint && members.learners.is_empty());
    }
    net.kill(1);
    net.kill(3);
    net.lead(4);
    net.write(4, 3);
    assert_eq!(texts(&net.replica(2).machine), ["r1", "r2", "r3"]);
}

/// The leader was elected, and has appended, before the third has its replica; nothing more is written.
#[test]
fn a_replica_that_begins_late_catches_up() {
    let mut net = Net::default();
    for node in [1, 2] {
        net.add(node, &[1, 2, 3], &[1, 2, 3]);
    }
    net.lead(1);
    let last = net.write(1, 1);
    net.settle();
    net.add(3, &[1, 2, 3], &[1, 2, 3]);
    net.settle();
    assert_eq!(net.status(3).last_index, last);
    assert_eq!(texts(&net.replica(3).machine), ["r1"]);
    net.kill(2);
    net.write(1, 2);
}

#[test]
fn a_group_of_one_grows_to_three() {
    let mut net = Net::of(1);
    let last = net.write(1, 1);
    net.trim(1, last);
    net.write(1, 2);
    for node in [2, 3] {
        net.add(node, &[], &[1, 2, 3]);
        net.change(1, 10 + node, vec![learner(node)], &[1, 2, 3]);
        net.settle();
    }
    net.change(1, 20, vec![voter(2), voter(3)], &[1, 2, 3]);
    net.settle();
    assert_eq!(net.replica(3).members.voters, BTreeSet::from([1, 2, 3]));
    net.write(1, 3);
    net.kill(1);
    net.lead(3);
    assert_eq!(texts(&net.replica(3).machine), ["r1", "r2", "r3"]);
}

#[test]
fn a_change_of_members_that_was_in_force_is_in_force_after_a_crash() {
    let mut net = Net::of(1);
    net.write(1, 1);
    for node in [2, 3] {
        net.add(node, &[], &[1, 2, 3]);
        net.change(1, 10 + node, vec![learner(node)], &[1, 2, 3]);
        net.settle();
    }
    net.change(1, 20, vec![voter(2), voter(3)], &[1, 2, 3]);
    // Until it is in force with the one who leads, and no further.
    while net.replica(1).core.membership(REGION).unwrap().voters.len() < 3 {
        for node in 1..=3 {
            net.turn(node);
        }
        net.deliver();
    }
    net.isolate(1);
    net.crash(1);
    net.settle();
    assert!(!net.status(1).leads, "one of three is no majority");
    assert_eq!(net.replica(1).core.membership(REGION).unwrap().voters.len(), 3);
}

#[test]
fn who_is_the_only_voter_by_a_change_in_its_log_elects_itself() {
    let mut net = Net::of(1);
    net.write(1, 1);
    net.add(2, &[], &[1, 2]);
    net.change(1, 10, vec![learner(2)], &[1, 2]);
    net.settle();
    net.change(1, 20, vec![voter(2)], &[1, 2]);
    net.settle();
    net.step(
        1,
        Input::Transfer {
            region: REGION,
            to: 2,
        },
    );
    net.settle();
    net.change(2, 30, vec![Change::Remove { raft_id: 1 }], &[2]);
    net.settle();
    assert!(net.replica(2).core.membership(REGION).unwrap().is_alone(2));
    net.write(2, 2);
    net.isolate(1);
    net.crash(2);
    net.settle();
    assert!(net.status(2).leads, "nobody else votes");
    net.write(2, 3);
}

#[test]
fn leadership_is_handed_over_and_a_transfer_that_fails_is_given_up() {
    let mut net = Net::of(3);
    net.write(1, 1);
    net.step(
        1,
        Input::Transfer {
            region: REGION,
            to: 2,
        },
    );
    net.settle();
    assert!(net.status(2).leads);
    net.write(2, 2);
    net.isolate(3);
    net.step(
        2,
        Input::Transfer {
            region: REGION,
            to: 3,
        },
    );
    net.settle();
    net.propose(2, 3);
    net.settle();
    let error = net.done[&3].clone().unwrap_err();
    assert!(
        error.is_retryable() && error.message.contains("handed over"),
        "{error}"
    );
    net.step(2, Input::AbortTransfer { region: REGION });
    net.write(2, 4);
}

#[test]
fn a_leader_of_an_older_term_learns_of_the_newer_one() {
    let mut net = Net::of(3);
    net.isolate(3);
    net.campaign(3);
    net.settle();
    // It is the leader that speaks first.
    net.cut.clear();
    net.step(1, Input::PeerLost(3));
    net.step(1, Input::PeerFound(3));
    net.settle();
    assert!(
        net.status(3).term > 2 && !net.status(1).leads,
        "{:?}",
        net.status(1)
    );
    net.lead(1);
    net.write(1, 1);
    assert_eq!(texts(&net.replica(3).machine), ["r1"]);
}

#[test]
fn an_old_order_to_campaign_changes_nothing() {
    let mut net = Net::of(3);
    let seen_term = net.status(1).term - 1;
    net.step(
        2,
        Input::Campaign {
            region: REGION,
            seen_term,
            authority: Authority::Metasrv { epoch: 1 },
        },
    );
    net.settle();
    assert!(net.status(1).leads);
}

/// A replica that has yet to apply what is committed campaigns later than it was told to.
#[test]
fn an_order_that_waited_while_others_went_on_is_void() {
    let mut net = Net::of(3);
    let term = net.status(2).term;
    net.step(
        2,
        Input::Campaign {
            region: REGION,
            seen_term: term,
            authority: Authority::Metasrv { epoch: 1 },
        },
    );
    let mut leads = raft::eraftpb::Message::default();
    leads.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeat);
    (leads.from, leads.to, leads.term) = (3, 2, term + 1);
    net.step(
        2,
        Input::Message {
            from: 3,
            region: REGION,
            message: Box::new(leads),
            authority: 0,
        },
    );
    net.settle();
    assert_eq!(net.status(2).term, term + 1);
}

#[test]
fn votes_are_given_in_the_name_of_the_newest_metasrv_only() {
    let mut net = Net::of(3);
    for node in 1..=3 {
        net.step(node, Input::MetasrvEpoch(1 + u64::from(node != 2)));
    }
    let epoch = |epoch| Authority::Metasrv { epoch };
    // Node 2 has not heard of the second metasrv; a fallback is no authority as long as somebody has metasrv.
    for authority in [epoch(1), Authority::Fallback] {
        let seen_term = net.highest_term();
        net.step(2, Input::Tick { orphaned: true });
        net.step(
            2,
            Input::Campaign {
                region: REGION,
                seen_term,
                authority,
            },
        );
        net.settle();
        assert!(!net.status(2).leads, "{authority:?}");
    }
    net.step(
        2,
        Input::Campaign {
            region: REGION,
            seen_term: net.highest_term(),
            authority: epoch(2),
        },
    );
    net.settle();
    assert!(net.status(2).leads);
}

#[test]
fn without_metasrv_a_leader_is_elected_after_a_while_and_one_that_is_there_stays() {
    let mut net = Net::of(3);
    let ticks = |net: &mut Net, count: usize| {
        for _ in 0..count {
            for node in 1..=3 {
                net.step(node, Input::Tick { orphaned: true });
            }
            net.settle();
        }
    };
    ticks(&mut net, 30);
    assert!(
        net.status(1).leads && net.status(1).term == 2,
        "{:?}",
        net.status(1)
    );
    net.kill(1);
    ticks(&mut net, 30);
    let leaders: Vec<u64> = (2..=3).filter(|n| net.status(*n).leads).collect();
    assert_eq!(leaders.len(), 1);
    net.write(leaders[0], 1);
}

#[test]
fn a_read_is_confirmed_by_a_majority_or_not_at_all() {
    let mut net = Net::of(3);
    let last = net.write(1, 1);
    let read = |token| Input::Read {
        region: REGION,
        token,
    };
    net.step(1, read(50));
    net.step(1, read(51));
    net.settle();
    assert_eq!((net.reads[&50], net.reads[&51]), (last, last));
    net.isolate(1);
    net.step(1, read(52));
    net.settle();
    assert!(!net.reads.contains_key(&52), "nobody says that it still leads");
    net.lead(2);
    net.heal();
    net.settle();
    assert!(net.done[&52].clone().unwrap_err().is_retryable());
    net.step(1, read(53));
    net.settle();
    assert!(net.done[&53].is_err());
}

/// Whatever fails, everybody has the same, and what was acknowledged is there.
#[test]
fn replicas_agree_and_keep_what_was_acknowledged_whatever_fails() {
    each_seed(300, chaos);
}

fn chaos(seed: u64) {
    let mut dice = dice(seed);
    let mut net = Net::of(3);
    for token in 1..=400u64 {
        let node = 1 + dice(3);
        match dice(40) {
            0 => net.crash(node),
            1 => net.kill(node),
            2 => net.isolate(node),
            3 => drop(net.cut.insert((node, 1 + dice(3)))),
            4..=5 => net.heal(),
            6..=8 => net.campaign(node),
            9 => net.step(
                node,
                Input::Transfer {
                    region: REGION,
                    to: 1 + dice(3),
                },
            ),
            10 => net.step(node, Input::AbortTransfer { region: REGION }),
            11 => net.step(node, role(dice(2) == 0)),
            12 => net.step(
                node,
                Input::Read {
                    region: REGION,
                    token: 10_000 + token,
                },
            ),
            13 => {
                let applied = net.replica(node).machine.applied;
                if net.status(node).leads && net.has_history(node, applied) {
                    net.trim(node, applied);
                }
            }
            14 => net.replica(node).log.fail_at(
                1 + dice(3),
                match dice(2) {
                    0 => Fault::Lost,
                    _ => Fault::SyncFailedButKept,
                },
            ),
            15..=24 => net.propose(node, token),
            _ => {}
        }
        for _ in 0..dice(6) {
            net.turn(1 + dice(3));
            net.deliver();
        }
        if dice(20) == 0 {
            net.queue.pop_front();
        }
        let down: Vec<u64> = (1..=3).filter(|n| net.replica(*n).is_down).collect();
        if down.len() > 1 || (down.len() == 1 && dice(10) == 0) {
            down.iter().for_each(|n| net.start(*n));
        }
    }
    net.cut.clear();
    // Faults that have yet to come go with the power.
    (1..=3).for_each(|node| net.crash(node));
    net.settle();
    (1..=3).for_each(|node| net.step(node, role(true)));
    net.settle();
    // The one with the longest log can be elected.
    let best = (1..=3).max_by_key(|n| (net.status(*n).last_term, net.status(*n).last_index));
    let best = best.unwrap();
    if !net.status(best).leads {
        net.lead(best);
    }
    net.write(best, 9_999);
    let have = net.replica(best).machine.texts.clone();
    for (token, _) in net.done.iter().filter(|(t, r)| **t < 9_000 && r.is_ok()) {
        assert!(
            have.contains(&format!("r{token}")),
            "seed {seed}: r{token} is lost"
        );
    }
    let mut once = have.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), have.len(), "seed {seed}: nothing is there twice");
    for node in 1..=3 {
        let (has, should) = (&net.replica(node).machine, &net.replica(best).machine);
        assert_eq!(has, should, "seed {seed}, node {node}: {:?}", net.status(node));
    }
}

fn recovery(raft_id: u64, seen_term: u64, files: Option<InFiles>) -> Input {
    Input::Recover {
        region: REGION,
        raft_id,
        seen_term,
        files,
    }
}

/// The order comes more than once.
fn go_on_alone(net: &mut Net, node: NodeId, seen_term: u64, files: Option<InFiles>) {
    for _ in 0..3 {
        net.step(node, recovery(node, seen_term, files.clone()));
        net.settle();
    }
}

/// What a person agrees to when two of three disks are gone.
#[test]
fn a_survivor_goes_on_alone_with_what_it_has() {
    let mut net = Net::of(3);
    for token in 1..=3 {
        net.write(1, token);
    }
    // The third does not hear of the last one, which is acknowledged.
    net.isolate(3);
    net.write(1, 4);
    net.lose(&[1, 2]);
    let recover = |raft_id| recovery(raft_id, 7, None);
    net.step(3, recover(2));
    net.settle();
    assert!(!net.status(3).leads, "another replica was meant");
    for _ in 0..3 {
        net.step(3, recover(3));
        net.settle();
    }
    let status = net.status(3);
    assert!(status.leads && status.term > 7, "{status:?}");
    assert_eq!(net.replica(3).members.voters, [3].into());
    assert_eq!(texts(&net.replica(3).machine), ["r1", "r2", "r3"]);
    net.write(3, 6);
    net.crash(3);
    net.settle();
    assert!(net.status(3).leads, "alone it elects itself");
    // It has two others again, made anew.
    for node in [4, 5] {
        net.add(node, &[], &[3, 4, 5]);
    }
    net.heal();
    net.change(3, 7, vec![learner(4), learner(5)], &[3, 4, 5]);
    net.settle();
    net.change(3, 8, vec![voter(4), voter(5)], &[3, 4, 5]);
    net.settle();
    net.write(3, 9);
    for node in [3, 4, 5] {
        assert_eq!(texts(&net.replica(node).machine), ["r1", "r2", "r3", "r6", "r9"]);
    }
}

/// The lost ones have flushed what the survivor was never sent, in a term that it never heard of.
#[test]
fn a_survivor_whose_log_ends_before_the_files_goes_on_from_them() {
    for is_hot in [true, false] {
        let mut net = Net::of(3);
        net.step(3, role(is_hot));
        net.write(1, 1);
        net.isolate(3);
        net.lead(2);
        for token in 2..=4 {
            net.write(2, token);
        }
        let through = net.write(2, 5);
        let checkpoint = net.replica(2).history[&through].checkpoint();
        let term = net.status(2).term;
        net.lose(&[1, 2]);
        let ends = net.status(3).last_index;
        assert!(ends < through);
        let files = InFiles {
            through,
            term,
            checkpoint,
        };
        go_on_alone(&mut net, 3, term, Some(files));
        let status = net.status(3);
        assert!(status.leads && status.term > term, "{status:?}");
        assert_eq!(net.replica(3).members.voters, [3].into());
        let index = net.write(3, 6);
        assert!(index > through, "a sequence that files have is not given again");
        assert_eq!(
            texts(&net.replica(3).machine),
            ["r1", "r2", "r3", "r4", "r5", "r6"]
        );
        net.crash(3);
        net.settle();
        assert!(net.status(3).leads);
        net.write(3, 7);
        assert_eq!(net.replica(3).machine.texts.len(), 7);
    }
}

/// The survivor has led, and has entries that nobody took; the lost ones have flushed others in their place, in a term that
/// it never heard of.
#[test]
fn a_survivor_whose_last_entries_were_replaced_goes_on_from_the_files() {
    let mut net = Net::of(3);
    net.lead(3);
    net.write(3, 1);
    net.isolate(3);
    for token in 2..=5 {
        net.propose(3, token);
    }
    net.settle();
    net.lead(2);
    let through = net.write(2, 6);
    let checkpoint = net.replica(2).history[&through].checkpoint();
    let term = net.status(2).term;
    net.lose(&[1, 2]);
    assert!(net.status(3).last_index > through);
    let files = InFiles {
        through,
        term,
        checkpoint,
    };
    go_on_alone(&mut net, 3, term, Some(files));
    assert_eq!(net.replica(3).members.voters, [3].into());
    assert_eq!(texts(&net.replica(3).machine), ["r1", "r6"]);
    assert!(net.write(3, 7) > through);
    net.crash(3);
    net.settle();
    net.write(3, 8);
    assert_eq!(texts(&net.replica(3).machine), ["r1", "r6", "r7", "r8"]);
}

/// Its log has that it learned, that it got its vote, and who left.
#[test]
fn a_survivor_that_came_later_goes_on_alone_whatever_its_log_says_of_members() {
    let mut net = Net::of(3);
    net.write(1, 1);
    net.add(4, &[], &[1, 2, 3, 4]);
    net.change(1, 2, vec![learner(4)], &[1, 2, 3, 4]);
    net.settle();
    let change = vec![voter(4), Change::Remove { raft_id: 3 }];
    net.change(1, 3, change, &[1, 2, 4]);
    net.settle();
    net.write(1, 4);
    net.lose(&[1, 2, 3]);
    go_on_alone(&mut net, 4, 7, None);
    for token in 5..8 {
        assert!(net.status(4).leads);
        assert_eq!(net.replica(4).members.voters, [4].into());
        net.write(4, token);
        net.crash(4);
        net.settle();
    }
    let expected = ["r1", "r4", "r5", "r6", "r7"];
    assert_eq!(texts(&net.replica(4).machine), expected);
}
