//! The command line.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::settings::Settings;

/// A sharded columnar database for metrics, logs, traces and events.
///
/// Settings come from a TOML file, then from environment variables GREPTIME__SECTION__KEY (for example
/// GREPTIME__HTTP__ADDRESS), then from flags; the later wins. `--print-config` shows the outcome.
#[derive(Debug, Parser)]
#[command(name = "greptime-node", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Decides where regions live and keeps the catalog in etcd.
    Metasrv(Common),
    /// Holds regions: log, memtable, files on object storage.
    Datanode(Common),
    /// Speaks HTTP, MySQL and PostgreSQL; plans queries, routes writes.
    Frontend(Common),
    /// Everything in one process, with no other service. Data lies in --data-dir.
    Standalone(Common),
    /// Deletes everything that a cluster keeps in etcd and in its bucket. There is no way back.
    Destroy(Common),
}

#[derive(Debug, Args)]
pub struct Common {
    /// TOML file with settings.
    #[arg(long, short = 'c', value_name = "FILE", env = "GREPTIME_CONFIG_FILE")]
    config_file: Option<PathBuf>,
    /// Prints the settings in force as TOML, without secrets, and exits.
    #[arg(long)]
    pub print_config: bool,
    /// Directory of this node's data (node.data_dir).
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Number of this node within its role (node.id).
    #[arg(long, value_name = "N")]
    node_id: Option<u64>,
    /// host:port of metasrv; may be repeated (metasrv.addresses).
    #[arg(long, value_name = "ADDRESS")]
    metasrv: Vec<String>,
    /// Address of HTTP (http.address).
    #[arg(long, value_name = "ADDRESS")]
    http_addr: Option<String>,
    /// Address of gRPC (grpc.address).
    #[arg(long, value_name = "ADDRESS")]
    grpc_addr: Option<String>,
    /// Address of the MySQL protocol (mysql.address).
    #[arg(long, value_name = "ADDRESS")]
    mysql_addr: Option<String>,
    /// Address of the PostgreSQL protocol (postgres.address).
    #[arg(long, value_name = "ADDRESS")]
    postgres_addr: Option<String>,
    /// File with one `name=password` a line (auth.users_file).
    #[arg(long, value_name = "FILE")]
    users_file: Option<String>,
    /// error, warn, info, debug or trace (log.level).
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other setting, e.g. --set datanode.flush_size=64MiB; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Common {
    /// The settings in force.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let mut flags = Vec::new();
        let mut flag = |key: &str, value: Option<String>| {
            flags.extend(value.map(|value| (key.to_string(), value)));
        };
        flag("node.data_dir", self.data_dir.clone());
        flag("node.id", self.node_id.map(|id| id.to_string()));
        flag("http.address", self.http_addr.clone());
        flag("grpc.address", self.grpc_addr.clone());
        flag("mysql.address", self.mysql_addr.clone());
        flag("postgres.address", self.postgres_addr.clone());
        flag("auth.users_file", self.users_file.clone());
        flag("log.level", self.log_level.clone());
        if !self.metasrv.is_empty() {
            let quoted: Vec<String> = self.metasrv.iter().map(|a| format!("{a:?}")).collect();
            flags.push((
                "metasrv.addresses".to_string(),
                format!("[{}]", quoted.join(", ")),
            ));
        }
        for pair in &self.set {
            let (key, value) = pair
                .split_once('=')
                .with_context(|| format!("--set {pair}: write KEY=VALUE"))?;
            flags.push((key.to_string(), value.to_string()));
        }
        Ok(greptime_settings::load(self.config_file.as_deref(), &flags)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> anyhow::Result<Settings> {
        match Cli::try_parse_from(args)?.command {
            Command::Standalone(common) | Command::Datanode(common) => common.settings(),
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn flags_reach_their_settings() {
        let all = settings(&[
            "greptime-node",
            "datanode",
            "--metasrv=a:3002",
            "--metasrv=b:3002",
            "--node-id=3",
            "--set",
            "frontend.query_timeout=1m",
        ])
        .unwrap();
        assert_eq!(all.metasrv.addresses, ["a:3002", "b:3002"]);
        assert_eq!(all.node.id, 3);
        assert_eq!(all.frontend.query_timeout.as_secs(), 60);
    }

    #[test]
    fn a_misspelt_setting_names_the_nearest() {
        let error = settings(&["greptime-node", "standalone", "--set", "http.adress=x"]).unwrap_err();
        assert!(error.to_string().contains("`address`"), "{error}");
    }
}
