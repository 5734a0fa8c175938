//! The defences of a datanode beyond its log, each with the tests that show it.

greptime_defences::defences! {
    /// A stream that is meant for another datanode, or another start of it, is refused; addresses are used again.
    PeerNamesItsNode => ["server::tests::quorum::a_stream_for_another_node_or_cluster_is_refused"],
    /// So is one of another cluster.
    PeerIsOfTheCluster => ["server::tests::quorum::a_stream_for_another_node_or_cluster_is_refused"],
    /// Rule 51: a new metasrv that awaits a datanode does not end the streams to it.
    AwaitedPeersAreKept => ["server::tests::quorum::a_new_metasrv_that_awaits_others_ends_no_stream_to_them"],
    /// A leader asks a majority before it reads; another may have been elected.
    ReadsAreConfirmed => ["server::tests::quorum::a_leader_that_was_cut_off_gives_no_rows"],
    /// Rule 1: a region that is here does not become another replica, with a log that is not that replica's.
    OtherReplicaIsRefused => [
        "server::tests::session::initialise_is_repeated_harmlessly_and_another_replica_is_refused",
    ],
    /// Rule 3: a region stops at an entry that it cannot apply; going on would leave out what was
    /// acknowledged.
    UnreadableEntryStopsTheRegion => [
        "server::tests::durability::an_entry_that_cannot_be_read_stops_the_region",
    ],
    /// Rule 3: a flush syncs the log before its edit; the log could give the sequences of files to other
    /// rows.
    FlushSyncsTheLog => ["server::tests::durability::a_flush_puts_no_edit_before_the_log_is_synced"],
    /// Rule 4: a sync by interval that fails ends the process; nobody knows what is on disk.
    FailedSyncByIntervalEndsTheNode => ["server::tests::durability::a_failed_sync_by_interval_ends_the_node"],
    /// Rule 22: who comes to lead reads its manifest at once, however long it would have waited as a follower.
    NewLeaderLoadsAtOnce => [
        "server::tests::quorum::who_comes_to_lead_does_not_wait_for_the_next_attempt_of_a_follower",
    ],
    /// Rule 5b: a damaged log is not given up by itself if rows may be nowhere else.
    OnlyCopyIsKept => ["server::tests::damaged_log::a_damaged_log_is_kept_where_it_may_be_the_only_copy"],
    /// Rule 6: rows of a newer schema wait until the region has it; their columns would be refused or lost.
    NewerSchemaIsWaitedFor => ["server::tests::rows::columns_can_be_added_while_rows_are_written"],
    /// Rule 6: a change that comes late does not take back a later one.
    AlterGoesForwardOnly => [
        "server::tests::alter::a_change_that_comes_again_after_a_later_one_changes_nothing",
    ],
    /// Rule 6b: rows for changed columns are refused as retryable before their names are looked up and not
    /// found.
    StaleRowsAreRefusedAtOnce => [
        "server::tests::alter::rows_for_a_column_that_was_renamed_are_refused_as_retryable",
    ],
    /// Rule 6b: also when the change came after their admission; they would land in columns that they do not
    /// mean.
    StaleRowsAreRefusedInTheLog => [
        "server::tests::alter::a_write_that_meets_an_alter_in_the_log_is_not_applied",
    ],
    /// Rule 6c: a column is found in a file by its id; by its name it would have the values of another.
    ColumnsAreFoundById => [
        "sst::tests::reading::columns_are_found_by_id_whatever_they_are_called_and_cast_to_the_wanted_type",
    ],
    /// Rule 6d: a plan for other columns is refused; it would read the wrong ones.
    PlannedColumnsAreChecked => [
        "server::tests::alter::a_query_that_was_planned_for_other_columns_is_refused",
    ],
    /// Rule 6d: also when they changed between the plan and its first row.
    ChangeUnderAQueryIsSeen => [
        "server::tests::alter::a_query_that_meets_a_change_before_its_first_row_is_refused",
    ],
    /// Rule 6f: of rows with one identity the one with the highest sequence counts, wherever it lies.
    NewestSequenceWins => ["scan::merge::tests::a_newer_row_wins_wherever_it_lies"],
    /// Rule 6f: of one write the later row counts as the newer.
    LaterRowOfAWriteIsFirst => ["server::tests::rows::in_one_write_the_later_row_wins"],
    /// Rule 6f: it still does when memory sorts it again.
    SortedRowsKeepTheirOrder => [
        "server::tests::alter::of_one_write_the_later_row_stays_newer_however_often_memory_is_sorted",
    ],
    /// Rule 6f: where fields are merged, a delete below newer rows is kept; it cuts off older files.
    DeleteGoesOnCutting => [
        "server::tests::alter::a_delete_cuts_off_what_is_older_in_files_too",
        "scan::dedup::tests::merging_parts_first_changes_nothing",
    ],
    /// Rule 6f: a column that a writer does not name is NULL; its default would replace what is there.
    UnsaidIsNull => [
        "server::tests::alter::a_writer_that_does_not_name_a_new_column_puts_no_default_over_its_values",
    ],
    /// Rule 6h: entries with series have a format of their own; an older program would read rows without
    /// tags.
    SeriesHaveAFormat => ["server::tests::series::a_program_that_does_not_know_series_refuses_their_entries"],
    /// Rule 7: a copy of a write under way is refused; the entry of the first would get the rows of the
    /// second.
    CopyUnderWayIsRefused => ["server::tests::retries::a_copy_of_what_is_under_way_is_refused"],
    /// Rule 55: orders that wait for a group hold up no others; one group without a majority would end all of them, and the
    /// order that lets it go on alone would never come.
    StuckGroupsHoldUpNobody => ["server::tests::quorum::a_group_that_is_stuck_holds_up_no_orders"],
    /// Rule 50: an order to go on alone that comes again when that was done changes nothing; others may vote by then.
    LateRecoveryIsVoid => ["server::tests::quorum::an_order_to_go_on_alone_that_comes_late_changes_nothing"],
    /// Rule 10: a request for another node is refused; addresses are used again.
    RequestNamesItsNode => ["server::tests::rows::a_request_for_another_node_or_epoch_is_refused"],
    /// Rule 10: so is one of another cluster.
    RequestNamesItsCluster => ["server::tests::rows::a_request_for_another_node_or_epoch_is_refused"],
    /// Rule 10: so is one that was routed to an earlier leader.
    OlderEpochIsRefused => ["server::tests::rows::a_request_for_another_node_or_epoch_is_refused"],
    /// Rule 10: so is one for a later leader, which this node is not.
    NewerEpochIsRefused => ["server::tests::rows::a_request_for_another_node_or_epoch_is_refused"],
    /// Rule 15: a file that is missing is an error, and not fewer rows.
    MissingFileIsAnError => ["server::tests::bucket::a_file_that_is_missing_is_an_error_and_not_fewer_rows"],
    /// Rule 15: a newer view may name another one in its place.
    MissingFileIsLookedForAnew => [
        "server::tests::bucket::a_file_that_was_replaced_is_found_through_the_newer_manifest",
    ],
    /// Rule 16c: pages and bloom filters have checksums; a flipped bit would change a value, or hide rows.
    PartsHaveChecksums => [
        "sst::tests::damage::a_flipped_bit_anywhere_in_a_file_is_corruption_or_harmless",
        "sst::tests::damage::a_damaged_bloom_filter_is_corruption_and_hides_no_row",
    ],
    /// Rule 16c: so have the footer and the indexes; a flipped bit in a minimum would hide rows.
    TailHasAChecksum => ["sst::tests::damage::a_flipped_bit_anywhere_in_a_file_is_corruption_or_harmless"],
    /// Rule 16c: what came damaged is read once more; bits flip on the way, too.
    DamagedPartIsReadAgain => ["sst::tests::writing::bits_that_flip_on_the_way_are_read_again"],
    /// Rule 16c: a damaged copy in the cache is dropped, and the object is read.
    DamagedCopyIsDropped => ["sst::tests::damage::a_damaged_copy_in_the_cache_is_fetched_again"],
    /// Rule 16d: the cache leaves half of the room of its disk; the log needs it.
    CacheLeavesRoomForTheLog => [
        "cache::disk::tests::the_cache_takes_whole_blocks_and_leaves_half_of_the_room_to_the_log",
    ],
    /// Rule 16d: a cache disk that fails is not asked any more; each read would meet its errors.
    BrokenCacheDiskIsGivenUp => ["cache::disk::tests::errors_of_the_disk_end_its_use_and_memory_goes_on"],
    /// Rule 16e: the parts of an upload that was not finished are given up; nobody would find them.
    AbandonedUploadIsGivenUp => ["sst::tests::writing::an_upload_whose_writer_is_dropped_leaves_nothing"],
    /// Rule 17a: no file lies between those that are merged; its rows would hide, or be hidden.
    MergedFilesAreClosed => [
        "compaction::picker::tests::every_choice_keeps_the_rules_and_the_plans_come_to_an_end",
    ],
    /// Rule 17a: a delete stays while there are older files; a row would come back.
    DeletesStayAboveOlderRows => [
        "compaction::picker::tests::every_choice_keeps_the_rules_and_the_plans_come_to_an_end",
        "server::tests::compaction::rows_are_as_in_a_map_whatever_is_merged_and_when",
    ],
    /// Rule 17d: no wall clock shortens that.
    GraceIgnoresTheWallClock => [
        "server::tests::compaction::a_wall_clock_that_jumps_does_not_shorten_the_grace_period",
    ],
    /// Rule 17g: a file is not dropped for its age while there are older rows that it hides; they would come
    /// back.
    ExpiredFilesHideNothing => [
        "compaction::picker::tests::a_file_that_hides_older_rows_is_not_dropped_for_its_age",
    ],
    /// Rule 17h: a region with far too many runs takes no writes; queries would have ever more to merge.
    HardRunsRefuse => [
        "server::tests::compaction::writers_wait_and_then_are_refused_while_files_are_too_many",
    ],
    /// Rule 17h: before that its writes wait.
    SoftRunsSlow => ["server::tests::compaction::writers_wait_and_then_are_refused_while_files_are_too_many"],
    /// So many merges run at the same time as the setting says; each takes a processor, memory, and bytes on the way to
    /// the bucket.
    FewMergesAtOnce => ["server::tests::budgets::so_many_merges_run_at_the_same_time_as_the_setting_says"],
    /// Merges wait until there is memory for them; the process would be killed.
    MergesFitTheirMemory => [
        "server::tests::budgets::merges_run_at_the_same_time_as_far_as_their_memory_is_there",
    ],
    /// One merge has no more files than fit into the memory of all merges: each has a reader.
    MergeHasFewFiles => ["server::tests::budgets::a_merge_has_no_more_files_than_its_memory_takes"],
    /// What a merge holds of each file is a batch with a bound in bytes, however large rows are.
    MergedBatchesAreSmall => ["compaction::merge::tests::a_batch_has_fewer_rows_the_larger_they_are"],
    /// Merges together move no more bytes in a second than the setting says; flushes and queries use the same bucket.
    MergesKeepTheirRate => [
        "compaction::lane::tests::bytes_pass_at_the_rate_after_a_burst",
        "compaction::lane::tests::merges_together_move_no_more_bytes_in_a_second_than_the_rate",
    ],
    /// Rule 17i: a condition on a field leaves nothing out where rows of another run may be newer; the row that fails it
    /// hides an older one.
    FieldsPruneOnlyWhereNothingIsNewer => [
        "scan::tests::what_is_left_out_of_pages_and_row_groups_is_no_newest_row_that_passes",
    ],
    /// Rule 17i: a column with a NaN has no minima and maxima; these do not count it.
    NanHasNoMinima => [
        "sst::tests::reading::a_row_group_with_a_nan_is_not_left_out_by_minima_and_maxima_that_do_not_count_it",
    ],
    /// Rule 17i: with deletes in memory all rows there are read for the latest of each series; one that is hidden leaves
    /// the row before it as the latest.
    DeletesHideTheLatest => [
        "scan::aggregate::tests::newest::a_deleted_row_in_memory_leaves_the_one_before_it_as_the_latest",
    ],
    /// Rule 17j: queries spill into half of the room of the disk; the log needs it.
    SpillLeavesRoomForTheLog => [
        "server::spill::tests::spilling_leaves_half_of_what_is_free_to_the_log",
    ],
    /// Rule 17j: as much as that is now, and not as it was at the start.
    SpillFollowsTheDisk => ["server::spill::tests::the_limit_follows_what_is_free"],
    /// Rule 21: writes that memory has no room for are refused; the process would be killed.
    HardLimitRefuses => ["budget::tests::a_write_over_the_hard_limit_is_refused_until_there_is_room"],
    /// Rule 21: before that they wait.
    SoftLimitSlows => ["budget::tests::writes_are_slowed_down_before_they_are_refused"],
    /// Rule 24: a data directory has one process; two would mix their logs.
    DirectoryIsLocked => ["server::identity::tests::one_process_per_directory"],
    /// Rule 24: a disk of another node is refused.
    DiskIsOfOneNode => ["server::identity::tests::a_disk_keeps_its_identity_and_refuses_another_node"],
    /// Rule 24: so is one of another cluster.
    DiskIsOfOneCluster => ["server::tests::session::a_cluster_is_kept_and_a_foreign_one_is_refused_loudly"],
    /// Rule 26: a drop is remembered on disk before anything is removed; a crash would leave its objects.
    DropIsRemembered => [
        "server::tests::session::a_dropped_region_leaves_nothing_even_if_the_bucket_was_away",
    ],
    /// Rule 26: objects are deleted when what was under way has ended; it would put more where nobody looks.
    DropWaitsForUploads => ["server::tests::session::a_drop_waits_for_a_flush_that_is_under_way"],
    /// Rule 31: the number of a region that is being dropped is not used; its objects are being deleted.
    DroppedNumberIsRefused => [
        "server::tests::session::a_dropped_region_leaves_nothing_even_if_the_bucket_was_away",
    ],
    /// Rows that have lived their time are not shown, by the clock of the moment when the query began.
    ExpiredRowsAreHidden => [
        "server::tests::compaction::rows_that_have_lived_their_time_are_not_shown_wherever_they_lie",
    ],
    /// Rule 4b: memory is flushed, so that there is something to trim.
    FullLogIsFlushed => ["server::tests::faults::on_a_full_disk_rows_go_to_files"],
    /// Rule 32b: an entry is of a format that all nodes of the cluster read.
    EntriesAreOfTheClusterFormat => [
        "server::tests::forget::nobody_is_forgotten_while_a_node_does_not_know_the_word_for_it",
        "server::tests::versions::a_node_writes_what_the_oldest_of_the_cluster_reads",
    ],
}

#[cfg(test)]
mod tests {
    use greptime_log::Defence as OfLog;
    use greptime_rules::Defence as Rule;

    /// A whole region, over a real log on a disk that forgets and a bucket that fails, and power that goes anywhere.
    const WHEREVER_THE_POWER_GOES: &str =
        "server::tests::model::power::a_region_is_as_a_map_wherever_the_power_goes";

    /// Defences of the log that seeds of a whole region miss too.
    const OF_LOG: &[(OfLog, &[&str])] = &[(OfLog::TornTailIsCut, &[WHEREVER_THE_POWER_GOES])];

    /// Tests of the datanode that show defences of [`greptime_rules`]: that it does what they decide.
    const OF_RULES: &[(Rule, &[&str])] = &[
        (
            Rule::TruncatedFilesAreHidden,
            &[
                "server::tests::truncate::nothing_older_is_shown_and_the_files_leave_the_manifest",
                "server::tests::truncate::a_flush_that_was_under_way_brings_nothing_back",
            ],
        ),
        (
            Rule::LateCopyIsRefused,
            &["server::tests::retries::a_late_copy_does_not_overwrite_a_newer_row"],
        ),
        (
            Rule::EditHasAChecksum,
            &["manifest::tests::every_flipped_bit_of_an_edit_is_found_and_the_version_is_named"],
        ),
        (
            Rule::EditHasTheSchemaOfItsRows,
            &["server::tests::alter::rows_that_come_during_a_flush_before_a_change_are_replayed"],
        ),
        (
            Rule::TruncationIsInTheEdit,
            &["server::tests::truncate::a_truncation_is_found_in_the_log_after_a_crash"],
        ),
        (
            Rule::AppliedIdsAreKnown,
            &["server::tests::retries::an_entry_that_is_in_the_log_twice_is_applied_once"],
        ),
        (
            Rule::EditHasTheIds,
            &[
                "server::tests::retries::a_repeated_write_is_applied_once_before_and_after_flush_and_restart",
                WHEREVER_THE_POWER_GOES,
            ],
        ),
        (
            Rule::CheckpointHasTheIds,
            &[
                "server::tests::retries::a_repeated_write_is_applied_once_before_and_after_flush_and_restart",
                WHEREVER_THE_POWER_GOES,
            ],
        ),
        (
            Rule::EditHasTheIdsOfItsRows,
            &["server::tests::alter::rows_that_come_during_a_flush_before_a_change_are_replayed"],
        ),
        (
            Rule::EditIsPutIfAbsent,
            &["manifest::tests::of_two_writers_one_is_adopted_and_the_other_learns_it"],
        ),
        (
            Rule::OutcomeIsRead,
            &["manifest::tests::an_edit_whose_answer_was_lost_is_adopted_and_put_once"],
        ),
        (
            Rule::OwnEditIsAdopted,
            &[
                "manifest::tests::an_edit_whose_answer_was_lost_is_adopted_and_put_once",
                "server::tests::bucket::a_put_that_happened_but_answered_an_error_is_found",
                WHEREVER_THE_POWER_GOES,
            ],
        ),
        (
            Rule::OthersEditIsNotOwn,
            &[
                "manifest::tests::of_two_writers_one_is_adopted_and_the_other_learns_it",
                "server::tests::bucket::an_edit_that_lost_its_version_is_made_anew",
            ],
        ),
        (
            Rule::HigherEpochStops,
            &["server::tests::bucket::a_leader_that_meets_a_higher_epoch_stops_for_good"],
        ),
        (
            Rule::FilesEndWithTheLog,
            &["server::tests::bucket::an_edit_that_knows_more_than_the_log_stops_the_region"],
        ),
        (
            Rule::OthersEndBeforeTheOwn,
            &[
                "server::tests::bucket::a_log_that_was_written_to_since_it_lost_its_end_stops_the_region",
                "server::tests::bucket::two_starts_from_one_state_of_a_disk_are_told_apart_though_they_have_one_epoch",
            ],
        ),
        (
            Rule::FlushedRowsLeaveMemory,
            &[
                "server::tests::bucket::a_crash_between_edit_and_trim_shows_no_row_twice",
                WHEREVER_THE_POWER_GOES,
            ],
        ),
        (
            Rule::MergeStillFits,
            &["server::tests::compaction::outputs_are_thrown_away_when_an_input_has_gone"],
        ),
        (
            Rule::UnknownEditKeepsItsFiles,
            &["server::tests::compaction::after_an_edit_whose_outcome_is_unknown_its_files_stay"],
        ),
        (
            Rule::VoidUploadsAreDeleted,
            &[
                "server::tests::compaction::a_merge_that_fails_leaves_nothing_behind",
                "server::tests::compaction::a_flush_that_fails_leaves_nothing_behind",
            ],
        ),
        (
            Rule::RemovedFilesHaveGrace,
            &["server::tests::compaction::replaced_files_are_deleted_after_the_grace_period_and_not_before"],
        ),
        (
            Rule::ClaimBeforeDeleting,
            &[
                "server::tests::compaction::a_restarted_leader_deletes_what_its_predecessor_removed_but_first_makes_itself_known",
                "server::tests::compaction::without_an_own_edit_the_collector_deletes_nothing",
            ],
        ),
        (
            Rule::OrphansAreOfLowerEpochs,
            &["server::tests::compaction::only_files_of_older_epochs_that_nothing_names_are_orphans"],
        ),
        (
            Rule::OrphansAreNotNamed,
            &["server::tests::compaction::only_files_of_older_epochs_that_nothing_names_are_orphans"],
        ),
        (
            Rule::OrphansAreOld,
            &["server::tests::compaction::only_files_of_older_epochs_that_nothing_names_are_orphans"],
        ),
        (
            Rule::TrimFollowsTheEdit,
            &["server::tests::bucket::a_crash_before_the_edit_leaves_the_rows_in_the_log"],
        ),
        (
            Rule::ReadsWaitForTheManifest,
            &[
                "server::tests::bucket::without_the_bucket_a_restarted_region_takes_writes_and_does_not_answer_reads",
            ],
        ),
        (
            Rule::OwnTermIsApplied,
            &["server::tests::durability::a_leader_serves_only_after_an_entry_of_its_own_term"],
        ),
    ];

    /// It runs many seeds, and says which of them failed.
    fn which_seed(test: &str) -> Option<&'static str> {
        (test == WHEREVER_THE_POWER_GOES).then_some("GREPTIME_TEST_SEED=")
    }

    #[test]
    fn each_defence_is_missed_when_it_is_away() {
        greptime_defences::each_is_missed(super::PROOFS);
    }

    #[test]
    fn each_defence_of_the_log_is_missed_when_it_is_away() {
        greptime_defences::each_is_missed_and_says(OF_LOG, which_seed);
    }

    #[test]
    fn each_defence_of_the_rules_is_missed_when_it_is_away() {
        greptime_defences::each_is_missed_and_says(OF_RULES, which_seed);
    }
}
