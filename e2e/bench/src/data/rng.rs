//! Numbers that depend on a seed and on nothing else.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to just below 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }

    pub fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Normally distributed with mean 0 and deviation 1: twelve uniform numbers, whose sum has variance 1. Only
    /// additions, so that every machine gets the same bits.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// `count` different numbers below `bound`, in the order in which they were drawn.
    pub fn distinct(&mut self, count: usize, bound: usize) -> Vec<usize> {
        assert!(
            count <= bound,
            "{count} different numbers below {bound} do not exist"
        );
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count {
            let next = self.below(bound);
            if !drawn.contains(&next) {
                drawn.push(next);
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_mean_0_and_deviation_1() {
        let mut rng = Rng::new(7);
        let numbers: Vec<f64> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / 20_000.0;
        let variance = numbers.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn distinct_numbers_are_distinct_and_in_range() {
        let mut drawn = Rng::new(1).distinct(8, 9);
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 8);
        assert!(drawn.iter().all(|n| *n < 9));
    }
}
