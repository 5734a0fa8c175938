use super::*;
use greptime_types::RegionId;

#[test]
fn the_verdict_on_the_leader_decides() {
    let table = [
        (alive(), nothing(Reason::Led)),
        (suspect(), nothing(Reason::LeaderSuspect { node: 1 })),
        (unwell(), Step::Transfer { from: 1, to: 2 }),
        (silent(), campaign(2)),
        (killed(), campaign(2)),
    ];
    for (verdict, expected) in table {
        assert_eq!(step(&region([verdict, alive(), alive()])), expected);
    }
}

#[test]
fn a_lease_is_waited_for_unless_its_holder_is_gone() {
    let until = NOW + ms(50);
    let table = [(killed(), campaign(2)), (silent(), Step::WaitForLease { until })];
    for (verdict, expected) in table {
        let mut region = region([verdict, alive(), alive()]);
        region.voters[0].lease_ends = until;
        assert_eq!(step(&region), expected);
        // What a follower was promised when it led is given up already.
        region.voters[1].lease_ends = NOW + ms(90);
        assert_eq!(step(&region), expected);
    }
}

#[test]
fn a_lease_of_a_former_leader_that_is_silent_is_waited_for() {
    let mut region = region([killed(), alive(), alive()]);
    region.voters.push(Voter {
        node: 4,
        verdict: silent(),
        lease_ends: NOW + ms(30),
        ..region.voters[2].clone()
    });
    region.voters.push(Voter {
        node: 5,
        ..region.voters[2].clone()
    });
    assert_eq!(step(&region), Step::WaitForLease { until: NOW + ms(30) });
}

#[test]
fn without_a_majority_nothing_is_sent_and_the_living_are_named() {
    let check = |verdicts: [Verdict; 3], alive: &[NodeId]| {
        let Step::MajorityLost(loss) = step(&region(verdicts)) else {
            panic!("{alive:?} are too few");
        };
        let nodes: Vec<NodeId> = loss.alive.iter().map(|left| left.node).collect();
        assert_eq!((nodes.as_slice(), loss.needed), (alive, 2));
    };
    check([silent(), alive(), killed()], &[2]);
    check([silent(), silent(), silent()], &[]);
    // Not even if the leader lives: it cannot commit.
    check([alive(), silent(), killed()], &[1]);
    let undecided = |node| {
        nothing(Reason::Undecided {
            nodes: BTreeSet::from([node]),
        })
    };
    assert_eq!(step(&region([killed(), alive(), suspect()])), undecided(3));
    // A datanode that beats and has the region not open cannot vote yet.
    let mut opening = region([killed(), alive(), alive()]);
    opening.voters[1].log = None;
    assert_eq!(step(&opening), undecided(2));
}

#[test]
fn nobody_leads() {
    let mut region = region([alive(), alive(), alive()]);
    region.voters[0].leads = None;
    assert_eq!(step(&region), campaign(1));
    // One that is not heard may lead.
    region.voters[2].verdict = suspect();
    let nodes = BTreeSet::from([3]);
    assert_eq!(step(&region), nothing(Reason::Unheard { nodes }));
    region.voters[2].verdict = silent();
    assert_eq!(step(&region), campaign(1));
    region.voters[2].lease_ends = NOW + ms(1);
    assert_eq!(step(&region), Step::WaitForLease { until: NOW + ms(1) });
}

#[test]
fn whoever_was_just_handed_a_region_has_time_to_say_so() {
    let mut region = region([alive(), alive(), alive()]);
    region.voters[0].leads = None;
    region.tried.push(tried(Attempt::Transfer, 2, 199));
    let until = NOW + ms(1);
    assert_eq!(step(&region), nothing(Reason::TransferUnderWay { to: 2, until }));
    region.tried[0].at -= ms(1);
    assert!(matches!(step(&region), Step::Campaign { .. }));
}

#[test]
fn a_group_of_one_elects_itself() {
    let mut region = region([alive(), alive(), alive()]);
    region.voters.truncate(1);
    assert_eq!(step(&region), nothing(Reason::Led));
    region.voters[0].leads = None;
    assert_eq!(step(&region), nothing(Reason::ElectsItself));
    region.voters[0].verdict = killed();
    assert!(matches!(step(&region), Step::MajorityLost(loss) if loss.needed == 1));
}

#[test]
fn the_highest_epoch_leads() {
    let mut region = region([silent(), alive(), alive()]);
    region.voters[1].leads = Some(6);
    assert_eq!(step(&region), nothing(Reason::Led));
    region.voters[1].leads = Some(4);
    assert!(matches!(step(&region), Step::Campaign { seen_term: 5, .. }));
}

#[test]
fn the_term_of_a_campaign_is_the_highest_that_anybody_knows() {
    let mut region = region([killed(), alive(), alive()]);
    region.voters[2].log.as_mut().unwrap().term = 9;
    assert!(matches!(step(&region), Step::Campaign { seen_term: 9, .. }));
}

/// Ends of the logs of the hot and the log-only follower, and who is to campaign.
#[test]
fn the_hot_follower_campaigns_unless_it_is_behind() {
    let table = [
        ((5, 50), (5, 50), 2),
        ((5, 51), (5, 50), 2),
        ((5, 49), (5, 50), 3),
        ((4, 90), (5, 50), 3),
        ((5, 50), (4, 90), 2),
    ];
    for (hot, cold, expected) in table {
        let mut region = region([silent(), alive(), alive()]);
        region.voters[1].log = log(hot.0, hot.1);
        region.voters[2].log = log(cold.0, cold.1);
        assert_eq!(step(&region), campaign(expected), "{hot:?} {cold:?}");
    }
}

#[test]
fn a_report_from_before_the_leader_ended_does_not_make_the_hot_follower_behind() {
    let mut region = region([killed(), alive(), alive()]);
    region.voters[1].log = log(5, 49);
    region.voters[1].log.as_mut().unwrap().at = NOW - ms(11);
    assert_eq!(step(&region), campaign(2));
    region.voters[1].log.as_mut().unwrap().at = NOW - ms(10);
    assert_eq!(step(&region), campaign(3));
}

#[test]
fn who_is_unwell_campaigns_only_if_nobody_else_can() {
    let mut region = region([silent(), unwell(), alive()]);
    assert_eq!(step(&region), campaign(3));
    region.voters[1].log = log(5, 51);
    assert_eq!(step(&region), campaign(2));
}

#[test]
fn a_campaign_without_effect_is_repeated_in_turn() {
    let mut region = region([silent(), alive(), alive()]);
    let mut told = vec![];
    for _ in 0..4 {
        region.tried.iter_mut().for_each(|t| t.at -= ms(200));
        let Step::Campaign { node, .. } = step(&region) else {
            panic!("{:?}", step(&region));
        };
        told.push(node);
        region.tried.push(tried(Attempt::Campaign, node, 0));
        let under_way = Reason::CampaignUnderWay {
            node,
            until: NOW + ms(200),
        };
        assert_eq!(step(&region), nothing(under_way));
    }
    assert_eq!(told, [2, 3, 2, 3]);
    // One that is behind gets its turn later.
    region.tried.clear();
    region.voters[2].log = log(5, 49);
    told.clear();
    for _ in 0..4 {
        let Step::Campaign { node, .. } = step(&region) else {
            panic!("{:?}", step(&region));
        };
        told.push(node);
        region.tried.push(tried(Attempt::Campaign, node, 200));
    }
    assert_eq!(told, [2, 2, 2, 3]);
}

#[test]
fn a_candidate_that_died_is_not_waited_for() {
    let mut region = region([killed(), killed(), alive()]);
    region.voters.push(Voter {
        node: 4,
        ..region.voters[2].clone()
    });
    region.voters.push(Voter {
        node: 5,
        ..region.voters[2].clone()
    });
    region.tried.push(tried(Attempt::Campaign, 2, 20));
    assert!(matches!(step(&region), Step::Campaign { node: 3, .. }));
}

#[test]
fn the_next_campaigns_as_soon_as_the_last_is_seen_to_be_behind() {
    let mut region = region([silent(), alive(), alive()]);
    region.voters[2].log = log(5, 51);
    region.tried.push(tried(Attempt::Campaign, 2, 30));
    let position = |region: &mut RegionSeen, ago| {
        let log = region.voters[1].log.as_mut().unwrap();
        log.at = NOW - ms(ago);
    };
    let under_way = nothing(Reason::CampaignUnderWay {
        node: 2,
        until: NOW + ms(170),
    });
    position(&mut region, 40);
    assert_eq!(step(&region), under_way, "it has said so before it was told");
    position(&mut region, 10);
    assert_eq!(step(&region), campaign(3));
    region.voters[1].log.as_mut().unwrap().last_index = 51;
    assert_eq!(step(&region), under_way);
}

#[test]
fn an_unwell_leader_hands_over_to_somebody_better() {
    let mut region = region([unwell(), alive(), alive()]);
    assert_eq!(step(&region), Step::Transfer { from: 1, to: 2 });
    // The hot one lags so far that the transfer would hold writes back.
    region.voters[0].log = log(5, 9_050);
    region.voters[2].log = log(5, 9_050);
    assert_eq!(step(&region), Step::Transfer { from: 1, to: 3 });
    region.voters[1].verdict = unwell();
    region.voters[2].verdict = slow();
    assert_eq!(step(&region), nothing(Reason::NobodyBetter { leader: 1 }));
}

#[test]
fn an_unwell_leader_that_does_not_hand_over_is_unseated() {
    let mut region = region([unwell(), alive(), alive()]);
    region.tried.push(tried(Attempt::Transfer, 2, 499));
    let until = NOW + ms(1);
    assert_eq!(step(&region), nothing(Reason::TransferUnderWay { to: 2, until }));
    region.tried[0].at -= ms(1);
    assert_eq!(step(&region), Step::Transfer { from: 1, to: 3 });
    region.tried.push(tried(Attempt::Transfer, 3, 500));
    // Its lease is not renewed any more, and ends.
    region.voters[0].lease_ends = NOW + ms(200);
    let wait = step(&region);
    assert_eq!(wait, Step::WaitForLease { until: NOW + ms(200) });
    assert!(wait.withholds_lease());
    region.voters[0].lease_ends = NOW;
    assert_eq!(step(&region), campaign(2));
    // The others cannot elect without it.
    region.voters[2].verdict = silent();
    assert_eq!(step(&region), nothing(Reason::NobodyBetter { leader: 1 }));
}

#[test]
fn a_leader_that_was_slow_hands_over_only_to_a_hot_follower_that_keeps_up() {
    let mut region = region([slow(), alive(), alive()]);
    assert_eq!(step(&region), Step::Transfer { from: 1, to: 2 });
    region.tried = vec![
        tried(Attempt::Transfer, 2, 1_100),
        tried(Attempt::Transfer, 2, 600),
    ];
    assert_eq!(
        step(&region),
        nothing(Reason::NobodyBetter { leader: 1 }),
        "it serves"
    );
    region.tried.clear();
    region.voters[1].verdict = slow();
    assert_eq!(step(&region), nothing(Reason::NobodyBetter { leader: 1 }));
    region.voters[1].verdict = alive();
    region.voters[0].log = log(5, 9_050);
    assert_eq!(step(&region), nothing(Reason::NobodyBetter { leader: 1 }));
}

#[test]
fn who_is_elected_is_left_in_peace_or_hands_over_to_a_hot_follower() {
    let mut region = region([silent(), alive(), alive()]);
    region.voters[0].leads = None;
    region.voters[2].elected = Some(6);
    region.voters[2].log = Some(LogEnd {
        term: 6,
        ..log(6, 51).unwrap()
    });
    region.tried.push(tried(Attempt::Campaign, 3, 30));
    let opening = |node, ago: u64| {
        let until = NOW + ms(2_000 - ago);
        nothing(Reason::Opening { node, until })
    };
    assert_eq!(
        step(&region),
        Step::Transfer { from: 3, to: 2 },
        "it lacks an entry, which it is sent first"
    );
    region.voters[2].log.as_mut().unwrap().last_index = 1_051;
    assert_eq!(step(&region), opening(3, 30), "it lacks too many");
    region.voters[2].log.as_mut().unwrap().last_index = 1_050;
    region.voters[1].verdict = slow();
    assert_eq!(
        step(&region),
        Step::Transfer { from: 3, to: 2 },
        "it serves at once"
    );
    region.tried.push(tried(Attempt::Transfer, 2, 10));
    let until = NOW + ms(190);
    assert_eq!(step(&region), nothing(Reason::TransferUnderWay { to: 2, until }));
    // The hot one is elected: then it is the one that is waited for.
    region.voters[1].elected = Some(7);
    region.voters[1].log.as_mut().unwrap().term = 7;
    assert_eq!(step(&region), opening(2, 10));
    region.tried.iter_mut().for_each(|t| t.at -= ms(2_000));
    assert!(
        matches!(step(&region), Step::Campaign { .. }),
        "{:?}",
        step(&region)
    );
}

/// It was made hot, or has come back, and reads its log.
#[test]
fn nobody_hands_over_to_one_that_has_yet_to_apply_its_log() {
    let applied = |region: &mut RegionSeen, index| {
        region.voters.iter_mut().for_each(|v| v.log = log(5, 9_000));
        region.voters[1].log.as_mut().unwrap().applied_index = index;
    };
    // A log-only replica leads and is well.
    let mut led = region([alive(), alive(), alive()]);
    led.voters[0].role = VoterRole::LogOnly;
    applied(&mut led, 7_999);
    assert_eq!(step(&led), nothing(Reason::Led));
    applied(&mut led, 8_000);
    assert_eq!(step(&led), Step::Transfer { from: 1, to: 2 });
    // One is elected and does not serve yet: it will sooner than the other.
    let mut elected = region([killed(), alive(), alive()]);
    elected.voters[0].leads = None;
    elected.voters[2].elected = Some(5);
    elected.tried.push(tried(Attempt::Campaign, 3, 30));
    applied(&mut elected, 7_999);
    let until = NOW + ms(1_970);
    assert_eq!(step(&elected), nothing(Reason::Opening { node: 3, until }));
    applied(&mut elected, 8_000);
    assert_eq!(step(&elected), Step::Transfer { from: 3, to: 2 });
    // A slow leader serves as well.
    let mut slow = region([slow(), alive(), alive()]);
    applied(&mut slow, 7_999);
    assert_eq!(step(&slow), nothing(Reason::NobodyBetter { leader: 1 }));
    // Among two that have to apply, the hot one has less of it.
    let mut lost = region([killed(), alive(), alive()]);
    applied(&mut lost, 7_999);
    assert_eq!(step(&lost), campaign(2));
    // Somebody who is ready comes first.
    lost.voters[2].role = VoterRole::Hot;
    assert_eq!(step(&lost), campaign(3));
}

#[test]
fn the_lease_of_a_leader_that_has_left_the_record_is_waited_for() {
    let mut region = region([killed(), alive(), alive()]);
    region.voters[0].leads = None;
    region.lease_ends = NOW + ms(200);
    assert_eq!(step(&region), Step::WaitForLease { until: NOW + ms(200) });
    region.lease_ends = NOW;
    // One that beats and has said nothing of the region may lead it.
    region.voters.push(Voter {
        node: 4,
        log: None,
        lease_ends: NOW + ms(50),
        ..region.voters[1].clone()
    });
    assert_eq!(step(&region), nothing(Reason::Undecided { nodes: [4].into() }));
    region.voters.push(Voter {
        node: 5,
        ..region.voters[1].clone()
    });
    assert_eq!(step(&region), Step::WaitForLease { until: NOW + ms(50) });
}

#[test]
fn who_says_that_it_leads_in_an_epoch_before_the_newest_has_not_heard() {
    let mut region = region([hung(), alive(), alive()]);
    region.led = 6;
    region.tried.push(tried(Attempt::Transfer, 3, 50));
    let until = NOW + ms(150);
    assert_eq!(step(&region), nothing(Reason::TransferUnderWay { to: 3, until }));
}

#[test]
fn a_leader_whose_disk_hangs_is_unseated_at_once_if_somebody_is_better() {
    let mut region = region([hung(), alive(), alive()]);
    assert_eq!(step(&region), campaign(2));
    region.tried.push(tried(Attempt::Transfer, 2, 10));
    assert_eq!(
        step(&region),
        campaign(2),
        "it will not do what it was told before"
    );
    region.voters[0].lease_ends = NOW + ms(200);
    assert_eq!(step(&region), Step::WaitForLease { until: NOW + ms(200) });
    region.voters[1].verdict = unwell();
    region.voters[2].verdict = unwell();
    assert_eq!(step(&region), nothing(Reason::NobodyBetter { leader: 1 }));
}

/// Datanodes that do not reach each other, with the leader on 1; and what is done.
#[test]
fn a_leader_that_does_not_reach_a_majority_is_unseated_without_a_transfer() {
    let better = nothing(Reason::NobodyBetter { leader: 1 });
    let table: &[(&[(NodeId, NodeId)], Step)] = &[
        (&[(1, 2)], nothing(Reason::Led)),
        (&[(1, 2), (1, 3)], campaign(2)),
        (&[(2, 3)], nothing(Reason::Led)),
        // Nobody reaches a majority.
        (&[(1, 2), (1, 3), (2, 3)], better),
    ];
    for (pairs, expected) in table {
        // Whether it is found to be unwell depends on datanodes that have nothing to do with the region.
        for verdict in [alive(), unwell(), slow()] {
            let mut region = region([verdict.clone(), alive(), alive()]);
            set_apart(&mut region, pairs);
            let found = step(&region);
            let is_served = matches!(expected, Step::Nothing { reason: Reason::Led });
            if verdict.is_alive() || !is_served {
                assert_eq!(found, *expected, "{pairs:?} {verdict}");
            }
            // What it was told before it cannot do.
            region.tried.push(tried(Attempt::Transfer, 2, 10));
            if !is_served {
                assert_eq!(step(&region), *expected, "{pairs:?} {verdict}");
            }
        }
    }
    // Its lease ends first.
    let mut region = region([alive(), alive(), alive()]);
    set_apart(&mut region, &[(1, 2), (1, 3)]);
    region.voters[0].lease_ends = NOW + ms(200);
    let wait = step(&region);
    assert_eq!(wait, Step::WaitForLease { until: NOW + ms(200) });
    assert!(wait.withholds_lease());
}

fn set_apart(region: &mut RegionSeen, pairs: &[(NodeId, NodeId)]) {
    for (a, b) in pairs {
        for voter in &mut region.voters {
            match voter.node {
                node if node == *a => drop(voter.apart.insert(*b)),
                node if node == *b => drop(voter.apart.insert(*a)),
                _ => {}
            }
        }
    }
}

#[test]
fn an_unwell_leader_hands_over_to_whom_it_reaches() {
    let mut region = region([unwell(), alive(), alive()]);
    set_apart(&mut region, &[(1, 2)]);
    assert_eq!(step(&region), Step::Transfer { from: 1, to: 3 });
    // One that it does not reach is made leader by the others.
    region.voters[2].verdict = unwell();
    assert_eq!(step(&region), campaign(2));
}

#[test]
fn who_reaches_a_majority_campaigns_before_who_does_not() {
    let mut region = region([killed(), alive(), alive()]);
    for node in [4, 5] {
        region.voters.push(Voter {
            node,
            ..region.voters[2].clone()
        });
    }
    set_apart(&mut region, &[(2, 3), (2, 4)]);
    assert!(matches!(step(&region), Step::Campaign { node: 3, .. }));
    // If nobody does, reports may be old, and it is tried.
    set_apart(&mut region, &[(3, 4), (3, 5), (4, 5)]);
    assert!(matches!(step(&region), Step::Campaign { node: 2, .. }));
}

#[test]
fn who_has_lost_a_majority_is_told_what_is_left_and_how_to_go_on() {
    let mut region = region([killed(), killed(), alive()]);
    region.voters[0].log = None;
    region.voters[0].had = log(5, 57);
    region.voters[1].log = None;
    region.voters[2].log = log(5, 50);
    let id = RegionId::new(1024, 1);
    assert_eq!(
        step(&region).told(id),
        "too few of its voters live, 2 are needed; lost: datanode 1 (entry 57 of term 5, in files up to 40), datanode 2 \
         (unknown how far); left: datanode 3 (entry 50 of term 5, in files up to 40); bring one of the lost back with its \
         disk, and nothing is lost. Only if that cannot be: `ADMIN force_recover_region('1024:1', 3)` goes on with \
         datanode 3 alone. It keeps everything up to entry 50 and what is in files; what only the lost ones had after it is \
         lost, acknowledged or not"
    );
    region.voters[2].log = None;
    region.voters[2].verdict = killed();
    assert!(
        step(&region).told(id).ends_with("bring one of the others back"),
        "{}",
        step(&region).told(id)
    );
}

#[test]
fn the_survivor_to_name_is_the_one_with_the_longest_log() {
    let mut region = region([killed(), killed(), killed()]);
    for (node, log) in [(4, log(4, 90)), (5, log(5, 50))] {
        region.voters.push(Voter {
            node,
            log,
            verdict: alive(),
            ..region.voters[2].clone()
        });
    }
    let Step::MajorityLost(loss) = step(&region) else {
        panic!("two of five live");
    };
    assert_eq!(loss.survivor().map(|(node, _)| node), Some(5));
    let alive: Vec<NodeId> = loss.alive.iter().map(|left| left.node).collect();
    assert_eq!(alive, [5, 4]);
}

#[test]
fn a_log_only_leader_hands_back_when_a_hot_follower_keeps_up_and_is_steady() {
    let mut region = region([alive(), alive(), alive()]);
    region.voters[0].leads = None;
    region.voters[2].leads = Some(5);
    region.voters[2].log = log(5, 1_050);
    region.voters[0].log = None;
    assert_eq!(step(&region), Step::Transfer { from: 3, to: 2 });
    let refused = |change: fn(&mut Voter)| {
        let mut region = region.clone();
        change(&mut region.voters[1]);
        step(&region)
    };
    assert_eq!(refused(|v| v.log = log(5, 49)), nothing(Reason::Led));
    assert_eq!(refused(|v| v.log = log(4, 1_050)), nothing(Reason::Led));
    assert_eq!(refused(|v| v.log = None), nothing(Reason::Led));
    assert_eq!(refused(|v| v.verdict = unwell()), nothing(Reason::Led));
    let new = |v: &mut Voter| {
        v.verdict = Verdict::Alive {
            since: NOW - ms(1_999),
        }
    };
    assert_eq!(refused(new), nothing(Reason::Led));
    region.tried.push(tried(Attempt::Transfer, 2, 1_999));
    let until = NOW + ms(1);
    assert_eq!(step(&region), nothing(Reason::TransferUnderWay { to: 2, until }));
}

#[test]
fn every_step_says_itself_to_people() {
    let table = [
        (
            step(&region([killed(), alive(), alive()])),
            "datanode 2 is told to campaign above term 5",
        ),
        (
            step(&region([suspect(), alive(), alive()])),
            "its leader, datanode 1, is suspect and not judged yet",
        ),
    ];
    for (step, said) in table {
        assert_eq!(step.to_string(), said);
    }
}
