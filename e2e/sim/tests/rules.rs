//! Which rules the seeds show is said of every one that a run can do without.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use greptime_sim::missed::{FOUND, UNSEEN};

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

/// The names in a list of defences, as `defences!` takes them.
fn declared(file: &str) -> BTreeSet<String> {
    let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file));
    let names = text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("    ")?.split_once(" => [")?.0));
    let names = names.filter(|name| name.chars().all(char::is_alphanumeric));
    names.map(str::to_owned).collect()
}

/// Those that the simulation does itself, and asks for by their names.
fn asked(dir: PathBuf) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(asked(path));
            continue;
        }
        let text = read(&path);
        let calls = text.split("holds(\"").skip(1);
        names.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
    names
}

#[test]
fn each_rule_that_a_run_can_do_without_is_in_one_list() {
    let asked = asked(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let of_datanodes = declared("datanode/src/defences.rs");
    let unknown: Vec<_> = asked.difference(&of_datanodes).collect();
    assert!(unknown.is_empty(), "no datanode has {unknown:?}");

    let mut rules = declared("datanode/log/src/defences.rs");
    rules.extend(declared("datanode/rules/src/defences.rs"));
    rules.extend(asked);
    let unseen = UNSEEN.iter().map(|(rule, _)| rule);
    let listed: Vec<String> = FOUND
        .iter()
        .chain(unseen)
        .map(|rule| (*rule).to_owned())
        .collect();
    let once: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(once.len(), listed.len(), "one is in two lists");
    assert_eq!(once, rules);
}
