//! How the replica of a region goes from one datanode to another without anybody noticing.
//!
//! ```text
//! Waiting ──► Joining ──► Warming ──► HandingOver ──► Leaving ──► Done
//!    │           │  └───────────────────────────────────▲
//!    └───────────┴──────────┴───────────┴──► Aborting ──► Aborted
//! ```
//!
//! * **Waiting**: others go first.
//! * **Joining**: a replica on the target is recorded as one more member. It learns, and gets a vote
//!   ([`members::step`](crate::members::step)).
//! * **Warming**: it applies what is committed, and brings near what queries need.
//! * **HandingOver**: the leader hands over to it. This is all that a writer can feel.
//! * **Leaving**: the replica on the source is recorded no more, and leaves.
//!
//! Where the source does not lead, nothing is warmed or handed over. Where the target has a replica already, nobody
//! joins or leaves: the two change their places, unless the target is preferred for leading as it is. A source that is gone
//! begins with Leaving: its place is taken.
//!
//! Every phase is recorded before anything of it is done, and each of its acts can be repeated; so whoever comes to lead
//! metasrv goes on. Until the source has handed over, a migration can be undone; from then on it can only be finished.

use std::fmt;

use greptime_types::{NodeId, RegionId};
use serde::{Deserialize, Serialize};

use crate::assignment::Member;
use crate::members::{Membership, Waiting};
use crate::placement::Candidate;
use crate::repair::choose;

/// A replica that moves, as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    pub region: RegionId,
    pub from: NodeId,
    pub to: NodeId,
    /// Raft id of the replica on `from`.
    pub leaves: u64,
    /// Raft id of the replica on `to`.
    pub comes: u64,
    /// The replica on `to` was made for this. If not, only leadership moves.
    pub is_new: bool,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Waiting,
    Joining,
    Warming,
    HandingOver,
    Leaving,
    Done,
    Aborting,
    Aborted,
}

impl Phase {
    pub fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Joining => "joining",
            Self::Warming => "warming",
            Self::HandingOver => "handing_over",
            Self::Leaving => "leaving",
            Self::Done => "done",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }

    /// Whether what was done until here can be undone.
    pub fn can_abort(self) -> bool {
        matches!(
            self,
            Self::Waiting | Self::Joining | Self::Warming | Self::HandingOver
        )
    }
}

/// What metasrv sees of the region now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub membership: Membership,
    /// The replica that comes, if its datanode says something of it.
    pub target: Option<Target>,
    pub is_target_alive: bool,
    /// Its datanode is none that leadership is moved away from: it is alive, and was not unwell a moment ago either.
    pub is_target_well: bool,
    /// The group has it, and its datanode came back without it.
    pub is_target_lost: bool,
    /// Nobody may wait any longer, or a person wants it undone; why.
    pub give_up: Option<String>,
}

/// The replica that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub is_hot: bool,
    pub is_warm: bool,
}

/// What a migration needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Wait(WaitingFor),
    /// Tell the leader to hand over to the replica that comes.
    HandOver,
    /// Record the phase, with the members that go with it ([`Migration::members_in`]).
    Enter(Phase),
    /// Record [`Phase::Aborting`], and why.
    Abort(String),
}

/// Why nothing is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    Members(Waiting),
    /// The datanode of the target is away.
    Target(NodeId),
    /// It is there, and would have to hand back at once: it is suspect, or unwell.
    ToBeWell(NodeId),
    /// It has yet to apply what there is.
    ToApply(NodeId),
    /// It has yet to bring near what queries need.
    ToWarm(NodeId),
    NobodyLeads,
    /// Others are under way.
    Turn {
        at_once: usize,
    },
    Nothing,
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Members(waiting) => waiting.fmt(f),
            Self::Target(node) => write!(f, "datanode {node} is away"),
            Self::ToBeWell(node) => write!(f, "datanode {node} is not well, and would hand back at once"),
            Self::ToApply(node) => write!(f, "datanode {node} has yet to apply what there is"),
            Self::ToWarm(node) => write!(f, "datanode {node} has yet to bring near what queries need"),
            Self::NobodyLeads => f.write_str("nobody leads the region"),
            Self::Turn { at_once } => write!(f, "waits for its turn: {at_once} are under way"),
            Self::Nothing => Ok(()),
        }
    }
}

impl Migration {
    /// What is needed next. `waits`: what the members wait for, from [`members::waits`](crate::members::waits).
    pub fn next(&self, seen: &Seen, waits: &Waiting) -> Next {
        let led = seen.membership.led.as_ref();
        let leader = led.map(|led| led.raft_id);
        if let Some(reason) = self.reason_to_abort(seen, leader) {
            return Next::Abort(reason);
        }
        let settled = *waits == Waiting::Settled;
        match self.phase {
            Phase::Waiting => Next::Enter(Phase::Joining),
            Phase::Joining => match led {
                None => Next::Wait(WaitingFor::NobodyLeads),
                Some(led) if led.voters.contains(&self.comes) => match led.raft_id == self.leaves {
                    true => Next::Enter(Phase::Warming),
                    false => self.handed_over(),
                },
                Some(_) if !seen.is_target_alive => Next::Wait(WaitingFor::Target(self.to)),
                Some(_) => Next::Wait(WaitingFor::Members(waits.clone())),
            },
            Phase::Warming if leader.is_some() && leader != Some(self.leaves) => self.handed_over(),
            Phase::Warming => match seen.target.filter(|_| seen.is_target_alive) {
                None => Next::Wait(WaitingFor::Target(self.to)),
                Some(target) if target.is_warm => Next::Enter(Phase::HandingOver),
                Some(target) if target.is_hot => Next::Wait(WaitingFor::ToWarm(self.to)),
                Some(_) => Next::Wait(WaitingFor::ToApply(self.to)),
            },
            Phase::HandingOver => match leader {
                None => Next::Wait(WaitingFor::NobodyLeads),
                Some(leader) if leader != self.leaves => self.handed_over(),
                // The leader takes no writes while it hands over: not for somebody who cannot take it.
                Some(_) => match seen.target.filter(|_| seen.is_target_alive) {
                    None => Next::Wait(WaitingFor::Target(self.to)),
                    Some(_) if !seen.is_target_well => Next::Wait(WaitingFor::ToBeWell(self.to)),
                    Some(target) if target.is_hot => Next::HandOver,
                    Some(_) => Next::Wait(WaitingFor::ToApply(self.to)),
                },
            },
            Phase::Leaving if settled => Next::Enter(Phase::Done),
            Phase::Aborting if settled => Next::Enter(Phase::Aborted),
            Phase::Leaving | Phase::Aborting => Next::Wait(WaitingFor::Members(waits.clone())),
            Phase::Done | Phase::Aborted => Next::Wait(WaitingFor::Nothing),
        }
    }

    fn reason_to_abort(&self, seen: &Seen, leader: Option<u64>) -> Option<String> {
        if !self.phase.can_abort() {
            return None;
        }
        let is_recorded = |id: u64| seen.membership.recorded.iter().any(|m| m.raft_id == id);
        let is_lost = seen.is_target_lost || !is_recorded(self.comes);
        if is_lost && self.phase != Phase::Waiting {
            return Some(format!("the replica on datanode {} was lost", self.to));
        }
        let is_another = |m: &Member| m.node == self.to && m.raft_id != self.comes;
        if seen.membership.recorded.iter().any(is_another) {
            return Some(format!("datanode {} got another replica meanwhile", self.to));
        }
        if !is_recorded(self.leaves) {
            return Some(format!(
                "the replica on datanode {} was replaced meanwhile",
                self.from
            ));
        }
        // What has come to lead stays.
        seen.give_up.clone().filter(|_| leader != Some(self.comes))
    }

    /// The source does not lead: it never did, has handed over, or was given up.
    fn handed_over(&self) -> Next {
        Next::Enter(match self.is_new {
            true => Phase::Leaving,
            false => Phase::Done,
        })
    }

    /// The replica that comes must apply what is committed: it leads soon.
    pub fn must_be_hot(&self) -> bool {
        matches!(self.phase, Phase::Warming | Phase::HandingOver)
    }

    /// The replica that comes.
    pub fn target(&self) -> Member {
        Member {
            raft_id: self.comes,
            node: self.to,
        }
    }

    /// Who is to be recorded as member from a phase on, in the order of preference for leading; `recorded` are those of
    /// before. Whoever was handed over to is preferred to the source: else it would hand back at once.
    pub fn members_in(&self, phase: Phase, recorded: &[Member]) -> Vec<Member> {
        let comes = self.target();
        let place = |members: &[Member], id: u64| members.iter().position(|m| m.raft_id == id);
        let mut members = recorded.to_vec();
        match phase {
            Phase::Joining if self.is_new => members.push(comes),
            // It takes the place of the one that leaves.
            Phase::Leaving => {
                members.retain(|m| m.raft_id != self.comes);
                match place(&members, self.leaves) {
                    // The source may have led from the last place, because nobody else could.
                    Some(place) if self.phase == Phase::HandingOver => {
                        members.remove(place);
                        members.insert(0, comes);
                    }
                    Some(place) => members[place] = comes,
                    None => members.push(comes),
                }
            }
            Phase::Done if !self.is_new => {
                let places = place(&members, self.leaves).zip(place(&members, self.comes));
                if let Some((leaves, comes)) = places.filter(|(leaves, comes)| leaves < comes) {
                    members.swap(leaves, comes);
                }
            }
            Phase::Aborting if self.is_new => members.retain(|m| m.raft_id != self.comes),
            _ => {}
        }
        members
    }
}

/// Where a replica goes when its datanode is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuge {
    /// To a datanode that has none.
    Replica(NodeId),
    /// No datanode has room for it; this member leads in its place.
    Leadership(Member),
    /// It stays, and does not lead.
    Stays,
    /// It stays and leads: there is nobody else.
    NobodyElse,
}

/// Where the replica on `from` goes. `leads`: whether it leads; `candidates`: all datanodes, those that may take
/// something being alive.
pub fn refuge(members: &[Member], from: NodeId, leads: bool, candidates: &[Candidate]) -> Refuge {
    let load = candidates.iter().map(|c| (c.node, c.replicas)).collect();
    // It may go into the zone that it leaves, and not where the others are.
    let others: Vec<Member> = members.iter().filter(|m| m.node != from).copied().collect();
    let free: Vec<Candidate> = candidates.iter().filter(|c| c.node != from).cloned().collect();
    if let Some(node) = choose(1, &others, &free, &load).first() {
        return Refuge::Replica(*node);
    }
    if !leads {
        return Refuge::Stays;
    }
    let leaders = |m: &&Member| {
        let candidate = free.iter().find(|c| c.node == m.node && c.alive)?;
        Some((candidate.leaders, candidate.node))
    };
    let able = others.iter().filter(|m| leaders(m).is_some());
    able.min_by_key(leaders)
        .map_or(Refuge::NobodyElse, |m| Refuge::Leadership(*m))
}

#[cfg(test)]
mod tests;
