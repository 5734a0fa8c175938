//! The command line. Every flag has an environment variable, which is how the chart sets it.

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use greptime_telemetry::{LogConfig, LogFormat};

use crate::metasrv::DEFAULT_URL;

/// Runs GreptimeClusters on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "greptime-operator", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Run the operator. It is what happens without a command, too.
    Run,
    /// Print the CustomResourceDefinition of GreptimeCluster.
    Crd,
}

#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Database image of clusters that name none.
    #[arg(long, env = "DATABASE_IMAGE", global = true, default_value_t = default_image())]
    pub default_image: String,
    /// Namespaces to serve, separated by commas; empty for all. With a list, a Role in each of them is enough.
    #[arg(
        long,
        env = "WATCH_NAMESPACE",
        global = true,
        default_value = "",
        hide_default_value = true
    )]
    pub namespace: String,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "METRICS_ADDRESS", global = true, default_value = "0.0.0.0:8080")]
    pub metrics_address: String,
    /// Whether to wait for the lease before acting. Without it there must be one operator only.
    #[arg(long, env = "LEADER_ELECTION", global = true, default_value_t = true, action = ArgAction::Set)]
    pub leader_election: bool,
    /// Namespace of the lease; the operator's own.
    #[arg(long, env = "POD_NAMESPACE", global = true, default_value = "default")]
    pub lease_namespace: String,
    /// Who this operator is in the lease and in events; the pod's name.
    #[arg(long, env = "POD_NAME", global = true, default_value = "greptime-operator")]
    pub identity: String,
    /// How a metasrv is asked for the state of its cluster; may contain {ip}, {pod}, {name} and {namespace}.
    #[arg(long, env = "METASRV_URL", global = true, default_value = DEFAULT_URL)]
    pub metasrv_url: String,
    /// error, warn, info, debug, trace, or directives as in info,greptime_operator=debug.
    #[arg(long, env = "LOG_LEVEL", global = true, default_value = "info")]
    pub log_level: String,
    #[arg(long, env = "LOG_FORMAT", global = true, value_enum, default_value_t = Format::Text)]
    pub log_format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

impl Settings {
    /// `None` stands for all namespaces.
    pub fn namespaces(&self) -> Vec<Option<String>> {
        let named: std::collections::BTreeSet<_> = self
            .namespace
            .split(',')
            .map(str::trim)
            .filter(|n| !n.is_empty())
            .collect();
        if named.is_empty() {
            vec![None]
        } else {
            named.into_iter().map(|n| Some(n.to_owned())).collect()
        }
    }

    pub fn log(&self) -> LogConfig {
        let format = match self.log_format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        };
        LogConfig {
            level: self.log_level.clone(),
            format,
        }
    }
}

fn default_image() -> String {
    format!(
        "ghcr.io/greptimecluster/greptime-node:{}",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> Settings {
        let all = std::iter::once(&"greptime-operator").chain(arguments);
        Arguments::try_parse_from(all).unwrap().settings
    }

    #[test]
    fn no_namespace_means_all_and_a_list_is_one_of_each() {
        assert_eq!(settings(&[]).namespaces(), [None]);
        let named = settings(&["--namespace", "b, a,b,"]).namespaces();
        assert_eq!(named, [Some("a".to_owned()), Some("b".to_owned())]);
    }

    #[test]
    fn flags_are_understood_before_and_after_the_command() {
        assert!(!settings(&["--leader-election=false", "run"]).leader_election);
        assert!(!settings(&["run", "--leader-election=false"]).leader_election);
    }
}
