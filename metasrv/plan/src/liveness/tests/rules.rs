use super::*;

#[test]
fn silence_makes_suspect_and_then_dead() {
    let mut scene = Scene::steady(3);
    let table = [
        (125, "alive"),
        (150, "suspect: silent for 150ms"),
        (325, "suspect: silent for 325ms"),
        (350, "dead: silent for 350ms"),
    ];
    let from = scene.now;
    for (silence, said) in table {
        scene.run(from + silence - scene.now, &[0, 1]);
        assert_eq!(scene.said(2), said);
    }
    assert!(!scene.verdict(2).is_gone());
    let Verdict::Dead { gone_since, .. } = scene.verdict(2) else {
        panic!("{}", scene.said(2));
    };
    assert_eq!(*gone_since, ms(from));
}

#[test]
fn a_new_beat_makes_alive_again() {
    let mut scene = Scene::steady(3);
    scene.run(1_000, &[0, 1]);
    assert!(scene.verdict(2).is_dead());
    scene.run(25, &[0, 1, 2]);
    assert_eq!(*scene.verdict(2), Verdict::Alive { since: ms(scene.now) });
    scene.run(325, &[0, 1]);
    assert!(scene.verdict(2).is_suspect());
    scene.run(25, &[0, 1]);
    assert!(scene.verdict(2).is_dead());
}

/// Connection, redial, and what they make of a datanode that was heard 25 ms and 200 ms ago.
#[test]
fn facts_kill_at_once_and_nothing_else_does() {
    let broken = Connection::Broken { since: ms(10_000) };
    let accepted = Redial::Accepted { at: ms(10_010) };
    let table = [
        (Connection::Up, Redial::Untried, "alive", "suspect"),
        (Connection::Up, Redial::Refused, "alive", "suspect"),
        (Connection::Up, Redial::NoAnswer, "alive", "suspect"),
        // While it beats, such an answer is an old one.
        (Connection::Up, Redial::OtherIncarnation, "alive", "dead"),
        (broken, Redial::Untried, "suspect", "suspect"),
        (broken, Redial::Pending, "suspect", "suspect"),
        (broken, Redial::NoAnswer, "suspect", "suspect"),
        (broken, accepted, "suspect", "suspect"),
        (broken, Redial::Refused, "dead", "dead"),
        (broken, Redial::OtherIncarnation, "dead", "dead"),
    ];
    for (connection, redial, soon, later) in table {
        let mut scene = Scene::steady(3);
        scene.node(2).connection = connection;
        scene.node(2).redial = redial;
        for (run, expected) in [(25, soon), (175, later)] {
            scene.run(run, &[0, 1]);
            let said = scene.said(2);
            assert!(said.starts_with(expected), "{connection:?} {redial:?}: {said}");
            assert_eq!(scene.verdict(2).is_gone(), expected == "dead");
        }
    }
}

#[test]
fn a_fact_stays_one_until_a_beat_refutes_it() {
    let mut scene = Scene::steady(3);
    scene.breaks(2);
    scene.node(2).redial = Redial::Refused;
    scene.run(25, &[0, 1]);
    scene.node(2).redial = Redial::NoAnswer;
    scene.run(100, &[0, 1]);
    assert_eq!(
        scene.said(2),
        "dead: its connection broke and its address refuses a new one"
    );
    scene.run(25, &[0, 1, 2]);
    assert_eq!(scene.said(2), "alive");
}

#[test]
fn a_process_that_registers_after_another_is_alive() {
    let mut scene = Scene::steady(3);
    scene.breaks(2);
    scene.node(2).redial = Redial::OtherIncarnation;
    scene.run(25, &[0, 1]);
    assert_eq!(scene.said(2), "dead: another process answers at its address");
    scene.node(2).incarnation = 9;
    scene.run(25, &[0, 1, 2]);
    assert_eq!(*scene.verdict(2), Verdict::Alive { since: ms(scene.now) });
}

#[test]
fn an_answered_redial_gives_time_but_not_for_ever() {
    // Answered after so long, and when it is dead then: 350 ms later, at most 600 ms after the last beat.
    for (answered, dead) in [(175, 525), (200, 550), (300, 600)] {
        let mut scene = Scene::steady(3);
        let from = scene.now;
        scene.run(answered, &[0, 1]);
        scene.node(2).redial = Redial::Accepted {
            at: ms(from + answered),
        };
        scene.run(dead - 25 - answered, &[0, 1]);
        assert!(scene.said(2).contains("its process answers"), "{}", scene.said(2));
        scene.run(25, &[0, 1]);
        assert!(scene.verdict(2).is_dead(), "{answered}: {}", scene.said(2));
    }
}

#[test]
fn an_answer_from_before_the_last_beat_counts_for_nothing() {
    let mut scene = Scene::steady(3);
    scene.node(2).redial = Redial::Accepted { at: ms(scene.now) };
    scene.run(350, &[0, 1]);
    assert!(scene.verdict(2).is_dead());
}

#[test]
fn whoever_is_suspect_is_redialled_again_and_again() {
    let mut scene = Scene::steady(3);
    let mut asked = vec![];
    for _ in 0..18 {
        scene.run(25, &[0, 1]);
        if scene.found.redial.contains(&2) {
            asked.push(scene.now - 10_000);
        }
    }
    // The last one finds it dead; from then on rarely.
    assert_eq!(asked, [150, 250, 350]);
    scene.run(1_875, &[0, 1]);
    assert!(scene.found.redial.is_empty());
    scene.run(25, &[0, 1]);
    assert!(scene.found.redial.contains(&2));
}

#[test]
fn a_broken_connection_is_redialled_at_once_and_one_redial_is_enough() {
    let mut scene = Scene::steady(3);
    scene.breaks(2);
    scene.look();
    assert_eq!(scene.found.redial, BTreeSet::from([2]));
    scene.node(2).redial = Redial::Pending;
    scene.run(200, &[0, 1]);
    assert!(scene.found.redial.is_empty());
    scene.node(2).redial = Redial::Refused;
    scene.run(200, &[0, 1]);
    assert!(scene.found.redial.is_empty(), "a fact needs no second one");
}

#[test]
fn a_metasrv_that_slept_judges_nobody_and_credits_its_sleep() {
    let mut scene = Scene::steady(3);
    scene.run(200, &[0, 1]);
    scene.sleep(1_000);
    assert_eq!(scene.found.late, Some(ms(975)));
    assert!(
        scene.found.verdicts.values().all(|v| !v.is_dead()),
        "{:?}",
        scene.found
    );
    assert_eq!(scene.said(0), "alive", "25 ms of its silence are not metasrv's");
    // Awake it has seen 225 ms of silence; 125 are left.
    scene.run(100, &[0, 1]);
    assert_eq!(scene.said(2), "suspect: silent for 325ms");
    scene.run(25, &[0, 1]);
    assert_eq!(scene.said(2), "dead: silent for 350ms");
}

#[test]
fn a_round_that_is_late_judges_nobody_even_if_silence_suffices() {
    let mut scene = Scene::steady(3);
    scene.run(325, &[0, 1]);
    scene.sleep(76);
    assert!(
        scene.said(2).contains("metasrv itself was stopped"),
        "{}",
        scene.said(2)
    );
    scene.run(25, &[0, 1]);
    assert!(scene.verdict(2).is_dead());
}

#[test]
fn whoever_is_dead_stays_dead_while_metasrv_sleeps() {
    let mut scene = Scene::steady(3);
    scene.run(400, &[0, 1]);
    scene.sleep(5_000);
    assert!(scene.verdict(2).is_dead());
}

#[test]
fn leaders_are_moved_away_from_a_datanode_that_is_about_to_stop() {
    let mut scene = Scene::steady(3);
    scene.node(2).is_stopping = true;
    scene.run(25, &[0, 1, 2]);
    assert_eq!(scene.said(2), "unwell: it is about to stop");
    assert!(scene.verdict(0).is_alive());
}

#[test]
fn a_beat_that_waited_while_metasrv_slept_is_a_beat() {
    let mut scene = Scene::steady(3);
    scene.run(400, &[0, 1]);
    // It came back and fell silent again while nobody looked.
    scene.now += 10;
    scene.beat(2);
    scene.sleep(2_000);
    assert!(!scene.verdict(2).is_dead(), "{}", scene.said(2));
}

#[test]
fn a_new_leader_judges_nobody_by_silence_until_a_lease_and_a_window_have_passed() {
    let mut scene = Scene::unheard(3);
    scene.run(25, &[0, 1, 2]);
    scene.run(600, &[0, 1]);
    assert!(scene.said(2).contains("just become leader"), "{}", scene.said(2));
    scene.run(25, &[0, 1]);
    assert_eq!(scene.now, 650);
    assert!(scene.verdict(2).is_dead());
}

#[test]
fn a_new_leader_counts_the_time_that_it_was_awake() {
    let mut scene = Scene::unheard(3);
    scene.run(25, &[0, 1, 2]);
    scene.sleep(1_025);
    scene.run(575, &[0, 1]);
    assert!(scene.said(2).contains("just become leader"), "{}", scene.said(2));
    scene.run(25, &[0, 1]);
    assert!(scene.verdict(2).is_dead());
}

#[test]
fn a_new_leader_takes_a_fact_for_one() {
    let mut scene = Scene::unheard(3);
    scene.run(25, &[0, 1, 2]);
    scene.breaks(2);
    scene.node(2).redial = Redial::Refused;
    scene.run(25, &[0, 1]);
    assert!(scene.verdict(2).is_gone());
}

#[test]
fn whoever_has_not_found_the_new_leader_has_longer() {
    let mut scene = Scene::unheard(3);
    scene.run(2_000, &[0, 1]);
    assert_eq!(scene.said(2), "suspect: not heard since this metasrv leads");
    assert!(
        scene.found.redial.is_empty(),
        "it has no connection whose address could be dialled"
    );
    scene.run(25, &[0, 1]);
    assert!(scene.verdict(2).is_dead());
}

#[test]
fn whom_the_others_miss_too_has_no_longer_to_find_the_new_leader() {
    // Datanodes, whom each of those that have come cannot reach, and when the last one is judged.
    type Complaints<'a> = &'a [(NodeId, &'a [NodeId])];
    let table: &[(u64, Complaints, u64)] = &[
        (3, &[(0, &[2]), (1, &[2])], 650),
        (3, &[(0, &[2]), (1, &[])], 2_025),
        (5, &[(0, &[4]), (1, &[4]), (2, &[4]), (3, &[])], 650),
        // One of two that came of five may be cut off from all others itself.
        (5, &[(0, &[4]), (1, &[4])], 2_025),
    ];
    for (nodes, complaints, judged) in table {
        let mut scene = Scene::unheard(*nodes);
        let come: Vec<NodeId> = complaints.iter().map(|(node, _)| *node).collect();
        scene.run(25, &come);
        for (node, unreachable) in *complaints {
            scene.node(*node).unreachable = unreachable.iter().copied().collect();
        }
        while !scene.verdict(nodes - 1).is_dead() && scene.now < 5_000 {
            scene.run(25, &come);
        }
        let is_braked = complaints.len() as u64 * 2 <= *nodes;
        assert!(
            scene.now == *judged || is_braked && scene.now > *judged,
            "{complaints:?}: {}",
            scene.now
        );
    }
}

#[test]
fn when_more_than_half_vanish_nobody_is_judged_by_silence() {
    // Datanodes, how many vanish, whether that is the brake.
    for (nodes, vanish, brake) in [
        (1, 1, true),
        (2, 1, false),
        (3, 1, false),
        (3, 2, true),
        (4, 2, false),
        (5, 2, false),
        (5, 3, true),
        (5, 5, true),
    ] {
        let mut scene = Scene::steady(nodes);
        let left: Vec<NodeId> = (vanish..nodes).collect();
        scene.run(5_000, &left);
        let dead = scene.found.verdicts.values().filter(|v| v.is_dead()).count() as u64;
        assert_eq!(dead, if brake { 0 } else { vanish }, "{nodes} {vanish}");
        assert_eq!(scene.found.brake.is_some(), brake);
        if brake {
            assert!(
                scene.said(0).contains("more than half vanished"),
                "{}",
                scene.said(0)
            );
        }
    }
}

#[test]
fn the_brake_says_who_vanished_and_what_that_means() {
    let mut scene = Scene::steady(5);
    scene.run(500, &[3, 4]);
    let said = scene.found.brake.as_ref().unwrap().to_string();
    assert_eq!(
        said,
        "3 datanodes ({0, 1, 2}) fell silent within 1s and 2 still beat: metasrv may be the one cut off, so nobody is \
         judged dead by silence until it has lasted for 10s, or most of those that beat cannot reach it either; a process \
         that is known to be gone still is"
    );
    assert_eq!(
        scene.said(0),
        "suspect: silent for 500ms; not judged for another 9.5s, unless most of those that beat cannot reach it either: \
         more than half vanished at once, metasrv may be cut off"
    );
}

/// How many there are, those that vanish, and whom each of the others cannot reach; who is dead long before the brake ends.
#[test]
fn whom_most_of_those_that_beat_cannot_reach_either_is_judged_in_spite_of_the_brake() {
    type Complaints<'a> = &'a [(NodeId, &'a [NodeId])];
    let table: &[(u64, u64, Complaints, &[NodeId])] = &[
        (3, 2, &[(2, &[0, 1])], &[0, 1]),
        // One that nobody misses is not enough for the brake.
        (3, 2, &[(2, &[0])], &[0, 1]),
        (3, 2, &[(2, &[])], &[]),
        (5, 3, &[(3, &[0, 1, 2]), (4, &[0, 1, 2])], &[0, 1, 2]),
        // One of two is not most of them.
        (5, 3, &[(3, &[0, 1, 2]), (4, &[])], &[]),
        (
            7,
            4,
            &[(4, &[0, 1, 2, 3]), (5, &[0, 1, 2, 3]), (6, &[])],
            &[0, 1, 2, 3],
        ),
        // What those say who are away themselves is old.
        (5, 4, &[(0, &[1, 2, 3]), (1, &[0, 2, 3]), (4, &[])], &[]),
        // Nobody is there to say anything.
        (3, 3, &[(0, &[1, 2])], &[]),
    ];
    for (nodes, vanish, complaints, dead) in table {
        let mut scene = Scene::steady(*nodes);
        let left: Vec<NodeId> = (*vanish..*nodes).collect();
        scene.run(500, &left);
        assert!(scene.found.brake.is_some());
        for (node, unreachable) in *complaints {
            scene.node(*node).unreachable = unreachable.iter().copied().collect();
        }
        scene.run(2_500, &left);
        let found = scene.found.verdicts.iter().filter(|(_, v)| v.is_dead());
        let found: Vec<NodeId> = found.map(|(node, _)| *node).collect();
        assert_eq!(found, *dead, "{nodes} {vanish} {complaints:?}");
    }
}

#[test]
fn who_is_confirmed_to_be_away_is_judged_at_once_and_stays_so() {
    let mut scene = Scene::steady(3);
    scene.run(500, &[2]);
    scene.node(2).unreachable = BTreeSet::from([0, 1]);
    scene.run(25, &[2]);
    assert!(scene.verdict(0).is_dead() && scene.verdict(1).is_dead());
    assert!(scene.found.brake.is_none());
    // A new metasrv leader cannot tell where they are, and the other forgets them.
    scene.node(2).unreachable = BTreeSet::new();
    scene.run(1_000, &[2]);
    assert!(scene.verdict(0).is_dead(), "{}", scene.said(0));
    // A beat takes it back.
    scene.run(25, &[0, 1, 2]);
    scene.run(500, &[2]);
    assert!(
        scene.said(0).contains("more than half vanished"),
        "{}",
        scene.said(0)
    );
}

#[test]
fn a_new_leader_learns_from_the_living_who_is_away() {
    let mut scene = Scene::unheard(3);
    scene.run(1_000, &[2]);
    scene.node(2).unreachable = BTreeSet::from([0, 1]);
    scene.run(500, &[2]);
    scene.node(2).unreachable = BTreeSet::new();
    scene.run(475, &[2]);
    assert!(scene.verdict(0).is_suspect());
    scene.run(50, &[2]);
    assert!(scene.verdict(0).is_dead() && scene.verdict(1).is_dead());
}

#[test]
fn the_brake_ends_by_itself() {
    for mut scene in [Scene::steady(3), Scene::unheard(3)] {
        scene.run(9_975, &[2]);
        assert!(
            scene.said(0).contains("not judged for another"),
            "{}",
            scene.said(0)
        );
        scene.run(50, &[2]);
        assert!(scene.verdict(0).is_dead() && scene.verdict(1).is_dead());
        assert!(scene.found.brake.is_none());
        scene.run(5_000, &[2]);
        assert!(scene.verdict(0).is_dead() && scene.verdict(1).is_dead());
    }
}

#[test]
fn what_metasrv_slept_does_not_end_the_brake() {
    let mut scene = Scene::steady(3);
    scene.run(1_000, &[2]);
    scene.sleep(20_000);
    scene.run(8_000, &[2]);
    assert!(
        scene.said(0).contains("not judged for another"),
        "{}",
        scene.said(0)
    );
}

/// All come back to a metasrv that was cut off for longer than the brake holds, one after the other.
#[test]
fn whoever_comes_back_later_from_a_long_cut_has_an_introductions_time() {
    let mut scene = Scene::steady(5);
    scene.run(12_000, &[]);
    assert!(scene.found.verdicts.values().all(Verdict::is_dead));
    scene.run(500, &[0]);
    scene.run(500, &[0, 1, 2, 3]);
    assert!(
        scene.said(4).contains("had vanished at once"),
        "{}",
        scene.said(4)
    );
    scene.run(1_500, &[0, 1, 2, 3, 4]);
    assert!(scene.found.verdicts.values().all(Verdict::is_alive));
    // Not for ever, and not for other processes.
    for (incarnation, said) in [(1, "suspect"), (2, "dead")] {
        let mut scene = Scene::steady(5);
        scene.run(12_000, &[]);
        scene.run(25, &[]);
        for node in 0..4 {
            scene.node(node).incarnation = incarnation;
        }
        scene.run(1_975, &[0, 1, 2, 3]);
        assert!(scene.said(4).starts_with(said), "{}", scene.said(4));
        scene.run(50, &[0, 1, 2, 3]);
        assert!(scene.verdict(4).is_dead());
    }
}

#[test]
fn a_refusal_counts_while_the_brake_is_on_and_does_not_put_it_on() {
    let mut scene = Scene::steady(5);
    scene.run(500, &[3, 4]);
    scene.breaks(0);
    scene.node(0).redial = Redial::Refused;
    scene.run(25, &[3, 4]);
    assert!(scene.verdict(0).is_gone());
    // Two silent ones and two that beat: not more than half any more.
    assert!(scene.found.brake.is_none());

    let mut scene = Scene::steady(5);
    for node in [0, 1, 2] {
        scene.breaks(node);
        scene.node(node).redial = Redial::Refused;
    }
    scene.run(500, &[4]);
    assert!([0, 1, 2].iter().all(|n| scene.verdict(*n).is_gone()));
    assert!(scene.verdict(3).is_dead() && scene.found.brake.is_none());
}

#[test]
fn those_that_vanished_long_ago_do_not_put_the_brake_on() {
    let mut scene = Scene::steady(5);
    scene.run(1_500, &[2, 3, 4]);
    scene.run(1_500, &[3, 4]);
    scene.run(500, &[4]);
    assert!(
        [0, 1, 2, 3].iter().all(|n| scene.verdict(*n).is_dead()),
        "{:?}",
        scene.found
    );
}

#[test]
fn who_was_judged_for_the_silence_of_all_is_a_suspect_again() {
    let mut scene = Scene::steady(5);
    scene.run(300, &[1, 2, 3, 4]);
    scene.run(50, &[3, 4]);
    assert!(scene.verdict(0).is_dead());
    scene.run(200, &[3, 4]);
    assert!(
        scene.said(0).contains("more than half vanished"),
        "{}",
        scene.said(0)
    );
}

#[test]
fn after_the_brake_those_still_away_have_time_to_come_back() {
    let mut scene = Scene::steady(5);
    scene.run(1_000, &[3, 4]);
    scene.run(1_975, &[2, 3, 4]);
    assert!(
        scene.said(0).contains("had vanished at once"),
        "{}",
        scene.said(0)
    );
    scene.run(25, &[2, 3, 4]);
    assert!(scene.verdict(0).is_dead() && scene.verdict(1).is_dead());
    // One that came back is judged as ever.
    let mut scene = Scene::steady(5);
    scene.run(1_000, &[3, 4]);
    scene.run(100, &[1, 2, 3, 4]);
    scene.run(350, &[1, 3, 4]);
    assert!(scene.verdict(2).is_dead(), "{}", scene.said(2));
}

#[test]
fn a_stuck_disk_makes_unwell_until_it_has_been_well_for_a_while() {
    let mut scene = Scene::steady(3);
    scene.node(1).oldest_append = ms(299);
    scene.run(25, &[0, 1, 2]);
    assert_eq!(scene.said(1), "alive");
    scene.node(1).oldest_append = ms(300);
    scene.run(25, &[0, 1, 2]);
    assert_eq!(scene.said(1), "unwell: an append has waited 300ms for its disk");
    assert!(scene.verdict(1).hangs());
    scene.node(1).oldest_append = ms(0);
    scene.run(4_975, &[0, 1, 2]);
    assert!(matches!(scene.verdict(1), Verdict::Unwell { .. }) && !scene.verdict(1).hangs());
    scene.run(25, &[0, 1, 2]);
    assert_eq!(*scene.verdict(1), Verdict::Alive { since: ms(scene.now) });
}

#[test]
fn silence_comes_before_being_unwell() {
    let mut scene = Scene::steady(3);
    scene.node(1).oldest_append = ms(2_000);
    scene.run(25, &[0, 1, 2]);
    scene.run(200, &[0, 2]);
    assert!(scene.verdict(1).is_suspect());
    scene.run(150, &[0, 2]);
    assert!(scene.verdict(1).is_dead());
}

#[test]
fn who_does_not_hear_the_answers_to_its_beats_is_deaf() {
    let mut scene = Scene::steady(3);
    scene.run_deaf(175, &[0, 1, 2], &[1]);
    assert_eq!(scene.said(1), "alive");
    scene.run_deaf(25, &[0, 1, 2], &[1]);
    assert_eq!(
        scene.said(1),
        "unwell: its beats of 175ms came, and it has not heard the answer to any"
    );
    assert!(scene.verdict(1).hangs() && !scene.verdict(1).could_lead());
    // Nobody acknowledges its beats, so they stop to come; it is dead no later than any other.
    scene.run(325, &[0, 2]);
    assert!(scene.verdict(1).hangs());
    scene.run(25, &[0, 2]);
    assert!(scene.verdict(1).is_dead());
    scene.node(1).unheard = None;
    scene.run(25, &[0, 1, 2]);
    assert!(scene.verdict(1).could_lead());
    // So long after the last sign of it.
    scene.run(5_000 - 75, &[0, 1, 2]);
    assert!(!scene.verdict(1).is_alive());
    scene.run(25, &[0, 1, 2]);
    assert!(scene.verdict(1).is_alive());
}

#[test]
fn a_few_answers_that_were_not_heard_make_nobody_deaf() {
    let mut scene = Scene::steady(3);
    // It was stopped between two beats, and has not read yet.
    scene.node(1).unheard = Some(Unheard {
        first: ms(9_700),
        last: ms(10_000),
        beats: 5,
    });
    scene.run(25, &[0, 1, 2]);
    assert_eq!(scene.said(1), "alive");
    // metasrv was, and what it did not answer could not be heard.
    let mut scene = Scene::steady(3);
    scene.run_deaf(100, &[0, 1, 2], &[1]);
    scene.sleep(150);
    scene.run_deaf(50, &[0, 1, 2], &[1]);
    assert_eq!(scene.said(1), "alive");
    scene.run_deaf(25, &[0, 1, 2], &[1]);
    assert!(scene.verdict(1).hangs());
}

#[test]
fn if_most_do_not_hear_metasrv_nobody_is_deaf() {
    let mut scene = Scene::steady(3);
    scene.run_deaf(1_000, &[0, 1, 2], &[1, 2]);
    assert!(scene.found.verdicts.values().all(Verdict::is_alive));
    scene.node(2).unheard = None;
    scene.run_deaf(25, &[0, 1, 2], &[1]);
    assert!(scene.verdict(1).hangs() && scene.verdict(2).is_alive());
}

/// Datanodes, who says that it cannot reach whom, and who is unwell after a while.
#[test]
fn whoever_is_cut_off_from_most_others_is_unwell() {
    type Complaints<'a> = &'a [(NodeId, &'a [NodeId])];
    let table: &[(u64, Complaints, &[NodeId])] = &[
        (3, &[(0, &[1, 2])], &[0]),
        (3, &[(1, &[0]), (2, &[0])], &[0]),
        (3, &[(0, &[1]), (2, &[0])], &[0]),
        (3, &[(0, &[1])], &[]),
        // Nobody can say whose fault it is.
        (2, &[(0, &[1]), (1, &[0])], &[]),
        (5, &[(0, &[2, 3, 4]), (1, &[2, 3, 4])], &[0, 1]),
        (5, &[(0, &[3, 4])], &[]),
        // Not about those that are not there.
        (3, &[(0, &[7, 8])], &[]),
    ];
    for (nodes, complaints, unwell) in table {
        let mut scene = Scene::steady(*nodes);
        let all: Vec<NodeId> = (0..*nodes).collect();
        for (node, unreachable) in *complaints {
            scene.node(*node).unreachable = unreachable.iter().copied().collect();
        }
        scene.run(100, &all);
        assert!(scene.found.verdicts.values().all(Verdict::is_alive), "not yet");
        scene.run(25, &all);
        let found: Vec<NodeId> = all
            .iter()
            .filter(|n| matches!(scene.verdict(**n), Verdict::Unwell { .. }))
            .copied()
            .collect();
        assert_eq!(found, *unwell, "{nodes} {complaints:?}");
    }
}

#[test]
fn a_new_leader_waits_until_datanodes_can_know_of_each_other() {
    let mut scene = Scene::unheard(3);
    scene.node(0).unreachable = BTreeSet::from([1, 2]);
    scene.run(2_075, &[0, 1, 2]);
    assert!(scene.verdict(0).is_alive() && scene.found.apart.is_empty());
    scene.run(25, &[0, 1, 2]);
    assert_eq!(scene.found.apart, BTreeSet::from([(0, 1), (0, 2)]));
    assert!(!scene.verdict(0).is_alive());
}

#[test]
fn two_that_do_not_reach_each_other_for_a_while_are_apart() {
    let mut scene = Scene::steady(4);
    let all = [0, 1, 2, 3];
    scene.node(2).unreachable = BTreeSet::from([1]);
    scene.node(3).unreachable = BTreeSet::from([0, 3, 9]);
    scene.run(100, &all);
    assert!(scene.found.apart.is_empty(), "not yet");
    scene.run(25, &all);
    assert_eq!(scene.found.apart, BTreeSet::from([(0, 3), (1, 2)]));
    assert_eq!(scene.found.apart_from(1), BTreeSet::from([2]));
    assert_eq!(scene.found.apart_from(2), BTreeSet::from([1]));
    // Who is away is not apart from anybody, and a contact begins the time anew.
    scene.node(3).unreachable.clear();
    scene.run(200, &[0, 2, 3]);
    assert!(scene.found.apart.is_empty());
    scene.node(3).unreachable = BTreeSet::from([0]);
    scene.run(100, &all);
    assert!(!scene.found.apart.contains(&(0, 3)));
}

/// A datanode that pauses complains of nobody, since it knows how late it is itself.
#[test]
fn two_that_both_say_that_they_do_not_reach_each_other_are_apart_at_once() {
    let mut scene = Scene::steady(4);
    let all = [0, 1, 2, 3];
    scene.node(0).unreachable = BTreeSet::from([1, 2]);
    scene.node(1).unreachable = BTreeSet::from([0]);
    scene.run(25, &all);
    assert_eq!(scene.found.apart, BTreeSet::from([(0, 1)]));
    assert!(scene.verdict(0).is_alive(), "one of three is not most of them");
    scene.node(2).unreachable = BTreeSet::from([0]);
    scene.run(25, &all);
    assert_eq!(scene.found.apart, BTreeSet::from([(0, 1), (0, 2)]));
    assert!(matches!(scene.verdict(0), Verdict::Unwell { .. }));
    assert!(scene.verdict(1).is_alive() && scene.verdict(2).is_alive());
}

#[test]
fn a_dead_peer_that_nobody_reaches_makes_nobody_unwell() {
    let mut scene = Scene::steady(3);
    scene.node(0).unreachable = BTreeSet::from([2]);
    scene.node(1).unreachable = BTreeSet::from([2]);
    scene.run(3_000, &[0, 1]);
    assert!(scene.verdict(2).is_dead());
    assert!(scene.verdict(0).is_alive() && scene.verdict(1).is_alive());
}

#[test]
fn a_datanode_that_is_not_known_any_more_is_forgotten() {
    let mut scene = Scene::steady(3);
    scene.run(500, &[0, 1]);
    scene.seen.remove(&2);
    scene.run(25, &[0, 1]);
    assert_eq!(scene.found.verdicts.len(), 2);
}
