//! Whatever a region looks like: each step that is taken is allowed, and each that is not taken is not.

use std::collections::BTreeMap;

use greptime_types::RegionId;
use proptest::prelude::*;

use super::*;
use crate::failover::plan::plan;

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        4 => (0u64..4_000).prop_map(|ago| Verdict::Alive { since: NOW - ms(ago) }),
        1 => Just(suspect()),
        1 => Just(unwell()),
        1 => Just(slow()),
        1 => Just(hung()),
        2 => Just(silent()),
        2 => Just(killed()),
    ]
}

fn voter(node: NodeId) -> impl Strategy<Value = Voter> {
    let log = (
        4u64..6,
        2_040u64..2_044,
        4u64..9,
        0u64..500,
        prop::bool::weighted(0.8),
    );
    let log = log.prop_map(|(last_term, last_index, term, ago, applied)| LogEnd {
        last_term,
        last_index,
        term,
        applied_index: if applied { last_index } else { 40 },
        flushed_index: 0,
        at: NOW - ms(ago),
    });
    (
        verdict(),
        prop::bool::weighted(0.6),
        prop::option::weighted(0.9, log),
        prop::option::weighted(0.4, 4u64..7),
        0u64..600,
        prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(1u64..6, 1..5)],
    )
        .prop_map(move |(verdict, hot, log, leads, lease, apart)| Voter {
            node,
            raft_id: node + 100,
            role: if hot { VoterRole::Hot } else { VoterRole::LogOnly },
            leads: leads.filter(|_| log.is_some()).map(|term| term + node * 10),
            elected: None,
            verdict,
            log,
            apart: apart.into_iter().filter(|other| *other != node).collect(),
            had: None,
            lease_ends: NOW + ms(lease) - ms(450),
        })
}

fn any_region() -> impl Strategy<Value = RegionSeen> {
    let voters = prop::sample::select(vec![1u64, 3, 3, 3, 5])
        .prop_flat_map(|n| (1..=n).map(voter).collect::<Vec<_>>());
    let attempt = (any::<bool>(), 1u64..4, 0u64..3_000);
    (voters, prop::collection::vec(attempt, 0..4)).prop_map(|(voters, mut attempts)| {
        attempts.sort_by_key(|(_, _, ago)| std::cmp::Reverse(*ago));
        let attempt = |(campaign, to, ago)| {
            let what = if campaign {
                Attempt::Campaign
            } else {
                Attempt::Transfer
            };
            tried(what, to, ago)
        };
        RegionSeen {
            voters,
            tried: attempts.into_iter().map(attempt).collect(),
            led: 0,
            lease_ends: ms(0),
            strangers: 0,
        }
    })
}

/// What is true of a region, each in its own words.
struct Truth<'a> {
    region: &'a RegionSeen,
    needed: usize,
    able: Vec<&'a Voter>,
    possible: usize,
    leader: Option<&'a Voter>,
}

impl<'a> Truth<'a> {
    fn of(region: &'a RegionSeen) -> Self {
        let voters = &region.voters;
        Self {
            region,
            needed: (voters.len() + 2) / 2,
            able: voters.iter().filter(|v| beats(v) && v.log.is_some()).collect(),
            possible: voters.iter().filter(|v| !v.verdict.is_dead()).count(),
            leader: voters
                .iter()
                .max_by_key(|v| v.leads)
                .filter(|v| v.leads.is_some()),
        }
    }

    /// A leader that cannot hand over, or that transfers did not move away.
    fn stubborn(&self) -> Option<&Voter> {
        let transfers = self.of_kind(Attempt::Transfer).count();
        let in_vain = (transfers >= 2 || self.is_out_of_reach()) && !self.transfer_may_work();
        self.leader
            .filter(|l| self.is_stranded() || l.verdict == hung() || (l.verdict == unwell() && in_vain))
    }

    /// A leader that has no contact with so many that a majority does not hear it.
    fn is_stranded(&self) -> bool {
        let hears = |l: &Voter, v: &&Voter| !v.verdict.is_dead() && !l.apart.contains(&v.node);
        let heard = |l: &Voter| self.region.voters.iter().filter(|v| hears(l, v)).count();
        self.leader.is_some_and(|l| beats(l) && heard(l) < self.needed)
    }

    /// There are heirs, and the leader reaches none.
    fn is_out_of_reach(&self) -> bool {
        let reaches = |v: &&&Voter| self.leader.is_some_and(|l| !l.apart.contains(&v.node));
        self.heirs().next().is_some() && !self.heirs().any(|v| reaches(&v))
    }

    /// The last one was sent just now, and its heir can be reached.
    fn transfer_may_work(&self) -> bool {
        let last = self.of_kind(Attempt::Transfer).last();
        let reaches = |t: &Tried| self.leader.is_some_and(|l| !l.apart.contains(&t.to));
        last.is_some_and(|t| reaches(t) && t.at + ms(500) > NOW)
    }

    /// Whether it could have a majority of these.
    fn could_win(&self, voter: &Voter, electors: &[&Voter]) -> bool {
        electors.iter().filter(|v| !voter.apart.contains(&v.node)).count() >= self.needed
    }

    fn of_kind(&self, what: Attempt) -> impl Iterator<Item = &Tried> {
        self.region.tried.iter().filter(move |t| t.what == what)
    }

    fn recent(&self, what: Attempt, within: u64) -> bool {
        self.of_kind(what).any(|t| t.at + ms(within) > NOW)
    }

    /// Nobody who may lead does.
    fn leaderless(&self) -> bool {
        match self.leader {
            Some(leader) => leader.verdict.is_dead() || self.stubborn().is_some(),
            None => {
                let unheard = self.region.voters.iter().any(|v| v.verdict.is_suspect());
                self.region.voters.len() > 1 && !unheard && !self.recent(Attempt::Transfer, 200)
            }
        }
    }

    fn electors(&self) -> Vec<&Voter> {
        let stubborn = self.stubborn().map(|l| l.node);
        self.able
            .iter()
            .filter(|v| Some(v.node) != stubborn)
            .copied()
            .collect()
    }

    fn campaign_is_under_way(&self) -> bool {
        let last = self.of_kind(Attempt::Campaign).last();
        last.is_some_and(|t| {
            let Some(told) = self.able.iter().find(|v| v.node == t.to) else {
                return false;
            };
            let log = told.log.expect("who is able has one");
            let refuses = |v: &&&Voter| v.log.is_some_and(|other| other.position() > log.position());
            let refused = self.able.iter().filter(refuses).count();
            let is_lost = log.at > t.at && self.able.len() - refused < self.needed;
            t.at + ms(200) > NOW && !is_lost
        })
    }

    /// The last lease of anybody who may still answer reads.
    fn lease(&self) -> Duration {
        let gone = |v: &Voter| {
            matches!(
                v.verdict,
                Verdict::Dead {
                    why: Death::Refused,
                    ..
                }
            )
        };
        let follows = |v: &Voter| beats(v) && v.leads.is_none() && v.log.is_some();
        let voters = self.region.voters.iter().filter(|v| !gone(v) && !follows(v));
        voters.map(|v| v.lease_ends).max().unwrap_or_default()
    }

    fn may_campaign(&self) -> bool {
        let electors = self.electors();
        let could_win = electors.iter().any(|v| self.could_win(v, &electors));
        let is_better = self.is_stranded() || self.heirs().next().is_some();
        let heir = self.stubborn().is_none() || (is_better && could_win);
        self.possible >= self.needed && self.leaderless() && self.electors().len() >= self.needed && heir
    }

    fn heirs(&self) -> impl Iterator<Item = &&Voter> {
        let leader = self.leader;
        self.able.iter().filter(move |v| match leader {
            Some(leader) if leader.node == v.node => false,
            Some(leader) if leader.verdict == hung() => v.verdict.is_alive() || v.verdict == slow(),
            // It serves as well as anybody who has to read the log first.
            Some(leader) if leader.verdict == slow() => {
                let end = |v: &Voter| v.log.map(|l| l.last_term);
                let is_fit = v.verdict.is_alive() || (v.verdict == slow() && leader.apart.contains(&v.node));
                is_fit && is_ready(v) && end(v) == end(leader)
            }
            Some(leader) if leader.apart.contains(&v.node) => v.verdict.is_alive() || v.verdict == slow(),
            _ => v.verdict.is_alive(),
        })
    }

    fn hot_that_keeps_up(&self) -> Vec<NodeId> {
        let Some((apart, leader)) = self.leader.and_then(|l| Some((&l.apart, l.log?))) else {
            return vec![];
        };
        let able = self.able.iter().filter(|v| is_ready(v));
        able.filter(|v| matches!(v.verdict, Verdict::Alive { since } if since + ms(2_000) <= NOW))
            .filter(|v| v.log.is_some_and(|log| log.last_term == leader.last_term))
            .map(|v| v.node)
            .filter(|node| !apart.contains(node))
            .collect()
    }

    fn check(&self, step: &Step) -> Result<(), TestCaseError> {
        let leader_is = |of: fn(&Verdict) -> bool| self.leader.is_some_and(|l| of(&l.verdict));
        let is_unwell = |v: &Verdict| matches!(v, Verdict::Unwell { .. });
        prop_assert_eq!(matches!(step, Step::MajorityLost(_)), self.possible < self.needed);
        if let Step::MajorityLost(loss) = step {
            prop_assert!(loss.alive.len() == self.possible && loss.needed == self.needed);
            prop_assert_eq!(loss.alive.len() + loss.lost.len(), self.region.voters.len());
            let position = |left: &Left| left.log.map(|log| log.position());
            let best = loss.alive.iter().map(position).max().flatten();
            prop_assert_eq!(loss.survivor().map(|(_, log)| log.position()), best);
            return Ok(());
        }
        let sends_one = self.may_campaign() && !self.campaign_is_under_way();
        let waits = sends_one && self.lease() > NOW;
        prop_assert_eq!(matches!(step, Step::WaitForLease { .. }), waits);
        prop_assert_eq!(matches!(step, Step::Campaign { .. }), sends_one && !waits);
        match step {
            Step::Campaign {
                node,
                raft_id,
                seen_term,
            } => self.check_campaign(*node, *raft_id, *seen_term)?,
            Step::WaitForLease { until } => prop_assert_eq!(*until, self.lease()),
            Step::Transfer { from, to } => {
                let leader = self.leader.expect("somebody hands over");
                prop_assert!(leader.node == *from && from != to && beats(leader));
                prop_assert!(self.heirs().any(|v| v.node == *to));
                prop_assert!(!self.transfer_may_work() && !leader.apart.contains(to));
                if leader.verdict.is_alive() {
                    prop_assert!(leader.role == VoterRole::LogOnly && self.hot_that_keeps_up().contains(to));
                    prop_assert!(!self.recent(Attempt::Transfer, 2_000));
                } else {
                    prop_assert!(self.of_kind(Attempt::Transfer).count() < 2);
                }
            }
            Step::Nothing { reason } => match reason {
                Reason::Led => {
                    let leader = self.leader.expect("somebody leads");
                    prop_assert!(leader.verdict.is_alive() && !self.is_stranded());
                    prop_assert!(leader.role == VoterRole::Hot || self.hot_that_keeps_up().is_empty());
                }
                Reason::ElectsItself => {
                    prop_assert!(self.region.voters.len() == 1 && self.leader.is_none());
                }
                Reason::LeaderSuspect { .. } => prop_assert!(leader_is(Verdict::is_suspect)),
                Reason::Unheard { nodes } => prop_assert!(self.leader.is_none() && !nodes.is_empty()),
                Reason::Undecided { nodes } => {
                    prop_assert!(self.leaderless() && self.electors().len() < self.needed);
                    prop_assert!(self.able.len() + nodes.len() >= self.needed);
                }
                Reason::CampaignUnderWay { .. } => {
                    prop_assert!(self.may_campaign() && self.campaign_is_under_way());
                }
                Reason::TransferUnderWay { .. } => {
                    let within = match self.leader {
                        None => 200,
                        Some(leader) if is_unwell(&leader.verdict) => 500,
                        Some(_) => 2_000,
                    };
                    prop_assert!(self.recent(Attempt::Transfer, within));
                    prop_assert!(self.leader.is_none_or(beats));
                }
                Reason::NobodyBetter { .. } => {
                    prop_assert!(leader_is(is_unwell) || self.is_stranded());
                    let short = self.stubborn().is_some() && !self.may_campaign();
                    let tried = self.of_kind(Attempt::Transfer).count() >= 2 || self.is_out_of_reach();
                    let serves = leader_is(|v| *v == slow()) && tried;
                    prop_assert!(self.heirs().next().is_none() || short || serves);
                }
                Reason::Opening { .. } => prop_assert!(false, "nobody is elected"),
                Reason::Limit { .. } => prop_assert!(false, "one region knows no limit"),
            },
            Step::MajorityLost(_) => {}
        }
        Ok(())
    }

    /// Nobody would have been better: tried less, further, better, hotter.
    fn check_campaign(&self, node: NodeId, raft_id: u64, seen_term: u64) -> Result<(), TestCaseError> {
        let electors = self.electors();
        let position = |v: &Voter| v.log.map(|l| (l.last_term, l.last_index));
        let tries = |v: &Voter| self.of_kind(Attempt::Campaign).filter(|t| t.to == v.node).count();
        let chosen = *electors.iter().find(|v| v.node == node).expect("it can vote");
        prop_assert_eq!(chosen.raft_id, raft_id);
        for voter in &self.region.voters {
            let term = voter.log.map(|l| l.term).max(voter.leads).unwrap_or(0);
            prop_assert!(term <= seen_term);
        }
        let gone_since = match self.leader.map(|l| &l.verdict) {
            Some(Verdict::Dead { gone_since, .. }) => *gone_since,
            _ => ms(0),
        };
        let wins = |v: &Voter| self.could_win(v, &electors);
        prop_assert!(wins(chosen) || !electors.iter().any(|v| wins(v)));
        let furthest = electors.iter().filter_map(|v| position(v)).max();
        let behind = |v: &Voter| {
            let fresh = v.log.is_some_and(|l| l.at >= gone_since);
            position(v) < furthest && (v.role == VoterRole::LogOnly || fresh)
        };
        // Whoever could not win is asked only when nobody could.
        let rivals: Vec<&&Voter> = electors.iter().filter(|v| wins(v) == wins(chosen)).collect();
        // The first campaign: the hot follower that is not behind, or the most up-to-date.
        if self.of_kind(Attempt::Campaign).next().is_none() {
            prop_assert!(!behind(chosen) || rivals.iter().all(|v| behind(v)));
            let fit = |v: &Voter| v.verdict.is_alive() || v.verdict == slow();
            let well = |v: &&&&Voter| fit(v) && !behind(v);
            let better_hot = rivals.iter().filter(well).any(|v| is_ready(v));
            prop_assert!(fit(chosen) || !rivals.iter().any(|v| well(&v)));
            prop_assert!(is_ready(chosen) || !better_hot);
        }
        // Later ones: nobody who is not behind waits for another who was tried more.
        for other in rivals.iter().filter(|v| !behind(v)) {
            prop_assert!(tries(chosen) <= tries(other), "{other:?}");
        }
        Ok(())
    }
}

/// Hot, and not in the middle of applying its log.
fn is_ready(voter: &Voter) -> bool {
    voter.role == VoterRole::Hot && voter.log.is_some_and(|log| log.applied_index == log.last_index)
}

fn beats(voter: &Voter) -> bool {
    matches!(voter.verdict, Verdict::Alive { .. } | Verdict::Unwell { .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn every_step_is_allowed_and_every_refusal_is_true(region in any_region()) {
        let step = step(&region);
        Truth::of(&region).check(&step)?;
        prop_assert_eq!(decide(&region, &Policy::default(), NOW), step);
    }
}

proptest! {
    /// No step is lost, the limits hold, and nobody is refused while there is room.
    #[test]
    fn a_plan_is_the_steps_within_limits(
        regions in prop::collection::vec(any_region(), 0..30),
        campaigns_at_once in 1usize..6,
        transfers_at_once in 1usize..6,
    ) {
        let policy = Policy { campaigns_at_once, transfers_at_once, ..Policy::default() };
        let regions: BTreeMap<RegionId, RegionSeen> = regions
            .into_iter()
            .enumerate()
            .map(|(i, region)| (RegionId::new(1, i as u32), region))
            .collect();
        let (plan, report) = plan(&Snapshot { regions: regions.clone() }, &policy, NOW);
        let steps: BTreeMap<RegionId, Step> =
            regions.iter().map(|(id, region)| (*id, decide(region, &policy, NOW))).collect();
        let count = |of: fn(&Step) -> bool| steps.values().filter(|s| of(s)).count();
        let under_way = |of: fn(&Reason) -> bool| {
            steps.values().filter(|s| matches!(s, Step::Nothing { reason } if of(reason))).count()
        };
        let campaigning = under_way(|r| matches!(r, Reason::CampaignUnderWay { .. }));
        let moving = under_way(|r| matches!(r, Reason::TransferUnderWay { .. }));
        let wanted = count(|s| matches!(s, Step::Campaign { .. }));
        prop_assert_eq!(plan.campaigns.len(), wanted.min(campaigns_at_once.saturating_sub(campaigning)));
        let wanted = count(|s| matches!(s, Step::Transfer { .. }));
        prop_assert_eq!(plan.transfers.len(), wanted.min(transfers_at_once.saturating_sub(moving)));
        for campaign in &plan.campaigns {
            let Campaign { node, raft_id, seen_term, .. } = *campaign;
            let step = Step::Campaign { node, raft_id, seen_term };
            prop_assert_eq!(&steps[&campaign.region], &step);
        }
        for (id, step) in &steps {
            prop_assert_eq!(plan.withheld.contains(id), step.withholds_lease());
            let led = matches!(step, Step::Nothing { reason: Reason::Led });
            let told = report.unserved.contains_key(id) as usize + report.misplaced.contains_key(id) as usize;
            prop_assert_eq!(told, usize::from(!led), "{:?}", step);
        }
    }
}
