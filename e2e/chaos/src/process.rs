//! One process of the cluster, with how to start it again.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::time::Instant;

use crate::network::Site;

/// Lets this program, and the processes that it starts from then on, have as many open files as the system allows.
pub fn allow_many_files() -> Result<()> {
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit).context("the limit of open files cannot be raised")
}

/// It is killed when this is dropped.
pub struct Process {
    program: PathBuf,
    /// What is started the first time, if that is another program.
    first: Option<PathBuf>,
    pub site: Site,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    pub fn new(program: &Path, site: Site, log: PathBuf, arguments: &str) -> Self {
        Self {
            program: program.to_owned(),
            first: None,
            site,
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
            log,
            child: None,
        }
    }

    /// The first start is of another program, all others are of its own.
    pub fn beginning_with(mut self, first: Option<PathBuf>) -> Self {
        self.first = first;
        self
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it, unless it is running.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let program = self.first.take().unwrap_or_else(|| self.program.clone());
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = self
            .site
            .command(&program)
            .args(&self.arguments)
            // An interrupt from the keyboard is for this program, which then ends the others.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the process is not running")?;
        let pid = Pid::from_raw(child.id() as i32).context("a process has a number")?;
        Ok(kill_process(pid, signal)?)
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let child = self.child.as_ref().context("the process is not running")?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        peak_of(&status).context("the system does not say how much memory a process had")
    }

    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to end and waits until it has.
    pub async fn end(&mut self, patience: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + patience;
        let mut child = self.child.take().context("the process is not running")?;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "{}: {status} after SIGTERM", self.log.display());
                return Ok(());
            }
            if Instant::now() > deadline {
                // So that it is killed with the others.
                self.child = Some(child);
                anyhow::bail!("{}: it does not end after SIGTERM", self.log.display());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// An error if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            anyhow::bail!("{}: it has ended by itself, {status}", self.log.display());
        }
        Ok(())
    }
}

fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() {
            // It may have ended by itself.
            let _ = self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_memory_is_found() {
        let status = "Name:\tgreptime-node\nVmPeak:\t  900000 kB\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(peak_of(status), Some(20 << 20));
        assert_eq!(peak_of("Name:\tgone\n"), None);
    }
}
