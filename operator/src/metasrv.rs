//! Asks metasrv how the cluster is.

use std::time::Duration;

use axum::body::Body;
use axum::http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Short, because a reconcile waits for it; an answer that does not come is "unknown", and asked for again.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A cluster of ten thousand regions answers with about 2 MB.
const LARGEST_ANSWER: usize = 32 << 20;

/// By address and not by name: a name that did not resolve yet is remembered by DNS caches for half a minute, and
/// the pods are known to the operator anyway.
pub const DEFAULT_URL: &str = "http://{ip}:4000/v1/cluster";

pub struct MetasrvClient {
    http: Client<HttpConnector, Body>,
    url: String,
}

/// A pod of metasrv that may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub pod: String,
    pub ip: String,
}

impl MetasrvClient {
    /// `url` may contain `{ip}`, `{pod}`, `{name}` (the cluster's) and `{namespace}`.
    pub fn new(url: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        // Pods come and go with their addresses, so connections are not kept for long.
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self {
            http,
            url: url.to_owned(),
        }
    }

    /// The answer of the leader, or of any instance if none says that it leads; else why nobody answered.
    pub async fn ask(&self, namespace: &str, cluster: &str, instances: &[Instance]) -> Result<Value, String> {
        let asked = instances
            .iter()
            .map(|instance| self.ask_one(namespace, cluster, instance));
        let answers = futures::future::join_all(asked).await;
        let mut failures = Vec::new();
        let mut best: Option<Value> = None;
        for (answer, instance) in answers.into_iter().zip(instances) {
            match answer {
                Ok(answer) if answer["leader"] == true => return Ok(answer),
                Ok(answer) => best = best.or(Some(answer)),
                Err(why) => failures.push(format!("{}: {why}", instance.pod)),
            }
        }
        match best {
            Some(answer) => Ok(answer),
            None if failures.is_empty() => Err("no metasrv pod has an address yet".into()),
            None => Err(failures.join("; ")),
        }
    }

    async fn ask_one(&self, namespace: &str, cluster: &str, instance: &Instance) -> Result<Value, String> {
        let ip = if instance.ip.contains(':') {
            format!("[{}]", instance.ip)
        } else {
            instance.ip.clone()
        };
        let url = self.url.replace("{ip}", &ip).replace("{pod}", &instance.pod);
        let url = url.replace("{name}", cluster).replace("{namespace}", namespace);
        let url: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
        match tokio::time::timeout(TIMEOUT, self.get(url.clone())).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{url}: no answer within {} s", TIMEOUT.as_secs())),
        }
    }

    async fn get(&self, url: Uri) -> Result<Value, String> {
        let response = self
            .http
            .get(url.clone())
            .await
            .map_err(|e| format!("{url}: {}", causes(&e)))?;
        if !response.status().is_success() {
            return Err(format!("{url}: {}", response.status()));
        }
        let body = axum::body::to_bytes(Body::new(response.into_body()), LARGEST_ANSWER).await;
        let body = body.map_err(|e| format!("{url}: {}", causes(&e)))?;
        serde_json::from_slice(&body).map_err(|e| format!("{url}: an answer that is not JSON: {e}"))
    }
}

/// An error with what caused it: the outermost alone says only "client error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
