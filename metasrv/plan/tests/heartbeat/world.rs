//! The simulated processes. Times are microseconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use greptime_metasrv_plan::Detector;
use greptime_metasrv_plan::liveness::{Connection, Observed, Redial, Verdict};
use greptime_types::NodeId;

use super::random::Random;
use super::{Detection, Outcome, Settings};

/// A beat may go out later than it should by this.
const BEAT_JITTER: u64 = 3_000;
/// A look may come, or a beat be read, later than it should by this.
const WAKE_JITTER: u64 = 2_000;
/// Events of one datanode that are further apart than this do not add up.
const APART: u64 = 500_000;
/// Cuts end at least so much before an event: there is a look between them.
const AHEAD: u64 = 30_000;

/// The next, or present, pause of a process.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    at: u64,
    until: u64,
}

impl Pause {
    /// `time`, or when the pause is over if it falls into it.
    fn after(&self, time: u64, wake: u64) -> u64 {
        if (self.at..self.until).contains(&time) {
            self.until + wake
        } else {
            time
        }
    }
}

#[derive(Debug)]
struct Datanode {
    next_beat: u64,
    /// Beats until one is lost.
    to_loss: u64,
    /// The same after that one, if it was drawn already.
    after_loss: Option<u64>,
    /// The last beat was lost.
    hurries: bool,
    pause: Pause,
    pause_before: Pause,
    /// When metasrv reads the beats that are on their way.
    on_the_way: VecDeque<u64>,
    last_read: u64,
    redial: Redial,
    redialled: Option<(u64, Redial)>,
    silent_from: u64,
    verdict_was: u8,
}

/// metasrv, its datanodes, and the present.
pub(super) struct World<'a> {
    settings: &'a Settings,
    random: Random,
    now: u64,
    /// How much time was cut out before now: the detector's clock is behind by this.
    cut: u64,
    metasrv: Pause,
    datanodes: Vec<Datanode>,
    detector: Detector,
    observed: BTreeMap<NodeId, Observed>,
    outcome: Outcome,
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

impl<'a> World<'a> {
    pub(super) fn new(settings: &'a Settings, seed: u64) -> Self {
        let mut world = Self {
            settings,
            random: Random::new(seed),
            // Not 0, so that beats before the beginning have a time.
            now: 1_000_000,
            cut: 0,
            metasrv: Pause {
                at: 0,
                until: 1_000_000,
            },
            datanodes: vec![],
            detector: Detector::new(settings.policy.clone(), Duration::from_secs(1)),
            observed: BTreeMap::new(),
            outcome: Outcome::default(),
        };
        world.metasrv = world.next_pause(world.now);
        for node in 0..settings.datanodes {
            world
                .observed
                .insert(node as NodeId, Observed::new(1, Connection::Up, None));
            let datanode = Datanode {
                next_beat: world.now + world.random.below(micros(settings.policy.beat)),
                to_loss: world.random.until(settings.loss),
                after_loss: None,
                hurries: false,
                pause: world.next_pause(world.now),
                pause_before: Pause::default(),
                on_the_way: VecDeque::new(),
                last_read: world.now,
                redial: Redial::Untried,
                redialled: None,
                silent_from: u64::MAX,
                verdict_was: 0,
            };
            world.datanodes.push(datanode);
        }
        world
    }

    /// Lives for so many hours.
    pub(super) fn run(&mut self, hours: f64) -> Outcome {
        let end = self.now + (hours * 3.6e9) as u64;
        let start = self.now;
        while self.now < end {
            if !self.settings.every_beat && self.is_quiet() {
                self.cut_to_next_event(end);
            }
            self.next_look();
        }
        self.outcome.hours = (self.now - start) as f64 / 3.6e9;
        self.outcome
    }

    /// One datanode falls silent some time after the beginning; returns when it is judged dead.
    pub(super) fn silence_one(&mut self) -> Detection {
        let policy = &self.settings.policy;
        // Past the time in which a new leader judges nobody.
        let patience = micros(policy.lease + policy.dead_after) * 2;
        let death = self.now + patience + self.random.below(10_000_000);
        let victim = self.random.below(self.datanodes.len() as u64) as usize;
        self.datanodes[victim].silent_from = death;
        loop {
            let dead = self.next_look();
            let of = |time: u64| Duration::from_micros(self.now - time);
            if self.now > death && dead.contains(&(victim as NodeId)) {
                return Detection {
                    after_last_beat: of(self.datanodes[victim].last_read),
                    after_death: of(death),
                };
            }
        }
    }

    fn next_pause(&mut self, from: u64) -> Pause {
        let at = from + self.random.wait(micros(self.settings.pause_every));
        let length = self.random.below(micros(self.settings.policy.pause) + 1);
        Pause {
            at,
            until: at + length,
        }
    }

    /// Goes on to the next look; returns who is dead.
    fn next_look(&mut self) -> BTreeSet<NodeId> {
        let due = self.now + micros(self.settings.policy.look) + self.random.below(WAKE_JITTER);
        let wake = self.random.below(WAKE_JITTER);
        let at = self.metasrv.after(due, wake);
        for i in 0..self.datanodes.len() {
            self.beat_until(i, at);
            self.read_until(i, at);
        }
        if self.metasrv.until <= at {
            self.outcome.pauses += 1;
            self.metasrv = self.next_pause(at);
        }
        self.now = at;
        self.judge()
    }

    /// Sends all beats of one datanode that are due.
    fn beat_until(&mut self, i: usize, end: u64) {
        let policy = &self.settings.policy;
        let (beat, hurried) = (micros(policy.beat), micros(policy.hurried_beat));
        while self.datanodes[i].next_beat <= end {
            let sent = self.datanodes[i]
                .pause
                .after(self.datanodes[i].next_beat, self.random.below(WAKE_JITTER));
            if sent > end {
                self.datanodes[i].next_beat = sent;
                return;
            }
            if self.datanodes[i].pause.until <= sent {
                self.outcome.pauses += 1;
                let next = self.next_pause(sent);
                let datanode = &mut self.datanodes[i];
                datanode.pause_before = std::mem::replace(&mut datanode.pause, next);
            }
            let jitter = self.random.below(BEAT_JITTER);
            let lost = self.datanodes[i].to_loss == 0;
            self.datanodes[i].hurries = lost;
            let pause_of_metasrv = self.metasrv;
            if lost {
                let next = self.random.until(self.settings.loss);
                let datanode = &mut self.datanodes[i];
                datanode.to_loss = datanode.after_loss.take().unwrap_or(next);
                datanode.next_beat = sent + hurried + jitter;
                self.outcome.lost_beats += 1;
            } else {
                let way = 1 + self.random.below(micros(self.settings.policy.way));
                let read = pause_of_metasrv.after(sent + way, self.random.below(WAKE_JITTER));
                let datanode = &mut self.datanodes[i];
                datanode.to_loss -= 1;
                datanode.next_beat = sent + beat + jitter;
                if sent < datanode.silent_from {
                    datanode.on_the_way.push_back(read);
                }
            }
        }
    }

    /// Takes in what has arrived by then: beats, and the outcome of a redial.
    fn read_until(&mut self, i: usize, end: u64) {
        let datanode = &mut self.datanodes[i];
        datanode.on_the_way.retain(|read| {
            let there = *read <= end;
            if there {
                datanode.last_read = datanode.last_read.max(*read);
            }
            !there
        });
        if let Some((at, outcome)) = datanode.redialled.filter(|(at, _)| *at <= end) {
            datanode.redial = outcome;
            datanode.redialled = None;
            debug_assert!(at <= end);
        }
    }

    fn judge(&mut self) -> BTreeSet<NodeId> {
        let cut = self.cut;
        let clock = |time: u64| Duration::from_micros(time.saturating_sub(cut));
        for (seen, datanode) in self.observed.values_mut().zip(&self.datanodes) {
            seen.last_beat = Some(clock(datanode.last_read));
            seen.redial = match datanode.redial {
                Redial::Accepted { at } => Redial::Accepted {
                    at: clock(micros(at)),
                },
                other => other,
            };
        }
        let judgement = self.detector.look(clock(self.now), &self.observed);
        self.outcome.looks += 1;
        self.outcome.late_looks += u64::from(judgement.late.is_some());
        self.outcome.braked_looks += u64::from(judgement.brake.is_some());
        for (node, verdict) in &judgement.verdicts {
            self.count(*node as usize, verdict);
        }
        for node in &judgement.redial {
            self.redial(*node as usize);
        }
        let dead = judgement.verdicts.into_iter().filter(|(_, v)| v.is_dead());
        dead.map(|(node, _)| node).collect()
    }

    fn count(&mut self, i: usize, verdict: &Verdict) {
        let silence = Duration::from_micros(self.now - self.datanodes[i].last_read);
        let rank = match verdict {
            Verdict::Alive { .. } | Verdict::Unwell { .. } => 0,
            Verdict::Suspect { .. } => 1,
            Verdict::Dead { .. } => 2,
        };
        let before = std::mem::replace(&mut self.datanodes[i].verdict_was, rank);
        if self.now < self.datanodes[i].silent_from {
            self.outcome.suspicions += u64::from(rank >= 1 && before == 0);
            if rank == 2 && before < 2 {
                match self.paused_too_long(i) {
                    true => self.outcome.deaths_in_two_pauses += 1,
                    false => self.outcome.false_deaths += 1,
                }
            }
            self.outcome.longest_silence = self.outcome.longest_silence.max(silence);
        }
    }

    /// Whether two pauses of a datanode took more of its silence than the longest that nobody is to notice.
    fn paused_too_long(&self, i: usize) -> bool {
        let datanode = &self.datanodes[i];
        let within = |pause: &Pause| {
            let (from, to) = (pause.at.max(datanode.last_read), pause.until.min(self.now));
            to.saturating_sub(from)
        };
        within(&datanode.pause_before) + within(&datanode.pause) > micros(self.settings.policy.pause)
    }

    /// A handshake: there and back, any part of which may be lost, and answered by the process itself.
    fn redial(&mut self, i: usize) {
        let policy = &self.settings.policy;
        let patience = self.now + micros(policy.redial_again);
        let there = self.now + 1 + self.random.below(micros(policy.way));
        let answered = self.datanodes[i]
            .pause
            .after(there, self.random.below(WAKE_JITTER));
        let back = answered + 1 + self.random.below(micros(policy.way));
        let lost = self.random.chance(self.settings.loss) || self.random.chance(self.settings.loss);
        let gone = answered >= self.datanodes[i].silent_from;
        let at = self
            .metasrv
            .after(back.min(patience), self.random.below(WAKE_JITTER));
        let outcome = if lost || gone || back > patience {
            (self.metasrv.after(patience, 0), Redial::NoAnswer)
        } else {
            let at_ = Duration::from_micros(at);
            (at, Redial::Accepted { at: at_ })
        };
        self.datanodes[i].redial = Redial::Pending;
        self.datanodes[i].redialled = Some(outcome);
    }

    /// Everybody's last beat got through in time, and nothing is under way.
    fn is_quiet(&self) -> bool {
        let policy = &self.settings.policy;
        let longest = micros(policy.beat + policy.way) + BEAT_JITTER;
        let quiet = |d: &Datanode| {
            let in_time = self.now - d.last_read <= longest && !d.hurries;
            in_time && d.verdict_was == 0 && d.redialled.is_none()
        };
        self.datanodes.iter().all(quiet)
    }

    /// Leaves out the time to the next event, or to the end.
    fn cut_to_next_event(&mut self, end: u64) {
        let pauses = self.datanodes.iter().map(|d| d.pause.at);
        let pause = pauses.chain([self.metasrv.at, end]).min().unwrap_or(end);
        let event = (0..self.datanodes.len())
            .filter_map(|i| self.next_losses(i, pause))
            .chain([pause])
            .min()
            .unwrap_or(pause);
        // Events come at any time between two looks.
        let ahead = AHEAD + self.random.below(micros(self.settings.policy.look));
        let left_out = event.saturating_sub(ahead).saturating_sub(self.now);
        let beats = left_out / self.period();
        for datanode in &mut self.datanodes {
            datanode.next_beat += left_out;
            datanode.last_read += left_out;
            datanode.to_loss -= beats.min(datanode.to_loss);
            for read in &mut datanode.on_the_way {
                *read += left_out;
            }
            if let Redial::Accepted { at } = &mut datanode.redial {
                *at += Duration::from_micros(left_out);
            }
        }
        self.cut += left_out;
        self.now += left_out;
    }

    /// Mean time between two beats that get through.
    fn period(&self) -> u64 {
        micros(self.settings.policy.beat) + BEAT_JITTER / 2
    }

    /// When the next losses of a datanode come that may add up, to each other or to a pause. Passes over those before
    /// that do not.
    fn next_losses(&mut self, i: usize, pause: u64) -> Option<u64> {
        let (period, hurried) = (self.period(), micros(self.settings.policy.hurried_beat));
        loop {
            let datanode = &self.datanodes[i];
            let lost = datanode
                .next_beat
                .saturating_add(datanode.to_loss.saturating_mul(period));
            if lost >= pause {
                return None;
            }
            let drawn = self.random.until(self.settings.loss);
            let next = *self.datanodes[i].after_loss.get_or_insert(drawn);
            if next < 2 || lost + APART > pause {
                return Some(lost);
            }
            let datanode = &mut self.datanodes[i];
            datanode.after_loss = None;
            // The beats go on from where they are; only the count to the next loss goes on from the lost one.
            datanode.to_loss += 1 + next + hurried / period;
            self.outcome.lost_beats += 1;
        }
    }
}
