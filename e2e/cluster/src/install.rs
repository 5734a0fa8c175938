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
    helm.arg("--set")
        .arg(format!("image.repository={repository},image.tag={tag}"));
    helm.arg("--set")
        .arg(format!("databaseImage={}", images.database));
    shell::finish(&mut helm)?;
    watch.say("the operator is installed");
    Ok(())
}

pub fn uninstall(cluster: &Cluster) -> Result<()> {
    shell::finish(helm(cluster).args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]))?;
    Ok(())
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
