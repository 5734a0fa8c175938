//! Chart, manifests and samples are what the program expects.

use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Helm reads nothing outside of the chart's own folder, so that the definition lies there a second time.
#[test]
fn the_definition_in_the_chart_is_the_generated_one() {
    let copy = "charts/greptime-operator/files/greptimeclusters.yaml";
    let generated = greptime_operator_api::crd_yaml();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(repository().join(copy), &generated).unwrap();
    }
    assert!(
        read(copy) == generated,
        "{copy} is out of date: UPDATE_GOLDEN=1 cargo test -p greptime-operator"
    );
    assert!(
        generated.contains("\n  name: greptimeclusters.greptimecluster.io\n"),
        "templates/crd.yaml looks for it"
    );
}

#[test]
fn the_rendered_manifest_has_the_generated_definition() {
    let rendered = read("manifests/operator.yaml");
    let generated = greptime_operator_api::crd_yaml();
    let spec = &generated[generated.find("\nspec:").unwrap()..];
    assert!(
        rendered.contains(spec.trim_end()),
        "manifests/operator.yaml is out of date: manifests/render.sh"
    );
    assert!(rendered.contains("helm.sh/resource-policy: keep"));
}

/// From this version on, the preStop action `sleep` of the frontends is on by default.
#[test]
fn the_chart_asks_for_a_kubernetes_that_knows_what_the_pods_use() {
    assert!(read("charts/greptime-operator/Chart.yaml").contains("\nkubeVersion: \">=1.30.0-0\"\n"));
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart = read("charts/greptime-operator/Chart.yaml");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        chart.contains(&format!("\nversion: {version}\n"))
            && chart.contains(&format!("\nappVersion: {version}\n"))
    );
    assert!(read("charts/greptime-operator/values.yaml").contains(&format!("greptime-node:{version}\n")));
}
