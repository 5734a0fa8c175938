//! What happened: a number that stands for all of it, the lines if somebody wants to read them, and what must not be.

use std::collections::BTreeMap;

use serde::Serialize;

pub use crate::branch::Branch;
use crate::sim::Micros;

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub seed: u64,
    /// Of the rule that is broken.
    pub name: &'static str,
    /// Simulated time.
    pub micros: Micros,
    pub what: String,
}

/// More are of no use.
const MOST_VIOLATIONS: usize = 5;

pub struct Trace {
    is_kept: bool,
    lines: Vec<String>,
    /// Of everything that happened, in order.
    digest: u64,
    violations: Vec<Violation>,
}

impl Trace {
    pub fn new(is_kept: bool) -> Self {
        Self {
            is_kept,
            lines: Vec::new(),
            digest: 0xcbf2_9ce4_8422_2325,
            violations: Vec::new(),
        }
    }

    /// An event.
    pub fn step(&mut self, now: Micros, order: u64) {
        self.fold(now);
        self.fold(order);
    }

    /// The function of Fowler, Noll and Vo, on words.
    fn fold(&mut self, word: u64) {
        self.digest = (self.digest ^ word)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }

    pub fn note(&mut self, now: Micros, line: impl FnOnce() -> String) {
        if self.is_kept {
            let line = format!("{:>10.6} {}", now as f64 / 1e6, line());
            line.bytes().for_each(|byte| self.fold(u64::from(byte)));
            self.lines.push(line);
        }
    }

    pub fn violation(&mut self, now: Micros, name: &'static str, what: impl FnOnce() -> String) {
        if self.violations.len() >= MOST_VIOLATIONS {
            return;
        }
        let what = what();
        self.note(now, || format!("VIOLATION {name}: {what}"));
        self.violations.push(Violation {
            seed: 0,
            name,
            micros: now,
            what,
        });
    }

    pub fn has_violations(&self) -> bool {
        !self.violations.is_empty()
    }

    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// How often the branches of rules were taken.
#[derive(Clone, Debug, Default)]
pub struct Hits(pub BTreeMap<Branch, u64>);

impl Hits {
    pub fn hit(&mut self, branch: Branch) {
        *self.0.entry(branch).or_default() += 1;
    }
}
