//! One region, one step.

use std::collections::BTreeSet;
use std::time::Duration;

use greptime_types::NodeId;

use super::target::{candidate, heir, keeps_up, reached};
use super::{Attempt, Loss, Reason, RegionSeen, Step, Tried, Voter, VoterRole};
use crate::{Defence, Policy, Verdict, majority};

/// The step that a region needs now.
pub fn decide(region: &RegionSeen, policy: &Policy, now: Duration) -> Step {
    let look = Look::at(region, policy, now);
    if look.able.len() + look.undecided.len() < look.needed {
        let alive = look.able.union(&look.undecided).copied().collect();
        return Step::MajorityLost(Loss::of(region, &alive, look.needed));
    }
    let Some(leader) = leader(region) else {
        return look.nobody_leads();
    };
    match &leader.verdict {
        verdict if verdict.beats() && look.is_stranded(leader) => look.unseat(leader),
        Verdict::Alive { .. } => look.hand_back(leader),
        Verdict::Unwell { .. } => look.move_away(leader),
        Verdict::Suspect { .. } if Defence::SuspectLeaderIsLeftAlone.holds() => {
            nothing(Reason::LeaderSuspect { node: leader.node })
        }
        Verdict::Suspect { since, .. } => look.take_over(None, *since),
        Verdict::Dead { gone_since, .. } => look.take_over(None, *gone_since),
    }
}

/// Whoever said that it leads in the highest epoch that there was. An older one will learn that it does not.
pub(super) fn leader(region: &RegionSeen) -> Option<&Voter> {
    let newest = match Defence::OlderLeaderIsNone.holds() {
        true => region.led.max(1),
        false => 1,
    };
    let leading = region.voters.iter().filter(|v| v.leads >= Some(newest));
    leading.max_by_key(|v| v.leads)
}

fn nothing(reason: Reason) -> Step {
    Step::Nothing { reason }
}

struct Look<'a> {
    region: &'a RegionSeen,
    policy: &'a Policy,
    now: Duration,
    needed: usize,
    /// Voters that beat and have the region open: they can vote.
    able: BTreeSet<NodeId>,
    /// Voters that may turn out to be able.
    undecided: BTreeSet<NodeId>,
}

impl<'a> Look<'a> {
    fn at(region: &'a RegionSeen, policy: &'a Policy, now: Duration) -> Self {
        let nodes = |of: fn(&Voter) -> bool| region.voters.iter().filter(|v| of(v)).map(|v| v.node).collect();
        Self {
            region,
            policy,
            now,
            needed: majority(region.voters.len() + region.strangers),
            able: nodes(|v| v.verdict.beats() && v.log.is_some()),
            undecided: nodes(|v| v.verdict.is_suspect() || (v.verdict.beats() && v.log.is_none())),
        }
    }

    /// Whether a majority does not hear it for sure.
    fn is_stranded(&self, voter: &Voter) -> bool {
        let not_dead = self.able.union(&self.undecided).copied().collect();
        reached(voter, &not_dead) < self.needed && Defence::StrandedLeaderIsUnseated.holds()
    }

    fn nobody_leads(&self) -> Step {
        let unheard = self.region.voters.iter().filter(|v| v.verdict.is_suspect());
        let nodes: BTreeSet<NodeId> = unheard.map(|v| v.node).collect();
        if !nodes.is_empty() && Defence::UnheardMayLead.holds() {
            return nothing(Reason::Unheard { nodes });
        }
        if self.region.voters.len() + self.region.strangers == 1 {
            return nothing(Reason::ElectsItself);
        }
        if let Some(step) = self.elected() {
            return step;
        }
        // Whoever handed over has said so, and whoever took over may not have yet.
        if let Some(under_way) = self.transfer_under_way(self.policy.campaign_again) {
            return under_way;
        }
        // Nothing is written without a leader, so what was reported is what there is.
        self.take_over(None, Duration::ZERO)
    }

    /// A campaign, as soon as nobody else can be answering reads. `unseated`: a leader that beats and shall not lead.
    fn take_over(&self, unseated: Option<NodeId>, gone_since: Duration) -> Step {
        if self.able.iter().filter(|n| Some(**n) != unseated).count() < self.needed {
            return nothing(Reason::Undecided {
                nodes: self.undecided.clone(),
            });
        }
        if let Some(step) = self.elected() {
            return step;
        }
        let last = self.last(Attempt::Campaign);
        if let Some(tried) = last.filter(|t| self.able.contains(&t.to)) {
            let until = tried.at + self.policy.campaign_again;
            if until > self.now && !self.is_lost(tried) && Defence::CampaignHasTime.holds() {
                return nothing(Reason::CampaignUnderWay {
                    node: tried.to,
                    until,
                });
            }
        }
        let until = self.leases_end();
        if until > self.now && Defence::LeaseIsWaitedFor.holds() {
            return Step::WaitForLease { until };
        }
        match candidate(
            self.region,
            unseated,
            gone_since,
            self.needed,
            self.policy.hand_back_lag,
        ) {
            Some((voter, _)) => Step::Campaign {
                node: voter.node,
                raft_id: voter.raft_id,
                seen_term: self.seen_term(),
            },
            // Not reached: those who are able are candidates, and a majority has at least one.
            None => nothing(Reason::Undecided {
                nodes: self.undecided.clone(),
            }),
        }
    }

    /// Of somebody who was told to lead, and was elected, and does not serve yet.
    fn elected(&self) -> Option<Step> {
        let newest = Some(self.seen_term());
        let mut voters = self.region.voters.iter();
        let elected = voters.find(|v| v.elected == newest && v.verdict.beats() && !v.verdict.hangs())?;
        let told = self.region.tried.iter().rev().find(|t| t.to == elected.node)?;
        let until = told.at + self.policy.opening;
        if until <= self.now || !Defence::ElectedIsLeftInPeace.holds() {
            return None;
        }
        // It takes no writes yet, so that nobody waits while the other gets what it lacks.
        let end = |v: &Voter| v.log.map_or(0, |log| log.last_index);
        let lag = self.policy.hand_back_lag;
        let keeps_up = |v: &&Voter| end(v).saturating_add(lag) >= end(elected);
        let is_ready = |v: &&Voter| v.is_ready(lag) && v.node != elected.node && v.verdict.could_lead();
        let hot = self.region.voters.iter().filter(is_ready).find(keeps_up);
        Some(match hot.filter(|_| elected.role == VoterRole::LogOnly) {
            None => nothing(Reason::Opening {
                node: elected.node,
                until,
            }),
            Some(hot) => self
                .transfer_under_way(self.policy.campaign_again)
                .filter(|_| self.last(Attempt::Transfer).is_some_and(|t| t.to == hot.node))
                .unwrap_or(Step::Transfer {
                    from: elected.node,
                    to: hot.node,
                }),
        })
    }

    /// Whether a replica that was told to campaign has said since that its log is behind those of so many others that the
    /// rest cannot elect it. What the others have is at least what they have said.
    fn is_lost(&self, tried: &Tried) -> bool {
        let log_of = |v: &Voter| v.log.filter(|_| self.able.contains(&v.node));
        let candidate = self.region.voters.iter().find(|v| v.node == tried.to);
        let Some(log) = candidate.and_then(log_of).filter(|log| log.at > tried.at) else {
            return false;
        };
        let logs = self.region.voters.iter().filter_map(log_of);
        let may_vote = logs.filter(|other| other.position() <= log.position());
        may_vote.count() < self.needed
    }

    /// Until when somebody may answer reads who does not know of a new leader: whoever is silent, or says that it
    /// leads. A process that is gone holds nothing, and one that says that it does not lead has given up.
    fn leases_end(&self) -> Duration {
        let follows = |v: &Voter| v.verdict.beats() && v.log.is_some() && v.leads.is_none();
        let may_answer = |v: &&Voter| !v.verdict.is_gone() && !follows(v);
        let ends = self.region.voters.iter().filter(may_answer);
        let ends = ends.map(|v| v.lease_ends);
        let of_others = Some(self.region.lease_ends).filter(|_| Defence::LeaseOfWhoLeftIsWaitedFor.holds());
        ends.chain(of_others).max().unwrap_or_default()
    }

    fn seen_term(&self) -> u64 {
        let terms = |v: &Voter| v.log.map(|log| log.term).max(v.leads);
        self.region.voters.iter().filter_map(terms).max().unwrap_or(0)
    }

    /// The leader is unwell: somebody better takes over.
    fn move_away(&self, leader: &Voter) -> Step {
        let nobody_better = nothing(Reason::NobodyBetter { leader: leader.node });
        let could_be_told = self
            .last(Attempt::Transfer)
            .is_some_and(|t| leader.can_hand_over_to(t.to));
        if could_be_told && let Some(under_way) = self.transfer_under_way(self.policy.transfer_again) {
            return under_way;
        }
        let Some(heir) = heir(self.region, leader, self.policy.hand_back_lag) else {
            return nobody_better;
        };
        let transfers = self.region.tried.iter().filter(|t| t.what == Attempt::Transfer);
        if leader.can_hand_over_to(heir.node) && transfers.count() < self.policy.transfer_tries {
            return Step::Transfer {
                from: leader.node,
                to: heir.node,
            };
        }
        if leader.verdict.could_lead() {
            return nobody_better;
        }
        self.unseat(leader)
    }

    /// The leader beats and can do nothing for the region: others elect, if they can without it.
    fn unseat(&self, leader: &Voter) -> Step {
        let others = self.able.iter().filter(|n| **n != leader.node);
        let others: BTreeSet<NodeId> = others.copied().collect();
        let could_win = |v: &Voter| others.contains(&v.node) && reached(v, &others) >= self.needed;
        if !self.region.voters.iter().any(could_win) {
            return nothing(Reason::NobodyBetter { leader: leader.node });
        }
        self.take_over(Some(leader.node), Duration::ZERO)
    }

    /// The leader is well. If it is log-only it leads because nobody else could, and a hot follower should.
    fn hand_back(&self, leader: &Voter) -> Step {
        if leader.role == VoterRole::Hot {
            return nothing(Reason::Led);
        }
        let steady = |v: &&Voter| match v.verdict {
            Verdict::Alive { since } => self.now.saturating_sub(since) >= self.policy.steady,
            _ => false,
        };
        let lag = self.policy.hand_back_lag;
        let keeps_up = |v: &&Voter| v.log.is_some_and(|log| keeps_up(leader, &log, lag));
        let hot = self.region.voters.iter().filter(|v| v.is_ready(lag));
        let reached = |v: &&Voter| leader.can_hand_over_to(v.node);
        let Some(to) = hot.filter(steady).filter(reached).find(keeps_up) else {
            return nothing(Reason::Led);
        };
        // There is no hurry, and every transfer holds writes back.
        let between = self.policy.transfer_again.max(self.policy.steady);
        self.transfer_under_way(between).unwrap_or(Step::Transfer {
            from: leader.node,
            to: to.node,
        })
    }

    fn transfer_under_way(&self, between: Duration) -> Option<Step> {
        let tried = self.last(Attempt::Transfer)?;
        let until = tried.at + between;
        (until > self.now).then_some(nothing(Reason::TransferUnderWay { to: tried.to, until }))
    }

    fn last(&self, what: Attempt) -> Option<&Tried> {
        self.region.tried.iter().rev().find(|t| t.what == what)
    }
}
