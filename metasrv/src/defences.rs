//! The defences of metasrv, each with the tests that show it. Those of its decisions are in
//! [`greptime_metasrv_plan`].

greptime_defences::defences! {
    /// Rule 29: every change is compared with the root record that it was made from; a metasrv that leads no more would
    /// write another truth.
    RootIsCompared => ["catalog::tests::a_new_leader_shuts_out_the_old_one"],
    /// Rule 29: after a change without an answer the catalog is loaded anew; the next one would undo what was made.
    UnknownChangeIsLookedFor => [] in "sessions_and_ddl" ["outcomes::a_change_without_an_answer_is_looked_for_before_the_next_one"],
    /// Rule 30: who cannot renew its lease stops before the lease ends; another may lead then.
    LeaderStopsBeforeItsKeyEnds => [] in "election" ["a_leader_without_etcd_gives_up_before_its_key_ends_and_leads_again_when_etcd_is_back"],
    /// Rule 30: a connection that breaks says nothing as long as the address takes another one.
    OnlyTheGoneAreFollowed => ["election::line::tests::who_takes_another_line_is_there"] in "election" ["a_leader_that_cannot_be_reached_goes_on_leading"],
    /// Rule 32b: a node that cannot read what the others write does not come in.
    OldProgramIsRefused => [] in "sessions_and_ddl" ["the_format_is_raised_when_all_nodes_speak_it_and_there_is_no_way_back"],
    /// Rule 32b: a newer format waits for datanodes that are away; they would come back and not read it.
    FormatWaitsForTheAbsent => [] in "sessions_and_ddl" ["the_format_is_raised_when_all_nodes_speak_it_and_there_is_no_way_back"],
    /// Rule 32b: and a while; a node may go back to the version before.
    FormatWaitsAWhile => [] in "sessions_and_ddl" ["the_format_is_raised_when_all_nodes_speak_it_and_there_is_no_way_back"],
    /// Rule 34: two processes under one name would each take the other's orders.
    SecondProcessIsRefused => ["sessions::tests::a_second_process_under_the_same_name_waits_until_the_first_is_silent"] in "sessions_and_ddl" ["a_second_process_and_a_foreign_disk_are_refused_with_the_reason"],
    /// Rule 34: the disk of another cluster has regions of the same numbers.
    ForeignDiskIsRefused => [] in "sessions_and_ddl" ["a_second_process_and_a_foreign_disk_are_refused_with_the_reason"],
    /// The end of an old connection says nothing of the process that has come since.
    OldConnectionEndsNothing => ["sessions::tests::the_end_of_an_old_connection_does_not_end_the_new_one"],
    /// Rule 35: an order without an effect is given again; it may not have arrived.
    OrdersAreRepeated => ["sessions::tests::an_order_without_an_effect_is_given_again"],
    /// Rule 50: who was given up counts for nothing; among themselves the others would lead, and be written to.
    GivenUpCountForNothing => [] in "sessions_and_ddl" ["a_survivor_leads_above_all_terms_of_those_that_are_lost_and_they_count_for_nothing"],
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_defence_is_missed_when_it_is_away() {
        greptime_defences::each_is_missed(super::PROOFS);
    }
}
