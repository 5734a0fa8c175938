//! What a production user has already: an etcd for the database, an S3 server,
//! an image registry. They run beside Kubernetes, at the address of the control
//! plane's namespace, and can be stopped and started like any other machine.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::{Value, json};

use crate::addresses::{
    ETCD_PEER_PORT, HOST_IP, HOST_NETNS, S3_PORT, etcd_endpoint, registry_address, s3_endpoint,
};
use crate::layout::Lab;
use crate::process::Daemon;
use crate::progress::wait_until;
use crate::shell;

/// A bucket and what it takes to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct S3 {
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    /// The server knows buckets by path, not by host name.
    pub path_style: bool,
}

/// The laboratory's bucket. The keys are no secrets: nothing outside of this
/// machine's namespaces can reach the server.
pub fn s3() -> S3 {
    S3 {
        endpoint: s3_endpoint(),
        region: "us-east-1".to_owned(),
        bucket: "greptime".to_owned(),
        access_key_id: "greptime-lab".to_owned(),
        secret_access_key: "greptime-lab-secret".to_owned(),
        path_style: true,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Etcd,
    S3,
    Registry,
}

impl Service {
    pub const ALL: [Service; 3] = [Service::Etcd, Service::S3, Service::Registry];

    pub fn name(self) -> &'static str {
        match self {
            Service::Etcd => "etcd",
            Service::S3 => "s3",
            Service::Registry => "registry",
        }
    }

    fn daemon(self, lab: &Lab) -> Daemon {
        match self {
            Service::Etcd => etcd(lab),
            Service::S3 => versitygw(lab),
            Service::Registry => registry(lab),
        }
    }

    fn health(self) -> String {
        match self {
            Service::Etcd => format!("{}/health", etcd_endpoint()),
            Service::S3 => format!("{}/healthz", s3_endpoint()),
            Service::Registry => format!("http://{}/v2/", registry_address()),
        }
    }

    /// Starts the service over its kept data, without waiting.
    pub fn launch(self, lab: &Lab) -> Result<()> {
        std::fs::create_dir_all(lab.path(self.name()))?;
        lab.processes().start(&self.daemon(lab)).map(drop)
    }

    /// Waits until the service answers.
    pub fn wait(self, lab: &Lab) -> Result<()> {
        let processes = lab.processes();
        let answers = || {
            processes.expect_alive(self.name())?;
            Ok(curl(&["--max-time", "2", "-o", "/dev/null", &self.health()]).is_ok())
        };
        let (limit, pause) = (Duration::from_secs(20), Duration::from_millis(50));
        wait_until(self.name(), limit, pause, answers, || processes.tail(self.name()))
    }

    pub fn start(self, lab: &Lab) -> Result<()> {
        self.launch(lab)?;
        self.wait(lab)
    }

    /// Ends the service. Clients get their connections refused until it starts
    /// again; its data stay.
    pub fn stop(self, lab: &Lab, how: Stop) -> Result<()> {
        let patience = match how {
            Stop::Gracefully => Duration::from_secs(10),
            Stop::Abruptly => Duration::ZERO,
        };
        lab.processes().stop(self.name(), patience)
    }

    pub fn is_running(self, lab: &Lab) -> bool {
        lab.processes().is_alive(self.name())
    }
}

/// How a service ends: with SIGTERM, or with SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Gracefully,
    Abruptly,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Service::ALL.into_iter().find(|s| s.name() == text) {
            Some(service) => Ok(service),
            None => bail!("{text:?} is not a service: say etcd, s3 or registry"),
        }
    }
}

fn etcd(lab: &Lab) -> Daemon {
    let (client, peer) = (etcd_endpoint(), format!("http://127.0.0.1:{ETCD_PEER_PORT}"));
    Daemon::new("etcd", lab.tool("etcd")).netns(HOST_NETNS).args([
        format!("--data-dir={}", lab.text("etcd/data")),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=warn".to_owned(),
    ])
}

fn versitygw(lab: &Lab) -> Daemon {
    let s3 = s3();
    Daemon::new("s3", lab.tool("versitygw"))
        .netns(HOST_NETNS)
        .env("ROOT_ACCESS_KEY_ID", &s3.access_key_id)
        .env("ROOT_SECRET_ACCESS_KEY", &s3.secret_access_key)
        .args([
            format!("--port={HOST_IP}:{S3_PORT}"),
            format!("--region={}", s3.region),
        ])
        .args(["--health=/healthz", "--quiet", "--keep-alive", "posix"])
        .args([lab.text("s3")])
}

fn registry(lab: &Lab) -> Daemon {
    Daemon::new("registry", lab.tool("crane"))
        .netns(HOST_NETNS)
        .args(["registry", "serve", "--address"])
        .args([registry_address(), "--disk".to_owned(), lab.text("registry")])
}

/// Makes the bucket, unless it is there.
pub fn make_bucket(s3: &S3) -> Result<()> {
    let keys = format!("{}:{}", s3.access_key_id, s3.secret_access_key);
    let signature = format!("aws:amz:{}:s3", s3.region);
    let url = format!("{}/{}", s3.endpoint, s3.bucket);
    let request = |method: &str| {
        let mut args = vec![
            "--max-time",
            "10",
            "-o",
            "/dev/null",
            "--aws-sigv4",
            &signature,
            "--user",
            &keys,
        ];
        // Older versions of curl sign without it, which S3 does not allow.
        args.extend(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        args.extend(if method == "HEAD" {
            vec!["--head"]
        } else {
            vec!["-X", method]
        });
        args.push(&url);
        curl(&args)
    };
    if request("HEAD").is_ok() {
        return Ok(());
    }
    request("PUT").map(drop)
}

/// How many keys in etcd start with `prefix`.
pub fn count_keys(prefix: &str) -> Result<u64> {
    let mut end = prefix.as_bytes().to_vec();
    // The first key behind all that start with it; no prefix of ours ends in the last byte that there is.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let range = json!({"key": BASE64.encode(prefix), "range_end": BASE64.encode(end), "count_only": true});
    let url = format!("{}/v3/kv/range", etcd_endpoint());
    let answer: Value = serde_json::from_str(&curl(&["--max-time", "10", "-d", &range.to_string(), &url])?)?;
    // A number of 64 bits is a string there, and a zero is left out.
    Ok(answer["count"].as_str().unwrap_or("0").parse()?)
}

/// How many objects of the laboratory's bucket lie below `prefix`.
pub fn count_objects(lab: &Lab, prefix: &str) -> Result<usize> {
    fn files(dir: &Path) -> std::io::Result<usize> {
        let mut count = 0;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            count += if entry.file_type()?.is_dir() {
                files(&entry.path())?
            } else {
                1
            };
        }
        Ok(count)
    }
    let dir = lab.path("s3").join(s3().bucket).join(prefix);
    if dir.exists() { Ok(files(&dir)?) } else { Ok(0) }
}

/// A request from inside the control plane's namespace.
fn curl(args: &[&str]) -> Result<String> {
    let netns = format!("--net=/run/netns/{HOST_NETNS}");
    let mut words = vec![netns.as_str(), "curl", "--fail", "--silent", "--show-error"];
    words.extend(args);
    shell::output("nsenter", &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_as_on_the_command_line() {
        assert_eq!("s3".parse::<Service>().unwrap(), Service::S3);
        assert!(
            "kafka"
                .parse::<Service>()
                .unwrap_err()
                .to_string()
                .contains("etcd")
        );
    }
}
