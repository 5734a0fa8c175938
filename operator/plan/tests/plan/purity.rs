//! The crate depends on no client, no runtime and no source of randomness.

use std::path::Path;
use std::process::Command;

#[test]
fn the_planner_depends_on_no_client_and_no_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let tree = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "tree",
            "--offline",
            "-p",
            "greptime-operator-plan",
            "-e",
            "normal",
            "--prefix",
            "none",
        ])
        .arg("--manifest-path")
        .arg(root)
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: Vec<_> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(crates.contains(&"k8s-openapi"), "{tree}");
    for forbidden in [
        "tokio",
        "kube-client",
        "kube-runtime",
        "hyper",
        "rand",
        "getrandom",
        "tonic",
        "reqwest",
        "uuid",
    ] {
        assert!(
            !crates.contains(&forbidden),
            "{forbidden} is in the tree:\n{tree}"
        );
    }
}
