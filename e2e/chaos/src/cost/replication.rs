//! What a log on three datanodes costs, beside one on a single datanode.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::memtables::Memtables;
use crate::numbers::median;

/// A quorum takes at least this share of the rows that a local log takes in the same time.
const SHARE_AT_LEAST: f64 = 0.5;
/// Two followers get every batch; what is above two are headers, and the answers.
const SENT_AT_MOST: f64 = 2.1;

/// The same batches, written as fast as they were acknowledged, to both in turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replication {
    /// Rows each second, as medians of the turns.
    pub quorum_rows_per_second: f64,
    pub local_rows_per_second: f64,
    /// The median of what each turn has by itself, since the machine is not the same all the time.
    pub share: f64,
    /// Bytes of messages between datanodes for each byte of write requests that the frontend sent, as a median; nothing
    /// where the latter are not counted.
    pub sent: Option<f64>,
    /// The most that a process ever had in memory, in bytes: of the leader, and of its followers.
    pub peak_leader: u64,
    pub peak_hot_follower: u64,
    pub peak_log_only_follower: u64,
    /// Of the only one that has the region when the log is local.
    pub peak_local: u64,
    /// Rows in memory, as much as they ever were, with three voters and with one; nothing if the datanodes do not say what
    /// they may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum_memtables: Option<Memtables>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_memtables: Option<Memtables>,
    pub turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    pub quorum: Taken,
    pub local: Taken,
}

/// What a cluster took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    pub rows: u64,
    pub seconds: f64,
    /// Of messages between datanodes.
    pub peer_bytes: u64,
    /// That the frontend sent, with headers.
    pub write_bytes: Option<u64>,
    pub peak_leader: u64,
    pub peak_hot_follower: u64,
    pub peak_log_only_follower: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memtables: Option<Memtables>,
}

impl Taken {
    fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds.max(1e-3)
    }

    fn sent(&self) -> Option<f64> {
        let written = self.write_bytes.filter(|bytes| *bytes > 0)?;
        Some(self.peer_bytes as f64 / written as f64)
    }
}

impl Replication {
    pub fn add(&mut self, turn: Turn) {
        self.turns.push(turn);
        let of = |value: &dyn Fn(&Turn) -> f64| median(&self.turns.iter().map(value).collect::<Vec<_>>());
        self.quorum_rows_per_second = of(&|turn| turn.quorum.rate()).round();
        self.local_rows_per_second = of(&|turn| turn.local.rate()).round();
        self.share = hundredth(of(&|turn| turn.quorum.rate() / turn.local.rate().max(1e-3)));
        let sent: Vec<f64> = self.turns.iter().filter_map(|turn| turn.quorum.sent()).collect();
        self.sent = (!sent.is_empty()).then(|| hundredth(median(&sent)));
        let most = |peak: fn(&Turn) -> u64| self.turns.iter().map(peak).max().unwrap_or_default();
        self.peak_leader = most(|turn| turn.quorum.peak_leader);
        self.peak_hot_follower = most(|turn| turn.quorum.peak_hot_follower);
        self.peak_log_only_follower = most(|turn| turn.quorum.peak_log_only_follower);
        self.peak_local = most(|turn| turn.local.peak_leader);
        let memtables =
            |of: fn(&Turn) -> Option<Memtables>| self.turns.iter().filter_map(of).reduce(Memtables::and);
        self.quorum_memtables = memtables(|turn| turn.quorum.memtables);
        self.local_memtables = memtables(|turn| turn.local.memtables);
    }

    /// Aims that were missed, in words.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.share < SHARE_AT_LEAST {
            missed.push(format!(
                "a quorum takes {} of the rows of a local log ({} and {} each second), aim {SHARE_AT_LEAST}",
                self.share, self.quorum_rows_per_second, self.local_rows_per_second
            ));
        }
        if let Some(sent) = self.sent.filter(|sent| *sent > SENT_AT_MOST) {
            missed.push(format!(
                "datanodes send each other {sent} bytes for each byte that is written, aim {SENT_AT_MOST}"
            ));
        }
        for (which, memtables) in [
            ("three voters", self.quorum_memtables),
            ("one voter", self.local_memtables),
        ] {
            let above = memtables.iter().flat_map(Memtables::missed);
            missed.extend(above.map(|words| format!("with {which}, {words}")));
        }
        missed
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.sent.map_or("unknown".to_owned(), |sent| sent.to_string());
        let mib = |bytes: u64| bytes >> 20;
        write!(
            f,
            "rows each second: quorum {}, local {}, share {}; bytes between datanodes for each that is written: {sent}; \
             peaks in MiB: leader {}, hot follower {}, log-only follower {}, local {}",
            self.quorum_rows_per_second,
            self.local_rows_per_second,
            self.share,
            mib(self.peak_leader),
            mib(self.peak_hot_follower),
            mib(self.peak_log_only_follower),
            mib(self.peak_local)
        )?;
        match &self.quorum_memtables {
            Some(memtables) => write!(f, "; rows in memory at most: {memtables}"),
            None => Ok(()),
        }
    }
}

fn hundredth(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(quorum: u64, local: u64, peer_bytes: u64) -> Turn {
        let taken = |rows, peer_bytes, peak_hot_follower| Taken {
            rows,
            seconds: 10.0,
            peer_bytes,
            write_bytes: Some(1_000),
            peak_leader: 100 << 20,
            peak_hot_follower,
            peak_log_only_follower: 0,
            memtables: None,
        };
        Turn {
            quorum: taken(quorum, peer_bytes, quorum),
            local: taken(local, 0, 0),
        }
    }

    #[test]
    fn turns_are_compared_with_themselves_and_memory_is_the_most_that_was_seen() {
        let mut replication = Replication::default();
        // The machine is slower in the second turn.
        for turn in [
            turn(6_000, 10_000, 2_050),
            turn(700, 1_000, 2_010),
            turn(800, 1_000, 2_020),
        ] {
            replication.add(turn);
        }
        assert_eq!((replication.share, replication.sent), (0.7, Some(2.02)));
        assert_eq!(replication.quorum_rows_per_second, 80.0);
        assert_eq!(replication.peak_hot_follower, 6_000);
        assert!(replication.missed().is_empty());
    }

    #[test]
    fn a_follower_that_holds_more_rows_than_it_may_misses_its_aim() {
        let mut replication = Replication::default();
        let memtables = |hot_follower| Memtables {
            leader: 200,
            hot_follower,
            log_only_follower: 0,
            limit: 512,
        };
        // Of a program that does not tell, and of two that do.
        replication.add(turn(600, 1_000, 2_000));
        assert_eq!(replication.quorum_memtables, None);
        for held in [512, 513] {
            assert!(replication.missed().is_empty(), "{replication}");
            let mut turn = turn(600, 1_000, 2_000);
            turn.quorum.memtables = Some(memtables(held));
            replication.add(turn);
        }
        assert_eq!(
            replication.missed(),
            ["with three voters, rows in memory of the hot follower took 513 bytes, aim at most 512"]
        );
        assert_eq!(replication.local_memtables, None);
    }

    #[test]
    fn turns_of_before_rows_in_memory_were_watched_can_be_continued() {
        let mut replication = Replication::default();
        replication.add(turn(600, 1_000, 2_000));
        let text = serde_json::to_string(&replication).unwrap();
        assert!(!text.contains("memtables"), "{text}");
        assert_eq!(serde_json::from_str::<Replication>(&text).unwrap(), replication);
    }

    #[test]
    fn a_slow_quorum_and_a_talkative_one_miss_their_aims() {
        let mut replication = Replication::default();
        replication.add(turn(400, 1_000, 2_200));
        let missed = replication.missed();
        assert!(
            missed[0].starts_with("a quorum takes 0.4 of the rows of a local log (40 and 100"),
            "{missed:?}"
        );
        assert!(
            missed[1].starts_with("datanodes send each other 2.2 bytes"),
            "{missed:?}"
        );
        replication.turns[0].quorum.write_bytes = None;
        assert_eq!(replication.turns[0].quorum.sent(), None);
    }
}
