//! A small generator (SplitMix64: Steele, Lea and Flood, 2014), so that a seed gives the same run for ever.

#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly below `limit`; the bias of the remainder does not matter here.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next() % limit }
    }

    /// Evenly in (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, part: f64) -> bool {
        self.unit() <= part
    }

    /// How often something of this chance does not happen before it does.
    pub(crate) fn until(&mut self, part: f64) -> u64 {
        if part <= 0.0 {
            return u64::MAX / 4;
        }
        (self.unit().ln() / (1.0 - part).ln()) as u64
    }

    /// Waiting time of something that happens every `mean` on average.
    pub(crate) fn wait(&mut self, mean: u64) -> u64 {
        (-self.unit().ln() * mean as f64) as u64
    }
}
