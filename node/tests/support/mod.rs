//! A `greptime-node standalone` as its own process.
#![allow(clippy::disallowed_methods, dead_code)] // Real time of a real process; not every test uses everything.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_greptime-node");
const READY: Duration = Duration::from_secs(60);

/// A running process; killed when dropped.
pub struct Standalone {
    child: Child,
    pub http: String,
    client: reqwest::Client,
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Standalone {
    /// Starts one on `dir`, through `wrapper` (e.g. strace) if there is one, and waits until it is ready.
    pub async fn start(dir: &Path, wrapper: &[&str], flags: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let words = wrapper.iter().copied().chain([PROGRAM, "standalone"]);
        let words: Vec<&str> = words.collect();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .unwrap();
        let child = Command::new(words[0])
            .args(&words[1..])
            .args([
                "--data-dir",
                dir.join("data").to_str().unwrap(),
                "--http-addr",
                &address,
            ])
            .args(["--mysql-addr", &format!("127.0.0.1:{}", free_port())])
            .args(["--postgres-addr", &format!("127.0.0.1:{}", free_port())])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(40))
            .build()
            .unwrap();
        let mut node = Self {
            child,
            http: format!("http://{address}"),
            client,
        };
        let start = Instant::now();
        while !node.is_ready().await {
            let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            if let Some(status) = node.child.try_wait().unwrap() {
                panic!("greptime-node ended with {status}:\n{}", log());
            }
            assert!(start.elapsed() < READY, "not ready within {READY:?}:\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        node
    }

    async fn is_ready(&self) -> bool {
        let answer = self.client.get(format!("{}/readyz", self.http)).send().await;
        answer.is_ok_and(|a| a.status().is_success())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waiting for the end: what dropping does, said aloud.
    pub fn kill(self) {}

    pub async fn sql(&self, statement: &str) -> (u16, serde_json::Value) {
        let request = self.client.post(format!("{}/v1/sql", self.http));
        let form = format!("sql={}", encode(statement));
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (
            status,
            serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)),
        )
    }

    /// Runs a statement that must succeed.
    pub async fn run(&self, statement: &str) -> serde_json::Value {
        let (status, answer) = self.sql(statement).await;
        assert_eq!(status, 200, "{statement}: {answer}");
        answer
    }

    pub async fn rows(&self, statement: &str) -> serde_json::Value {
        self.run(statement).await["output"][0]["records"]["rows"].clone()
    }

    pub async fn lines(&self, lines: &str) -> (u16, String) {
        self.post("/v1/influxdb/write?precision=ms", lines.to_string().into_bytes())
            .await
    }

    pub async fn post(&self, path: &str, body: Vec<u8>) -> (u16, String) {
        let answer = self
            .client
            .post(format!("{}{path}", self.http))
            .body(body)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

impl Drop for Standalone {
    /// The whole group: a wrapper that is killed alone leaves the server running.
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

fn encode(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}
