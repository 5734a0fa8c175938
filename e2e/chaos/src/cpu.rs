//! How busy the machine is, with everything that runs on it.

use anyhow::{Context, Result};

/// Time of all cores together, in the kernel's ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    pub busy: u64,
    pub all: u64,
}

impl Ticks {
    /// Since the machine started.
    pub fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        Self::parse(&text).context("/proc/stat says nothing of cpu")
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        // What guests have used is in the first ones already.
        let ticks: Vec<u64> = numbers.take(8).filter_map(|n| n.parse().ok()).collect();
        let (all, idle, waiting): (u64, _, _) = (ticks.iter().sum(), ticks.get(3)?, ticks.get(4)?);
        Some(Self {
            busy: all - idle - waiting,
            all,
        })
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(before.busy),
            all: self.all.saturating_sub(before.all),
        }
    }

    pub fn percent(self) -> f64 {
        100.0 * self.busy as f64 / self.all.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_not_being_busy() {
        let ticks = Ticks::parse("cpu  30 10 20 100 40 0 0 0 5 5\ncpu0 1 1\n").unwrap();
        assert_eq!(ticks, Ticks { busy: 60, all: 200 });
        assert_eq!(ticks.percent(), 30.0);
    }
}
