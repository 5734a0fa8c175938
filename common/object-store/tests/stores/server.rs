//! A server in a process of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Between looks whether it listens.
const PAUSE: Duration = Duration::from_millis(20);
/// Looks until it should.
const LOOKS: u32 = 3000;

/// A program that serves at an address, and ends with this value or with this process.
pub struct Server {
    process: Child,
    /// Its files and what it says.
    dir: TempDir,
    pub address: String,
}

impl Server {
    /// `command` gets the address and the server's directory.
    pub fn start(command: impl FnOnce(&str, &Path) -> Command) -> Self {
        let dir =
            TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory can be written to");
        let address = free_address();
        let log = File::create(dir.path().join("log")).expect("its directory can be written to");
        let said = log.try_clone().expect("a file can be opened twice");
        let mut command = ends_with_this(&command(&address, dir.path()));
        command
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(said);
        let process = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut server = Self {
            process,
            dir,
            address,
        };
        server.until_it_listens();
        server
    }

    fn until_it_listens(&mut self) {
        for _ in 0..LOOKS {
            if TcpStream::connect(&self.address).is_ok() {
                return;
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("it ended with {status}: {}", self.said());
            }
            std::thread::sleep(PAUSE);
        }
        panic!("it does not listen: {}", self.said());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it is bound").to_string()
}

/// The same command, whose process is killed when the thread that starts it ends, which is the main one.
fn ends_with_this(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program());
    bound.args(command.get_args());
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    bound.envs(variables.collect::<Vec<(&OsStr, &OsStr)>>());
    bound
}

/// A program of the laboratory.
pub fn tool(name: &str) -> PathBuf {
    let cache = std::env::var("GREPTIME_CACHE").unwrap_or_else(|_| {
        format!(
            "{}/.cache/greptimecluster",
            std::env::var("HOME").unwrap_or_default()
        )
    });
    let program = Path::new(&cache).join("tools/bin").join(name);
    assert!(
        program.exists(),
        "{} is missing; `make tools` builds it",
        program.display()
    );
    program
}
