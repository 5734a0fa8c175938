//! One seed: a cluster comes up, faults come and go, and then everything must be well again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::bucket::Trouble;
use crate::faults::{Kind, draw, draw_loss, draw_stops};
use crate::process::Address;
use crate::sim::{Micros, SECOND, Sim};
use crate::trace::{Hits, Violation};
use crate::world::World;

/// What came of a seed.
pub struct Outcome {
    pub seed: u64,
    pub simulated: Micros,
    pub events: u64,
    /// Writes that were acknowledged, and reads that were answered.
    pub acks: u64,
    pub reads: u64,
    pub faults: BTreeMap<Kind, u64>,
    pub hits: Hits,
    pub violations: Vec<Violation>,
    /// Stands for everything that happened.
    pub digest: u64,
    /// What happened, if that was wanted.
    pub lines: Vec<String>,
}

/// Nothing goes wrong before.
const CALM: Micros = 3 * SECOND;
/// When faults are over, every region is served again within this time, and then for a while.
const RECOVERY: Micros = 9 * SECOND;
const QUIET: Micros = 12 * SECOND;

thread_local! {
    /// What a panic has said, and where.
    static LAST_PANIC: RefCell<String> = RefCell::default();
}

/// Panics are told as what they break, and not by themselves.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        // Empty unless RUST_BACKTRACE asks for it.
        let trace = std::backtrace::Backtrace::capture();
        LAST_PANIC.set(match trace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("{info}\n{trace}"),
            _ => info.to_string(),
        });
    }));
}

/// Runs a seed; `traced`: says what happened.
pub fn run(seed: u64, traced: bool) -> Outcome {
    let sim = Sim::new(seed, traced);
    let world = World::start(sim.clone());
    let (trouble_ends, drawn) = {
        let mut dice = sim.dice.borrow_mut();
        let ends = CALM + dice.between(6 * SECOND, 22 * SECOND);
        let mut drawn = draw(&mut dice, CALM, ends);
        drawn.extend(draw_stops(seed, CALM, ends));
        drawn.extend(draw_loss(seed, CALM, ends));
        (ends, drawn)
    };
    let faults: Rc<RefCell<BTreeMap<Kind, u64>>> = Rc::default();
    for fault in drawn {
        let (world, faults) = (Rc::clone(&world), Rc::clone(&faults));
        sim.act(fault.from, move || {
            let kind = fault.kind;
            if fault.begin(&world) {
                *faults.borrow_mut().entry(kind).or_default() += 1;
            }
        });
    }
    let ended = catch_unwind(AssertUnwindSafe(|| stages(&world, trouble_ends)));
    match ended {
        Ok(()) => sim.end(),
        Err(_) => sim.violation("nothing panics", || LAST_PANIC.take()),
    }
    outcome(seed, &sim, faults.take())
}

fn stages(world: &Rc<World>, trouble_ends: Micros) {
    world.run(CALM);
    check_served(world, 0, "every region is served at first");
    world.sim.net.borrow_mut().stragglers = 4;
    world.run(trouble_ends);
    calm_down(world);
    world.run(trouble_ends + RECOVERY);
    check_served(world, trouble_ends, "every region is served again");
    world.run(trouble_ends + QUIET);
    check_served(world, trouble_ends + RECOVERY, "every region stays served");
}

/// All faults are over, whatever their time was.
fn calm_down(world: &Rc<World>) {
    let sim = &world.sim;
    sim.note(|| "QUIET: nothing goes wrong any more".into());
    sim.net.borrow_mut().stragglers = 0;
    sim.mend_all();
    world.bucket.set_trouble(Trouble::NONE);
    for at in (0..).map(Address).take(crate::process::ADDRESSES) {
        world.resume(at);
        world.begin(at);
        if let Some(machine) = world.machine(at) {
            machine.slow.set(0);
            machine.disk.forgive();
        }
    }
}

/// Each region has acknowledged a write since, and answered a read that began since.
fn check_served(world: &Rc<World>, since: Micros, name: &'static str) {
    let sim = &world.sim;
    if sim.trace.borrow().has_violations() {
        return;
    }
    for region in &world.regions {
        let oracle = sim.oracle.borrow();
        let (write, read) = (oracle.last_ack(*region), oracle.last_read(*region));
        drop(oracle);
        if write.min(read).is_none_or(|at| at <= since) {
            let state = world.state_of(*region);
            sim.violation(name, || {
                format!("region {region}: last write {write:?}, last read {read:?}; {state}")
            });
        }
    }
}

fn outcome(seed: u64, sim: &Sim, faults: BTreeMap<Kind, u64>) -> Outcome {
    let (trace, oracle) = (sim.trace.borrow(), sim.oracle.borrow());
    let violations = trace.violations().iter().map(|v| Violation { seed, ..v.clone() });
    Outcome {
        seed,
        simulated: sim.now(),
        events: sim.events(),
        acks: oracle.acks(),
        reads: oracle.reads(),
        faults,
        hits: sim.hits.borrow().clone(),
        violations: violations.collect(),
        digest: trace.digest(),
        lines: trace.lines().to_vec(),
    }
}
