//! What the engine asks of a store, asked of every kind of it: S3, Google and Azure over HTTP, local files and memory.
//!
//! S3 is the server of the laboratory, Azure is Azurite, Google is written [here](gcs). [`calm`] asks all of them;
//! [`faulty`] asks those of the network through a [proxy](proxy::Proxy) that does to requests what networks do.

mod azure;
mod calm;
mod faulty;
mod gcs;
mod proxy;
mod s3;
mod scene;
mod server;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use crate::scene::{Case, KINDS, Scene, Subject};

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of them wait for a server.
    arguments.test_threads.get_or_insert(8);
    let runtime = Arc::new(Runtime::new().expect("threads can be made"));
    let mut trials = Vec::new();
    // The servers end with their subjects, after the last trial.
    let mut subjects = Vec::new();
    for kind in KINDS {
        let chosen: Vec<_> = calm::all()
            .into_iter()
            .chain(faulty::all().into_iter().filter(|_| kind.is_remote))
            .chain((kind.cases)())
            .map(|case| (format!("{}::{}", kind.name, case.name), case))
            .filter(|(name, _)| is_wanted(&arguments, name))
            .collect();
        // To list them takes no server.
        let subject = match arguments.list || chosen.is_empty() {
            true => None,
            false => Some(Arc::new(runtime.block_on(kind.start()))),
        };
        subjects.extend(subject.clone());
        for (name, case) in chosen {
            let (subject, runtime) = (subject.clone(), Arc::clone(&runtime));
            trials.push(Trial::test(name, move || {
                let subject = subject.ok_or("a list runs nothing")?;
                play(&runtime, subject, &case);
                Ok(())
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn is_wanted(arguments: &Arguments, name: &str) -> bool {
    arguments.filter.as_ref().is_none_or(|word| name.contains(word))
}

fn play(runtime: &Runtime, subject: Arc<Subject>, case: &Case) {
    let scene = Scene::new(subject, case.name);
    let played = runtime.block_on(async { tokio::time::timeout(PATIENCE, (case.play)(scene)).await });
    assert!(played.is_ok(), "it has not ended after {PATIENCE:?}");
}
