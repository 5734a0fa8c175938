//! The judge: one look at everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use greptime_types::NodeId;

use super::brake::{Away, brake, is_confirmed};
use super::health::Suffers;
use super::memory::{Memory, Round, Vanished};
use super::reach::{Apart, cut_off_from};
use super::{Hold, Judgement, Observed, Verdict};
use crate::{Defence, Policy};

/// Judges datanodes for one metasrv leader, from the moment it leads.
#[derive(Clone, Debug)]
pub struct Detector {
    policy: Policy,
    leading_since: Duration,
    last_look: Duration,
    /// By how much all looks together came too late.
    slept: Duration,
    /// The last look at which the brake was on.
    braked: Option<Duration>,
    /// The last look at which somebody was back whom the brake had held in vain.
    returned: Option<Duration>,
    nodes: BTreeMap<NodeId, Memory>,
    apart: Apart,
}

/// Those that beat; none if nobody complains of anybody, since that is what they are asked for.
fn living<'a>(
    observed: &'a BTreeMap<NodeId, Observed>,
    vanished: &BTreeMap<NodeId, Vanished>,
) -> BTreeMap<NodeId, &'a Observed> {
    if observed.values().all(|seen| seen.unreachable.is_empty()) {
        return BTreeMap::new();
    }
    let beats = |(node, _): &(&NodeId, &Observed)| !vanished.contains_key(*node);
    observed
        .iter()
        .filter(beats)
        .map(|(node, seen)| (*node, seen))
        .collect()
}

impl Detector {
    /// `leading_since`: when this metasrv became leader.
    pub fn new(policy: Policy, leading_since: Duration) -> Self {
        Self {
            policy,
            leading_since,
            last_look: leading_since,
            slept: Duration::ZERO,
            braked: None,
            returned: None,
            nodes: BTreeMap::new(),
            apart: Apart::default(),
        }
    }

    /// Judges everybody who is known. To be called at least every [`Policy::look`]; more often does no harm.
    pub fn look(&mut self, now: Duration, observed: &BTreeMap<NodeId, Observed>) -> Judgement {
        let slept = self.slept_before(now);
        for (node, seen) in observed {
            let memory = self.nodes.entry(*node).or_insert_with(|| Memory::new(seen, now));
            if memory.take_in(seen, now, slept.unwrap_or_default()) {
                self.returned = Some(now);
            }
        }
        let deaf = self.deaf(observed);
        let mut vanished: BTreeMap<NodeId, Vanished> = BTreeMap::new();
        for (node, seen) in observed {
            let Some(memory) = self.nodes.get_mut(node) else {
                continue;
            };
            if let Some(gone) = memory.vanished(seen, deaf.contains_key(node), now, &self.policy) {
                memory.note_fact(seen);
                vanished.insert(*node, gone);
            }
        }
        if self.nodes.len() > observed.len() {
            self.nodes.retain(|node, _| observed.contains_key(node));
        }
        let missed = self.note_confirmed(observed, &vanished);
        let round = self.round(now, slept.is_some(), &vanished, missed);
        // Datanodes reach each other when a new metasrv leader has told them where they are.
        let is_early = now < self.leading_since + self.policy.introduction;
        let living = match is_early && Defence::PeersFindEachOtherFirst.holds() {
            true => BTreeMap::new(),
            false => living(observed, &vanished),
        };
        let apart = self.apart.look(&living, self.policy.unreachable_for, now);
        let mut redial = BTreeSet::new();
        let mut verdicts = BTreeMap::new();
        // Both have the same datanodes by now.
        for ((node, seen), memory) in observed.iter().zip(self.nodes.values_mut()) {
            memory.verdict = match vanished.get(node) {
                None => {
                    let suffers = Suffers {
                        deaf: deaf.get(node).copied(),
                        cut_from: cut_off_from(*node, &apart, living.len()),
                    };
                    memory.present(seen, suffers, &self.policy, now)
                }
                Some(gone) => {
                    if memory.wants_redial(seen, &self.policy, now) {
                        memory.asked = Some(now);
                        redial.insert(*node);
                    }
                    memory.absent(*node, seen, gone, &round, &self.policy)
                }
            };
            verdicts.insert(*node, memory.verdict.clone());
        }
        let is_braked = |v: &Verdict| matches!(v.held(), Some(Hold::Brake { .. }));
        let braking = verdicts.values().any(is_braked);
        Judgement {
            verdicts,
            redial,
            late: slept,
            brake: round.brake.filter(|_| braking),
            apart,
        }
    }

    /// Who beats and does not hear the answers, and for how long; nobody if that is most of them.
    fn deaf(&self, observed: &BTreeMap<NodeId, Observed>) -> BTreeMap<NodeId, Duration> {
        let for_ = |(node, seen): (&NodeId, &Observed)| {
            let memory = self.nodes.get(node)?;
            Some((*node, memory.deaf_for(seen, &self.policy)?))
        };
        let deaf: BTreeMap<NodeId, Duration> = observed.iter().filter_map(for_).collect();
        match deaf.len() * 2 > observed.len() && Defence::NotHeardByMostIsOurs.holds() {
            true => BTreeMap::new(),
            false => deaf,
        }
    }

    /// Remembers of whom others say that it is away; returns those of whom they say so now, if most are there to say it.
    fn note_confirmed(
        &mut self,
        observed: &BTreeMap<NodeId, Observed>,
        vanished: &BTreeMap<NodeId, Vanished>,
    ) -> BTreeSet<NodeId> {
        if vanished.is_empty() || !Defence::OthersConfirmWhoIsAway.holds() {
            return BTreeSet::new();
        }
        let beats = observed.iter().filter(|(node, _)| !vanished.contains_key(node));
        let beating: Vec<&Observed> = beats.map(|(_, seen)| seen).collect();
        let confirmed = vanished.keys().filter(|node| is_confirmed(**node, &beating));
        let confirmed: BTreeSet<NodeId> = confirmed.copied().collect();
        for node in &confirmed {
            if let Some(memory) = self.nodes.get_mut(node) {
                memory.is_confirmed = true;
            }
        }
        match beating.len() * 2 > observed.len() {
            true => confirmed,
            false => BTreeSet::new(),
        }
    }

    /// How long metasrv slept since the last look, if it did.
    fn slept_before(&mut self, now: Duration) -> Option<Duration> {
        let since = now.saturating_sub(self.last_look);
        self.last_look = self.last_look.max(now);
        let slept = since.saturating_sub(self.policy.look);
        let late = slept > self.policy.late && Defence::LatenessIsCredited.holds();
        if late {
            self.slept += slept;
        }
        late.then_some(slept)
    }

    fn round(
        &mut self,
        now: Duration,
        late: bool,
        vanished: &BTreeMap<NodeId, Vanished>,
        missed: BTreeSet<NodeId>,
    ) -> Round {
        let awake = now.saturating_sub(self.leading_since).saturating_sub(self.slept);
        let away = |node: &NodeId| {
            let memory = self.nodes.get(node)?;
            let away = Away {
                heard: memory.heard(),
                explained: memory.fact.is_some() || memory.is_confirmed,
            };
            Some((*node, away))
        };
        let away = vanished.keys().filter_map(away).collect();
        let living = self.nodes.len() - vanished.len();
        let brake = brake(&away, living, &self.policy).filter(|_| Defence::BrakeHolds.holds());
        if brake.is_some() {
            self.braked = Some(now);
        }
        let is_new = awake < self.policy.lease + self.policy.dead_after;
        Round {
            now,
            late,
            new_leader: is_new && Defence::NewLeaderJudgesNobody.holds(),
            brake,
            braked: self.braked,
            returned: self.returned,
            missed,
        }
    }
}
