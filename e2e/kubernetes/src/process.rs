//! Background processes that outlive the command that started them.
//!
//! Each is recorded by its process id together with the moment it started, so
//! that a later command ends exactly that process and never a stranger that
//! was given the same number.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::progress::wait_until;
use crate::shell;

/// What to start.
#[derive(Debug, Clone)]
pub struct Daemon {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// The network namespace to start it in; `None` is the machine's own.
    pub netns: Option<String>,
    pub env: Vec<(String, String)>,
}

impl Daemon {
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            netns: None,
            env: Vec::new(),
        }
    }

    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn netns(mut self, netns: impl Into<String>) -> Self {
        self.netns = Some(netns.into());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The words of the command. `nsenter` replaces itself by the program, so
    /// the process id stays the same.
    fn command_line(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(netns) = &self.netns {
            words.extend(["nsenter".to_owned(), format!("--net=/run/netns/{netns}")]);
        }
        words.push(self.program.display().to_string());
        words.extend(self.args.iter().cloned());
        words
    }
}

/// A process that ran when it was recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recorded {
    pub pid: i32,
    /// In clock ticks since the machine started, as the kernel counts.
    pub started: u64,
    pub command: Vec<String>,
}

impl Recorded {
    pub fn is_alive(&self) -> bool {
        matches!(process_stat(self.pid), Some(s) if s.started == self.started && !s.is_zombie)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill_process(Pid::from_raw(self.pid).context("process id 0")?, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("signal to process {}", self.pid)),
        }
    }
}

/// The records of one laboratory, a file for each process.
#[derive(Debug, Clone)]
pub struct Processes {
    records: PathBuf,
    logs: PathBuf,
}

impl Processes {
    pub fn new(records: PathBuf, logs: PathBuf) -> Self {
        Self { records, logs }
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Starts a process, unless it runs already.
    pub fn start(&self, daemon: &Daemon) -> Result<Recorded> {
        if let Some(running) = self.find(&daemon.name).filter(Recorded::is_alive) {
            return Ok(running);
        }
        fs::create_dir_all(&self.records)?;
        fs::create_dir_all(&self.logs)?;
        // The shell ends at once, so that the process becomes a child of the
        // machine's init and nobody is left with a zombie to bury.
        let script = r#"exec 3>&1; { exec setsid "$@" 3>&-; } </dev/null >>"$0" 2>&1 & echo $! >&3"#;
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(script)
            .arg(self.log(&daemon.name))
            .args(daemon.command_line());
        command
            .envs(daemon.env.iter().map(|(k, v)| (k, v)))
            .current_dir("/")
            .stdin(Stdio::null());
        let pid = shell::finish(&mut command)?
            .trim()
            .parse()
            .context("the shell names no process")?;
        let Some(stat) = process_stat(pid) else {
            bail!("{} ended at once\n{}", daemon.name, self.tail(&daemon.name));
        };
        let recorded = Recorded {
            pid,
            started: stat.started,
            command: daemon.command_line(),
        };
        write_atomically(&self.record(&daemon.name), &serde_json::to_vec_pretty(&recorded)?)?;
        Ok(recorded)
    }

    pub fn find(&self, name: &str) -> Option<Recorded> {
        serde_json::from_slice(&fs::read(self.record(name)).ok()?).ok()
    }

    pub fn is_alive(&self, name: &str) -> bool {
        self.find(name).is_some_and(|p| p.is_alive())
    }

    /// Every recorded name, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.records).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".json")?.to_owned()));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Asks the process to end, and makes it end after `patience`.
    pub fn stop(&self, name: &str, patience: Duration) -> Result<()> {
        if let Some(process) = self.find(name) {
            if !patience.is_zero() {
                process.signal(Signal::TERM)?;
                let gone = || Ok(!process.is_alive());
                let _ = wait_until(name, patience, Duration::from_millis(10), gone, String::new);
            }
            self.kill_recorded(name, &process)?;
        }
        remove_if_there(&self.record(name))
    }

    fn kill_recorded(&self, name: &str, process: &Recorded) -> Result<()> {
        process.signal(Signal::KILL)?;
        let gone = || Ok(!process.is_alive());
        wait_until(
            &format!("end of {name}"),
            Duration::from_secs(10),
            Duration::from_millis(5),
            gone,
            || format!("process {} survives SIGKILL", process.pid),
        )
    }

    /// Fails with the end of its log if the process has gone.
    pub fn expect_alive(&self, name: &str) -> Result<()> {
        if !self.is_alive(name) {
            bail!(
                "{name} has ended; the end of {}:\n{}",
                self.log(name).display(),
                self.tail(name)
            );
        }
        Ok(())
    }

    pub fn tail(&self, name: &str) -> String {
        shell::tail(&self.log(name), 25)
    }

    fn record(&self, name: &str) -> PathBuf {
        self.records.join(format!("{name}.json"))
    }
}

pub fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Readers see the old file or the new one, never half of it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().context("a file needs a directory")?;
    fs::create_dir_all(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.persist(path)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}

struct Stat {
    started: u64,
    is_zombie: bool,
}

fn process_stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The program's name is in brackets and may hold anything, brackets and blanks
/// included; the fields after its end are plain words.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let is_zombie = matches!(*fields.first()?, "Z" | "X");
    Some(Stat {
        started: fields.get(19)?.parse().ok()?,
        is_zombie,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_found_behind_any_name() {
        let tail = (1..=18).map(|i| i.to_string()).collect::<Vec<_>>().join(" ");
        let stat = parse_stat(&format!("7 (a) b)) S {tail} 4711 0 0")).unwrap();
        assert_eq!(stat.started, 4711);
        assert!(!stat.is_zombie);
        assert!(parse_stat(&format!("7 (x) Z {tail} 1 0")).unwrap().is_zombie);
    }

    #[test]
    fn a_process_is_started_found_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let processes = Processes::new(dir.path().join("run"), dir.path().join("log"));
        let sleep = Daemon::new("sleep", "/bin/sleep").args(["1000"]);
        let first = processes.start(&sleep).unwrap();
        assert_eq!(
            processes.start(&sleep).unwrap().pid,
            first.pid,
            "it was started twice"
        );
        assert_eq!(processes.names(), ["sleep"]);
        processes.stop("sleep", Duration::from_secs(5)).unwrap();
        assert!(!first.is_alive());
        assert!(processes.names().is_empty());
        processes.stop("sleep", Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_stranger_with_the_same_number_is_left_alone() {
        let me = i32::try_from(std::process::id()).unwrap();
        let stranger = Recorded {
            pid: me,
            started: 1,
            command: Vec::new(),
        };
        assert!(!stranger.is_alive());
        stranger.signal(Signal::KILL).unwrap();
    }
}
