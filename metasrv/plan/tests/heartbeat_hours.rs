//! The living are not judged dead, and the dead are: simulated hours of heartbeats around the real detector.

mod heartbeat;

use std::time::Duration;

use greptime_metasrv_plan::Policy;
use heartbeat::{Detection, Settings, detections, simulate};

const MS: fn(u64) -> Duration = Duration::from_millis;

#[test]
fn nobody_alive_is_judged_dead_in_ten_thousand_hours() {
    let outcome = simulate(&Settings::default(), 10_000.0, 1);
    println!("{outcome:?}");
    assert!(outcome.hours >= 10_000.0);
    assert_eq!(outcome.false_deaths, 0, "{outcome:?}");
    // The first beat after a pause is lost (1 of 100), and another pause begins within the 25 ms to the hurried one after it
    // (25 of 180,000 ms): 1.4 of the 1,000,000 pauses of datanodes. The silence is then the time from the last beat to the
    // pause, the pause, the time between the two, and the other one: even in 100, 150, 25 and 150 ms. Of these silences 1 of
    // 50 lasts for 350 ms (`dead_after`): (75⁴ − 50⁴) / 4! of 100 · 150 · 25 · 150. So 0.03 are expected; the chance of two
    // is 1 in 2,000.
    assert!(outcome.deaths_in_two_pauses <= 1, "{outcome:?}");
    // What it went through, so that a simulation of nothing does not pass.
    assert!(outcome.lost_beats > 15_000_000, "{outcome:?}");
    assert!(outcome.pauses > 1_000_000, "{outcome:?}");
    assert!(outcome.suspicions > 300_000, "{outcome:?}");
    assert!(outcome.late_looks > 100_000, "{outcome:?}");
    assert!(outcome.longest_silence > MS(300), "{outcome:?}");
}

#[test]
fn a_seed_gives_the_same_run() {
    let settings = Settings::default();
    assert_eq!(simulate(&settings, 20.0, 7), simulate(&settings, 20.0, 7));
    assert_ne!(simulate(&settings, 20.0, 7), simulate(&settings, 20.0, 8));
}

/// Leaving out quiet stretches leaves out nothing that matters.
#[test]
fn cut_and_uncut_time_have_as_many_suspicions() {
    let restless = Settings {
        pause_every: Duration::from_secs(20),
        ..Settings::default()
    };
    let cut = simulate(&restless, 150.0, 2);
    let every_beat = Settings {
        every_beat: true,
        ..restless
    };
    let whole = simulate(&every_beat, 15.0, 3);
    let rates =
        |of: fn(&heartbeat::Outcome) -> u64| (of(&cut) as f64 / cut.hours, of(&whole) as f64 / whole.hours);
    for (what, (cut, whole)) in [
        ("suspicions", rates(|o| o.suspicions)),
        ("lost beats", rates(|o| o.lost_beats)),
        ("pauses", rates(|o| o.pauses)),
        ("late looks", rates(|o| o.late_looks)),
    ] {
        println!("{what} an hour: {cut} with cuts, {whole} without");
        assert!((cut / whole - 1.0).abs() < 0.06, "{what}: {cut} {whole}");
    }
}

/// The simulation can see false deaths: with beats at one pace, and less patience, there are some.
#[test]
fn without_hurry_losses_alone_look_like_deaths() {
    let policy = Policy {
        hurried_beat: MS(100),
        answering_dead_after: MS(350),
        ..Policy::default()
    };
    let settings = Settings {
        policy,
        ..Settings::default()
    };
    let outcome = simulate(&settings, 200.0, 4);
    println!("{outcome:?}");
    assert!(outcome.false_deaths > 10, "{outcome:?}");
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn spread(what: &str, mut times: Vec<Duration>) -> (Duration, Duration, Duration) {
    times.sort_unstable();
    let (p50, p99, max) = (
        quantile(&times, 0.5),
        quantile(&times, 0.99),
        quantile(&times, 1.0),
    );
    println!("{what}: p50 {p50:?}, p99 {p99:?}, max {max:?}");
    (p50, p99, max)
}

#[test]
fn real_silence_is_seen_in_time() {
    let policy = Policy::default();
    // Nobody pauses: the bound is exact.
    let calm = Settings {
        pause_every: Duration::from_secs(1_000_000_000),
        ..Settings::default()
    };
    let after_last_beat = |d: &[Detection]| d.iter().map(|d| d.after_last_beat).collect::<Vec<_>>();
    let after_death = |d: &[Detection]| d.iter().map(|d| d.after_death).collect::<Vec<_>>();
    let seen = detections(&calm, 0..2_000);
    let (_, _, max) = spread("calm, after the last beat", after_last_beat(&seen));
    assert!(max <= policy.dead_after + policy.look + MS(2), "{max:?}");
    spread("calm, after death", after_death(&seen));

    // A redial may have been answered just before the datanode died, and metasrv itself may pause: each adds a
    // bounded time.
    let restless = Settings {
        pause_every: Duration::from_secs(5),
        ..Settings::default()
    };
    let seen = detections(&restless, 0..5_000);
    let (p50, p99, _) = spread("restless, after the last beat", after_last_beat(&seen));
    assert!(p50 <= policy.dead_after + policy.look, "{p50:?}");
    assert!(p99 <= MS(550), "{p99:?}");
    let (_, p99, max) = spread("restless, after death", after_death(&seen));
    assert!(p99 <= MS(550), "{p99:?}");
    let bound = policy.answering_dead_after + policy.pause * 2 + policy.look * 2;
    assert!(max <= bound, "{max:?} {bound:?}");
}
