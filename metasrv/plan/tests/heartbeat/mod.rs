//! A metasrv and its datanodes as far as heartbeats go: simulated beats, losses, pauses and redials around the real
//! detector.
//!
//! Long quiet stretches are cut out. A stretch is quiet if nobody pauses and no beat is lost in it, but for single
//! losses with two good beats around them and no pause near: they cannot make a suspect, which the policy's own
//! relations say (`beat + hurried_beat + way < suspect_after`). Everything is where it was after a cut, so the
//! detector cannot tell. `every_beat` makes no cuts; the tests compare the two.
//!
//! What would only bring more beats is left out: a datanode also hurries when an answer is lost, or late because
//! metasrv pauses.

mod random;
mod world;

use std::time::Duration;

use greptime_metasrv_plan::Policy;

use world::World;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Settings {
    pub policy: Policy,
    pub datanodes: usize,
    /// Part of the beats that never arrive.
    pub loss: f64,
    /// Mean time between two pauses of one process. A pause lasts up to `policy.pause`, evenly distributed.
    pub pause_every: Duration,
    /// Simulate quiet stretches beat by beat.
    pub every_beat: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            datanodes: 5,
            loss: 0.01,
            pause_every: Duration::from_secs(180),
            every_beat: false,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    pub hours: f64,
    pub false_deaths: u64,
    /// Of the living as well, but these were stopped for longer than the policy's pause: twice, with next to nothing
    /// between, and the beat that they sent there was lost.
    pub deaths_in_two_pauses: u64,
    pub suspicions: u64,
    pub lost_beats: u64,
    pub pauses: u64,
    pub looks: u64,
    pub late_looks: u64,
    /// Looks in which the brake kept somebody from being judged.
    pub braked_looks: u64,
    /// The longest silence that a look found, with what metasrv slept itself.
    pub longest_silence: Duration,
}

impl Outcome {
    pub fn add(&mut self, other: &Self) {
        self.hours += other.hours;
        self.false_deaths += other.false_deaths;
        self.deaths_in_two_pauses += other.deaths_in_two_pauses;
        self.suspicions += other.suspicions;
        self.lost_beats += other.lost_beats;
        self.pauses += other.pauses;
        self.looks += other.looks;
        self.late_looks += other.late_looks;
        self.braked_looks += other.braked_looks;
        self.longest_silence = self.longest_silence.max(other.longest_silence);
    }
}

/// So many hours are simulated under one seed; more are more seeds.
const HOURS_OF_A_SEED: f64 = 500.0;

/// Simulates `hours` on all cores. Equal arguments, equal outcome.
pub fn simulate(settings: &Settings, hours: f64, seed: u64) -> Outcome {
    let seeds = (hours / HOURS_OF_A_SEED).ceil().max(1.0) as u64;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let part = |thread: u64| {
        let mut sum = Outcome::default();
        for n in (thread..seeds).step_by(threads as usize) {
            let mut world = World::new(settings, seed ^ (n << 20));
            sum.add(&world.run(hours / seeds as f64));
        }
        sum
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || part(thread)))
            .collect();
        let mut sum = Outcome::default();
        for part in parts {
            sum.add(&part.join().expect("a simulation does not panic"));
        }
        sum
    })
}

/// How long it took to see that a datanode went silent for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Detection {
    /// From the arrival of its last beat.
    pub after_last_beat: Duration,
    pub after_death: Duration,
}

/// One datanode goes silent among the others, once for each seed.
// Not everybody who includes this module measures it.
#[allow(dead_code)]
pub fn detections(settings: &Settings, seeds: std::ops::Range<u64>) -> Vec<Detection> {
    seeds
        .map(|seed| World::new(settings, seed).silence_one())
        .collect()
}
