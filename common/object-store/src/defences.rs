//! The defences of local files, each with the tests that show it.

greptime_defences::defences! {
    /// Rule 16b: a file gets its name only after its bytes are on disk; the power would leave an empty one under it, which
    /// put-if-absent never replaces.
    BytesAreSyncedFirst => ["place::tests::wherever_the_power_goes_a_file_is_there_as_a_whole_or_not_at_all"],
    /// Rule 16b: a put is answered only after the names are on disk, too; the log is trimmed then, and the power would take
    /// the file.
    NamesAreSynced => ["place::tests::wherever_the_power_goes_a_file_is_there_as_a_whole_or_not_at_all"],
    /// Rule 16b: so is a name that is found, before somebody is told of it; who has put it may not have come so far.
    FoundNamesAreSynced => ["place::tests::what_is_there_already_is_there_for_good"],
    /// Rule 16b: when a sync has failed nothing is answered any more; a put that finds its own bytes would count as done.
    FailedSyncEndsTheStore => ["synced::tests::after_a_failed_sync_nothing_is_answered"],
    /// Rule 27: a root that carries the mark of another cluster is refused; each would delete what the other has written.
    OthersBucketIsRefused => ["marker::tests::a_bucket_of_another_cluster_is_refused_by_name"],
    /// Rule 27: a mark that has gone is not put again; the bucket was emptied or exchanged, and what is missing would be
    /// taken for what never was.
    LostMarkIsNotPutAgain => ["marker::tests::a_claimed_bucket_that_lost_its_marker_is_not_claimed_again"],
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_defence_is_missed_when_it_is_away() {
        greptime_defences::each_is_missed(super::PROOFS);
    }
}
