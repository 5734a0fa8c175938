//! What is written and asked for: the cpu-only shape of the Time Series Benchmark Suite, made anew from its public
//! description, and what a real node exporter answers.

pub mod encode;
pub mod exporter;
pub mod hosts;
pub mod plain;
pub mod remote_write;
pub mod rng;

use hosts::Host;
use rng::Rng;

/// Names of the ten fields, in the order in which they are written.
pub const FIELDS: [&str; 10] = [
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
];

/// Time between two rows of a host, in milliseconds.
pub const INTERVAL_MS: i64 = 10_000;

/// How much data, and from when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub hosts: usize,
    /// Rows of each host.
    pub points: usize,
    /// Time of the first rows: milliseconds since 1970, a whole hour.
    pub start_ms: i64,
    pub seed: u64,
}

impl Shape {
    pub fn rows(&self) -> usize {
        self.hosts * self.points
    }

    /// The first instant after all rows, in milliseconds.
    pub fn end_ms(&self) -> i64 {
        self.start_ms + self.points as i64 * INTERVAL_MS
    }

    pub fn time_ms(&self, point: usize) -> i64 {
        self.start_ms + point as i64 * INTERVAL_MS
    }
}

/// All rows in memory: one byte for each value, so that a day of 400 hosts takes 35 MB.
#[derive(Debug)]
pub struct Data {
    pub shape: Shape,
    pub hosts: Vec<Host>,
    /// Per field: host after host, point after point. Values are 0 to 100.
    values: Vec<Vec<u8>>,
}

impl Data {
    /// Equal shapes make equal data.
    pub fn generate(shape: Shape) -> Self {
        let mut values = vec![vec![0; shape.rows()]; FIELDS.len()];
        let mut hosts = Vec::with_capacity(shape.hosts);
        for number in 0..shape.hosts {
            let mut rng = Rng::new(shape.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            hosts.push(Host::draw(number, &mut rng));
            let rows = number * shape.points..(number + 1) * shape.points;
            for column in &mut values {
                walk(&mut column[rows.clone()], &mut rng);
            }
        }
        Self { shape, hosts, values }
    }

    pub fn value(&self, field: usize, host: usize, point: usize) -> u8 {
        self.values[field][host * self.shape.points + point]
    }

    /// All points of one field of one host.
    pub fn series(&self, field: usize, host: usize) -> &[u8] {
        &self.values[field][host * self.shape.points..(host + 1) * self.shape.points]
    }
}

/// A random walk with normally distributed steps that stays between 0 and 100; what is stored is its whole part.
fn walk(out: &mut [u8], rng: &mut Rng) {
    let mut state = rng.unit() * 100.0;
    for value in out {
        state = (state + rng.normal()).clamp(0.0, 100.0);
        *value = state as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(seed: u64) -> Data {
        Data::generate(Shape {
            hosts: 5,
            points: 500,
            start_ms: 1_700_006_400_000,
            seed,
        })
    }

    #[test]
    fn the_same_seed_makes_the_same_data_and_another_one_does_not() {
        let (one, two, other) = (small(1), small(1), small(2));
        assert_eq!(one.values, two.values);
        assert_eq!(one.hosts, two.hosts);
        assert_ne!(one.values, other.values);
    }

    #[test]
    fn a_series_walks_in_small_steps_between_0_and_100() {
        let data = small(3);
        for host in 0..5 {
            for field in 0..FIELDS.len() {
                let series = data.series(field, host);
                assert!(series.iter().all(|v| *v <= 100));
                // Steps are normal with deviation 1: ten would be one in 10^23.
                assert!(series.windows(2).all(|w| w[0].abs_diff(w[1]) < 10));
                assert!(series.iter().any(|v| *v != series[0]), "a walk moves");
            }
        }
    }
}
