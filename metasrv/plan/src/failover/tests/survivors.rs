//! Who may go on alone when a majority is lost.

use greptime_types::RegionId;

use super::*;

/// Datanode 1 leads in epoch 5 and is heard; of 2 and 3 this is known. Datanode 4 is recorded and has no vote.
fn left(verdicts: [Verdict; 2]) -> Bereaved {
    let [second, third] = verdicts;
    let mut seen = region([alive(), second, third]);
    for voter in seen.voters.iter_mut().filter(|v| v.verdict.is_dead()) {
        voter.had = voter.log.take();
    }
    let learner = Voter {
        node: 4,
        raft_id: 103,
        verdict: alive(),
        leads: None,
        ..seen.voters[0].clone()
    };
    let heard = seen.voters.iter().filter(|v| v.verdict.beats());
    Bereaved {
        region: RegionId::new(1024, 1),
        heard: heard.map(|v| v.node).chain([4]).collect(),
        learners: vec![learner],
        seen,
    }
}

fn refused(group: &Bereaved, node: NodeId) -> Why {
    group.leave_to(node).unwrap_err().why
}

#[test]
fn who_is_left_goes_on() {
    let survivor = left([killed(), silent()]).leave_to(1).unwrap();
    assert_eq!((survivor.node, survivor.raft_id), (1, 100));
    assert_eq!(survivor.log, log(5, 50).unwrap());
    assert_eq!(survivor.kept, Kept::Everything { epoch: 5 });
}

#[test]
fn where_it_need_not_be_nobody_goes_on_alone() {
    let alive_too = Why::MajorityLives { alive: vec![1, 2] };
    assert_eq!(refused(&left([alive(), killed()]), 1), alive_too);
    // Of five votes two are no majority: somebody of whom nothing is known may have two.
    let mut group = left([alive(), killed()]);
    group.seen.strangers = 2;
    assert!(group.leave_to(1).is_ok());
}

#[test]
fn who_has_most_goes_on() {
    let mut group = left([alive(), killed()]);
    group.seen.strangers = 2;
    group.seen.voters[1].log = log(5, 51);
    assert_eq!(refused(&group, 1), Why::HasLess { better: 2 });
    assert!(group.leave_to(2).is_ok());
    // A later term is more than many entries of an earlier one.
    group.seen.voters[0].log = log(6, 12);
    assert_eq!(refused(&group, 2), Why::HasLess { better: 1 });
}

#[test]
fn who_is_only_late_is_not_lost() {
    let group = left([killed(), suspect()]);
    // Its last report is there, and is not believed.
    assert!(group.seen.voters[2].log.is_some());
    let refusal = group.leave_to(1).unwrap_err();
    assert!(matches!(refusal.why, Why::NotDead { other: 3, .. }), "{refusal}");
    assert!(refusal.is_for_a_moment());
    // One that is there and has nothing any more is lost, whatever its verdict.
    let mut group = left([killed(), alive()]);
    group.seen.voters[2].log = None;
    assert!(group.leave_to(1).is_ok());
}

#[test]
fn who_is_not_heard_does_not_go_on() {
    let mut group = left([killed(), killed()]);
    group.heard.remove(&1);
    assert_eq!(refused(&group, 1), Why::Away);
    assert_eq!(refused(&left([killed(), killed()]), 2), Why::Away);
    let there = Why::NotThere {
        members: vec![1, 2, 3, 4],
    };
    assert_eq!(refused(&left([killed(), killed()]), 9), there);
}

#[test]
fn one_without_a_vote_goes_on_if_nobody_with_a_vote_is_left() {
    let group = left([killed(), killed()]);
    assert_eq!(refused(&group, 4), Why::NoVote { voter: 1 });
    let mut group = left([killed(), killed()]);
    group.seen.voters[0].verdict = killed();
    group.seen.voters[0].log = None;
    group.heard.remove(&1);
    let survivor = group.leave_to(4).unwrap();
    assert_eq!(survivor.raft_id, 103);
    assert!(matches!(survivor.kept, Kept::UpTo { .. }), "it does not lead");
}

#[test]
fn the_survivor_leads_above_all_terms_that_there_can_have_been() {
    let term = |change: fn(&mut Bereaved)| {
        let mut group = left([killed(), silent()]);
        change(&mut group);
        group.leave_to(1).unwrap().seen_term
    };
    let far = 1_000;
    assert!(term(|_| {}) > 5 + far);
    assert!(term(|g| g.seen.led = 9_000) > 9_000 + far);
    assert!(term(|g| g.seen.voters[2].had = log(9_000, 50)) > 9_000 + far);
    assert!(term(|g| g.learners[0].had = log(9_000, 50)) > 9_000 + far);
}

#[test]
fn a_refusal_says_what_to_do_instead() {
    let told = |group: &Bereaved, node| group.leave_to(node).unwrap_err().to_string();
    assert_eq!(
        told(&left([alive(), killed()]), 1),
        "a majority of region 1024:1 is there (datanodes [1, 2]); it needs no recovery"
    );
    assert_eq!(
        told(&left([killed(), killed()]), 4),
        "the replica on datanode 4 has no vote yet and may lack much; let datanode 1 survive"
    );
    let late = told(&left([killed(), suspect()]), 1);
    assert!(
        late.starts_with("datanode 3 has not been found to be dead yet (suspect")
            && late.ends_with("try again in a moment"),
        "{late}"
    );
}
