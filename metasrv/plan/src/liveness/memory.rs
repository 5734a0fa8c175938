//! What is remembered of one datanode, and what follows from it.

use std::collections::BTreeSet;
use std::time::Duration;

use greptime_types::NodeId;

use super::brake::Brake;
use super::health::{Health, Suffers};
use super::{Connection, Death, Hold, Observed, Redial, Sign, Suspicion, Verdict};
use crate::{Defence, Policy};

/// Beats whose answers were not heard, when that is no chance. Some may be on their way, one lost, and the datanode may
/// have been stopped after them and have sent another one before it reads.
const UNHEARD_BEATS: usize = 6;

/// What is remembered of one datanode from look to look.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    incarnation: u64,
    last_beat: Option<Duration>,
    first_seen: Duration,
    /// How much of the silence since the last beat metasrv slept.
    credit: Duration,
    /// When the first beat came whose answer was not heard, and how much of the time since then metasrv slept.
    unheard: Option<(Duration, Duration)>,
    /// A fact about this incarnation, and since when it is gone. Only a beat refutes it: the next redial may find
    /// nobody who would refuse.
    pub(super) fact: Option<(Duration, Death)>,
    /// Most of those that beat could not reach it either, at some look of this silence. Remembered, since they forget
    /// whom a new metasrv leader cannot tell them the address of.
    pub(super) is_confirmed: bool,
    /// It was judged by this silence only because it outlasted the brake.
    outlasted: bool,
    pub(super) verdict: Verdict,
    /// When it was to be redialled last.
    pub(super) asked: Option<Duration>,
    health: Health,
}

/// A datanode that does not beat.
pub(super) struct Vanished {
    sign: Sign,
    /// Of which metasrv was awake.
    silence: Duration,
}

/// What holds in one look for everybody.
pub(super) struct Round {
    pub(super) now: Duration,
    pub(super) late: bool,
    pub(super) new_leader: bool,
    pub(super) brake: Option<Brake>,
    /// The last look at which the brake was on.
    pub(super) braked: Option<Duration>,
    /// The last look at which somebody was back whom the brake had held in vain.
    pub(super) returned: Option<Duration>,
    /// Whom most of those that beat cannot reach either, and most beat.
    pub(super) missed: BTreeSet<NodeId>,
}

impl Memory {
    pub(super) fn new(seen: &Observed, now: Duration) -> Self {
        Self {
            incarnation: seen.incarnation,
            last_beat: None,
            first_seen: now,
            credit: Duration::ZERO,
            unheard: None,
            fact: None,
            is_confirmed: false,
            outlasted: false,
            verdict: Verdict::Alive { since: now },
            asked: None,
            health: Health::default(),
        }
    }

    /// When it was heard last, or first known of.
    pub(super) fn heard(&self) -> Duration {
        self.last_beat.unwrap_or(self.first_seen)
    }

    /// Takes in a new process or a new beat. `slept`: how much of the time before `now` metasrv slept. Returns whether it
    /// is back from a silence that had outlasted the brake: it was the network then.
    pub(super) fn take_in(&mut self, seen: &Observed, now: Duration, slept: Duration) -> bool {
        let mut returned = false;
        if self.incarnation != seen.incarnation {
            *self = Self {
                first_seen: self.first_seen,
                ..Self::new(seen, now)
            };
        }
        if self.last_beat != seen.last_beat {
            self.last_beat = seen.last_beat;
            self.fact = None;
            self.is_confirmed = false;
            returned = std::mem::take(&mut self.outlasted);
            self.asked = None;
            self.credit = Duration::ZERO;
            if self.verdict.is_dead() {
                self.verdict = Verdict::Alive { since: now };
            }
        }
        let silence = now.saturating_sub(self.heard());
        self.credit += slept.min(silence.saturating_sub(self.credit));
        let first = seen.unheard.map(|unheard| unheard.first);
        let before = self.unheard.filter(|(since, _)| Some(*since) == first);
        let credit = before.map_or(Duration::ZERO, |(_, credit)| credit) + slept;
        self.unheard = first.map(|since| (since, credit.min(now.saturating_sub(since))));
        returned
    }

    /// Over what time its beats came without it having heard an answer, if that is no chance. Answers that metasrv did
    /// not give because it slept are none that were not heard.
    pub(super) fn deaf_for(&self, seen: &Observed, policy: &Policy) -> Option<Duration> {
        let unheard = seen.unheard.filter(|unheard| unheard.beats >= UNHEARD_BEATS)?;
        let slept = self.unheard.map_or(Duration::ZERO, |(_, credit)| credit);
        let length = (unheard.last - unheard.first).saturating_sub(slept);
        (length >= policy.deaf_after && Defence::DeafLeaderIsUnseated.holds()).then_some(length)
    }

    /// Whether it does not beat as it should. `is_deaf`: then its beats are not acknowledged either, and stop to come.
    pub(super) fn vanished(
        &self,
        seen: &Observed,
        is_deaf: bool,
        now: Duration,
        policy: &Policy,
    ) -> Option<Vanished> {
        let suspect_after = match is_deaf {
            true => policy.dead_after,
            false => policy.suspect_after,
        };
        let silence = now.saturating_sub(self.heard()).saturating_sub(self.credit);
        let sign = match (seen.connection, self.last_beat) {
            (Connection::Broken { .. }, _) => Sign::Broken,
            (_, None) | (Connection::Never, _) => Sign::NeverHeard,
            (Connection::Up, Some(_)) if silence >= suspect_after => Sign::Silent { silence },
            (Connection::Up, Some(_)) => return None,
        };
        Some(Vanished { sign, silence })
    }

    /// Remembers what is known for sure about the process that does not beat any more.
    pub(super) fn note_fact(&mut self, seen: &Observed) {
        let fact = match (seen.connection, seen.redial) {
            (Connection::Broken { since }, Redial::Refused) => (since, Death::Refused),
            (Connection::Broken { since }, Redial::OtherIncarnation) => (since, Death::OtherIncarnation),
            (Connection::Up, Redial::OtherIncarnation) => (self.heard(), Death::OtherIncarnation),
            _ => return,
        };
        self.fact.get_or_insert(fact);
    }

    pub(super) fn present(
        &mut self,
        seen: &Observed,
        suffers: Suffers,
        policy: &Policy,
        now: Duration,
    ) -> Verdict {
        match (self.health.look(seen, suffers, policy, now), &self.verdict) {
            (Some((since, why)), _) => Verdict::Unwell { since, why },
            (None, Verdict::Alive { since }) => Verdict::Alive { since: *since },
            (None, _) => Verdict::Alive { since: now },
        }
    }

    pub(super) fn absent(
        &mut self,
        node: NodeId,
        seen: &Observed,
        gone: &Vanished,
        round: &Round,
        policy: &Policy,
    ) -> Verdict {
        if let Some((gone_since, why)) = self.fact {
            return Verdict::Dead { gone_since, why };
        }
        let silence = gone.silence;
        let held = match self.hold(node, seen, silence, round, policy) {
            Judged::Dead => {
                let is_held = |brake: &Brake| brake.vanished.contains(&node);
                self.outlasted |= round.brake.as_ref().is_some_and(is_held);
                return Verdict::Dead {
                    gone_since: self.heard(),
                    why: Death::Silence { silence },
                };
            }
            Judged::Held(hold) => Some(hold),
            Judged::NotYet => None,
        };
        let since = match &self.verdict {
            Verdict::Suspect { since, .. } => *since,
            _ => round.now,
        };
        let why = Suspicion {
            sign: gone.sign,
            held,
        };
        Verdict::Suspect { since, why }
    }

    /// Whether its silence makes it dead, and what stands against it.
    fn hold(
        &self,
        node: NodeId,
        seen: &Observed,
        silence: Duration,
        round: &Round,
        policy: &Policy,
    ) -> Judged {
        let (was_dead, is_missed) = (self.verdict.is_dead(), round.missed.contains(&node));
        if silence < self.shortest_limit(is_missed, policy) && !was_dead {
            return Judged::NotYet;
        }
        // Of a silence that others see too, or that lasts, the brake has nothing to say.
        let lasts = silence >= policy.brake_for && Defence::BrakeEnds.holds();
        let is_believed = self.is_confirmed || lasts;
        if let Some(brake) = round.brake.as_ref().filter(|_| !is_believed)
            && (brake.vanished.contains(&node) || !was_dead)
        {
            let left = policy.brake_for.saturating_sub(silence);
            return Judged::Held(Hold::Brake { left });
        }
        let since = match () {
            () if self.outlasted => round.returned,
            () if was_dead || self.is_confirmed || round.brake.is_some() => None,
            () => round.braked,
        };
        if let Some(at) = since
            && self.heard() <= at
            && round.now < at + policy.introduction
        {
            return Judged::Held(Hold::AfterBrake);
        }
        if was_dead {
            return Judged::Dead;
        }
        match () {
            () if round.late => Judged::Held(Hold::Late),
            () if round.new_leader => Judged::Held(Hold::NewLeader),
            () if silence < self.limit(is_missed, seen, policy) => Judged::Held(Hold::Answers),
            () => Judged::Dead,
        }
    }

    /// Whoever has not come to a new leader may not have found it yet, unless the others miss it too.
    fn shortest_limit(&self, is_missed: bool, policy: &Policy) -> Duration {
        match self.last_beat {
            None if !is_missed => policy.introduction,
            _ => policy.dead_after,
        }
    }

    /// The silence that makes it dead: longer if the process has answered a redial meanwhile.
    fn limit(&self, is_missed: bool, seen: &Observed, policy: &Policy) -> Duration {
        // An answer from before the last beat adds nothing.
        let answered = match (seen.redial, self.last_beat) {
            (Redial::Accepted { at }, Some(beat)) => at.saturating_sub(beat),
            _ => Duration::ZERO,
        };
        let limit = self.shortest_limit(is_missed, policy);
        match self.last_beat {
            None => limit,
            Some(_) => (answered + limit).min(policy.answering_dead_after),
        }
    }

    pub(super) fn wants_redial(&self, seen: &Observed, policy: &Policy, now: Duration) -> bool {
        // Who is dead by silence is still asked now and then: a refusal would void what it was promised.
        let again = match self.verdict.is_dead() {
            true => policy.introduction,
            false => policy.redial_again,
        };
        let due = self.asked.is_none_or(|at| now.saturating_sub(at) >= again);
        let has_address = seen.connection != Connection::Never;
        due && has_address && self.fact.is_none() && seen.redial != Redial::Pending
    }
}

enum Judged {
    Dead,
    Held(Hold),
    NotYet,
}
