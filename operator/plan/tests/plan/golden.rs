//! What is rendered, object by object, as YAML that a person can read and review.

use std::path::{Path, PathBuf};

use greptime_operator_plan::destroy_job;
use serde_json::Value;

use crate::support::{World, full, minimal};

fn check(name: &str, objects: &[Value]) {
    let documents: Vec<_> = objects
        .iter()
        .map(|object| serde_saphyr::to_string(object).unwrap())
        .collect();
    let rendered = documents.join("---\n");
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &rendered).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == rendered,
        "{} is not what is rendered: look at the difference after UPDATE_GOLDEN=1 cargo test -p greptime-operator-plan",
        path.display()
    );
}

fn children(world: &World) -> Vec<Value> {
    world.plan().0.apply.iter().map(|child| child.to_json()).collect()
}

#[test]
fn children_of_a_minimal_spec() {
    check("minimal.yaml", &children(&World::new(minimal())));
}

#[test]
fn children_of_a_full_spec() {
    check("full.yaml", &children(&World::new(full())));
}

#[test]
fn the_job_that_destroys() {
    let job = |spec| {
        let world = World::new(spec);
        serde_json::to_value(destroy_job(
            &world.observed.cluster,
            &world.observed.default_image,
        ))
        .unwrap()
    };
    check("destroy.yaml", &[job(minimal()), job(full())]);
}

#[test]
fn equal_inputs_give_equal_bytes_and_workloads_come_last() {
    let world = World::new(full());
    let (first, second) = (children(&world), children(&world));
    assert_eq!(
        serde_json::to_string(&first).unwrap(),
        serde_json::to_string(&second).unwrap()
    );
    let kinds: Vec<_> = first
        .iter()
        .map(|child| child["kind"].as_str().unwrap())
        .collect();
    let (before, last) = kinds.split_at(kinds.len() - 3);
    assert_eq!(last, ["StatefulSet"; 3]);
    assert!(!before.contains(&"StatefulSet"));
}
