//! The defences of metasrv's decisions, each with the tests that show it.

greptime_defences::defences! {
    /// Rule 19: a lease ends before the session of who grants it can; the next metasrv knows nothing of it.
    LeaseLiesInTheSession => ["lease::tests::a_lease_lies_inside_the_session_of_who_grants_it"],
    /// Rule 19: a majority has heard this metasrv lately; the others could elect by themselves while the lease lasts.
    LeaseNeedsAMajority => ["lease::tests::a_majority_in_touch_is_needed", "lease::tests::no_election_by_patience_ends_inside_a_lease"],
    /// Rule 19: only whose answer came has heard; where answers are lost a voter beats and elects.
    OnlyAnswersProveTouch => ["lease::tests::an_answer_proves_the_touch_of_the_beat_it_belongs_to"],
    /// Rule 19: voters of which nothing is known may have elected another.
    UnknownVotersKeepLeasesAway => ["lease::tests::voters_that_may_have_voted_for_another_keep_a_lease_away"],
    /// Rule 19: so may one in a later term than the leader's.
    LaterTermKeepsLeasesAway => ["lease::tests::voters_that_may_have_voted_for_another_keep_a_lease_away"],
    /// Rule 19: clocks that run apart; the holder's would run on after metasrv's has ended the lease.
    ClocksMayDrift => ["lease::tests::a_lease_has_ended_after_its_length_and_the_margin"],
    /// Rule 19b: an order to campaign may arrive late; nothing is promised in the term that it knew.
    OldOrderKeepsLeasesAway => ["lease::tests::a_promise_is_noted_and_withheld_where_another_is_to_lead"],
    /// Rule 20: another campaigns when the old lease has surely ended; both would answer reads.
    LeaseIsWaitedFor => ["failover::tests::steps::a_lease_is_waited_for_unless_its_holder_is_gone", "failover::tests::oracle::every_step_is_allowed_and_every_refusal_is_true"],
    /// Rule 20: also that of a leader which is no voter any more.
    LeaseOfWhoLeftIsWaitedFor => ["failover::tests::steps::the_lease_of_a_leader_that_has_left_the_record_is_waited_for"],
    /// Rule 20: and one that the metasrv before may have granted.
    FormerLeasesAreWaitedFor => ["lease::tests::a_lease_has_ended_after_its_length_and_the_margin"],
    /// Rule 20: nothing is promised to who is to be replaced; each promise would put it off.
    LeaseIsWithheld => ["lease::tests::a_promise_is_noted_and_withheld_where_another_is_to_lead"],
    /// Nor to one whose disk hangs: others would have to wait for the end of it.
    HungLeaderIsPromisedNothing => ["lease::tests::a_promise_is_noted_and_withheld_where_another_is_to_lead"],
    /// Nor to one that may not hear the answers.
    DeafLeaderIsPromisedNothing => ["lease::tests::who_does_not_hear_the_answers_is_promised_nothing"],
    /// Nor to one that does not reach its group.
    CutOffLeaderIsPromisedNothing => ["lease::tests::a_leader_that_does_not_reach_a_majority_is_promised_nothing"],
    /// Rule 20: a refusal is about the address and the process of that very connection; a pod that came after it with
    /// the same name would be taken for dead.
    RedialIsOfItsConnection => ["watch::tests::a_redial_tells_of_the_process_that_was_asked"],
    /// A beat on an old connection says nothing of the process that came after it.
    BeatIsOfItsSession => ["watch::tests::what_comes_on_an_old_connection_says_nothing_of_the_new_process"],
    /// Rule 21: a new metasrv judges nobody by silence for a lease and a window; it has heard nobody yet.
    NewLeaderJudgesNobody => ["liveness::tests::rules::a_new_leader_judges_nobody_by_silence_until_a_lease_and_a_window_have_passed"],
    /// What metasrv slept is nobody's silence.
    LatenessIsCredited => ["liveness::tests::rules::a_metasrv_that_slept_judges_nobody_and_credits_its_sleep"],
    /// If most vanish at once, metasrv is probably the one that is cut off.
    BrakeHolds => ["liveness::tests::rules::when_more_than_half_vanish_nobody_is_judged_by_silence"],
    /// If they stay away they are judged all the same; their regions would wait for ever.
    BrakeEnds => ["liveness::tests::rules::the_brake_ends_by_itself"],
    /// Whom those that beat cannot reach either is away, brake or not.
    OthersConfirmWhoIsAway => ["liveness::tests::rules::whom_most_of_those_that_beat_cannot_reach_either_is_judged_in_spite_of_the_brake"],
    /// What datanodes say of each other counts when a new metasrv has told them where they are.
    PeersFindEachOtherFirst => ["liveness::tests::rules::a_new_leader_waits_until_datanodes_can_know_of_each_other"],
    /// Rule 51: who has not come to a new metasrv yet is named as well; the others would break with it.
    AwaitedPeersAreNamed => ["watch::tests::who_has_not_come_yet_is_awaited_however_long_and_not_gone"],
    /// Who is only suspect keeps what it leads; every pause would cost an election.
    SuspectLeaderIsLeftAlone => ["failover::tests::steps::the_verdict_on_the_leader_decides"],
    /// Nobody is known to lead, and one that is not heard may.
    UnheardMayLead => ["failover::tests::steps::nobody_leads"],
    /// Who says that it leads in an epoch before the newest has not heard; nothing could be written there.
    OlderLeaderIsNone => ["failover::tests::steps::who_says_that_it_leads_in_an_epoch_before_the_newest_has_not_heard"],
    /// A leader that lives and does not reach its group is unseated; its region would take no writes.
    StrandedLeaderIsUnseated => ["failover::tests::steps::a_leader_that_does_not_reach_a_majority_is_unseated_without_a_transfer"],
    /// So is one whose beats come and that does not hear the answers: it can be told nothing.
    DeafLeaderIsUnseated => ["liveness::tests::rules::who_does_not_hear_the_answers_to_its_beats_is_deaf"],
    /// If most do not hear, it is metasrv that is not heard; its orders would arrive when they can, and be of no use.
    NotHeardByMostIsOurs => ["liveness::tests::rules::if_most_do_not_hear_metasrv_nobody_is_deaf"],
    /// A campaign gets time to have an effect; the next one would void its votes.
    CampaignHasTime => ["failover::tests::steps::a_campaign_without_effect_is_repeated_in_turn"],
    /// So does who is elected and has to read its log.
    ElectedIsLeftInPeace => ["failover::tests::steps::who_is_elected_is_left_in_peace_or_hands_over_to_a_hot_follower"],
    /// Who has yet to apply its log is handed nothing; writes would wait for it.
    HeirHasApplied => ["failover::tests::steps::nobody_hands_over_to_one_that_has_yet_to_apply_its_log"],
    /// Rule 50: a group that can go on as it is is not given to one of its replicas; what others have would be lost.
    MajorityGoesOn => ["failover::tests::survivors::where_it_need_not_be_nobody_goes_on_alone"],
    /// Rule 50: of those that are left, the one goes on that has most.
    SurvivorHasMost => ["failover::tests::survivors::who_has_most_goes_on"],
    /// Rule 50: who is only silent may lead the others, and come back.
    LateIsNotLost => ["failover::tests::survivors::who_is_only_late_is_not_lost"],
    /// Rule 50: what a silent one said last may not be true any more; its disk may be another one.
    OnlyTheHeardSurvive => ["failover::tests::survivors::who_is_not_heard_does_not_go_on"],
    /// Rule 50: nobody is left to tell of terms that only the lost ones saw.
    SurvivorIsAboveAllTerms => ["failover::tests::survivors::the_survivor_leads_above_all_terms_that_there_can_have_been"],
    /// The group says who votes; the record may be ahead of it, and a majority of the record be none.
    GroupSaysWhoVotes => ["members::tests::who_votes_is_what_the_longest_log_says"],
    /// Who was a member and has lost its disk does not come in anew: it has forgotten its votes.
    OnlyNewcomersJoin => ["members::tests::who_was_a_member_does_not_join_again"],
    /// Newcomers get everything before they get a vote; till they have it they could not make up a majority.
    NewcomersLearnFirst => ["members::tests::one_voter_becomes_three", "members::tests::members_come_to_be_those_that_are_recorded"],
    /// Almost everything: the group would wait for the rest.
    LearnersCatchUpFirst => ["members::tests::one_voter_becomes_three"],
    /// A leader that is to leave hands over before; else nobody leads.
    LeaderHandsOverFirst => ["members::tests::a_member_is_replaced_in_one_change_and_a_leader_hands_over_before", "members::tests::members_come_to_be_those_that_are_recorded"],
    /// A region that has lost all its replicas is not made anew, empty, under its name.
    LostRegionIsNotMadeAnew => ["repair::tests::who_is_lost_is_replaced_and_a_lost_single_is_not_invented"],
    /// Two voters are worse than one: both are needed.
    NoGroupOfTwo => ["repair::tests::a_single_voter_gets_two_more_or_none"],
    /// One change at a time; of two nobody could say whose majority counts.
    OneChangeAtATime => ["repair::tests::a_region_whose_members_change_is_left_alone"],
    /// A newcomer that is lost before it votes is replaced too; it would be waited for without end.
    LostNewcomerIsReplaced => ["repair::tests::a_newcomer_that_is_lost_before_it_votes_is_replaced"],
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_defence_is_missed_when_it_is_away() {
        greptime_defences::each_is_missed(super::PROOFS);
    }
}
