//! The crate depends on nothing of ours but the shared types and the names of defences, on no client, no runtime and no source of randomness.

use std::path::Path;
use std::process::Command;

#[test]
fn the_planner_depends_on_no_client_and_no_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let tree = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["tree", "--offline", "-p", "greptime-metasrv-plan", "-e", "normal"])
        .args(["--prefix", "none", "--manifest-path"])
        .arg(root)
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let ours: Vec<&&str> = crates.iter().filter(|c| c.starts_with("greptime-")).collect();
    assert_eq!(
        ours,
        [&"greptime-metasrv-plan", &"greptime-defences", &"greptime-types"],
        "{tree}"
    );
    for forbidden in [
        "tokio",
        "tonic",
        "hyper",
        "etcd-client",
        "rand",
        "getrandom",
        "uuid",
        "raft",
    ] {
        assert!(
            !crates.contains(&forbidden),
            "{forbidden} is in the tree:\n{tree}"
        );
    }
}
