//! What is kept of a group that has lost its majority.

use greptime_types::RegionId;

use super::*;

/// Whoever goes on leads in epoch 5, which is the newest, and has 50 entries; the two others were heard in it.
fn remains() -> Remains {
    Remains {
        leads: Some(5),
        log: log(5, 50).unwrap(),
        led: 5,
        others: vec![Some(5), Some(4)],
        strangers: 0,
    }
}

#[test]
fn what_is_kept_is_said_as_exactly_as_it_is_known() {
    let kept = |change: fn(&mut Remains)| {
        let mut remains = remains();
        change(&mut remains);
        remains.kept()
    };
    let everything = Kept::Everything { epoch: 5 };
    assert_eq!(kept(|_| {}), everything);
    // The one that was never heard needed the vote of the other.
    assert_eq!(kept(|r| r.others[0] = None), everything);
    assert_eq!(
        kept(|r| r.others = vec![Some(5), Some(5), None, None]),
        everything
    );
    let through = Kept::Through { epoch: 5 };
    assert_eq!(
        kept(|r| r.others = vec![None, None]),
        through,
        "one may have elected the other before this metasrv led"
    );
    assert_eq!(kept(|r| r.others = vec![Some(5), None, None, None]), through);
    assert_eq!(kept(|r| r.led = 6), through, "somebody led in a later epoch");
    assert_eq!(
        kept(|r| r.others[1] = Some(6)),
        through,
        "somebody was elected, or tried"
    );
    assert_eq!(kept(|r| r.strangers = 1), through, "whoever that is may have led");
}

/// It knows of 45 of its 50 entries that they are committed.
#[test]
fn a_replica_that_does_not_lead_keeps_what_nobody_can_have_replaced() {
    let kept = |change: fn(&mut Remains)| {
        let mut remains = Remains {
            leads: None,
            ..remains()
        };
        remains.log.applied_index = 45;
        change(&mut remains);
        remains.kept()
    };
    let all_of_its_log = Kept::UpTo { entry: 50 };
    assert_eq!(
        kept(|_| {}),
        all_of_its_log,
        "it may have missed the last entries"
    );
    let replaced: [fn(&mut Remains); 5] = [
        |r| r.led = 6,
        |r| r.others[0] = Some(6),
        |r| r.log.term = 6,
        |r| r.others = vec![None, None],
        |r| r.strangers = 1,
    ];
    for change in replaced {
        assert_eq!(
            kept(change),
            Kept::UpTo { entry: 45 },
            "another leader may have put others in their place"
        );
    }
}

/// Datanode 1 leads in epoch 5. The two others are gone with their connections, and had said so much before.
fn left_with_its_leader(had: [Option<LogEnd>; 2]) -> RegionSeen {
    let mut region = region([alive(), killed(), killed()]);
    for (voter, had) in region.voters[1..].iter_mut().zip(had) {
        (voter.log, voter.had) = (None, had);
    }
    region
}

fn told(region: &RegionSeen) -> String {
    step(region).told(RegionId::new(1024, 1))
}

#[test]
fn a_leader_that_is_left_keeps_everything_and_this_is_told() {
    let told = told(&left_with_its_leader([log(5, 50), log(5, 48)]));
    let end = "left: datanode 1 (entry 50 of term 5, in files up to 40); bring one of the lost back with its disk, or `ADMIN \
               force_recover_region('1024:1', 1)` goes on with datanode 1 alone. It keeps everything that was acknowledged: \
               it leads in epoch 5, and nobody was ever written to in a later one";
    assert!(told.ends_with(end), "{told}");
}

#[test]
fn a_leader_that_may_have_been_replaced_keeps_what_is_of_its_epoch() {
    let end = "and nothing is lost. Only if that cannot be: `ADMIN force_recover_region('1024:1', 1)` goes on with datanode 1 \
               alone. It keeps everything that was acknowledged up to epoch 5, in which it leads, and what is in files; what \
               the others may have acknowledged in a later one is lost";
    let unheard = told(&left_with_its_leader([None, None]));
    assert!(unheard.ends_with(end), "{unheard}");
    let mut region = left_with_its_leader([log(5, 50), log(5, 48)]);
    region.led = 6;
    assert!(told(&region).ends_with(end), "{}", told(&region));
    region.led = 5;
    region.voters[1].had = log(6, 51);
    assert!(told(&region).ends_with(end), "{}", told(&region));
}

#[test]
fn of_two_with_the_same_log_the_one_that_leads_is_to_survive() {
    let mut region = region([killed(), killed(), killed()]);
    for (node, leads) in [(4, None), (5, Some(5))] {
        region.voters.push(Voter {
            node,
            raft_id: 99 + node,
            leads,
            verdict: alive(),
            ..region.voters[2].clone()
        });
    }
    let Step::MajorityLost(loss) = step(&region) else {
        panic!("two of five live");
    };
    assert_eq!(loss.survivor().map(|(node, _)| node), Some(5));
    assert_eq!(loss.kept, Some(Kept::Everything { epoch: 5 }));
}
