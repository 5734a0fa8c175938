//! A server as its own process: started with a log, watched, stopped.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use greptime_clock::SharedClock;
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to end by itself.
const GRACE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
const LOG_TAIL: usize = 600;

/// A running process. It is killed when this is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    clock: SharedClock,
}

/// A port of this machine that was free a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Process {
    /// Starts `command`, whose output goes to `log`.
    pub fn start(mut command: Command, log: &Path, clock: &SharedClock) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .spawn()
            .with_context(|| format!("{program} cannot be started"))?;
        Ok(Self {
            child,
            log: log.to_path_buf(),
            clock: clock.clone(),
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so. Returns how long it took.
    pub fn await_ready(
        &mut self,
        within: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> anyhow::Result<Duration> {
        let start = self.clock.now();
        loop {
            if ready() {
                return Ok(self.clock.now() - start);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", self.log_tail());
            }
            if self.clock.now() - start > within {
                bail!("it was not ready within {within:?}: {}", self.log_tail());
            }
            std::thread::sleep(PAUSE);
        }
    }

    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL)..]).into_owned();
        text.trim().replace('\n', " | ")
    }

    /// Asks it to end, and insists if it does not.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // It may have ended in this moment.
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = self.clock.now();
        while self.clock.now() - start < GRACE {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        self.kill()
    }

    /// Ends it at once, like a crash.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left who could be told.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use greptime_clock::SystemClock;

    use super::*;

    fn shell(script: &str, dir: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command, &dir.join("log"), &SystemClock::shared()).unwrap()
    }

    #[test]
    fn a_process_that_ends_instead_of_being_ready_is_named_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("echo no such option; exit 3", dir.path());
        let error = process
            .await_ready(Duration::from_secs(20), || false)
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("exit status: 3") && text.contains("no such option"),
            "{text}"
        );
    }

    #[test]
    fn a_process_that_hangs_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("exec sleep 60", dir.path());
        let error = process
            .await_ready(Duration::from_millis(50), || false)
            .unwrap_err();
        assert!(error.to_string().contains("not ready within"), "{error}");
        process.stop().unwrap();
        assert!(process.child.try_wait().unwrap().is_some());
    }
}
