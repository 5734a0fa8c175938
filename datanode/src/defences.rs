//! What stands between a fault and the rows, by name; and the proof that each of it is needed.
//!
//! A defence is code that only matters when something fails, so tests can pass without ever meeting it. In a test
//! build, `GREPTIME_TEST_WITHOUT=Name` takes the defence of that name away. The tests that are said to show it must fail
//! then: `each_defence_is_missed_when_it_is_away` runs them so. In any other build [`Defence::holds`] is `true`.

macro_rules! defences {
    ($($(#[$about:meta])* $name:ident => [$($test:literal),+ $(,)?],)+) => {
        /// One way in which rows would be lost, doubled, invented or hidden, were it not for this.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defence {
            $($(#[$about])* $name,)+
        }

        /// The tests that show a defence, by their paths in this crate.
        #[cfg(test)]
        const PROOFS: &[(Defence, &[&str])] = &[$((Defence::$name, &[$($test),+]),)+];
    };
}

defences! {
    /// Rule 12: a leader that meets a higher epoch in its manifest stops for good.
    HigherEpochStops => ["server::tests::bucket::a_leader_that_meets_a_higher_epoch_stops_for_good"],
    /// Rule 5b: what lies before a complete batch of the log was acknowledged.
    DamageIsNoTornTail => [
        "log::tests::damage::a_flipped_bit_in_the_log_is_refused_by_name_or_in_the_last_write_alone",
        "log::tests::damage::damage_in_its_entries_alone_is_refused",
    ],
    /// Rule 5c: an empty last file hides that the one before it is the end.
    EmptyEndIsRemoved => ["log::tests::damage::a_last_file_without_a_write_is_not_the_end_of_the_log"],
    /// Rule 4b: a full disk has room for what was taken, and for what makes room.
    FullDiskHasAReserve => [
        "log::tests::full::what_is_under_way_when_the_disk_fills_up_is_written_from_the_reserve",
        "log::tests::full::a_full_disk_has_room_for_elections_and_trims",
    ],
    /// Rule 4b: the room of the reserve is not spent on more rows.
    FullLogTakesNoRows => ["log::tests::full::a_full_log_refuses_rows_and_takes_trims"],
    /// Rule 4b: trimmed entries leave a full disk at once, not at the purge threshold.
    FullLogIsCleaned => ["log::tests::full::what_is_trimmed_makes_room_on_a_full_disk"],
    /// Rule 4b: memory is flushed, so that there is something to trim.
    FullLogIsFlushed => ["server::tests::faults::on_a_full_disk_rows_go_to_files"],
    /// Rule 4b: a stop does not wait for room.
    StopDoesNotWaitForRoom => ["log::tests::full::a_stop_gives_up_what_waits_for_room_and_says_that_it_was_not_done"],
    /// Rule 4b: no file is begun at each attempt to write on a full disk.
    FullDiskBeginsNoFile => ["log::tests::full::a_full_disk_without_a_reserve_is_waited_for_and_begins_no_files"],
    /// Rule 32b: an entry is of a format that all nodes of the cluster read.
    EntriesAreOfTheClusterFormat => ["server::tests::versions::a_node_writes_what_the_oldest_of_the_cluster_reads"],
}

impl Defence {
    /// Whether it is there, as it always is but in a test that takes it away.
    #[cfg(not(test))]
    #[inline(always)]
    pub const fn holds(self) -> bool {
        true
    }

    #[cfg(test)]
    pub fn holds(self) -> bool {
        use std::sync::LazyLock;
        static AWAY: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(tests::WITHOUT).ok());
        AWAY.as_ref().is_none_or(|name| *name != format!("{self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::process::{Command, ExitStatus};
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use super::{Defence, PROOFS};

    pub(super) const WITHOUT: &str = "GREPTIME_TEST_WITHOUT";
    /// A test that waits for what does not come any more has noticed it too.
    const PATIENCE: Duration = Duration::from_secs(60);
    const AT_ONCE: usize = 4;

    /// Runs a test of this program; what it says, and how it ends if it does.
    fn run(test: &str, without: &str) -> (String, Option<ExitStatus>) {
        let mut said = tempfile::tempfile().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact"])
            .env(WITHOUT, without)
            .stdout(said.try_clone().unwrap())
            .stderr(said.try_clone().unwrap())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let mut status = None;
        while status.is_none() && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
            status = child.try_wait().unwrap();
        }
        if status.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let mut text = String::new();
        said.rewind().unwrap();
        said.read_to_string(&mut text).unwrap();
        (text, status)
    }

    fn is_missed(defence: Defence, test: &str) -> Result<(), String> {
        let (said, status) = run(test, &format!("{defence:?}"));
        match status {
            _ if !said.contains("running 1 test") => Err(format!("there is no test {test}")),
            Some(status) if status.success() => Err(format!("{test} passes without {defence:?}")),
            _ => Ok(()),
        }
    }

    #[test]
    fn each_defence_is_missed_when_it_is_away() {
        let left = Mutex::new(
            PROOFS
                .iter()
                .flat_map(|(defence, tests)| tests.iter().map(|t| (*defence, *t))),
        );
        let useless = Mutex::new(Vec::new());
        std::thread::scope(|threads| {
            for _ in 0..AT_ONCE {
                threads.spawn(|| {
                    loop {
                        let next = left.lock().unwrap().next();
                        let Some((defence, test)) = next else { break };
                        if let Err(why) = is_missed(defence, test) {
                            useless.lock().unwrap().push(why);
                        }
                    }
                });
            }
        });
        let useless = useless.into_inner().unwrap();
        assert!(useless.is_empty(), "{useless:#?}");
    }
}
