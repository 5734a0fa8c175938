//! Runs tests without the defences that they are said to show.

use std::fmt::Debug;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::WITHOUT;

/// A test that waits for what does not come any more has noticed it too, if it is done soon with its defence.
const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(15);
/// For one that has to end, and may be slow.
const LONG_PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const AT_ONCE: usize = 4;

/// Runs each named test of the running test program without its defence, in a process of its own. Panics with the list
/// of tests that pass all the same, that are only slow, or that do not exist.
pub fn each_is_missed<D: Debug + Copy + Send + Sync>(proofs: &[(D, &[&str])]) {
    each_is_missed_and_says(proofs, |_| None);
}

/// The same of those tests that are in `program`, the running one.
pub fn each_is_missed_in<D: Debug + Copy + Send + Sync>(program: &str, proofs: &[(D, &str, &[&str])]) {
    let here = proofs.iter().filter(|(_, of, _)| *of == program);
    let here: Vec<(D, &[&str])> = here.map(|(defence, _, tests)| (*defence, *tests)).collect();
    assert!(!here.is_empty(), "no defence is shown in {program}");
    each_is_missed(&here);
}

/// As [`each_is_missed`], and a test for which `says` has a text has to end, and to say it: it fails for the reason that
/// it is there for.
pub fn each_is_missed_and_says<D: Debug + Copy + Send + Sync>(
    proofs: &[(D, &[&str])],
    says: impl Fn(&str) -> Option<&'static str> + Sync,
) {
    let left = Mutex::new(
        proofs
            .iter()
            .flat_map(|(defence, tests)| tests.iter().map(|test| (*defence, *test))),
    );
    let next = || left.lock().expect("nobody panics with it").next();
    let useless = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                while let Some((defence, test)) = next() {
                    if let Err(why) = is_missed(&format!("{defence:?}"), test, says(test)) {
                        useless.lock().expect("nobody panics with it").push(why);
                    }
                }
            });
        }
    });
    let useless = useless.into_inner().expect("all threads have ended");
    assert!(useless.is_empty(), "{useless:#?}");
}

fn is_missed(defence: &str, test: &str, says: Option<&str>) -> Result<(), String> {
    let patience = says.map_or(PATIENCE, |_| LONG_PATIENCE);
    let cannot = |e: std::io::Error| format!("{test} cannot be run: {e}");
    let (said, status) = run(test, Some(defence), patience).map_err(cannot)?;
    match status {
        _ if !said.contains("running 1 test") => Err(format!("there is no test {test}")),
        Some(status) if status.success() => Err(format!("{test} passes without {defence}")),
        _ if says.is_some_and(|says| !said.contains(says)) => Err(format!(
            "{test} fails without {defence}, but not as it should: {said}"
        )),
        // It waits for what does not come, or it is slow whatever holds.
        None if says.is_none() => match run(test, None, SOON).map_err(cannot)?.1 {
            Some(status) if status.success() => Ok(()),
            _ => Err(format!(
                "{test} does not end in {PATIENCE:?} without {defence}, nor passes in {SOON:?} with it"
            )),
        },
        _ => Ok(()),
    }
}

/// Runs a test of this program, `without` a defence or with all; what it says, and how it ends if it does.
fn run(
    test: &str,
    without: Option<&str>,
    patience: Duration,
) -> std::io::Result<(String, Option<ExitStatus>)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([test, "--exact"])
        // An empty name is that of none.
        .env(WITHOUT, without.unwrap_or_default())
        // The same cases each time, as many as usual, and none is kept beside the source.
        .env_remove("GREPTIME_TEST_SEED")
        .env_remove("GREPTIME_TEST_SEEDS")
        .env_remove("GREPTIME_TEST_SERIES")
        .env_remove("PROPTEST_CASES")
        .env("PROPTEST_RNG_SEED", "1")
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (out, err) = (read(child.stdout.take()), read(child.stderr.take()));
    let status = wait(&mut child, patience)?;
    let said = out.join().unwrap_or_default() + &err.join().unwrap_or_default();
    Ok((said, status))
}

/// `None` if it did not end in time; it is killed then.
fn wait(child: &mut Child, patience: Duration) -> std::io::Result<Option<ExitStatus>> {
    let mut left = patience;
    while !left.is_zero() {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(LOOK_EVERY);
        left = left.saturating_sub(LOOK_EVERY);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Takes everything from a pipe, so that the writer never waits.
fn read(from: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            // What came before a failure is better than nothing.
            let _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
