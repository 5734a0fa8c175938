//! What a platform engineer does to a cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use greptime_lab::progress::{Stopwatch, wait_until};
use greptime_lab::shell;
use serde_json::json;

use super::{READY, Suite};
use crate::database::Database;
use crate::install::{self, NAMESPACE, RELEASE};
use crate::sql::Http;

const SECOND_PORT: u16 = 14100;
const MOMENT: Duration = Duration::from_millis(50);

/// Fewer datanodes are refused, whoever asks, until they can be drained.
pub fn scale_in_is_refused(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let before = database.pod_identities()?;
    database.kubectl(&["scale", "greptimecluster/main", "--replicas=1"])?;
    database.wait_condition("ScaleInBlocked", "True", "", Duration::from_secs(30))?;
    // Whoever lowers a count does it at once; a while without it is enough to see that nobody does.
    std::thread::sleep(Duration::from_secs(3));
    let replicas = database.kubectl(&[
        "get",
        "statefulset",
        "main-datanode",
        "-o",
        "jsonpath={.spec.replicas}",
    ])?;
    ensure!(
        replicas.trim() == "3",
        "the StatefulSet was lowered to {replicas}"
    );
    ensure!(database.pod_identities()? == before, "pods changed");
    database.kubectl(&["scale", "greptimecluster/main", "--replicas=3"])?;
    database.wait_condition("ScaleInBlocked", "False", "", Duration::from_secs(30))
}

/// A child that somebody deletes or edits is as before within a second.
pub fn drift_is_repaired(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    database.wait_ready(READY)?;
    let watch = Stopwatch::start();
    database.kubectl(&["delete", "poddisruptionbudget", "main-datanode"])?;
    let back = || {
        Ok(database
            .kubectl(&["get", "poddisruptionbudget", "main-datanode"])
            .is_ok())
    };
    wait_until("the budget is back", Duration::from_secs(5), MOMENT, back, || {
        database.explain()
    })?;
    watch.say("a deleted PodDisruptionBudget is back");
    let port = "jsonpath={.spec.ports[?(@.name==\"mysql\")].port}";
    let patch = r#"{"spec":{"ports":[{"name":"mysql","port":4999,"protocol":"TCP"}]}}"#;
    let watch = Stopwatch::start();
    database.kubectl(&["patch", "service", "main-frontend", "--type=merge", "-p", patch])?;
    let repaired = || {
        Ok(database
            .kubectl(&["get", "service", "main-frontend", "-o", port])?
            .trim()
            == "4002")
    };
    wait_until(
        "the port is back",
        Duration::from_secs(5),
        MOMENT,
        repaired,
        || database.explain(),
    )?;
    watch.say("an edited Service is as before");
    Ok(())
}

/// The operator dies and comes back; nobody else notices, and a quiet cluster is not written to.
pub fn operator_restart(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    database.wait_ready(READY)?;
    let before = database.pod_identities()?;
    let operator = |args: &[&str]| {
        let mut command = suite.cluster.kubectl_command();
        shell::finish(command.args(["-n", NAMESPACE]).args(args))
    };
    let selector = format!("app.kubernetes.io/instance={RELEASE}");
    operator(&["delete", "pod", "-l", &selector, "--grace-period=0", "--force"])?;
    operator(&[
        "wait",
        "--for=condition=Available",
        "deployment",
        "--all",
        "--timeout=60s",
    ])?;
    // A change of the spec shows that the new operator works, and what it changes.
    let label = |value: &str| {
        let patch = json!({"metadata": {"labels": {"e2e": value}}}).to_string();
        database.kubectl(&["patch", "greptimecluster", "main", "--type=merge", "-p", &patch])
    };
    label("restarted")?;
    std::thread::sleep(Duration::from_secs(5));
    let versions = || {
        let kinds = "statefulsets,services,configmaps,poddisruptionbudgets,serviceaccounts,greptimeclusters";
        let selector =
            "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
        database.kubectl(&["get", kinds, "-o", selector])
    };
    let quiet = versions()?;
    std::thread::sleep(Duration::from_secs(10));
    ensure!(
        versions()? == quiet,
        "something is written although nothing changes:\n{quiet}\n{}",
        versions()?
    );
    ensure!(database.pod_identities()? == before, "pods were restarted");
    Ok(())
}

/// Two clusters in two namespaces know nothing of each other.
pub fn two_clusters(suite: &Suite) -> Result<()> {
    let other = Database::new(&suite.cluster, "e2e-other", "other");
    other.prepare()?;
    let mut manifest = other.manifest();
    manifest["spec"]["datanode"]["replicas"] = json!(1);
    other.apply(&manifest)?;
    other.wait_ready(READY)?;
    let (main, http) = (suite.http()?, other.http(SECOND_PORT)?);
    let table = "CREATE TABLE alone (ts TIMESTAMP(3) TIME INDEX, v DOUBLE)";
    suite.runtime.block_on(async {
        main.sql(table).await?;
        main.sql("INSERT INTO alone VALUES (1, 1.0)").await?;
        http.sql(table).await?;
        http.sql("INSERT INTO alone VALUES (1, 2.0), (2, 3.0)").await?;
        let sum = async |http: &Http| http.rows("SELECT sum(v) FROM alone").await;
        let (a, b) = (sum(&main).await?, sum(&http).await?);
        ensure!(a == [[json!(1.0)]] && b == [[json!(5.0)]], "{a:?} {b:?}");
        Ok(())
    })?;
    let ids = [suite.main()?, &other].map(|d| d.get().map(|g| g["status"]["clusterId"].clone()));
    let [a, b] = ids;
    let (a, b) = (a?, b?);
    ensure!(a != b && a.is_string(), "both clusters have id {a}");
    other.discard()
}

/// Retain leaves volumes, keys and objects; Delete removes them.
pub fn deletion(suite: &Suite) -> Result<()> {
    for policy in ["Retain", "Delete"] {
        let database = Database::new(&suite.cluster, &format!("e2e-{}", policy.to_lowercase()), "gone");
        database.prepare()?;
        let mut manifest = database.manifest();
        manifest["spec"]["datanode"]["replicas"] = json!(1);
        manifest["spec"]["deletionPolicy"] = json!(policy);
        database.apply(&manifest)?;
        database.wait_ready(READY)?;
        database.kubectl(&["delete", "greptimecluster", "gone", "--timeout=150s"])?;
        let claims = || database.kubectl(&["get", "persistentvolumeclaims", "-o", "name"]);
        if policy == "Retain" {
            std::thread::sleep(Duration::from_secs(2));
            ensure!(!claims()?.trim().is_empty(), "Retain must keep the volumes");
            // The same cluster again finds its own keys, its own marker in the bucket, and its volumes.
            database.apply(&manifest)?;
            database.wait_ready(READY)?;
        } else {
            let gone = || Ok(claims()?.trim().is_empty());
            wait_until("volumes deleted", Duration::from_secs(60), MOMENT, gone, || {
                database.explain()
            })?;
        }
        database.discard()?;
    }
    Ok(())
}

/// Everything in `manifests/` with plain `kubectl apply`, then the chart again.
pub fn manifests_and_chart(suite: &Suite) -> Result<()> {
    let kubectl = |args: &[&str]| shell::finish(suite.cluster.kubectl_command().args(args));
    let database = suite.main()?;
    let before = database.pod_identities()?;
    install::uninstall(&suite.cluster)?;
    ensure!(
        database.pod_identities()? == before,
        "uninstalling the operator must not touch a cluster"
    );
    let manifests = install::repository().join("manifests");
    let operator = manifests.join("operator.yaml");
    let operator = operator.to_str().context("a path in UTF-8")?;
    let outcome = (|| -> Result<()> {
        kubectl(&["create", "namespace", NAMESPACE]).ok();
        kubectl(&["apply", "-f", operator])?;
        let samples = manifests.join("samples");
        for sample in std::fs::read_dir(&samples)? {
            let sample = sample?.path();
            // On the server, with its validation, but without starting each of them.
            kubectl(&[
                "apply",
                "--dry-run=server",
                "-f",
                sample.to_str().context("a path in UTF-8")?,
            ])?;
        }
        Ok(())
    })();
    kubectl(&[
        "delete",
        "-f",
        operator,
        "--ignore-not-found",
        "--wait=true",
        "--selector",
        "app.kubernetes.io/name=greptime-operator",
    ])
    .ok();
    outcome?;
    // Helm takes over what it did not make only if it is told so.
    let definition = "customresourcedefinition/greptimeclusters.greptimecluster.io";
    kubectl(&[
        "label",
        "--overwrite",
        definition,
        "app.kubernetes.io/managed-by=Helm",
    ])?;
    install::operator(&suite.cluster, &suite.images, Stopwatch::start())?;
    database.wait_ready(READY)?;
    ensure!(
        database.pod_identities()? == before,
        "installing the operator again must not restart pods"
    );
    Ok(())
}
