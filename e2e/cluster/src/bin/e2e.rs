//! The tests on a real cluster, one after the other. `--list` shows them, a word selects among them.

use std::process::ExitCode;
use std::sync::Arc;

use greptime_e2e_cluster::scenarios::{Suite, all};
use libtest_mimic::{Arguments, Failed, Trial, run};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a cluster and break it.
    arguments.test_threads = Some(1);
    // To list them takes no cluster.
    let suite = match arguments.list {
        true => None,
        false => match Suite::start() {
            Ok(suite) => Some(Arc::new(suite)),
            Err(error) => {
                eprintln!("greptime-e2e: {error:#}");
                return ExitCode::FAILURE;
            }
        },
    };
    let can_break = suite.as_ref().is_none_or(|suite| suite.cluster.lab.is_some());
    let trials = all(can_break)
        .into_iter()
        .map(|(name, scenario)| {
            let suite = suite.clone();
            Trial::test(name, move || {
                let suite = suite.as_ref().ok_or("a list runs nothing")?;
                scenario(suite).map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect();
    let conclusion = run(&arguments, trials);
    if let Some(error) = suite.and_then(|suite| suite.finish().err()) {
        eprintln!("greptime-e2e: what was made is still there: {error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
