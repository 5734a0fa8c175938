//! The defences of the log, each with the tests that show it.

greptime_defences::defences! {
    /// A replica that is further answers a leader or candidate of an older term; neither would learn why nothing comes.
    OlderTermIsAnswered => ["tests::quorum::a_leader_of_an_older_term_learns_of_the_newer_one"],
    /// That a change of members is committed is on disk before it is in force; a restart would elect itself with the
    /// members of before.
    ChangeOfMembersIsOnDiskFirst => [
        "tests::quorum::a_change_of_members_that_was_in_force_is_in_force_after_a_crash",
    ],
    /// Who is the only voter by a change that it finds in its log elects itself; nobody else could, or would tell it to.
    LastVoterElectsItself => ["tests::quorum::who_is_the_only_voter_by_a_change_in_its_log_elects_itself"],
    /// Entries that a snapshot replaced are not there after a restart.
    ReplacedTailIsVoid => ["tests::quorum::what_a_snapshot_replaced_does_not_come_back"],
    /// A log that is trimmed to its end is written anew. Entries that were moved to other files would be back after a start:
    /// as the end of the log, replaced as they may be, or with a hole behind them at which the engine stops the process.
    WholeTrimForgets => ["tests::power::entries_that_were_trimmed_to_the_last_do_not_come_back"],
    /// What was not synced is before the log is cleaned: of a vote that was replaced nothing would be left but what the power
    /// takes.
    CleaningSyncsFirst => ["tests::power::what_is_cleaned_away_was_replaced_on_disk"],
    /// Entries that the engine moves to other files are on disk one write after the other: of several that are not, one in
    /// the middle may be torn, which looks like damage.
    MovedEntriesAreSynced => ["tests::power::entries_are_moved_to_other_files"],
    /// Of several writes that were not synced, all may be torn in their entries alone: nobody can read them, and the engine
    /// looks only at the last.
    TornEntriesAreCut => ["tests::damage::several_writes_are_torn_in_their_entries_alone"],
    /// What is said to a replica whose disk was lost is nothing to the one that took its place on the node; it would take
    /// what it does not have for committed.
    MessageNamesItsReplica => ["tests::simulated::a_new_replica_does_not_listen_to_what_is_said_to_the_one_before"],
    /// A replica without a vote does not campaign; one that knows no members would win at once.
    OnlyVotersCampaign => ["tests::simulated::a_replica_without_a_vote_does_not_campaign"],
    /// A trim does not take back what a snapshot has trimmed in the same turn; the log would look damaged.
    TrimIsKnownAtOnce => ["tests::simulated::a_trim_and_a_snapshot_that_goes_further_share_a_turn"],
    /// A follower that reaches its leader again, or that has just begun, says so; what it had answered, or was told, is
    /// lost, and the leader would wait for it.
    FollowerCallsAgain => [
        "tests::simulated::a_leader_whose_followers_could_not_answer_goes_on_when_they_can",
        "tests::simulated::a_leader_that_could_not_be_told_of_a_newer_term_learns_of_it",
        "tests::quorum::a_replica_that_begins_late_catches_up",
    ],
    /// An order to campaign that comes late unseats nobody.
    OldCampaignIsIgnored => [
        "tests::quorum::an_old_order_to_campaign_changes_nothing",
        "tests::quorum::an_order_that_waited_while_others_went_on_is_void",
    ],
    /// A proposal to a replica that does not lead is refused; the library would pass it on, and another entry at the place
    /// where it would have been would be taken for it.
    OnlyLeadersPropose => ["tests::quorum::replicas_agree_and_keep_what_was_acknowledged_whatever_fails"],
    /// Votes are given in the name of the newest metasrv only, or of nobody when it is away; a lease could be held.
    VotesHaveAnAuthority => ["tests::quorum::votes_are_given_in_the_name_of_the_newest_metasrv_only"],
    /// A survivor whose log ends before the files begins anew from them; its next rows would count as being in files.
    SurvivorBeginsWithTheFiles => [
        "tests::quorum::a_survivor_whose_log_ends_before_the_files_goes_on_from_them",
    ],
    /// Changes of members in its log are void, also after a start: one would bring the lost ones back, or take its own vote.
    SurvivorKnowsWhatIsVoid => [
        "tests::quorum::a_survivor_that_came_later_goes_on_alone_whatever_its_log_says_of_members",
    ],
    /// So it does if they may have put others in the place of its last entries; their requests would count as applied.
    SurvivorGivesUpItsTail => [
        "tests::quorum::a_survivor_whose_last_entries_were_replaced_goes_on_from_the_files",
    ],
    /// Rule 3: what was answered, to a client or to a leader, is on disk; the power would take it.
    WhatIsAnsweredIsOnDisk => ["tests::power::what_was_acknowledged_outlives_the_power"],
    /// Rule 4: what could not be written is not taken for written; it would be acknowledged, and then be nowhere.
    FailedWriteIsNone => ["tests::what_was_not_synced_is_not_committed_and_not_there_later"],
    /// Rule 4: a failed write is the last one; another attempt that works does not tell what is on disk of the first.
    FailedWriteEndsTheLog => [
        "tests::turns::after_a_failed_write_nothing_is_acknowledged_though_the_disk_works_again",
    ],
    /// Rule 4: so is one in which the engine panics, as it does when a sync fails.
    PanicEndsTheLog => [
        "tests::turns::after_a_failed_write_nothing_is_acknowledged_though_the_disk_works_again",
    ],
    /// Rule 5: an incomplete write at the end is cut; a power cut would turn into an outage.
    TornTailIsCut => ["tests::a_torn_tail_is_cut_and_its_place_is_known"],
    /// Rule 20: files of which everything is trimmed are removed; the disk would be full.
    TrimmedFilesAreRemoved => ["tests::old_files_of_the_engine_are_removed_once_trimmed"],
    /// Rule 5b: what lies before a complete batch of the log was acknowledged.
    DamageIsNoTornTail => [
        "tests::damage::a_flipped_bit_in_the_log_is_refused_by_name_or_in_the_last_write_alone",
        "tests::damage::damage_in_its_entries_alone_is_refused",
    ],
    /// Rule 5c: an empty last file hides that the one before it is the end.
    EmptyEndIsRemoved => ["tests::damage::a_last_file_without_a_write_is_not_the_end_of_the_log"],
    /// Rule 4b: a full disk has room for what was taken, and for what makes room.
    FullDiskHasAReserve => [
        "tests::full::what_is_under_way_when_the_disk_fills_up_is_written_from_the_reserve",
        "tests::full::a_full_disk_has_room_for_elections_and_trims",
    ],
    /// Rule 4b: the room of the reserve is not spent on more rows.
    FullLogTakesNoRows => ["tests::full::a_full_log_refuses_rows_and_takes_trims"],
    /// Rule 4b: trimmed entries leave a full disk at once, not at the purge threshold.
    FullLogIsCleaned => ["tests::full::what_is_trimmed_makes_room_on_a_full_disk"],
    /// Rule 4c: a log that nothing is trimmed of takes no rows when it is as large as it may be; it would fill its disk.
    LogHasALimit => ["tests::full::a_log_at_its_limit_takes_no_rows_until_something_is_trimmed"],
    /// Rule 4b: a stop does not wait for room.
    StopDoesNotWaitForRoom => ["tests::full::a_stop_gives_up_what_waits_for_room_and_says_that_it_was_not_done"],
    /// Rule 4b: no file is begun at each attempt to write on a full disk.
    FullDiskBeginsNoFile => ["tests::full::a_full_disk_without_a_reserve_is_waited_for_and_begins_no_files"],
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_defence_is_missed_when_it_is_away() {
        greptime_defences::each_is_missed(super::PROOFS);
    }
}
