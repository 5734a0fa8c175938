//! Simulates heartbeats and counts the living that are judged dead.
//!
//!     cargo run --release -p greptime-metasrv-plan --example heartbeat_hours -- HOURS [SEED [BEAT_MS [HURRIED_MS [LOSS]]]]
//!
//! `LOSS` is in thousandths of the beats. Prints the hours, the false deaths and the seconds that it took, and what the hours were like.

#[path = "../tests/heartbeat/mod.rs"]
mod heartbeat;

use std::time::{Duration, Instant};

use greptime_metasrv_plan::Policy;
use heartbeat::{Settings, simulate};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, default: u64| match arguments.get(n) {
        None => default,
        Some(text) => text.parse().unwrap_or_else(|_| {
            panic!("`{text}` is not a whole number: HOURS [SEED [BEAT_MS [HURRIED_MS [LOSS]]]]")
        }),
    };
    let (hours, seed) = (number(0, 10_000), number(1, 1));
    let policy = Policy {
        beat: Duration::from_millis(number(2, 100)),
        hurried_beat: Duration::from_millis(number(3, 25)),
        ..Policy::default()
    };
    for contradiction in policy.validate().err().into_iter().flatten() {
        println!("warning: {contradiction}");
    }
    let settings = Settings {
        policy,
        loss: number(4, 10) as f64 / 1000.0,
        ..Settings::default()
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "measures this program, not the simulation"
    )]
    let start = Instant::now();
    let outcome = simulate(&settings, hours as f64, seed);
    println!(
        "hours {:.0}, false deaths {}, deaths in two pauses that were one {}, seconds {:.1}",
        outcome.hours,
        outcome.false_deaths,
        outcome.deaths_in_two_pauses,
        start.elapsed().as_secs_f64()
    );
    println!("{outcome:?}");
}
