//! Who is alive, from heartbeats, connections and redials.
//!
//! | from | to | when |
//! |---|---|---|
//! | any | Alive | a new beat |
//! | Alive | Suspect | silent for a while, or the connection broke |
//! | Alive | Unwell | its disk is stuck, or it is cut off from most of its peers |
//! | Unwell | Alive | no sign of that for a while |
//! | Unwell | Suspect | as from Alive |
//! | Suspect | Dead | a fact about the process, or silent for long and nothing speaks against judging |
//! | Dead, by silence | Suspect | the brake, or others come back whom it had held in vain |
//!
//! * **Facts** kill at once. The connection broke and the address that it led to, the pod's own and no service's,
//!   refuses a new one: there is no process. Or another incarnation answers there. Both are about that process,
//!   whatever the network does, so they count also while the brake is on, and for a new metasrv leader.
//! * **Silence** makes suspect first, which asks for a redial, and then dead. A redial that the very process answers
//!   gives it more time, not for ever: a datanode that lives and does not beat can be told nothing.
//! * **Lateness** of the detector itself is credited to everybody: in a round that comes too late nobody is judged by
//!   silence, and the silences are shortened by what metasrv slept. Beats may have waited to be read.
//! * **A new leader** of metasrv judges nobody by silence until a lease and a detection window have passed, and those
//!   that have not found it yet have longer, unless most of the others have, and most of them cannot reach them either.
//! * **The brake**: if more datanodes fell silent at once than were still heard then, metasrv is probably the one cut
//!   off, and nobody is judged by silence. Those judged already for the same silence are suspects again. Facts do not
//!   put the brake on: a refusal came over a network that works. It holds until enough of them are back or refuse.
//!   Whom more than half of those that beat cannot reach either is confirmed to be away: it is judged as ever, and does
//!   not put the brake on. And it holds nobody for longer than [`Policy::brake_for`](crate::Policy::brake_for) of silence.
//!   If one of those judged only then comes back as the same process, it was the network after all, and the others have
//!   an introduction's time to come back too.
//! * **Unwell** is a living datanode that should not lead: its disk is stuck, it does not hear the answers to its beats, or
//!   it is cut off from most of its peers. Beats that nobody acknowledges stop to come after a while, so of one that was
//!   found deaf a silence is no news until it is long enough for a death. If most are deaf, it is metasrv that is not heard. What
//!   datanodes say of each other counts when a new leader of metasrv has had the time to tell them where they are.
//!
//! One new beat makes a datanode alive again, dead as it may have been: there is no hysteresis in being alive, since
//! judging again takes the whole silence again. What should not follow every blip looks at how long it has been alive
//! ([`Verdict::Alive`]); being unwell ends only when there was no sign of it for a while.

mod brake;
mod detector;
mod health;
mod memory;
mod reach;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use greptime_types::NodeId;

pub use brake::Brake;
pub use detector::Detector;

use crate::lease::Unheard;

/// A datanode as metasrv sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The process that registered last; 0 if none has since this metasrv leads.
    pub incarnation: u64,
    pub connection: Connection,
    /// Outcome of the newest redial of the address of this connection. Starts anew with a new connection.
    pub redial: Redial,
    /// Arrival of the newest beat (or registration) of this incarnation at this metasrv leader.
    pub last_beat: Option<Duration>,
    /// How long its oldest unfinished append has been waiting, as it said in the last beat.
    pub oldest_append: Duration,
    /// Its last beats, if it is not known that their answers were heard.
    pub unheard: Option<Unheard>,
    /// The datanodes that it said it cannot reach.
    pub unreachable: BTreeSet<NodeId>,
    /// It said that it is about to stop.
    pub is_stopping: bool,
}

impl Observed {
    /// One that has said nothing of itself.
    pub fn new(incarnation: u64, connection: Connection, last_beat: Option<Duration>) -> Self {
        Self {
            incarnation,
            connection,
            redial: Redial::Untried,
            last_beat,
            oldest_append: Duration::ZERO,
            unheard: None,
            unreachable: BTreeSet::new(),
            is_stopping: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Not since this metasrv leads.
    Never,
    Up,
    Broken {
        since: Duration,
    },
}

/// What is known of a redial. A host that refuses has answered for a process that is gone; no answer is no news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redial {
    Untried,
    Pending,
    Refused,
    /// Somebody answered, and it is not the incarnation that registered.
    OtherIncarnation,
    /// The very process answered, with its incarnation. A connection that was taken by the kernel, without an answer
    /// of the process, is `NoAnswer`.
    Accepted {
        at: Duration,
    },
    NoAnswer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Alive {
        /// Since when without a suspicion.
        since: Duration,
    },
    Suspect {
        since: Duration,
        why: Suspicion,
    },
    /// It beats, and leaders are to be moved away from it.
    Unwell {
        since: Duration,
        why: Ailment,
    },
    Dead {
        /// The last time that the process may have done anything that others saw: its last beat, or when its
        /// connection broke.
        gone_since: Duration,
        why: Death,
    },
}

impl Verdict {
    /// It beats: it can be told something and will answer.
    pub fn beats(&self) -> bool {
        matches!(self, Self::Alive { .. } | Self::Unwell { .. })
    }

    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Alive { .. })
    }

    pub fn is_suspect(&self) -> bool {
        matches!(self, Self::Suspect { .. })
    }

    pub fn is_dead(&self) -> bool {
        matches!(self, Self::Dead { .. })
    }

    /// What keeps it from being judged dead though its silence would suffice.
    pub fn held(&self) -> Option<Hold> {
        match self {
            Self::Suspect { why, .. } => why.held,
            _ => None,
        }
    }

    /// It beats, and does what a leader has to, though a moment ago it may not have.
    pub fn could_lead(&self) -> bool {
        let is_over = |why: &Ailment| matches!(why, Ailment::SlowDisk | Ailment::WasDeaf);
        self.is_alive() || matches!(self, Self::Unwell { why, .. } if is_over(why))
    }

    /// It beats, and cannot hand over what it leads.
    pub fn hangs(&self) -> bool {
        let hangs = |why: &Ailment| matches!(why, Ailment::HungDisk { .. } | Ailment::Deaf { .. });
        matches!(self, Self::Unwell { why, .. } if hangs(why))
    }

    /// The process is gone for sure, and whatever it was promised with it.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Dead { why, .. } if why.is_fact())
    }
}

/// Why a datanode is suspect, and what keeps it from being judged dead though its silence would suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    pub sign: Sign,
    pub held: Option<Hold>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Silent {
        silence: Duration,
    },
    Broken,
    /// It has not beaten since this metasrv leads.
    NeverHeard,
}

/// Why nobody, or not this one, is judged by silence now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// metasrv itself slept.
    Late,
    /// metasrv leads for less than a lease and a detection window.
    NewLeader,
    /// More than half vanished at once. It holds for so long yet.
    Brake { left: Duration },
    /// They did until just now; whoever is still away has an introduction's time to find metasrv again.
    AfterBrake,
    /// The process answers redials.
    Answers,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// It wants to stop, and waits until others lead what it leads.
    Stopping,
    /// An append waits for its disk, and with it everything that this datanode would have to do.
    HungDisk { oldest_append: Duration },
    /// An append has waited, not long ago.
    SlowDisk,
    /// Its beats come, and it does not hear the answers: it can be told nothing.
    Deaf { unheard: Duration },
    /// It was, not long ago.
    WasDeaf,
    /// A majority of the other living datanodes cannot reach it, or it cannot reach them.
    CutOff { from: Vec<NodeId> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Refused,
    OtherIncarnation,
    Silence { silence: Duration },
}

impl Death {
    /// Known of the process itself, not guessed from silence.
    pub fn is_fact(&self) -> bool {
        matches!(self, Self::Refused | Self::OtherIncarnation)
    }
}

/// What a look found.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdicts: BTreeMap<NodeId, Verdict>,
    /// Whom to redial now, at the address of its connection. Say `Redial::Pending` at once, and give up (`NoAnswer`)
    /// after about the time of [`Policy::redial_again`](crate::Policy::redial_again).
    pub redial: BTreeSet<NodeId>,
    /// By how much this look came too late, if it did. Where it always does, nobody is ever judged by silence: such a
    /// metasrv should not lead.
    pub late: Option<Duration>,
    /// The brake, if it keeps anybody from being judged.
    pub brake: Option<Brake>,
    /// Of those that beat, the pairs that do not reach each other, as both say, or one for
    /// [`Policy::unreachable_for`](crate::Policy::unreachable_for); the lower id first.
    pub apart: BTreeSet<(NodeId, NodeId)>,
}

impl Judgement {
    /// The living datanodes that do not reach a datanode, or that it does not reach.
    pub fn apart_from(&self, node: NodeId) -> BTreeSet<NodeId> {
        reach::apart_from(node, &self.apart)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive { .. } => f.write_str("alive"),
            Self::Suspect { why, .. } => write!(f, "suspect: {why}"),
            Self::Unwell { why, .. } => write!(f, "unwell: {why}"),
            Self::Dead { why, .. } => write!(f, "dead: {why}"),
        }
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sign {
            Sign::Silent { silence } => write!(f, "silent for {silence:?}")?,
            Sign::Broken => f.write_str("its connection is broken")?,
            Sign::NeverHeard => f.write_str("not heard since this metasrv leads")?,
        }
        self.held.iter().try_for_each(|held| write!(f, "; {held}"))
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("not judged: metasrv itself was stopped"),
            Self::NewLeader => f.write_str("not judged: this metasrv has just become leader"),
            Self::Brake { left } => write!(
                f,
                "not judged for another {left:?}, unless most of those that beat cannot reach it either: more than half \
                 vanished at once, metasrv may be cut off"
            ),
            Self::AfterBrake => f.write_str("not judged yet: more than half had vanished at once"),
            Self::Answers => f.write_str("not judged yet: its process answers"),
        }
    }
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => f.write_str("it is about to stop"),
            Self::HungDisk { oldest_append } => {
                write!(f, "an append has waited {oldest_append:?} for its disk")
            }
            Self::SlowDisk => f.write_str("an append has waited too long for its disk, not long ago"),
            Self::Deaf { unheard } => {
                write!(
                    f,
                    "its beats of {unheard:?} came, and it has not heard the answer to any"
                )
            }
            Self::WasDeaf => f.write_str("it did not hear the answers to its beats, not long ago"),
            Self::CutOff { from } => {
                write!(f, "it and most of the others, {from:?}, cannot reach each other")
            }
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("its connection broke and its address refuses a new one"),
            Self::OtherIncarnation => f.write_str("another process answers at its address"),
            Self::Silence { silence } => write!(f, "silent for {silence:?}"),
        }
    }
}
