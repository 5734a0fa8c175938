//! The defences of what surrounds the log, each with the tests that show it.

greptime_defences::defences! {
    /// Rule 6e: files whose rows are all truncated are hidden, those that come late too.
    TruncatedFilesAreHidden => ["model::truncations", "view::tests::files_whose_rows_are_all_truncated_are_hidden"],
    /// Rule 8: a copy from below the low mark is refused; it would overwrite newer rows.
    LateCopyIsRefused => ["model::copies_of_requests", "requests::tests::an_applied_request_is_known_until_its_frontend_finishes_it"],
    /// Rule 8: so is one of a request that was given up, while an older one keeps the mark low.
    GivenUpIsRefused => ["model::requests_that_are_given_up", "requests::tests::what_was_given_up_is_finished_unless_it_was_applied"],
    /// Rule 8: a mark that comes late does not lower it.
    LowMarkOnlyGrows => ["model::copies_of_requests", "requests::tests::a_late_low_mark_does_not_bring_back_what_was_forgotten"],
    /// Rule 8b: only who has not written for long is forgotten; a retry of the others would be applied once more.
    OnlyTheQuietAreForgotten => ["quiet::tests::who_has_not_written_for_long_is_forgotten_and_nobody_else"],
    /// Rule 8b: nor who has written again, between the look and the entry.
    WhoWritesAgainIsKept => ["quiet::tests::who_has_not_written_for_long_is_forgotten_and_nobody_else"],
    /// Rule 16a: an edit that is damaged is refused; a flipped bit would hide rows, or name files that are
    /// not there.
    EditHasAChecksum => ["edit::tests::a_flipped_bit_is_found"],
    /// Rule 6c: an edit has the schema of its rows; a newer one would refuse rows that are replayed after it.
    EditHasTheSchemaOfItsRows => ["put::tests::an_edit_is_as_of_its_rows"],
    /// Rule 6e: the next edit removes them and has the position; the trimmed log does not have it any more.
    TruncationIsInTheEdit => ["model::truncations"],
    /// Rule 7: an entry whose id was applied is not applied again; an appending table would have its rows
    /// twice.
    AppliedIdsAreKnown => ["model::copies_of_requests"],
    /// Rule 9: an edit has the applied ids; the log loses them at the trim.
    EditHasTheIds => ["model::restarts", "model::requests_at_two_leaders"],
    /// Rule 9: so has the checkpoint; a region takes writes before it has read an edit.
    CheckpointHasTheIds => ["model::restarts", "model::requests_at_two_leaders"],
    /// Rule 9: they are those as of its rows; rows with later ids would not be replayed.
    EditHasTheIdsOfItsRows => ["model::restarts"],
    /// Rule 11: a version is put only if it is absent; it would replace the edit of another.
    EditIsPutIfAbsent => ["model::edits_of_two_leaders"],
    /// Rule 11: only reading a version tells what became of it; a put that failed may have happened.
    OutcomeIsRead => ["model::edits_of_two_leaders"],
    /// Rule 11: the own edit is known by its id; its rows would go into files twice.
    OwnEditIsAdopted => ["model::edits_of_two_leaders"],
    /// Rule 11: an edit of another voids the own one; the log would be trimmed of rows that no edit names.
    OthersEditIsNotOwn => ["model::merges_of_two_leaders"],
    /// Rule 12: a leader that meets a higher epoch in its manifest stops for good.
    HigherEpochStops => ["model::merges_of_two_leaders"],
    /// Rule 13: a region whose files know more than its log stops; new rows would hide behind old files.
    FilesEndWithTheLog => ["lead::tests::files_that_know_more_than_the_log_stop_a_leader"],
    /// Rule 13: also if it has been written to since, so that its log is long enough again, and in whatever epoch.
    OthersEndBeforeTheOwn => ["model::a_log_loses_its_end"],
    /// Rule 14: rows up to flushed_seq are forgotten when a view is adopted, and not read; files have them
    /// too.
    FlushedRowsLeaveMemory => ["model::restarts"],
    /// Rule 17b: before an edit the files are looked at again; rows that are gone would come
    /// back.
    MergeStillFits => ["model::merges_of_two_leaders"],
    /// Rule 17c: files of an edit whose outcome is unknown stay; it may be there and name them.
    UnknownEditKeepsItsFiles => ["model::merges_that_fail"],
    /// Rule 17c: files that no edit will name are deleted; they cost space.
    VoidUploadsAreDeleted => ["put::tests::uploads_are_deleted_when_nothing_can_come_to_name_them"],
    /// Rule 17d: a file that was replaced is kept for a while; readers have begun with it.
    RemovedFilesHaveGrace => ["model::merges_that_fail"],
    /// Rule 17e: a leader deletes nothing before an edit of its own epoch; an earlier leader could still name
    /// it.
    ClaimBeforeDeleting => ["model::orphans_are_deleted"],
    /// Rule 17f: files of the own epoch are no orphans; their edit may be under way.
    OrphansAreOfLowerEpochs => ["model::merges_that_fail"],
    /// Rule 17f: files that the view names are none.
    OrphansAreNotNamed => ["model::orphans_are_deleted"],
    /// Rule 17f: young files are none.
    OrphansAreOld => ["clean::tests::young_files_are_no_orphans"],
    /// Rule 18: the log is trimmed after an edit is known to be there; its rows would be lost with the edit.
    TrimFollowsTheEdit => ["model::edits_of_two_leaders"],
    /// Rule 22: a region that does not know its files answers no read; it would show fewer rows.
    ReadsWaitForTheManifest => ["model::restarts"],
    /// Rule 23: a leader serves after an entry of its own term; it would not show all that was acknowledged.
    OwnTermIsApplied => ["model::edits_of_two_leaders"],
    /// Rule 39: a follower takes no view that has rows beyond what it has applied.
    FollowerTakesNoRowsAhead => ["lead::tests::a_follower_takes_no_rows_that_it_has_yet_to_apply"],
    /// Rule 39: its rows stay in memory until a view is adopted that has them; they would be nowhere.
    RowsStayUntilTheirFilesAreKnown => ["model::a_follower_comes_to_lead"],
    /// Rule 40: a replica that begins anew from a checkpoint forgets a newer view than that one's.
    RestoreForgetsNewerFiles => ["model::a_follower_comes_to_lead"],
    /// A lease counts from when its beat was sent; metasrv counts from its arrival, and would wait too short a time.
    LeaseCountsFromItsBeat => ["model::leases"],
    /// A lease is of the term in which it was asked for; only in that have the voters been asked.
    LeaseIsOfItsTerm => ["lease::tests::a_lease_is_of_its_term"],
    /// A leader gives its lease up before it hands over; its heir would serve while it lasts.
    LeaseIsGivenUpFirst => ["model::leases"],
    /// A leader that sees that it cannot lead gives its lease up before it says so; nobody waits for it any more.
    LeaseIsRenouncedFirst => ["model::leases", "lease::tests::what_was_renounced_does_not_come_back"],
    /// Answers to earlier beats may come after that, and promise nothing.
    RenouncedLeaseStaysVoid => ["model::leases", "lease::tests::what_was_renounced_does_not_come_back"],
}

#[cfg(test)]
mod tests {
    use greptime_metasrv_plan::Defence as OfMetasrv;

    /// Those of metasrv that the model of leases has the whole of.
    const PROOFS_OF_METASRV: &[(OfMetasrv, &[&str])] = &[
        (
            OfMetasrv::LeaseLiesInTheSession,
            &["model::leases_of_short_sessions"],
        ),
        (OfMetasrv::LeaseNeedsAMajority, &["model::leases"]),
        (OfMetasrv::LaterTermKeepsLeasesAway, &["model::leases"]),
        (OfMetasrv::OldOrderKeepsLeasesAway, &["model::leases"]),
        (OfMetasrv::LeaseIsWaitedFor, &["model::leases"]),
    ];

    #[test]
    fn each_defence_is_missed_when_it_is_away() {
        // A model that is only slow, or that does not reach what it should, has found nothing.
        let says = |test: &str| test.starts_with("model::").then_some("counterexample: ");
        greptime_defences::each_is_missed_and_says(super::PROOFS, says);
        greptime_defences::each_is_missed_and_says(PROOFS_OF_METASRV, says);
    }
}
