//! The programs that no Debian package provides: Go modules, built once into a
//! cache outside of the checkout.
//!
//! The modules' files are part of this program, so it builds them wherever it
//! runs. A program's file name ends in a digest of everything that goes into
//! it; an unchanged module is therefore found and not built again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process::write_atomically;
use crate::progress::Stopwatch;
use crate::shell;

/// The version that the API server, the kubelets and kubectl report.
pub const KUBERNETES_VERSION: &str = "v1.34.4";

/// One Go module and the program that it yields.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub name: &'static str,
    /// What to build: `.` is the module's own main, otherwise the path of
    /// another's, whose version the module pins.
    package: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// What to expect on two cores from an empty cache.
    seconds: u32,
    /// Other names under which the program is called.
    links: &'static [&'static str],
}

macro_rules! module {
    ($name:literal: $($file:literal),*) => {
        &[$(($file, include_str!(concat!("../tools/", $name, "/", $file)))),*]
    };
}

pub const TOOLS: [Tool; 7] = [
    Tool {
        name: "kubernetes",
        package: ".",
        files: module!("kubernetes": "go.mod", "go.sum", "main.go", "provisioner.go"),
        seconds: 300,
        links: &["kubectl"],
    },
    Tool {
        name: "etcd",
        package: ".",
        files: module!("etcd": "go.mod", "go.sum", "main.go"),
        seconds: 30,
        links: &[],
    },
    Tool {
        name: "coredns",
        package: ".",
        files: module!("coredns": "go.mod", "go.sum", "main.go"),
        seconds: 60,
        links: &[],
    },
    Tool {
        name: "pause",
        package: ".",
        files: module!("pause": "go.mod", "go.sum", "main.go"),
        seconds: 2,
        links: &[],
    },
    Tool {
        name: "crane",
        package: "github.com/google/go-containerregistry/cmd/crane",
        files: module!("crane": "go.mod", "go.sum"),
        seconds: 25,
        links: &[],
    },
    Tool {
        name: "versitygw",
        package: "github.com/versity/versitygw/cmd/versitygw",
        files: module!("versitygw": "go.mod", "go.sum"),
        seconds: 60,
        links: &[],
    },
    Tool {
        name: "helm",
        package: "helm.sh/helm/v3/cmd/helm",
        files: module!("helm": "go.mod", "go.sum"),
        seconds: 90,
        links: &[],
    },
];

/// The directory of the built programs.
#[derive(Debug, Clone)]
pub struct Toolbox {
    dir: PathBuf,
    digests: BTreeMap<&'static str, String>,
}

impl Toolbox {
    /// `GREPTIME_CACHE`, else `~/.cache/greptimecluster`, and therein `tools`.
    pub fn from_env() -> Result<Self> {
        let cache = match std::env::var_os("GREPTIME_CACHE").filter(|c| !c.is_empty()) {
            Some(cache) => PathBuf::from(cache),
            None => {
                let home = std::env::var_os("HOME").context("neither GREPTIME_CACHE nor HOME is set")?;
                Path::new(&home).join(".cache/greptimecluster")
            }
        };
        let go = go_version()?;
        let digests = TOOLS.iter().map(|t| (t.name, t.digest(&go))).collect();
        Ok(Self {
            dir: cache.join("tools"),
            digests,
        })
    }

    /// Links with plain names, fit for `PATH`.
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    pub fn program(&self, name: &str) -> PathBuf {
        let digest = self.digests.get(name).map_or("unknown", String::as_str);
        self.dir.join(format!("{name}-{digest}"))
    }

    fn missing(&self, wanted: &[&'static Tool]) -> Vec<&'static Tool> {
        let missing = wanted.iter().filter(|tool| !self.program(tool.name).exists());
        missing.copied().collect()
    }

    /// Builds those of the named tools that are missing, of all if none is named, and says how far it is.
    pub fn build_missing(&self, names: &[String], watch: Stopwatch) -> Result<()> {
        let wanted = choose(names)?;
        fs::create_dir_all(self.bin())?;
        if !self.missing(&wanted).is_empty() {
            let lock = File::create(self.dir.join("lock"))?;
            lock.lock()?;
            let missing = self.missing(&wanted);
            for (i, tool) in missing.iter().enumerate() {
                self.build(tool, &format!("{} of {}", i + 1, missing.len()), watch)?;
            }
        }
        wanted.into_iter().try_for_each(|tool| self.link(tool))
    }

    fn build(&self, tool: &Tool, position: &str, watch: Stopwatch) -> Result<()> {
        let module = self.dir.join("src").join(tool.name);
        if module.exists() {
            fs::remove_dir_all(&module)?;
        }
        for (file, text) in tool.files {
            write_atomically(&module.join(file), text.as_bytes())?;
        }
        let unfinished = self.dir.join(format!(".{}.new", tool.name));
        let log = self.dir.join(format!("{}.log", tool.name));
        watch.say(&format!(
            "building {} ({position}; about {} s on two cores from an empty cache)",
            tool.name, tool.seconds
        ));
        let out = File::create(&log)?;
        let mut child = tool
            .command(&module, &unfinished)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("go does not start: install Go 1.26 or later")?;
        let mut quiet = Stopwatch::start();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(100));
            if quiet.elapsed() >= Duration::from_secs(15) {
                watch.say(&format!("  still building {}", tool.name));
                quiet = Stopwatch::start();
            }
        };
        if !status.success() {
            bail!(
                "go build of {} failed; the end of {}:\n{}",
                tool.name,
                log.display(),
                shell::tail(&log, 30)
            );
        }
        fs::rename(&unfinished, self.program(tool.name))?;
        watch.say(&format!("built {}", tool.name));
        Ok(())
    }

    fn link(&self, tool: &Tool) -> Result<()> {
        let target = self.program(tool.name);
        for name in std::iter::once(&tool.name).chain(tool.links) {
            let link = self.bin().join(name);
            if fs::read_link(&link).is_ok_and(|t| t == target) {
                continue;
            }
            // A rename replaces a link that another process may be following.
            let new = self.bin().join(format!(".{name}.{}", std::process::id()));
            crate::process::remove_if_there(&new)?;
            std::os::unix::fs::symlink(&target, &new)?;
            fs::rename(&new, &link)?;
        }
        Ok(())
    }
}

/// The tools of these names, all if there are none.
fn choose(names: &[String]) -> Result<Vec<&'static Tool>> {
    if names.is_empty() {
        return Ok(TOOLS.iter().collect());
    }
    let find = |name: &String| {
        let known = || TOOLS.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ");
        let tool = TOOLS.iter().find(|tool| tool.name == name);
        tool.with_context(|| format!("there is no tool `{name}`; there are {}", known()))
    };
    names.iter().map(find).collect()
}

impl Tool {
    fn flags(&self) -> Vec<String> {
        let stamp = if self.name == "kubernetes" {
            format!(" -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}")
        } else {
            String::new()
        };
        // No C: the programs in images find no libc there, and -trimpath keeps
        // the path of the cache out of the programs.
        ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("-s -w{stamp}")])
            .collect()
    }

    fn digest(&self, go: &str) -> String {
        let mut sha = Sha256::new();
        let files = self.files.iter().flat_map(|(name, text)| [*name, *text]);
        for part in files
            .chain([go, self.package])
            .chain(self.flags().iter().map(String::as_str))
        {
            sha.update((part.len() as u64).to_le_bytes());
            sha.update(part.as_bytes());
        }
        sha.finalize()
            .iter()
            .take(6)
            .map(|b| format!("{b:02x}"))
            .collect()
    }

    fn command(&self, module: &Path, program: &Path) -> Command {
        let mut go = Command::new("go");
        go.arg("build")
            .args(self.flags())
            .arg("-o")
            .arg(program)
            .arg(self.package);
        // A workspace file or flags of the user's must not change what is built.
        go.current_dir(module)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "")
            .env("GOWORK", "off");
        go
    }
}

fn go_version() -> Result<String> {
    let version = shell::output("go", &["env", "GOVERSION"]).context("Go is needed to build the tools")?;
    Ok(version.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_pins_its_dependencies() {
        for tool in TOOLS {
            let text = |name| tool.files.iter().find(|f| f.0 == name).unwrap().1;
            assert!(
                text("go.mod").starts_with("module greptimecluster.io/lab/"),
                "{}",
                tool.name
            );
            assert!(
                tool.name == "pause" || text("go.sum").contains(" h1:"),
                "{}",
                tool.name
            );
        }
    }

    #[test]
    fn tools_are_chosen_by_name_and_an_unknown_one_is_told_with_those_there_are() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            choose(&wanted).map(|tools| tools.iter().map(|tool| tool.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["crane", "etcd"]).unwrap(), ["crane", "etcd"]);
        assert_eq!(names(&[]).unwrap().len(), TOOLS.len());
        let error = names(&["crain"]).unwrap_err().to_string();
        assert!(error.contains("`crain`") && error.contains("crane"), "{error}");
    }

    #[test]
    fn another_compiler_gives_another_file() {
        assert_eq!(TOOLS[0].digest("go1.26.8"), TOOLS[0].digest("go1.26.8"));
        assert_ne!(TOOLS[0].digest("go1.26.8"), TOOLS[0].digest("go1.27.0"));
        assert_ne!(TOOLS[0].digest("go1.26.8"), TOOLS[1].digest("go1.26.8"));
    }
}
