//! Who hears metasrv is not taken for deaf, and who does not is: beats and their answers around the real detector.
//!
//! One datanode and metasrv lose one of a hundred beats, and as many answers, and each is stopped now and then. Only the
//! time around such pauses is simulated. Elsewhere seven answers in a row would have to be lost, which happens once in 10^14
//! beats.

#[path = "heartbeat/random.rs"]
#[allow(dead_code)]
mod random;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use greptime_metasrv_plan::lease::Touch;
use greptime_metasrv_plan::liveness::{Connection, Observed};
use greptime_metasrv_plan::{Detector, Policy};
use greptime_types::NodeId;
use random::Random;

/// Times are milliseconds, in steps of this length.
const STEP: u64 = 5;
const LOSS: f64 = 0.01;
/// Mean time from one pause of a process to its next.
const PAUSE_EVERY: u64 = 180_000;
/// What is simulated before a pause, and after the last one.
const AROUND: u64 = 250;
/// The datanode that is looked at; the others hear everything.
const NODE: NodeId = 0;
const OTHERS: [NodeId; 2] = [1, 2];

/// Things on their way, in order; each may take up to [`Policy::way`].
struct Wire<T> {
    under_way: VecDeque<(u64, T)>,
    last: u64,
}

impl<T> Wire<T> {
    fn new() -> Self {
        Self {
            under_way: VecDeque::new(),
            last: 0,
        }
    }

    fn send(&mut self, what: T, now: u64, way: u64, random: &mut Random) {
        let takes = STEP + STEP * random.below(way / STEP);
        if !random.chance(LOSS) {
            self.last = self.last.max(now + takes);
            self.under_way.push_back((self.last, what));
        }
    }

    fn arrived(&mut self, now: u64) -> Option<T> {
        self.under_way
            .pop_front_if(|(at, _)| *at <= now)
            .map(|(_, what)| what)
    }
}

struct Beat {
    number: u64,
    answered: u64,
}

/// The datanode's side of a session.
#[derive(Default)]
struct Sender {
    number: u64,
    answered: u64,
    sent: u64,
    next: u64,
}

struct World {
    policy: Policy,
    random: Random,
    now: u64,
    /// When the datanode and metasrv go on, if they are stopped.
    stopped: [u64; 2],
    /// In how long each is stopped next, not counting what is simulated.
    next_pause: [u64; 2],
    sender: Sender,
    beats: Wire<Beat>,
    answers: Wire<u64>,
    /// From then on no answer arrives.
    cut: u64,
    touch: Touch,
    last_beat: u64,
    next_look: u64,
    detector: Detector,
    observed: BTreeMap<NodeId, Observed>,
    deaf: u64,
    pauses: u64,
}

impl World {
    fn new(policy: Policy, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let beating = Observed::new(1, Connection::Up, None);
        let next_pause = [(); 2].map(|()| random.wait(PAUSE_EVERY));
        Self {
            detector: Detector::new(policy.clone(), Duration::ZERO),
            observed: [NODE, OTHERS[0], OTHERS[1]]
                .map(|node| (node, beating.clone()))
                .into(),
            policy,
            random,
            now: 0,
            stopped: [0; 2],
            next_pause,
            sender: Sender::default(),
            beats: Wire::new(),
            answers: Wire::new(),
            cut: u64::MAX,
            touch: Touch::default(),
            last_beat: 0,
            next_look: 0,
            deaf: 0,
            pauses: 0,
        }
    }

    /// What a few pauses right after each other do, over so many hours.
    fn run(&mut self, hours: f64) {
        let end = (hours * 3.6e6) as u64;
        let mut passed = 0;
        while passed < end {
            let quiet = self
                .next_pause
                .iter()
                .min()
                .copied()
                .unwrap_or_default()
                .saturating_sub(AROUND);
            passed += quiet;
            self.next_pause = self.next_pause.map(|at| at - quiet.min(at));
            let began = self.now;
            let mut last_pause = 0;
            while self.now < began + AROUND * 2 + last_pause {
                if self.next_pause.contains(&0) {
                    last_pause = self.now - began;
                }
                self.step();
            }
            passed += self.now - began;
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        for process in 0..2 {
            if self.next_pause[process] == 0 {
                self.pauses += 1;
                let length = self.random.below(self.policy.pause.as_millis() as u64 + 1);
                self.stopped[process] = self.now + length;
                self.next_pause[process] = length + 1 + self.random.wait(PAUSE_EVERY);
            }
            self.next_pause[process] = self.next_pause[process].saturating_sub(STEP);
        }
        let [datanode, metasrv] = self.stopped.map(|until| until <= self.now);
        if datanode {
            self.send();
        }
        if metasrv {
            self.answer();
        }
    }

    /// The datanode beats if it is time, and then reads: whoever was stopped may do so in this order.
    fn send(&mut self) {
        let way = self.policy.way.as_millis() as u64;
        if self.now >= self.sender.next {
            self.sender.number += 1;
            let Sender { number, answered, .. } = self.sender;
            self.beats
                .send(Beat { number, answered }, self.now, way, &mut self.random);
            self.sender.sent = self.now;
            self.sender.next = self.now + self.policy.hurried_beat.as_millis() as u64;
        }
        while let Some(number) = self.answers.arrived(self.now) {
            self.sender.answered = number;
            if number == self.sender.number {
                self.sender.next = self.sender.sent + self.policy.beat.as_millis() as u64;
            }
        }
    }

    /// metasrv looks if it is time, and answers what has come.
    fn answer(&mut self) {
        let way = self.policy.way.as_millis() as u64;
        while let Some(Beat { number, answered }) = self.beats.arrived(self.now) {
            self.touch.beat(number, answered, Duration::from_millis(self.now));
            self.last_beat = self.now;
            if self.now < self.cut {
                self.answers.send(number, self.now, way, &mut self.random);
            }
        }
        if self.now >= self.next_look {
            self.next_look = self.now + self.policy.look.as_millis() as u64;
            if self.finds_deaf() {
                self.deaf += 1;
            }
        }
    }

    fn finds_deaf(&mut self) -> bool {
        let now = Duration::from_millis(self.now);
        for (node, seen) in &mut self.observed {
            seen.last_beat = Some(now);
            if *node == NODE {
                seen.last_beat = Some(Duration::from_millis(self.last_beat));
                seen.unheard = self.touch.unheard();
            }
        }
        self.detector.look(now, &self.observed).verdicts[&NODE].hangs()
    }
}

#[test]
fn nobody_who_hears_is_deaf_in_ten_thousand_hours() {
    let mut world = World::new(Policy::default(), 1);
    world.run(10_000.0);
    println!("{} pauses", world.pauses);
    assert!(world.pauses > 300_000, "{}", world.pauses);
    assert_eq!(world.deaf, 0);
}

/// The simulation can see it: where the answer to a single beat counts, there are some.
#[test]
fn with_less_patience_some_are_taken_for_deaf() {
    let policy = Policy {
        deaf_after: Duration::from_millis(75),
        ..Policy::default()
    };
    let mut world = World::new(policy, 2);
    world.run(2_000.0);
    println!("{} looks in {} pauses", world.deaf, world.pauses);
    assert!(world.deaf > 0);
}

#[test]
fn who_does_not_hear_is_found_in_time() {
    let mut times = Vec::new();
    for seed in 0..2_000 {
        let mut world = World::new(Policy::default(), seed);
        world.next_pause = [u64::MAX / 2; 2];
        while world.now < 1_000 {
            world.step();
        }
        let cut = world.now + STEP * world.random.below(20);
        world.cut = cut;
        while world.deaf == 0 {
            world.step();
            assert!(world.now < cut + 1_000, "not found within a second");
        }
        times.push(world.now - cut);
    }
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("deaf for {median} ms in the median, {longest} ms at most");
    assert!(median <= 275 && longest <= 400, "{median} {longest}");
}
