//! Where the laboratory keeps its things.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::addresses::Node;
use crate::process::Processes;

/// A laboratory, up or not: the directory that holds all of its state.
///
/// ```text
/// bin/          this program, as the nodes and forwarders run it, and links to
///               the tools with which the laboratory was started
/// pki/          certificates, keys, kubeconfigs of the components
/// config/       rendered configuration
/// run/          one record for each process
/// log/          one log for each process
/// node1/ ...    what survives a crash of the node: images, kubelet's state
/// disks/        a file system for each node, in a file
/// volumes/      where they are mounted: the persistent volumes, by node
/// etcd-api/  etcd/  s3/  registry/   data of the services
/// kubeconfig    for users, with the certificates inside
/// ```
#[derive(Debug, Clone)]
pub struct Lab {
    dir: PathBuf,
}

impl Lab {
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The laboratory of `GREPTIME_LAB_DIR`, else of `/var/lib/greptime-lab`.
    pub fn from_env() -> Self {
        let dir = std::env::var_os("GREPTIME_LAB_DIR").filter(|d| !d.is_empty());
        Self::at(dir.map_or_else(|| PathBuf::from("/var/lib/greptime-lab"), PathBuf::from))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    /// The administrator's kubeconfig; it works outside of the namespaces.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    pub fn pki(&self, file: &str) -> PathBuf {
        self.dir.join("pki").join(file)
    }

    pub fn config(&self, file: &str) -> PathBuf {
        self.dir.join("config").join(file)
    }

    pub fn node_dir(&self, node: Node) -> PathBuf {
        self.path(&node.name())
    }

    /// The program that nodes and forwarders run. It is a copy, so that a
    /// rebuild in the checkout does not touch a running laboratory.
    pub fn program(&self) -> PathBuf {
        self.path("bin/greptime-lab")
    }

    /// A program of the tools, see [`crate::tools`].
    pub fn tool(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    pub fn processes(&self) -> Processes {
        Processes::new(self.path("run"), self.path("log"))
    }

    /// Words for a command line.
    pub fn text(&self, relative: &str) -> String {
        self.path(relative).display().to_string()
    }

    /// Held while the laboratory is changed, so that two commands at a time
    /// take turns. What is locked is the directory above, so that no lock file
    /// is left behind.
    pub fn lock(&self) -> Result<std::fs::File> {
        let parent = self
            .dir
            .parent()
            .context("the laboratory needs a directory of its own")?;
        std::fs::create_dir_all(parent)?;
        let directory =
            std::fs::File::open(parent).with_context(|| format!("opening {}", parent.display()))?;
        if directory.try_lock().is_err() {
            eprintln!("waiting for another greptime-lab to finish");
            directory.lock()?;
        }
        Ok(directory)
    }
}
