//! What goes wrong, drawn from the seed before anything happens.

use std::rc::Rc;

use greptime_log::Fault;

use crate::bucket::Trouble;
use crate::dice::Dice;
use crate::net::Cut;
use crate::process::{Address, BUCKET, ETCD};
use crate::sim::{MS, Micros, SECOND};
use crate::world::World;

/// A kind of fault, as the report counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Crash,
    PowerLoss,
    DiskLost,
    Pause,
    Isolated,
    OneWay,
    Halves,
    NodeFromMetasrv,
    MetasrvAway,
    MetasrvFromEtcd,
    BucketAway,
    SlowLink,
    SlowDisk,
    FailedSync,
    FullDisk,
    BucketTrouble,
    EtcdAway,
    ClockJump,
    /// In good order, as when its pod is replaced.
    Stop,
    /// Two lose their disks at once, and a person gives up what only they had.
    TwoDisksLost,
}

impl Kind {
    pub const ALL: [Self; 20] = [
        Self::Crash,
        Self::PowerLoss,
        Self::DiskLost,
        Self::Pause,
        Self::Isolated,
        Self::OneWay,
        Self::Halves,
        Self::NodeFromMetasrv,
        Self::MetasrvAway,
        Self::MetasrvFromEtcd,
        Self::BucketAway,
        Self::SlowLink,
        Self::SlowDisk,
        Self::FailedSync,
        Self::FullDisk,
        Self::BucketTrouble,
        Self::EtcdAway,
        Self::ClockJump,
        Self::Stop,
        Self::TwoDisksLost,
    ];

    /// Of a hundred faults, about how many.
    fn weight(self) -> u64 {
        match self {
            Self::Crash => 18,
            Self::PowerLoss | Self::Isolated => 10,
            Self::Pause | Self::OneWay | Self::SlowLink => 8,
            Self::DiskLost | Self::FailedSync | Self::MetasrvAway | Self::SlowDisk => 5,
            Self::NodeFromMetasrv | Self::BucketTrouble | Self::MetasrvFromEtcd => 5,
            // They are drawn apart.
            Self::Stop | Self::TwoDisksLost => 0,
            _ => 3,
        }
    }
}

/// One fault, from when to when.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub kind: Kind,
    pub from: Micros,
    pub to: Micros,
    /// Whom it meets.
    target: Address,
    cut: Cut,
    /// For what else is drawn.
    number: u64,
}

pub fn draw(dice: &mut Dice, from: Micros, to: Micros) -> Vec<Drawn> {
    let count = 3 + dice.below(10);
    (0..count).map(|_| draw_one(dice, from, to)).collect()
}

/// Stops in good order, of every eighth seed: drawn apart, so that other seeds are what they were before there were any.
pub fn draw_stops(seed: u64, from: Micros, to: Micros) -> Vec<Drawn> {
    if seed % 8 != 5 {
        return vec![];
    }
    let mut dice = Dice::new(!seed);
    let count = 1 + dice.below(4);
    let mut stop = || {
        let begin = dice.between(from, to);
        Drawn {
            kind: Kind::Stop,
            from: begin,
            to: begin,
            target: Address::datanode(dice.below(5)),
            cut: Cut::Holds,
            number: dice.number(),
        }
    };
    (0..count).map(|_| stop()).collect()
}

/// The loss of two disks, of every eighth seed, drawn apart as well.
pub fn draw_loss(seed: u64, from: Micros, to: Micros) -> Option<Drawn> {
    if seed % 8 != 7 {
        return None;
    }
    let mut dice = Dice::new(!seed);
    let begin = dice.between(from, to);
    Some(Drawn {
        kind: Kind::TwoDisksLost,
        from: begin,
        to: (begin + dice.between(200 * MS, 3 * SECOND)).min(to),
        target: Address::datanode(dice.below(5)),
        cut: Cut::Holds,
        number: dice.number(),
    })
}

fn draw_one(dice: &mut Dice, from: Micros, to: Micros) -> Drawn {
    let total: u64 = Kind::ALL.iter().map(|kind| kind.weight()).sum();
    let mut left = dice.below(total);
    let found = Kind::ALL.into_iter().find(|kind| {
        let is_it = left < kind.weight();
        left = left.saturating_sub(kind.weight());
        is_it
    });
    let kind = found.unwrap_or(Kind::Crash);
    let datanode = |dice: &mut Dice| Address::datanode(dice.below(5));
    let target = match kind {
        Kind::Crash | Kind::Pause => match dice.below(10) {
            0..=1 => Address::metasrv(dice.below(3) as u8),
            2 => Address::frontend(dice.below(2) as u8),
            _ => datanode(dice),
        },
        Kind::MetasrvFromEtcd => Address::metasrv(dice.below(3) as u8),
        Kind::NodeFromMetasrv if dice.below(3) == 0 => Address::frontend(dice.below(2) as u8),
        Kind::SlowLink | Kind::OneWay => match dice.below(4) {
            0 => Address::metasrv(dice.below(3) as u8),
            _ => datanode(dice),
        },
        Kind::EtcdAway => ETCD,
        _ => datanode(dice),
    };
    let begin = dice.between(from, to);
    let lasts = match kind {
        Kind::MetasrvAway => dice.between(4 * SECOND, 10 * SECOND),
        Kind::Pause => dice.between(150 * MS, 4 * SECOND),
        _ => dice.between(200 * MS, 6 * SECOND),
    };
    Drawn {
        kind,
        from: begin,
        to: (begin + lasts).min(to),
        target,
        cut: if dice.per_mille(500) {
            Cut::Swallows
        } else {
            Cut::Holds
        },
        number: dice.number(),
    }
}

fn everybody() -> impl Iterator<Item = Address> {
    Address::metasrvs()
        .chain(Address::datanodes())
        .chain(Address::frontends())
}

impl Drawn {
    /// Directions that it cuts.
    fn directions(&self) -> Vec<(Address, Address)> {
        let both = |a: Address, b: Address| [(a, b), (b, a)];
        let target = self.target;
        let others = move || everybody().filter(move |a| *a != target);
        match self.kind {
            Kind::Isolated if self.number.is_multiple_of(2) => others()
                .filter(|a| a.is_datanode())
                .flat_map(|a| both(target, a))
                .collect(),
            Kind::Isolated => others().flat_map(|a| both(target, a)).collect(),
            Kind::OneWay if self.number.is_multiple_of(2) => others().map(|a| (target, a)).collect(),
            Kind::OneWay => others().map(|a| (a, target)).collect(),
            Kind::Halves => {
                let here = |a: Address| self.number >> a.0 & 1 == 1;
                let pairs = everybody().flat_map(|a| everybody().map(move |b| (a, b)));
                pairs.filter(|(a, b)| here(*a) != here(*b)).collect()
            }
            Kind::NodeFromMetasrv => Address::metasrvs().flat_map(|a| both(target, a)).collect(),
            Kind::MetasrvAway => {
                let nodes = move || everybody().filter(|a| Address::metasrvs().all(|m| m != *a));
                Address::metasrvs()
                    .flat_map(|m| nodes().flat_map(move |a| both(m, a)))
                    .collect()
            }
            Kind::MetasrvFromEtcd => both(target, ETCD).to_vec(),
            Kind::BucketAway => both(target, BUCKET).to_vec(),
            _ => vec![],
        }
    }

    /// The second one, if it meets two.
    fn other(&self) -> Address {
        Address::datanode((self.target.node() + 1 + self.number % 4) % 5)
    }

    /// Begins, and will end in its time.
    pub fn begin(self, world: &Rc<World>) -> bool {
        let sim = &world.sim;
        sim.note(|| {
            format!(
                "FAULT {:?} of {}, {:?}, until {:.3}",
                self.kind,
                self.target,
                self.cut,
                self.to as f64 / 1e6
            )
        });
        let directions = self.directions();
        for (from, to) in &directions {
            sim.cut(*from, *to, self.cut);
        }
        let done = self.strike(world);
        let (later, end) = (Rc::clone(world), self.to);
        sim.act(end, move || {
            later
                .sim
                .note(|| format!("END of {:?} of {}", self.kind, self.target));
            for (from, to) in directions {
                later.sim.mend(from, to, self.cut);
            }
            self.end(&later);
        });
        done
    }

    fn strike(&self, world: &Rc<World>) -> bool {
        let (sim, target) = (&world.sim, self.target);
        let machine = world.machine(target);
        match (self.kind, &machine) {
            (Kind::Crash, _) => world.end(target, true),
            (Kind::PowerLoss, _) => world.end(target, false),
            (Kind::DiskLost, _) => return world.lose_disk(target),
            (Kind::TwoDisksLost, _) => return world.lose_disks([target, self.other()]),
            (Kind::Stop, _) => return world.stop(target),
            (Kind::Pause | Kind::EtcdAway, _) => world.pause(target),
            (Kind::SlowLink, _) => {
                let slow = 5 * MS + self.number % (600 * MS);
                everybody().for_each(|a| sim.slow_down(target, a, slow));
                if self.number.is_multiple_of(2) {
                    everybody().for_each(|a| sim.slow_down(a, target, slow));
                }
            }
            (Kind::SlowDisk, Some(machine)) => machine.slow.set(20 * MS + self.number % (2 * SECOND)),
            (Kind::FailedSync, Some(machine)) => machine.disk.fail_next(match self.number % 2 {
                0 => Fault::Lost,
                _ => Fault::SyncFailedButKept,
            }),
            (Kind::FullDisk, Some(machine)) => machine.disk.set_full(true),
            (Kind::BucketTrouble, _) => world.bucket.set_trouble(Trouble::MUCH),
            (Kind::ClockJump, _) => sim.process(target, |p| {
                p.clock.wall_offset += (self.number % 7_200_000) as i64 - 3_600_000;
            }),
            _ => {}
        }
        true
    }

    fn end(&self, world: &Rc<World>) {
        let (sim, target) = (&world.sim, self.target);
        let machine = world.machine(target);
        match (self.kind, &machine) {
            (Kind::Crash | Kind::PowerLoss | Kind::DiskLost, _) => world.begin(target),
            (Kind::TwoDisksLost, _) => [target, self.other()].into_iter().for_each(|at| world.begin(at)),
            (Kind::Pause | Kind::EtcdAway, _) => world.resume(target),
            (Kind::SlowLink, _) => everybody().for_each(|a| {
                sim.slow_down(target, a, 0);
                sim.slow_down(a, target, 0);
            }),
            (Kind::SlowDisk, Some(machine)) => machine.slow.set(0),
            (Kind::FullDisk, Some(machine)) => machine.disk.set_full(false),
            (Kind::BucketTrouble, _) => world.bucket.set_trouble(Trouble::LITTLE),
            _ => {}
        }
    }
}
