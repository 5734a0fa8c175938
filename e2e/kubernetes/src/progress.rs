//! Real time: how long things take, and waiting for them.
//!
//! The database takes its time from an injected clock. The laboratory cannot:
//! it drives real processes, whose time is the machine's.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A started stopwatch.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Says what has just been done, with the time since the start.
    pub fn say(self, what: &str) {
        eprintln!("[{:6.1} s] {what}", self.elapsed().as_secs_f64());
    }
}

/// Asks every `pause` until the answer is yes. `explain` is called only after
/// the time is up, to say what was missing.
pub fn wait_until(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut done: impl FnMut() -> Result<bool>,
    explain: impl FnOnce() -> String,
) -> Result<()> {
    let watch = Stopwatch::start();
    loop {
        if done()? {
            return Ok(());
        }
        if watch.elapsed() >= limit {
            bail!("{what}: not within {} s\n{}", limit.as_secs(), explain());
        }
        std::thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_when_the_answer_is_yes_and_explains_when_it_never_is() {
        let mut n = 0;
        let count = || {
            n += 1;
            Ok(n == 3)
        };
        wait_until(
            "three",
            Duration::from_secs(5),
            Duration::ZERO,
            count,
            String::new,
        )
        .unwrap();
        let e = wait_until(
            "never",
            Duration::ZERO,
            Duration::ZERO,
            || Ok(false),
            || "the log".into(),
        );
        assert!(e.unwrap_err().to_string().contains("the log"));
    }
}
