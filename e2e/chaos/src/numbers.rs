//! Times as numbers: percentiles, and a histogram that two runs can add up.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub fn milliseconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1000.0)
}

/// To a tenth.
pub fn rounded(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

/// In milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    pub fn of(times: &[f64]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            p50: at(&sorted, 0.5),
            p99: at(&sorted, 0.99),
            max: at(&sorted, 1.0),
        }
    }

    /// Each percentile less the same one of others.
    pub fn beyond(self, others: Self) -> Self {
        Self {
            p50: rounded(self.p50 - others.p50),
            p99: rounded(self.p99 - others.p99),
            max: rounded(self.max - others.max),
        }
    }
}

/// The smallest that so many are not above; 0 of none.
fn at(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

pub fn median(times: &[f64]) -> f64 {
    Percentiles::of(times).p50
}

/// Times in classes of which each is this much wider than the one before.
const WIDER: f64 = 1.05;

/// How many times fell into each class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram(BTreeMap<i32, u64>);

impl Histogram {
    pub fn add(&mut self, time: Duration) {
        // Below a hundredth of a millisecond nothing differs.
        let ms = (time.as_secs_f64() * 1000.0).max(0.01);
        let class = (ms.ln() / WIDER.ln()).floor() as i32;
        *self.0.entry(class).or_default() += 1;
    }

    /// The upper end of the class in which the time is that so many are not above, in milliseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        let all: u64 = self.0.values().sum();
        let rank = (share * all as f64).ceil() as u64;
        let mut passed = 0;
        let class = self.0.iter().find(|(_, times)| {
            passed += **times;
            passed >= rank
        });
        class.map_or(0.0, |(class, _)| rounded(WIDER.powi(class + 1)))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        let all = Percentiles::of(&times);
        assert_eq!((all.p50, all.p99, all.max), (100.0, 198.0, 200.0));
        assert_eq!(Percentiles::of(&[]).max, 0.0);
        let half = Percentiles {
            p50: 50.0,
            p99: 190.0,
            max: 200.0,
        };
        assert_eq!(
            all.beyond(half),
            Percentiles {
                p50: 50.0,
                p99: 8.0,
                max: 0.0
            }
        );
    }

    #[test]
    fn a_histogram_knows_percentiles_to_a_twentieth() {
        let mut histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.add(Duration::from_millis(ms));
        }
        let p999 = histogram.percentile(0.999);
        assert!((999.0..1_050.0).contains(&p999), "{p999}");
        assert!((500.0..530.0).contains(&histogram.percentile(0.5)));
        assert_eq!(Histogram::default().percentile(0.999), 0.0);
    }
}
