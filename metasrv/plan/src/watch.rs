//! What a metasrv has seen of the datanodes since it leads, and what it has told about regions without a leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_types::{NodeId, RegionId};

use crate::failover::{Attempt, Tried, Voter};
use crate::lease::{Granted, LeaderBeat, Leases, Unheard};
use crate::liveness::{Brake, Connection, Redial};
use crate::{Defence, Detector, Judgement, Observed, Policy, Verdict};

/// A datanode, where it was last reached, and what was seen of it.
#[derive(Clone, Debug)]
struct Watched {
    /// host:port; empty until it has registered with this leader.
    address: String,
    /// The session that counts.
    serial: u64,
    seen: Observed,
}

impl Watched {
    fn is_awaited(&self) -> bool {
        self.address.is_empty()
    }
}

/// Whoever has not been heard for so much longer than makes a suspect does not count as there.
const LATE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Watch {
    pub policy: Policy,
    pub leading_since: Duration,
    detector: Detector,
    nodes: BTreeMap<NodeId, Watched>,
    /// As of the last look.
    verdicts: BTreeMap<NodeId, Verdict>,
    /// Why most are not judged by silence, as of the last look.
    brake: Option<Brake>,
    tried: BTreeMap<RegionId, Tries>,
    /// The highest epoch in which somebody was seen to lead.
    led: BTreeMap<RegionId, u64>,
    pub leases: Leases,
}

/// What was tried since somebody led in the epoch.
#[derive(Clone, Debug, Default)]
struct Tries {
    epoch: u64,
    tried: Vec<Tried>,
}

/// The newest tries that are remembered; which of them were long ago says nothing any more.
const MOST_TRIES: usize = 16;

/// Where a datanode is, and which start of it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: NodeId,
    pub address: String,
    pub incarnation: u64,
}

/// What a datanode says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// How long its oldest append has waited.
    pub oldest_append: Duration,
    /// The beats that came with it, if it is not known that their answers were heard.
    pub unheard: Option<Unheard>,
    /// The datanodes that it cannot reach.
    pub unreachable: BTreeSet<NodeId>,
    /// It is about to stop.
    pub is_stopping: bool,
}

/// Who answers a redial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The host refuses: no process listens there any more.
    Refused,
    /// A process that says its incarnation.
    Process { incarnation: u64 },
    /// Nobody, or nobody who says who he is. That proves nothing.
    Nobody,
}

/// What a look found.
pub struct Look {
    pub judgement: Judgement,
    pub redial: Vec<Place>,
    /// Whose verdict is another than before.
    pub news: BTreeSet<NodeId>,
    /// What is new about the brake.
    pub brake: BrakeNews,
}

/// What became of the brake since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrakeNews {
    None,
    /// It is on, or others are held by it.
    Holds,
    /// It holds nobody any more.
    Ended,
}

impl Watch {
    /// `known`: the datanodes of the catalog; whoever of them has not come yet is waited for.
    pub fn new(policy: Policy, leading_since: Duration, known: impl Iterator<Item = NodeId>) -> Self {
        let absent = |node| {
            let watched = Watched {
                address: String::new(),
                serial: 0,
                seen: Observed::new(0, Connection::Never, None),
            };
            (node, watched)
        };
        Self {
            detector: Detector::new(policy.clone(), leading_since),
            policy,
            leading_since,
            nodes: known.map(absent).collect(),
            verdicts: BTreeMap::new(),
            brake: None,
            tried: BTreeMap::new(),
            led: BTreeMap::new(),
            leases: Leases::default(),
        }
    }

    /// A datanode has come, with a new session.
    pub fn registered(&mut self, place: Place, serial: u64, now: Duration) {
        let watched = Watched {
            address: place.address,
            serial,
            seen: Observed::new(place.incarnation, Connection::Up, Some(now)),
        };
        self.nodes.insert(place.node, watched);
    }

    /// It has beaten in the session.
    pub fn beat(&mut self, (node, serial): (NodeId, u64), beat: Beat, now: Duration) {
        if let Some(watched) = self.in_session(node, serial) {
            watched.seen.last_beat = Some(now);
            watched.seen.oldest_append = beat.oldest_append;
            watched.seen.unheard = beat.unheard;
            watched.seen.unreachable = beat.unreachable;
            watched.seen.is_stopping = beat.is_stopping;
        }
    }

    /// The connection of the session broke.
    pub fn broken(&mut self, node: NodeId, serial: u64, now: Duration) {
        if let Some(watched) = self.in_session(node, serial) {
            watched.seen.connection = Connection::Broken { since: now };
            watched.seen.redial = Redial::Untried;
        }
    }

    /// A datanode, unless it has come again since that session.
    fn in_session(&mut self, node: NodeId, serial: u64) -> Option<&mut Watched> {
        let is_of_it = |w: &&mut Watched| w.serial == serial || !Defence::BeatIsOfItsSession.holds();
        self.nodes.get_mut(&node).filter(is_of_it)
    }

    /// Somebody answered at the place that was asked, or nobody.
    pub fn redialled(&mut self, asked: &Place, answer: Answer, now: Duration) {
        let still = |w: &&mut Watched| {
            let is_the_one = w.address == asked.address && w.seen.incarnation == asked.incarnation;
            is_the_one || !Defence::RedialIsOfItsConnection.holds()
        };
        if let Some(watched) = self.nodes.get_mut(&asked.node).filter(still) {
            watched.seen.redial = match answer {
                Answer::Refused => Redial::Refused,
                Answer::Nobody => Redial::NoAnswer,
                Answer::Process { incarnation } if incarnation == asked.incarnation => {
                    Redial::Accepted { at: now }
                }
                Answer::Process { .. } => Redial::OtherIncarnation,
            };
        }
    }

    /// Judges everybody.
    pub fn look(&mut self, now: Duration) -> Look {
        let seen = self.nodes.iter().map(|(node, w)| (*node, w.seen.clone()));
        let judgement = self.detector.look(now, &seen.collect());
        let kind = |verdict: &Verdict| std::mem::discriminant(verdict);
        let is_news =
            |(node, verdict): &(&NodeId, &Verdict)| self.verdicts.get(*node).map(kind) != Some(kind(verdict));
        let news = judgement.verdicts.iter().filter(is_news);
        let news = news.map(|(node, _)| *node).collect();
        self.verdicts.clone_from(&judgement.verdicts);
        let whom = |brake: &Option<Brake>| brake.as_ref().map(|b| b.vanished.clone());
        let brake = match (whom(&self.brake), whom(&judgement.brake)) {
            (before, now) if before == now => BrakeNews::None,
            (_, None) => BrakeNews::Ended,
            (_, Some(_)) => BrakeNews::Holds,
        };
        self.brake.clone_from(&judgement.brake);
        Look {
            brake,
            redial: self.ask_anew(&judgement.redial),
            judgement,
            news,
        }
    }

    fn ask_anew(&mut self, nodes: &BTreeSet<NodeId>) -> Vec<Place> {
        let mut asked = Vec::new();
        for node in nodes {
            let Some(watched) = self.nodes.get_mut(node).filter(|w| !w.is_awaited()) else {
                continue;
            };
            watched.seen.redial = Redial::Pending;
            asked.push(place(*node, watched));
        }
        asked
    }

    /// The datanodes that one has said it cannot reach.
    pub fn unreachable_from(&self, node: NodeId) -> BTreeSet<NodeId> {
        self.nodes
            .get(&node)
            .map(|w| w.seen.unreachable.clone())
            .unwrap_or_default()
    }

    pub fn verdict(&self, node: NodeId) -> Option<&Verdict> {
        self.verdicts.get(&node)
    }

    /// Why most are not judged by silence, if so.
    pub fn brake(&self) -> Option<&Brake> {
        self.brake.as_ref()
    }

    /// Whether a node beats, and was heard a moment ago: what a silent one said last may not be true any more, however long
    /// it takes to judge it.
    pub fn hears(&self, node: NodeId, now: Duration) -> bool {
        let within = self.policy.suspect_after + LATE;
        let is_recent = self
            .last_beat(node)
            .is_some_and(|at| now.saturating_sub(at) <= within);
        is_recent && self.verdict(node).is_some_and(Verdict::beats)
    }

    /// When a node last said something.
    pub fn last_beat(&self, node: NodeId) -> Option<Duration> {
        self.nodes.get(&node)?.seen.last_beat
    }

    /// Where the datanodes are, as they are told of each other.
    pub fn peers(&self) -> Vec<Place> {
        let known = self.nodes.iter().filter(|(_, w)| !w.is_awaited());
        known.map(|(node, watched)| place(*node, watched)).collect()
    }

    /// Those that have not come since this metasrv leads. They may be where they were, and the others are not to break with
    /// them.
    pub fn awaited(&self) -> BTreeSet<NodeId> {
        let awaited = self.nodes.iter().filter(|(_, w)| w.is_awaited());
        match Defence::AwaitedPeersAreNamed.holds() {
            true => awaited.map(|(node, _)| *node).collect(),
            false => BTreeSet::new(),
        }
    }

    /// The highest epoch in which somebody was seen to lead a region; `epoch`: the newest that is said now.
    pub fn led(&mut self, region: RegionId, epoch: Option<u64>) -> u64 {
        let led = self.led.entry(region).or_default();
        *led = epoch.unwrap_or(0).max(*led);
        *led
    }

    /// The highest epoch in which somebody was seen to lead a region; 0 if nobody was.
    pub fn highest_led(&self, region: RegionId) -> u64 {
        self.led.get(&region).copied().unwrap_or(0)
    }

    /// What was tried since somebody led in the newest epoch.
    pub fn tried(&mut self, region: RegionId, epoch: Option<u64>) -> Vec<Tried> {
        let Some(tries) = self.tried.get_mut(&region) else {
            return Vec::new();
        };
        if epoch.is_some_and(|epoch| epoch > tries.epoch) {
            self.tried.remove(&region);
            return Vec::new();
        }
        tries.tried.clone()
    }

    pub fn note_try(&mut self, region: RegionId, epoch: u64, what: Attempt, to: NodeId, at: Duration) {
        let tries = self.tried.entry(region).or_default();
        tries.epoch = tries.epoch.max(epoch);
        tries.tried.push(Tried { what, to, at });
        if tries.tried.len() > MOST_TRIES {
            tries.tried.remove(0);
        }
    }

    /// What is promised in the answer to a beat. `session_ends`: until when this metasrv surely leads.
    pub fn promise(&mut self, beat: &LeaderBeat, session_ends: Duration, now: Duration) -> Granted {
        self.leases.answer(beat, session_ends, now, &self.policy)
    }

    /// When everything has surely ended that was promised of a region to the process on a node.
    pub fn lease_ends(&self, region: RegionId, node: NodeId) -> Duration {
        self.leases
            .surely_end(region, node, self.leading_since, &self.policy)
    }

    /// The same of somebody who is none of the voters, and whose process may live.
    pub fn lease_of_another_ends(&self, region: RegionId, voters: &[Voter]) -> Duration {
        let is_voter = |node: NodeId| voters.iter().any(|v| v.node == node);
        let is_gone = |node: &NodeId| self.verdicts.get(node).is_some_and(Verdict::is_gone);
        let holder = self.leases.holder(region);
        let another = holder.filter(|node| !is_voter(*node) && !is_gone(node));
        another.map_or(Duration::ZERO, |node| self.lease_ends(region, node))
    }

    /// Forgets regions that are not there any more.
    pub fn keep_regions(&mut self, is_there: impl Fn(RegionId) -> bool) {
        self.tried.retain(|region, _| is_there(*region));
        self.led.retain(|region, _| is_there(*region));
        self.leases.keep_regions(is_there);
    }
}

fn place(node: NodeId, watched: &Watched) -> Place {
    Place {
        node,
        address: watched.address.clone(),
        incarnation: watched.seen.incarnation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn place_of(node: NodeId, incarnation: u64) -> Place {
        Place {
            node,
            address: format!("10.0.0.{incarnation}:4001"),
            incarnation,
        }
    }

    /// Of datanodes that the catalog knows, from 0 s on.
    fn watch(known: &[NodeId]) -> Watch {
        Watch::new(Policy::default(), ms(0), known.iter().copied())
    }

    fn seen(watch: &Watch) -> &Observed {
        &watch.nodes[&1].seen
    }

    #[test]
    fn a_redial_tells_of_the_process_that_was_asked() {
        let mut watch = watch(&[]);
        watch.registered(place_of(1, 5), 50, ms(100));
        let asked = place_of(1, 5);
        let answers = [
            (Answer::Nobody, Redial::NoAnswer),
            (
                Answer::Process { incarnation: 5 },
                Redial::Accepted { at: ms(200) },
            ),
            (Answer::Process { incarnation: 6 }, Redial::OtherIncarnation),
            (Answer::Refused, Redial::Refused),
        ];
        for (answer, redial) in answers {
            watch.redialled(&asked, answer, ms(200));
            assert_eq!(seen(&watch).redial, redial);
        }
        // The pod has gone to another address, or another process has come to it: what is refused is the one before.
        for came in [
            place_of(1, 6),
            Place {
                incarnation: 7,
                ..place_of(1, 6)
            },
        ] {
            let before = watch.peers()[0].clone();
            watch.registered(came, 51, ms(300));
            watch.broken(1, 51, ms(310));
            watch.redialled(&before, Answer::Refused, ms(320));
            assert_eq!(seen(&watch).redial, Redial::Untried);
        }
        watch.redialled(&place_of(2, 5), Answer::Refused, ms(400));
        assert_eq!(watch.peers().len(), 1, "nobody who was never there");
    }

    #[test]
    fn what_comes_on_an_old_connection_says_nothing_of_the_new_process() {
        let mut watch = watch(&[]);
        watch.registered(place_of(1, 5), 50, ms(100));
        watch.registered(place_of(1, 6), 51, ms(200));
        let beat = Beat {
            oldest_append: ms(900),
            is_stopping: true,
            ..Beat::default()
        };
        watch.beat((1, 50), beat.clone(), ms(300));
        watch.broken(1, 50, ms(300));
        let fresh = Observed::new(6, Connection::Up, Some(ms(200)));
        assert_eq!(seen(&watch), &fresh);
        watch.beat((1, 51), beat, ms(300));
        assert!(seen(&watch).is_stopping && watch.last_beat(1) == Some(ms(300)));
        watch.broken(1, 51, ms(310));
        assert_eq!(seen(&watch).connection, Connection::Broken { since: ms(310) });
    }

    #[test]
    fn who_has_not_come_yet_is_awaited_however_long_and_not_gone() {
        let mut watch = watch(&[1, 2]);
        assert_eq!(watch.awaited(), BTreeSet::from([1, 2]));
        watch.registered(place_of(1, 5), 50, ms(100));
        watch.look(ms(60_000));
        assert_eq!(
            (watch.peers(), watch.awaited()),
            (vec![place_of(1, 5)], BTreeSet::from([2]))
        );
        watch.registered(place_of(2, 6), 51, ms(60_100));
        watch.broken(2, 51, ms(60_200));
        assert_eq!(
            watch.peers(),
            [place_of(1, 5), place_of(2, 6)],
            "it is known where it was"
        );
        assert_eq!(watch.awaited(), BTreeSet::new());
    }
}
