//! When metasrv may promise a leader that nobody else leads, and when such a promise has surely ended.
//!
//! A lease is for reads: as long as a leader holds one it answers without asking its followers. It is granted in the
//! answer to a beat and counted from when that beat was *sent*, so no clock is compared, only durations measured.
//! Three things could make a second leader while the lease lasts, and each is kept out:
//!
//! * metasrv lets another replica campaign: it waits until what was promised has [surely ended](Leases::surely_end), and
//!   promises nothing more to a leader in whose term it has told another to campaign: the order may arrive late;
//! * another metasrv leader does: the lease ends before this one's session in the store can;
//! * replicas elect by themselves, being without metasrv: a lease is granted only while a majority of the voters is
//!   known to have heard this metasrv so recently that their patience outlasts the lease. Else a leader on metasrv's
//!   side of a partition would go on reading what the other side has overwritten.
//!
//! A leader that does not reach a majority of its group is promised nothing either, nor is one that does not hear the
//! answers to its beats: it will be unseated, and nobody shall have to wait for the end of its lease. What a leader itself
//! has [given up](LeaderBeat::renounced), because it sees that it cannot lead, is waited for by nobody.
//!
//! Safety of writes depends on none of this.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use greptime_types::{NodeId, RegionId};

use crate::failover::Plan;
use crate::{Defence, Policy, majority};

/// Why no lease is granted now. Reads then take a round of the quorum; nothing is lost but time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another leader is being made, or was to be made by an order that may still arrive.
    AnotherIsMade,
    /// A voter is in a later term than the leader: it may have voted for another.
    LaterTerm { node: NodeId, term: u64 },
    /// Nobody else votes, and nobody is asked.
    Alone,
    /// Of some who vote nothing is known.
    Strangers { count: usize },
    /// Too few voters have heard of metasrv recently, the others may be electing; or the leader does not reach them.
    OutOfTouch {
        in_touch: Vec<NodeId>,
        needed: usize,
        within: Duration,
    },
    /// The lease could outlive metasrv's own leadership.
    SessionEnds { at: Duration },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone => f.write_str("it has no other voters"),
            Self::AnotherIsMade => f.write_str("another is told to lead"),
            Self::LaterTerm { node, term } => {
                write!(
                    f,
                    "datanode {node} is in term {term} and may have voted for another"
                )
            }
            Self::Strangers { count } => write!(f, "nothing is known of {count} of the voters"),
            Self::OutOfTouch {
                in_touch,
                needed,
                within,
            } => write!(
                f,
                "only {in_touch:?} of the voters were in touch with metasrv within {within:?} and with the leader, \
                 {needed} are needed: the others may be electing"
            ),
            Self::SessionEnds { at } => write!(
                f,
                "metasrv's own session may end at {at:?}, before the lease would; it must be renewed first"
            ),
        }
    }
}

/// A region that the sender of a beat leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Led {
    pub region: RegionId,
    pub epoch: u64,
    pub voters: Vec<Elector>,
    /// Others that have a vote and of which nothing is known.
    pub strangers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elector {
    pub node: NodeId,
    /// See [`Touch::heard`]. The arrival of a beat alone proves nothing: where beats get through and answers do not, a
    /// voter loses patience while it still beats. Beats to a former metasrv leader do not count.
    pub heard: Option<Duration>,
    /// The replica's term, as its newest beat said.
    pub term: u64,
    /// The leader has not reached it for a while.
    pub is_apart: bool,
}

impl Led {
    /// Whether its leader may be promised anything, as far as voters go. `session_ends`: until when this metasrv surely
    /// leads.
    pub fn may_lease(&self, session_ends: Duration, now: Duration, policy: &Policy) -> Result<(), Refusal> {
        let lease_ends = now + policy.lease + policy.clock_margin;
        if lease_ends > session_ends && Defence::LeaseLiesInTheSession.holds() {
            return Err(Refusal::SessionEnds { at: session_ends });
        }
        if self.strangers > 0 && Defence::UnknownVotersKeepLeasesAway.holds() {
            return Err(Refusal::Strangers {
                count: self.strangers,
            });
        }
        if self.voters.len() < 2 {
            return Err(Refusal::Alone);
        }
        // Whoever votes for another says so in its next beat, and after that one refuses what an earlier metasrv ordered.
        let is_later = |v: &&Elector| v.term > self.epoch && Defence::LaterTermKeepsLeasesAway.holds();
        if let Some(voter) = self.voters.iter().find(is_later) {
            let (node, term) = (voter.node, voter.term);
            return Err(Refusal::LaterTerm { node, term });
        }
        // A voter elects at the earliest `fallback_min` after it heard of us; the lease must have ended by then.
        let within = policy
            .fallback_min
            .saturating_sub(policy.lease + policy.clock_margin);
        let recently = |at: Duration| now.saturating_sub(at) < within;
        let is_apart = |v: &Elector| v.is_apart && Defence::CutOffLeaderIsPromisedNothing.holds();
        let is_patient = |v: &&Elector| v.heard.is_some_and(recently) && !is_apart(v);
        let patient = self.voters.iter().filter(is_patient);
        let in_touch: Vec<NodeId> = patient.map(|v| v.node).collect();
        let needed = majority(self.voters.len());
        if in_touch.len() < needed && Defence::LeaseNeedsAMajority.holds() {
            return Err(Refusal::OutOfTouch {
                in_touch,
                needed,
                within,
            });
        }
        Ok(())
    }
}

/// How recently a datanode has surely heard this metasrv, by the numbers of its beats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// Arrivals of the beats whose answers may not have come yet, by number.
    arrivals: BTreeMap<u64, Duration>,
    heard: Option<Duration>,
}

/// Beats that have come one after the other, while the answer to none of them was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unheard {
    /// When the first and the last of them came.
    pub first: Duration,
    pub last: Duration,
    pub beats: usize,
}

/// Beats without an answer that are remembered; answers to older ones prove nothing any more.
const OPEN_BEATS: usize = 256;

impl Touch {
    /// A beat has come. `answered`: the newest whose answer the datanode has.
    pub fn beat(&mut self, number: u64, answered: u64, now: Duration) {
        self.arrivals.insert(number, now);
        let proven = match Defence::OnlyAnswersProveTouch.holds() {
            true => answered,
            false => number,
        };
        if let Some(arrived) = self.arrivals.get(&proven) {
            self.heard = Some(*arrived);
            self.arrivals.retain(|open, _| *open > proven);
        }
        while self.arrivals.len() > OPEN_BEATS {
            self.arrivals.pop_first();
        }
    }

    /// When the newest beat came whose answer it has.
    pub fn heard(&self) -> Option<Duration> {
        self.heard
    }

    /// The beats since then, of which it is not known that their answers were heard.
    pub fn unheard(&self) -> Option<Unheard> {
        let (_, first) = self.arrivals.first_key_value()?;
        let (_, last) = self.arrivals.last_key_value()?;
        Some(Unheard {
            first: *first,
            last: *last,
            beats: self.arrivals.len(),
        })
    }
}

/// The leases of one metasrv while it leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leases {
    /// Who was granted the newest lease of each region, and when the beat came that was answered with it. In a region
    /// another is granted one when he was elected, and so when this one has ended.
    granted: BTreeMap<RegionId, (NodeId, Duration)>,
    /// Regions that are to have another leader now.
    withheld: BTreeSet<RegionId>,
    /// The term above which replicas were told to campaign. Such an order may arrive late, whatever has become of the
    /// leader meanwhile: nothing is promised in this term or an earlier one any more.
    campaigned: BTreeMap<RegionId, u64>,
}

/// A beat of a datanode.
#[derive(Clone, Debug)]
pub struct LeaderBeat {
    pub node: NodeId,
    pub led: Vec<Led>,
    pub oldest_append: Duration,
    /// How long ago the first of its beats came of which it is not known that their answers were heard.
    pub unanswered: Duration,
    /// Regions of which it has given up all that was promised to it in answers to this beat and earlier ones: whatever
    /// of that comes yet is void.
    pub renounced: BTreeSet<RegionId>,
}

/// What is promised in the answer to a beat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Zero if nothing is.
    pub length: Duration,
    /// Regions that it leads and for which this is not promised.
    pub without: Vec<RegionId>,
}

impl Leases {
    /// What the newest plan says of regions that are to have another leader.
    pub fn follow(&mut self, plan: &Plan) {
        self.withheld.clone_from(&plan.withheld);
        for campaign in &plan.campaigns {
            let term = self.campaigned.entry(campaign.region).or_default();
            *term = campaign.seen_term.max(*term);
        }
    }

    /// Forgets regions that are no more.
    pub fn keep_regions(&mut self, is_there: impl Fn(RegionId) -> bool) {
        self.campaigned.retain(|region, _| is_there(*region));
        self.granted.retain(|region, _| is_there(*region));
    }

    /// Whether another leader of the region is made, or was to be, than the one in `epoch`.
    pub fn is_withheld(&self, region: RegionId, epoch: u64) -> bool {
        let campaigned = self.campaigned.get(&region);
        let is_ordered = campaigned.is_some_and(|term| epoch <= *term);
        (self.withheld.contains(&region) && Defence::LeaseIsWithheld.holds())
            || (is_ordered && Defence::OldOrderKeepsLeasesAway.holds())
    }

    /// The answer to a beat. Beats come in the order in which they were sent.
    ///
    /// An append that has waited from one beat to the next may hang, and who has not heard the last answer may hear none:
    /// nothing is promised, so that others need not wait for the end of it when they come to lead.
    pub fn answer(
        &mut self,
        beat: &LeaderBeat,
        session_ends: Duration,
        now: Duration,
        policy: &Policy,
    ) -> Granted {
        self.take_back(beat);
        let hangs = beat.oldest_append >= policy.beat && Defence::HungLeaderIsPromisedNothing.holds();
        let is_deaf = beat.unanswered > policy.way * 2 && Defence::DeafLeaderIsPromisedNothing.holds();
        if hangs || is_deaf {
            return Granted::default();
        }
        let is_refused = |led: &&Led| {
            beat.renounced.contains(&led.region) || self.refusal(led, session_ends, now, policy).is_some()
        };
        let (without, with): (Vec<&Led>, Vec<&Led>) = beat.led.iter().partition(is_refused);
        if with.is_empty() {
            return Granted::default();
        }
        let without = without.iter().map(|led| led.region).collect();
        self.granted
            .extend(with.iter().map(|led| (led.region, (beat.node, now))));
        Granted {
            length: policy.lease,
            without,
        }
    }

    /// What somebody has given up binds nobody any more.
    fn take_back(&mut self, beat: &LeaderBeat) {
        for region in &beat.renounced {
            if self.holder(*region) == Some(beat.node) {
                self.granted.remove(region);
            }
        }
    }

    /// Why nothing is promised to the leader of a region.
    pub fn refusal(
        &self,
        led: &Led,
        session_ends: Duration,
        now: Duration,
        policy: &Policy,
    ) -> Option<Refusal> {
        match self.is_withheld(led.region, led.epoch) {
            true => Some(Refusal::AnotherIsMade),
            false => led.may_lease(session_ends, now, policy).err(),
        }
    }

    /// When everything has surely ended that was promised of a region to the process on a node.
    pub fn surely_end(
        &self,
        region: RegionId,
        node: NodeId,
        leading_since: Duration,
        policy: &Policy,
    ) -> Duration {
        let granted = self.granted.get(&region).filter(|(to, _)| *to == node);
        surely_ends(granted.map(|(_, at)| *at), leading_since, policy)
    }

    /// Who was promised something last.
    pub fn holder(&self, region: RegionId) -> Option<NodeId> {
        self.granted.get(&region).map(|(node, _)| *node)
    }
}

/// When every lease of a region that one process may hold has ended for sure.
///
/// `granted`: the arrival of the newest beat that was answered with a lease, which is not before it was sent; `None`
/// if this metasrv granted none. `leading_since`: leases of the metasrv leader before end by themselves after this.
fn surely_ends(granted: Option<Duration>, leading_since: Duration, policy: &Policy) -> Duration {
    let former = match Defence::FormerLeasesAreWaitedFor.holds() {
        true => leading_since,
        false => Duration::ZERO,
    };
    let margin = match Defence::ClocksMayDrift.holds() {
        true => policy.clock_margin,
        false => Duration::ZERO,
    };
    granted.map_or(former, |at| at.max(former)) + policy.lease + margin
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::failover::Campaign;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
    const NOW: Duration = ms(100_000);
    const LONG: Duration = ms(200_000);

    fn ask(ago: &[Option<u64>], session_ends: Duration) -> Result<(), Refusal> {
        led(ago).may_lease(session_ends, NOW, &Policy::default())
    }

    /// In term 5, with voters that heard metasrv so long ago.
    fn led(ago: &[Option<u64>]) -> Led {
        let voters = ago.iter().zip(0..).map(|(ago, node)| Elector {
            node,
            heard: ago.map(|ago| NOW - ms(ago)),
            term: 5,
            is_apart: false,
        });
        Led {
            region: RegionId::new(1024, 0),
            epoch: 5,
            voters: voters.collect(),
            strangers: 0,
        }
    }

    #[test]
    fn a_majority_in_touch_is_needed() {
        // 4 s of patience, less a lease of 300 ms and 10 ms of margin.
        let table: &[(&[Option<u64>], bool)] = &[
            (&[Some(0)], false),
            (&[Some(0), Some(3_689), None], true),
            (&[Some(0), Some(3_690), None], false),
            (&[Some(0), None, Some(9_999)], false),
            (&[Some(0), Some(0)], true),
            (&[Some(0), None], false),
            (&[], false),
        ];
        for (ago, granted) in table {
            assert_eq!(ask(ago, LONG).is_ok(), *granted, "{ago:?}");
        }
    }

    #[test]
    fn a_leader_that_does_not_reach_a_majority_is_promised_nothing() {
        let mut region = led(&[Some(0); 3]);
        region.voters[2].is_apart = true;
        let ask = |region: &Led| region.may_lease(LONG, NOW, &Policy::default());
        assert_eq!(ask(&region), Ok(()));
        region.voters[1].is_apart = true;
        assert!(matches!(ask(&region), Err(Refusal::OutOfTouch { in_touch, .. }) if in_touch == [0]));
    }

    #[test]
    fn a_refusal_says_who_was_in_touch() {
        let said = ask(&[Some(5), None, Some(4_000)], LONG).unwrap_err().to_string();
        assert!(
            said.starts_with("only [0] of the voters") && said.contains("2 are needed"),
            "{said}"
        );
    }

    #[test]
    fn a_lease_lies_inside_the_session_of_who_grants_it() {
        assert_eq!(ask(&[Some(0); 2], NOW + ms(310)), Ok(()));
        let at = NOW + ms(309);
        assert_eq!(ask(&[Some(0); 2], at), Err(Refusal::SessionEnds { at }));
    }

    #[test]
    fn a_lease_has_ended_after_its_length_and_the_margin() {
        let policy = Policy::default();
        let table = [
            (Some(1_000), 0, 1_310),
            (None, 0, 310),
            // Granted by the metasrv leader before: not known here.
            (None, 5_000, 5_310),
            (Some(1_000), 5_000, 5_310),
        ];
        for (granted, since, end) in table {
            let granted = granted.map(ms);
            assert_eq!(surely_ends(granted, ms(since), &policy), ms(end));
        }
    }

    #[test]
    fn an_answer_proves_the_touch_of_the_beat_it_belongs_to() {
        let mut touch = Touch::default();
        touch.beat(1, 0, ms(100));
        touch.beat(2, 0, ms(200));
        assert_eq!(touch.heard(), None);
        touch.beat(3, 2, ms(300));
        assert_eq!(touch.heard(), Some(ms(200)));
        touch.beat(4, 2, ms(400));
        touch.beat(5, 9, ms(500));
        assert_eq!(touch.heard(), Some(ms(200)));
        for number in 6..10_000 {
            touch.beat(number, 2, ms(600));
        }
        assert!(touch.arrivals.len() <= OPEN_BEATS);
        touch.beat(10_000, 9_999, ms(700));
        assert_eq!(touch.heard(), Some(ms(600)));
    }

    #[test]
    fn beats_are_counted_whose_answers_were_not_heard() {
        let mut touch = Touch::default();
        assert_eq!(touch.unheard(), None);
        let unheard = |first, last, beats| {
            let (first, last) = (ms(first), ms(last));
            Some(Unheard { first, last, beats })
        };
        touch.beat(1, 0, ms(100));
        assert_eq!(touch.unheard(), unheard(100, 100, 1));
        touch.beat(2, 1, ms(200));
        touch.beat(3, 1, ms(225));
        touch.beat(4, 1, ms(250));
        assert_eq!(touch.unheard(), unheard(200, 250, 3));
        touch.beat(5, 3, ms(275));
        assert_eq!(touch.unheard(), unheard(250, 275, 2));
        touch.beat(6, 5, ms(300));
        assert_eq!(touch.unheard(), unheard(300, 300, 1));
    }

    #[test]
    fn who_does_not_hear_the_answers_is_promised_nothing() {
        let policy = Policy::default();
        let region = led(&[Some(0); 3]);
        let beat = |unanswered| LeaderBeat {
            node: 0,
            led: vec![region.clone()],
            oldest_append: ms(0),
            unanswered,
            renounced: BTreeSet::new(),
        };
        let mut leases = Leases::default();
        let nothing = Granted::default();
        assert_eq!(leases.answer(&beat(ms(41)), LONG, NOW, &policy), nothing);
        assert_eq!(leases.holder(region.region), None);
        // An answer may be on its way, and the next beat with it.
        let granted = leases.answer(&beat(ms(40)), LONG, NOW, &policy);
        assert_eq!(granted.length, policy.lease);
    }

    #[test]
    fn what_was_given_up_is_waited_for_by_nobody() {
        let policy = Policy::default();
        let region = led(&[Some(0); 3]);
        let beat = |node, renounced: &[RegionId]| LeaderBeat {
            node,
            led: vec![region.clone()],
            oldest_append: ms(0),
            unanswered: ms(0),
            renounced: renounced.iter().copied().collect(),
        };
        let mut leases = Leases::default();
        let ends = |leases: &Leases| leases.surely_end(region.region, 0, ms(0), &policy);
        let _ = leases.answer(&beat(0, &[]), LONG, NOW, &policy);
        assert_eq!(ends(&leases), NOW + ms(310));
        // Of what another has, nobody gives up anything.
        let elsewhere = LeaderBeat {
            led: vec![],
            ..beat(1, &[region.region])
        };
        let _ = leases.answer(&elsewhere, LONG, NOW, &policy);
        assert_eq!(ends(&leases), NOW + ms(310));
        let given_up = leases.answer(&beat(0, &[region.region]), LONG, NOW, &policy);
        assert_eq!((given_up, ends(&leases)), (Granted::default(), ms(310)));
        let granted = leases.answer(&beat(0, &[]), LONG, NOW + ms(100), &policy);
        assert_eq!((granted.length, ends(&leases)), (policy.lease, NOW + ms(410)));
    }

    #[test]
    fn voters_that_may_have_voted_for_another_keep_a_lease_away() {
        let policy = Policy::default();
        let mut region = led(&[Some(0), Some(0), None]);
        assert_eq!(region.may_lease(LONG, NOW, &policy), Ok(()));
        region.voters[2].term = 6;
        let refusal = region.may_lease(LONG, NOW, &policy).unwrap_err();
        assert_eq!(refusal, Refusal::LaterTerm { node: 2, term: 6 });
        region.epoch = 6;
        assert_eq!(region.may_lease(LONG, NOW, &policy), Ok(()));
        region.strangers = 1;
        let refusal = region.may_lease(LONG, NOW, &policy).unwrap_err();
        assert_eq!(refusal, Refusal::Strangers { count: 1 });
    }

    #[test]
    fn a_promise_is_noted_and_withheld_where_another_is_to_lead() {
        let policy = Policy::default();
        let one = led(&[Some(0); 3]);
        let other = Led {
            region: RegionId::new(1024, 1),
            ..one.clone()
        };
        let beat = |oldest_append| LeaderBeat {
            node: 7,
            led: vec![one.clone(), other.clone()],
            oldest_append,
            unanswered: ms(0),
            renounced: BTreeSet::new(),
        };
        let mut leases = Leases::default();
        let ask = |leases: &mut Leases, beat: &LeaderBeat, at| {
            let granted = leases.answer(beat, LONG, at, &policy);
            let ends = [&one, &other].map(|led| leases.surely_end(led.region, 7, ms(0), &policy));
            (granted, ends)
        };
        let nothing = Granted::default();
        let slow = ask(&mut leases, &beat(policy.beat), NOW);
        assert_eq!(slow, (nothing.clone(), [ms(310); 2]));
        let campaign = Campaign {
            region: other.region,
            node: 1,
            raft_id: 1,
            seen_term: 5,
        };
        leases.follow(&Plan {
            campaigns: vec![campaign],
            ..Plan::default()
        });
        // The order may still arrive.
        leases.follow(&Plan::default());
        let granted = Granted {
            length: policy.lease,
            without: vec![other.region],
        };
        let ends = [NOW + ms(310), ms(310)];
        assert_eq!(ask(&mut leases, &beat(ms(99)), NOW), (granted, ends));
        assert_eq!(leases.holder(one.region), Some(7));
        assert_eq!(leases.surely_end(one.region, 8, ms(0), &policy), ms(310));
        leases.follow(&Plan {
            withheld: BTreeSet::from([one.region]),
            ..Plan::default()
        });
        let later = NOW + ms(100);
        assert_eq!(ask(&mut leases, &beat(ms(0)), later), (nothing, ends));
        let mut elected = beat(ms(0));
        elected.led[1].epoch = 6;
        let granted = Granted {
            length: policy.lease,
            without: vec![one.region],
        };
        // What is promised of another region prolongs nothing of the one that is to have another leader.
        let ends = [NOW + ms(310), later + ms(310)];
        assert_eq!(ask(&mut leases, &elected, later), (granted, ends));
        leases.keep_regions(|_| false);
        assert!(leases.campaigned.is_empty() && leases.granted.is_empty());
    }

    proptest! {
        /// Whatever was in touch: while a granted lease lasts, those who may be electing are no majority.
        #[test]
        fn no_election_by_patience_ends_inside_a_lease(
            ago in prop::collection::vec(prop::option::of(0u64..6_000), 2..6),
        ) {
            let policy = Policy::default();
            let lease_ends = NOW + policy.lease;
            let electing = ago.iter().filter(|ago| match ago {
                None => true,
                Some(ago) => NOW - ms(*ago) + policy.fallback_min <= lease_ends,
            });
            // With the margin taken for drift, some that may not be electing are counted as such.
            let doubtful = ago.iter().filter(|ago| match ago {
                None => true,
                Some(ago) => NOW - ms(*ago) + policy.fallback_min <= lease_ends + policy.clock_margin,
            });
            match ask(&ago, LONG) {
                Ok(()) => prop_assert!(electing.count() < majority(ago.len())),
                Err(_) => prop_assert!(ago.len() - doubtful.count() < majority(ago.len())),
            }
        }
    }
}
