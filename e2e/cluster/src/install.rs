//! Images and operator, as a user would install them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use greptime_lab::images::{ImageSpec, build_and_push};
use greptime_lab::progress::Stopwatch;
use greptime_lab::{Cluster, Lab, shell};
use sha2::{Digest, Sha256};

pub const NAMESPACE: &str = "greptime-system";
pub const RELEASE: &str = "greptime-operator";

/// The two images by their full names.
#[derive(Clone, Debug)]
pub struct Images {
    pub operator: String,
    pub database: String,
}

impl Images {
    /// Builds both from the programs beside this one and pushes them into the laboratory's registry. The tag is
    /// made of the program's content, so a changed program rolls the pods.
    pub fn push(lab: &Lab) -> Result<Self> {
        Ok(Self {
            operator: push(lab, "greptime-operator")?,
            database: push(lab, "greptime-node")?,
        })
    }

    /// From the environment, for a cluster of one's own.
    pub fn from_env() -> Result<Self> {
        let get = |name: &str| std::env::var(name).with_context(|| format!("{name} must name an image"));
        Ok(Self {
            operator: get("GREPTIME_TEST_OPERATOR_IMAGE")?,
            database: get("GREPTIME_TEST_DATABASE_IMAGE")?,
        })
    }

    pub fn of(cluster: &Cluster) -> Result<Self> {
        match &cluster.lab {
            Some(lab) => Self::push(lab),
            None => Self::from_env(),
        }
    }
}

fn push(lab: &Lab, program: &str) -> Result<String> {
    let binary = programs()?.join(program);
    let bytes = std::fs::read(&binary).with_context(|| binary.display().to_string())?;
    let digest: String = Sha256::digest(&bytes)
        .iter()
        .take(6)
        .map(|b| format!("{b:02x}"))
        .collect();
    let name = format!("registry.lab/{program}:{digest}");
    build_and_push(lab, &ImageSpec::new(&name, &binary, &format!("/{program}")))?;
    Ok(name)
}

/// Where this build's programs are.
pub fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.parent().context("a program lies in a directory")?;
    Ok(if dir.ends_with("deps") {
        dir.parent().unwrap_or(dir).to_path_buf()
    } else {
        dir.to_path_buf()
    })
}

/// The checkout that this program was built from, or the current directory if that is gone.
pub fn repository() -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let here = PathBuf::from(".");
    if here.join("charts/greptime-operator").exists() {
        here
    } else {
        built_from
    }
}

/// `helm upgrade --install` of the operator's chart, and waiting until it is ready.
pub fn operator(cluster: &Cluster, images: &Images, watch: Stopwatch) -> Result<()> {
    let chart = repository().join("charts/greptime-operator");
    let (repository, tag) = images.operator.rsplit_once(':').context("an image has a tag")?;
    let mut helm = helm(cluster);
    helm.args(["upgrade", "--install", RELEASE]).arg(chart);
    helm.args([
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--wait",
        "--timeout",
        "120s",
    ]);
    // As text: a digest may be all digits.
    helm.arg("--set-string")
        .arg(format!("image.repository={repository},image.tag={tag}"));
    helm.arg("--set-string")
        .arg(format!("databaseImage={}", images.database));
    shell::finish(&mut helm)?;
    watch.say("the operator is installed");
    Ok(())
}

/// Whether somebody has installed the chart already.
pub fn is_installed(cluster: &Cluster) -> bool {
    shell::finish(helm(cluster).args(["status", RELEASE, "--namespace", NAMESPACE])).is_ok()
}

pub fn uninstall(cluster: &Cluster) -> Result<()> {
    shell::finish(helm(cluster).args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]))?;
    Ok(())
}

/// `manifests/operator.yaml` by plain `kubectl apply`, with our images instead of the released ones.
pub fn apply_manifest(cluster: &Cluster, images: &Images) -> Result<()> {
    let (operator, database) = (&images.operator, &images.database);
    let in_namespace = |args: &[&str]| {
        let mut kubectl = cluster.kubectl_command();
        shell::finish(kubectl.args(["-n", NAMESPACE]).args(args))
    };
    cluster.kubectl(&["apply", "-f", &manifest()?])?;
    let deployment = format!("deployment/{RELEASE}");
    in_namespace(&["set", "image", &deployment, &format!("operator={operator}")])?;
    in_namespace(&["set", "env", &deployment, &format!("DATABASE_IMAGE={database}")])?;
    in_namespace(&["rollout", "status", &deployment, "--timeout=120s"]).map(drop)
}

/// Deletes what [`apply_manifest`] made, but for the definition: with it all clusters would go.
pub fn delete_manifest(cluster: &Cluster) -> Result<()> {
    let ours = format!("--selector=app.kubernetes.io/name={RELEASE}");
    let kinds = "deployments,services,serviceaccounts,roles,rolebindings";
    cluster.kubectl(&["delete", kinds, "-n", NAMESPACE, &ours, "--timeout=60s"])?;
    cluster
        .kubectl(&[
            "delete",
            "clusterroles,clusterrolebindings",
            &ours,
            "--timeout=60s",
        ])
        .map(drop)
}

/// Helm takes over the definition, which it did not make, only if its label and annotations say so.
pub fn hand_over_to_helm(cluster: &Cluster) -> Result<()> {
    let release = format!("meta.helm.sh/release-name={RELEASE}");
    let namespace = format!("meta.helm.sh/release-namespace={NAMESPACE}");
    cluster.kubectl(&[
        "label",
        "--overwrite",
        DEFINITION,
        "app.kubernetes.io/managed-by=Helm",
    ])?;
    cluster
        .kubectl(&["annotate", "--overwrite", DEFINITION, &release, &namespace])
        .map(drop)
}

const DEFINITION: &str = "customresourcedefinition/greptimeclusters.greptimecluster.io";

fn manifest() -> Result<String> {
    let file = repository().join("manifests/operator.yaml");
    Ok(file.to_str().context("a path in UTF-8")?.to_owned())
}

fn helm(cluster: &Cluster) -> std::process::Command {
    let program = cluster
        .lab
        .as_ref()
        .map_or_else(|| PathBuf::from("helm"), |lab| lab.tool("helm"));
    let mut command = std::process::Command::new(program);
    command.env("KUBECONFIG", &cluster.kubeconfig);
    command
}
