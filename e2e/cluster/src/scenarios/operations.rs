//! What a platform engineer does to a cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use greptime_lab::progress::{Stopwatch, wait_until};
use greptime_lab::{services, shell};
use serde_json::json;

use super::{READY, Suite};
use crate::database::Database;
use crate::install::{self, NAMESPACE, RELEASE};
use crate::sql::Http;

const SECOND_PORT: u16 = 14100;
const THIRD_PORT: u16 = 14300;
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
    make_it_mend(database, Duration::from_secs(5))?;
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

/// Deletes a child and waits until it is back: an operator works here, and now.
fn make_it_mend(database: &Database, limit: Duration) -> Result<()> {
    let budget = "main-datanode";
    database.kubectl(&["delete", "poddisruptionbudget", budget])?;
    let back = || Ok(database.kubectl(&["get", "poddisruptionbudget", budget]).is_ok());
    wait_until("the budget is back", limit, MOMENT, back, || database.explain())
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
    let holder = || operator(&["get", "lease", RELEASE, "-o", "jsonpath={.spec.holderIdentity}"]);
    let dead = holder()?;
    operator(&["delete", "pod", "-l", &selector, "--grace-period=0", "--force"])?;
    // The dead one gave nothing back, so its successor waits until the lease has run out.
    let taken_over = || holder().map(|now| !now.is_empty() && now != dead);
    let limit = Duration::from_secs(60);
    wait_until("another operator", limit, MOMENT, taken_over, || {
        database.explain()
    })?;
    make_it_mend(database, Duration::from_secs(10))?;
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

/// Retain leaves volumes, keys and objects, and the same cluster again finds its rows; Delete removes all of them.
pub fn deletion(suite: &Suite) -> Result<()> {
    for (policy, port) in [("Retain", THIRD_PORT), ("Delete", THIRD_PORT + 1)] {
        let database = Database::new(&suite.cluster, &format!("e2e-{}", policy.to_lowercase()), "gone");
        database.prepare()?;
        let mut manifest = database.manifest();
        manifest["spec"]["datanode"]["replicas"] = json!(1);
        manifest["spec"]["deletionPolicy"] = json!(policy);
        database.apply(&manifest)?;
        database.wait_ready(READY)?;
        let http = database.http(port)?;
        suite.runtime.block_on(async {
            http.sql("CREATE TABLE kept (ts TIMESTAMP(3) TIME INDEX, v DOUBLE)")
                .await?;
            http.sql("INSERT INTO kept VALUES (1, 2.5)").await
        })?;
        let flushed = || Ok(Left::of(suite, &database)?.all_there());
        let soon = Duration::from_secs(30);
        wait_until("the row is in a file", soon, MOMENT, flushed, || {
            database.explain()
        })?;
        database.kubectl(&["delete", "greptimecluster", "gone", "--timeout=150s"])?;
        if policy == "Retain" {
            std::thread::sleep(Duration::from_secs(2));
            let left = Left::of(suite, &database)?;
            ensure!(left.all_there(), "Retain must keep everything: {left:?}");
            database.apply(&manifest)?;
            database.wait_ready(READY)?;
            // A forwarded port may need a moment to find the new pod.
            let kept = || {
                let rows = suite.runtime.block_on(http.rows("SELECT v FROM kept"));
                Ok(rows.is_ok_and(|rows| rows == [[json!(2.5)]]))
            };
            let soon = Duration::from_secs(30);
            wait_until("the row is there again", soon, MOMENT, kept, || {
                database.explain()
            })?;
        } else {
            let gone = || Ok(Left::of(suite, &database)?.nothing_there());
            let explain = || format!("{:?}\n{}", Left::of(suite, &database), database.explain());
            wait_until(
                "everything deleted",
                Duration::from_secs(60),
                MOMENT,
                gone,
                explain,
            )?;
        }
        database.discard()?;
    }
    Ok(())
}

/// What a deleted cluster left behind. Keys and objects can be counted in the laboratory only.
#[derive(Debug)]
struct Left {
    claims: usize,
    keys: Option<u64>,
    objects: Option<usize>,
}

impl Left {
    fn of(suite: &Suite, database: &Database) -> Result<Self> {
        let claims = database.kubectl(&["get", "persistentvolumeclaims", "-o", "name"])?;
        let place = database.place();
        let lab = suite.cluster.lab.as_ref();
        Ok(Self {
            claims: claims.lines().count(),
            keys: lab
                .map(|_| services::count_keys(&format!("/{place}/")))
                .transpose()?,
            objects: lab.map(|lab| services::count_objects(lab, &place)).transpose()?,
        })
    }

    fn all_there(&self) -> bool {
        self.claims > 0 && self.keys != Some(0) && self.objects.is_none_or(|objects| objects > 1)
    }

    fn nothing_there(&self) -> bool {
        self.claims == 0 && self.keys.unwrap_or(0) == 0 && self.objects.unwrap_or(0) == 0
    }
}

/// The chart is uninstalled, everything in `manifests/` is applied with plain `kubectl apply`, and the chart takes
/// over again. None of it touches a pod of a cluster that runs.
pub fn manifests_and_chart(suite: &Suite) -> Result<()> {
    let database = suite.main()?;
    let before = database.pod_identities()?;
    let untouched = |what: &str| -> Result<()> {
        let now = database.pod_identities()?;
        ensure!(now == before, "{what} touched pods:\n{before}\n{now}");
        Ok(())
    };
    install::uninstall(&suite.cluster)?;
    untouched("uninstalling the chart")?;
    let applied = samples_without_helm(suite);
    install::delete_manifest(&suite.cluster)?;
    applied?;
    untouched("the operator without Helm")?;
    install::hand_over_to_helm(&suite.cluster)?;
    install::operator(&suite.cluster, &suite.images, Stopwatch::start())?;
    make_it_mend(database, Duration::from_secs(60))?;
    untouched("installing the chart again")
}

/// The sample of the demo becomes ready; the others, which name an etcd and secrets that are not here, say so.
fn samples_without_helm(suite: &Suite) -> Result<()> {
    install::apply_manifest(&suite.cluster, &suite.images)?;
    let named = |name: &str| Database::new(&suite.cluster, "e2e-manifests", name);
    let demo = named("demo");
    demo.prepare()?;
    let samples = install::repository().join("manifests/samples");
    demo.kubectl(&["apply", "-f", samples.to_str().context("a path in UTF-8")?])?;
    demo.wait_ready(READY)?;
    let soon = Duration::from_secs(60);
    named("minimal").wait_condition("Ready", "False", "", soon)?;
    named("production").wait_condition("SecretsFound", "False", "database-users", soon)?;
    demo.kubectl(&["delete", "greptimeclusters", "--all", "--timeout=60s"])?;
    demo.discard()
}
