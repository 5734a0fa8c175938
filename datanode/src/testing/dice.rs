//! Choices that are the same for every run of a seed.

/// How many seeds a test tries: `usual`, unless `GREPTIME_TEST_SEEDS` says more, as `make test-long` does.
pub fn seeds(usual: u64) -> u64 {
    std::env::var("GREPTIME_TEST_SEEDS").map_or(usual, |n| n.parse().expect("a number of seeds"))
}

/// How many series a test of many has: 300,000, unless `GREPTIME_TEST_SERIES` says more, as `make test-long` does.
pub fn many_series() -> i64 {
    std::env::var("GREPTIME_TEST_SERIES").map_or(300_000, |n| n.parse().expect("a number of series"))
}

/// A linear congruential generator.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed);
        dice.roll(2);
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0
    }

    /// Below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        (self.next() >> 33) % sides
    }

    /// From 1 to 2, with so many digits that columns of it hardly get smaller.
    pub fn noise(&mut self) -> f64 {
        f64::from_bits((self.next() >> 12) | 0x3ff0_0000_0000_0000)
    }

    /// One time in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.roll(from.len().max(1) as u64) as usize;
        from.get(at)
    }
}
