//! The defences of frontends, each with the tests that show it.

greptime_defences::defences! {
    /// Rule 7: all attempts of a write carry one id; a region whose answer was lost would have the rows twice.
    AttemptsShareTheId => [] in "it" ["hold::a_write_whose_answer_was_lost_is_applied_once"],
    /// Rule 7b: MySQL's library gets one packet at a time; of two it mixes up the statements.
    OnePacketAtATime => ["protocols::mysql::packets::tests::no_read_gives_bytes_of_two_packets"],
    /// Rule 8: a write that was given up is named as such; a late copy of it would land on newer rows.
    GivenUpIsNamed => ["route::ids::tests::what_is_dropped_without_an_answer_was_given_up"],
    /// Rule 32b: rows are sent in words that the oldest node of the cluster knows.
    OldNodesAreUnderstood => ["route::router::tests::rows_have_their_tags_themselves_while_a_node_does_not_know_series"],
    /// Rule 36: a leader of an older epoch replaces nobody; what is written there cannot be committed.
    OlderRouteReplacesNobody => ["route::table::tests::an_older_epoch_or_no_leader_does_not_replace_a_leader"],
    /// Rule 36: nor does nobody; a metasrv that was just elected knows no leader yet.
    UnknownLeaderReplacesNobody => ["route::table::tests::an_older_epoch_or_no_leader_does_not_replace_a_leader"],
    /// A region that moves is a failure of the moment; writers would be told of every one.
    PassingFailureIsHeld => ["route::hold::tests::each_kind_of_failure_has_its_answer"] in "it" ["hold::a_write_whose_answer_was_lost_is_applied_once"],
    /// Requests are held within a budget of bytes; else a region that stays away takes the frontend with it.
    HeldBytesAreBounded => ["route::hold::tests::it_gives_up_at_the_deadline_beyond_the_budget_and_without_the_table"] in "it" ["hold::beyond_the_budget_for_held_requests_a_write_fails_at_once"],
    /// And within their time.
    HeldTimeIsBounded => ["route::hold::tests::it_gives_up_at_the_deadline_beyond_the_budget_and_without_the_table"],
    /// A query that names columns of before is planned anew; sent again it would answer with others' values.
    StaleQueryIsPlannedAnew => ["route::hold::tests::a_query_that_has_to_be_planned_anew_is_not_sent_again"],
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_defence_is_missed_when_it_is_away() {
        greptime_defences::each_is_missed(super::PROOFS);
    }
}
