//! The numbers of failover, and the relations between them without which they mean nothing.

use std::fmt;
use std::time::Duration;

/// Lost beats in a row that, on top of the longest pause, must not look like a death.
const LOSSES: u32 = 3;

/// All numbers of liveness, leases and failover. The defaults are for the network of one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// From one beat of a datanode to the next.
    pub beat: Duration,
    /// The same while the last beat has not been answered. A lost beat is thus soon followed by others: with beats
    /// at `beat` alone, losses of 1 % would look like a death every few hours.
    pub hurried_beat: Duration,
    /// The longest way of a beat that is not lost.
    pub way: Duration,
    /// The longest pause of a process (scheduler, throttling) that nobody shall notice.
    pub pause: Duration,

    /// How long a datanode may answer reads as leader, counted from when it *sent* the beat that was answered.
    pub lease: Duration,
    /// By how much two clocks may have drifted apart in a lease or in a fallback timeout.
    pub clock_margin: Duration,

    /// The detector looks at least this often.
    pub look: Duration,
    /// A look that comes later than `look` by more than this is late: metasrv itself slept.
    pub late: Duration,
    /// Silence that makes a datanode suspect: it is redialled.
    pub suspect_after: Duration,
    /// Silence that makes it dead. With the defaults, two of the longest pauses right after each other, and the beat
    /// between them lost, look like a death too; 400 ms would bear them.
    pub dead_after: Duration,
    /// The same if the very process answers redials. It lives, but beats are its duty.
    pub answering_dead_after: Duration,
    /// How long a datanode has to beat for the first time to a new metasrv leader, or again after a brake: it must
    /// find metasrv first.
    pub introduction: Duration,
    /// From one redial of a suspect to the next.
    pub redial_again: Duration,
    /// Datanodes that fell silent within this time of each other fell silent at once.
    pub brake_window: Duration,
    /// Whoever has been silent for so long is judged though many vanished together with it: by then a metasrv that was cut
    /// off from everything does not lead any more.
    pub brake_for: Duration,
    /// An append that has waited for its disk for so long makes the datanode unwell. Writes wait as they do for one
    /// that is silent.
    pub slow_append: Duration,
    /// A datanode that has beaten for so long without having heard an answer is deaf, and others are elected. These are
    /// hurried beats, each with an answer of its own, and they come from a process that is awake: so it may be shorter
    /// than a silence. Not much longer: TCP sends no more than ten segments that nobody acknowledges.
    pub deaf_after: Duration,
    /// A datanode that has been cut off from most of its peers for so long is unwell, and a leader that has been cut off
    /// from so many of its group that it cannot commit is unseated. Counted from when one side first says so, which it does
    /// after 300 ms without an answer; nothing is waited for when both do.
    pub unreachable_for: Duration,
    /// A datanode stays unwell for this long after the last sign of it, so that leaders do not come and go.
    pub unwell_holds: Duration,

    /// A datanode that has been alive for so long may be given leaders that are well where they are.
    pub steady: Duration,
    /// A campaign without effect is repeated after this time.
    pub campaign_again: Duration,
    /// Whoever is elected may take so long to serve, before another is told to campaign.
    pub opening: Duration,
    /// A transfer without effect is repeated after this time.
    pub transfer_again: Duration,
    /// After so many transfers without effect the leadership of an unwell leader is taken instead.
    pub transfer_tries: usize,
    /// A follower may lag by so many entries when a leader hands over without need. The leader holds writes back
    /// until they have arrived.
    pub hand_back_lag: u64,
    /// Campaigns under way at once, so that a dead datanode does not make a queue at the living.
    pub campaigns_at_once: usize,
    /// Transfers under way at once.
    pub transfers_at_once: usize,

    /// Replicas elect among themselves when they have been without metasrv for a time between these two.
    pub fallback_min: Duration,
    pub fallback_max: Duration,
    /// metasrv leads for at most this long after it was last heard by the store.
    pub session: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        Self {
            beat: ms(100),
            hurried_beat: ms(25),
            way: ms(20),
            pause: ms(150),
            lease: ms(300),
            clock_margin: ms(10),
            look: ms(25),
            late: ms(25),
            suspect_after: ms(150),
            dead_after: ms(350),
            answering_dead_after: ms(600),
            introduction: ms(2_000),
            redial_again: ms(100),
            brake_window: ms(1_000),
            brake_for: ms(10_000),
            slow_append: ms(300),
            deaf_after: ms(175),
            unreachable_for: ms(100),
            unwell_holds: ms(5_000),
            steady: ms(2_000),
            campaign_again: ms(200),
            opening: ms(2_000),
            transfer_again: ms(500),
            transfer_tries: 2,
            hand_back_lag: 1_000,
            campaigns_at_once: 1_000,
            transfers_at_once: 50,
            fallback_min: ms(4_000),
            fallback_max: ms(6_000),
            session: ms(5_000),
        }
    }
}

/// What scheduling adds to a wait that nothing has disturbed.
const SLACK: Duration = Duration::from_millis(5);

impl Policy {
    /// For datanodes that beat so often, and whose processes may pause for so long without anybody noticing. All that
    /// follows from these two is set, the rest is as always; [`validate`](Self::validate) says whether it goes together.
    pub fn of(beat: Duration, pause: Duration) -> Self {
        let usual = Self::default();
        let hurried_beat = (beat / 4).min(usual.hurried_beat);
        let look = hurried_beat;
        let dead_after = beat + pause + hurried_beat * LOSSES + usual.way + SLACK;
        let lease = beat * 3;
        Self {
            beat,
            hurried_beat,
            pause,
            lease,
            look,
            late: look,
            suspect_after: beat + hurried_beat + usual.way + SLACK,
            dead_after,
            answering_dead_after: dead_after + pause + beat,
            introduction: usual.introduction.max((lease + dead_after) * 2),
            slow_append: beat + pause + SLACK * 10,
            deaf_after: usual.way * 2 + hurried_beat * (LOSSES + 2) + SLACK * 2,
            campaign_again: beat * 2,
            ..usual
        }
    }
}

/// Two numbers of a policy that do not go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    smaller: (&'static str, Duration),
    larger: (&'static str, Duration),
    otherwise: &'static str,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((small, is), (large, limit)) = (self.smaller, self.larger);
        write!(
            f,
            "{small} ({is:?}) must be below {large} ({limit:?}); otherwise {}",
            self.otherwise
        )
    }
}

/// "The first is below the second; otherwise …"
type Relation = ((&'static str, Duration), (&'static str, Duration), &'static str);

impl Policy {
    /// Every relation that does not hold; none if the policy can be used.
    pub fn validate(&self) -> Result<(), Vec<Contradiction>> {
        let relations = [
            self.nothing_is_zero().as_slice(),
            &self.of_beats(),
            &self.of_time_out(),
        ]
        .concat();
        let broken: Vec<Contradiction> = relations
            .into_iter()
            .filter(|((_, smaller), (_, larger), _)| smaller >= larger)
            .map(|(smaller, larger, otherwise)| Contradiction {
                smaller,
                larger,
                otherwise,
            })
            .collect();
        if broken.is_empty() { Ok(()) } else { Err(broken) }
    }

    /// Relations that keep the living from being judged dead.
    fn of_beats(&self) -> [Relation; 9] {
        let one_lost = self.beat + self.hurried_beat + self.way;
        let worst = self.beat + self.pause + self.hurried_beat * LOSSES + self.way;
        let dead = ("dead_after", self.dead_after);
        let suspect = ("suspect_after", self.suspect_after);
        [
            (("look", self.look), ("beat", self.beat), "deaths are seen late"),
            (
                ("hurried_beat", self.hurried_beat),
                ("beat", self.beat),
                "lost beats are not made up for",
            ),
            (
                ("beat + hurried_beat + way", one_lost),
                suspect,
                "every lost beat makes a suspect",
            ),
            (suspect, dead, "nobody is redialled before being judged"),
            (
                ("beat + pause + 3 hurried_beat + way", worst),
                dead,
                "a pause and a few lost beats look like a death",
            ),
            (
                dead,
                ("answering_dead_after", self.answering_dead_after),
                "an answered redial counts for nothing",
            ),
            (
                (
                    "2 way + 3 hurried_beat",
                    self.way * 2 + self.hurried_beat * LOSSES,
                ),
                ("deaf_after", self.deaf_after),
                "a few lost answers make a datanode deaf",
            ),
            (
                ("2 beat", self.beat * 2),
                ("lease", self.lease),
                "every lost beat ends a lease",
            ),
            (
                ("beat", self.beat),
                ("campaign_again", self.campaign_again),
                "a campaign is repeated before its effect can be reported",
            ),
        ]
    }

    /// Relations between metasrv, its store, and the replicas that get on without it.
    fn of_time_out(&self) -> [Relation; 10] {
        let lease_and_window = ("lease + dead_after", self.lease + self.dead_after);
        [
            (
                ("campaign_again", self.campaign_again),
                ("opening", self.opening),
                "whoever is elected is unseated before it can serve",
            ),
            (
                ("beat + pause", self.beat + self.pause),
                ("slow_append", self.slow_append),
                "a pause looks like a slow disk",
            ),
            (
                ("clock_margin", self.clock_margin),
                ("lease", self.lease),
                "leases are all margin",
            ),
            (
                ("lease + clock_margin", self.lease + self.clock_margin),
                ("session", self.session),
                "no lease lies inside the session of the metasrv that grants it",
            ),
            (
                lease_and_window,
                ("introduction", self.introduction),
                "a new metasrv leader judges those who have not found it yet",
            ),
            (
                ("introduction", self.introduction),
                ("brake_for", self.brake_for),
                "the brake holds nobody whom a new metasrv leader has not heard",
            ),
            (
                ("session", self.session),
                ("brake_for", self.brake_for),
                "a metasrv that is cut off from everything judges before it stops leading",
            ),
            (
                (
                    "lease + dead_after + clock_margin",
                    lease_and_window.1 + self.clock_margin,
                ),
                ("fallback_min", self.fallback_min),
                "leases are refused because of followers that are still trusted",
            ),
            (
                ("answering_dead_after", self.answering_dead_after),
                ("fallback_min", self.fallback_min),
                "replicas elect by themselves before metasrv has judged",
            ),
            (
                ("fallback_min", self.fallback_min),
                ("fallback_max", self.fallback_max),
                "replicas elect all at once, and nobody wins",
            ),
        ]
    }

    fn nothing_is_zero(&self) -> [Relation; 9] {
        let zero = ("0", Duration::ZERO);
        let count = |n: usize| Duration::from_secs(n as u64);
        [
            (zero, ("look", self.look), "the detector never rests"),
            (zero, ("hurried_beat", self.hurried_beat), "datanodes never rest"),
            (
                zero,
                ("redial_again", self.redial_again),
                "suspects are dialled without end",
            ),
            (
                zero,
                ("brake_window", self.brake_window),
                "nothing ever happens at once",
            ),
            (zero, ("slow_append", self.slow_append), "every disk is slow"),
            (
                zero,
                ("transfer_again", self.transfer_again),
                "transfers are repeated without end",
            ),
            (
                zero,
                ("transfer_tries", count(self.transfer_tries)),
                "leadership is taken where it could be handed over",
            ),
            (
                zero,
                ("campaigns_at_once", count(self.campaigns_at_once)),
                "nobody takes over",
            ),
            (
                zero,
                ("transfers_at_once", count(self.transfers_at_once)),
                "nothing is handed over",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_together() {
        assert_eq!(Policy::default().validate(), Ok(()));
    }

    #[test]
    fn beats_and_pauses_of_all_sizes_have_a_policy() {
        let ms = Duration::from_millis;
        assert_eq!(Policy::of(ms(100), ms(150)), Policy::default());
        for (beat, pause) in [
            (10, 20),
            (20, 500),
            (50, 150),
            (100, 1_000),
            (400, 150),
            (500, 500),
        ] {
            assert_eq!(
                Policy::of(ms(beat), ms(pause)).validate(),
                Ok(()),
                "{beat} {pause}"
            );
        }
        let broken = Policy::of(ms(2_000), ms(150)).validate().unwrap_err();
        let said: Vec<String> = broken.iter().map(ToString::to_string).collect();
        assert!(
            said.iter()
                .any(|s| s.contains("followers that are still trusted")),
            "{said:?}"
        );
    }

    /// One change for each relation, and a word of what is said about it.
    #[test]
    fn every_relation_is_missed_when_it_is_broken() {
        let ms = Duration::from_millis;
        type Break = (fn(&mut Policy, Duration), Duration, &'static str);
        let table: &[Break] = &[
            (|p, d| p.look = d, ms(100), "seen late"),
            (|p, d| p.look = d, ms(0), "detector never rests"),
            (|p, d| p.hurried_beat = d, ms(100), "not made up for"),
            (|p, d| p.hurried_beat = d, ms(0), "datanodes never rest"),
            (|p, d| p.suspect_after = d, ms(145), "makes a suspect"),
            (|p, d| p.suspect_after = d, ms(350), "before being judged"),
            (|p, d| p.dead_after = d, ms(345), "look like a death"),
            (|p, d| p.dead_after = d, ms(600), "counts for nothing"),
            (|p, d| p.deaf_after = d, ms(115), "make a datanode deaf"),
            (|p, d| p.lease = d, ms(200), "ends a lease"),
            (|p, d| p.campaign_again = d, ms(100), "can be reported"),
            (|p, d| p.clock_margin = d, ms(300), "all margin"),
            (|p, d| p.session = d, ms(310), "inside the session"),
            (|p, d| p.introduction = d, ms(650), "not found it yet"),
            (|p, d| p.fallback_min = d, ms(660), "still trusted"),
            (
                |p, d| p.answering_dead_after = d,
                ms(4_000),
                "before metasrv has judged",
            ),
            (|p, d| p.fallback_max = d, ms(4_000), "nobody wins"),
            (|p, d| p.redial_again = d, ms(0), "dialled without end"),
            (|p, d| p.brake_window = d, ms(0), "ever happens at once"),
            (|p, d| p.brake_for = d, ms(2_000), "holds nobody"),
            (|p, d| p.brake_for = d, ms(5_000), "cut off from everything"),
            (|p, d| p.slow_append = d, ms(0), "every disk"),
            (|p, d| p.opening = d, ms(200), "before it can serve"),
            (|p, d| p.slow_append = d, ms(250), "looks like a slow disk"),
            (|p, d| p.transfer_again = d, ms(0), "repeated without end"),
            (|p, _| p.transfer_tries = 0, ms(0), "handed over"),
            (|p, _| p.campaigns_at_once = 0, ms(0), "nobody takes over"),
            (|p, _| p.transfers_at_once = 0, ms(0), "nothing is handed over"),
        ];
        for (change, to, said) in table {
            let mut policy = Policy::default();
            change(&mut policy, *to);
            let broken = policy.validate().unwrap_err();
            assert!(
                broken.iter().any(|b| b.to_string().contains(said)),
                "{said}: {broken:?}"
            );
        }
    }
}
