//! The store in etcd.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, Identity, TlsOptions,
    Txn, TxnOp,
};
use greptime_types::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Change, Expect, Store, Versioned};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A request that takes longer has an unknown outcome.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// etcd refuses larger pages of a listing by default message sizes long before memory matters.
const PAGE: i64 = 500;

/// Section `[store.etcd]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdConfig {
    pub endpoints: Vec<String>,
    /// Every key starts with it.
    pub prefix: String,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub username: Option<String>,
    #[serde(skip_serializing)]
    pub password: Option<String>,
}

/// Connects when first asked, so that metasrv starts, and says what is wrong, while etcd is away.
pub struct EtcdStore {
    config: EtcdConfig,
    prefix: String,
    client: Mutex<Option<Client>>,
}

impl EtcdStore {
    pub fn new(config: EtcdConfig) -> Result<Self> {
        if config.endpoints.is_empty() {
            return Err(Error::invalid(
                "store.etcd.endpoints is empty; name at least one URL",
            ));
        }
        let prefix = format!("{}/", config.prefix.trim_end_matches('/'));
        Ok(Self {
            config,
            prefix,
            client: Mutex::new(None),
        })
    }

    /// A connected client; clones share one connection.
    pub async fn client(&self) -> Result<Client> {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let options = self.options()?;
        let connect = Client::connect(&self.config.endpoints, Some(options));
        let client = tokio::time::timeout(REQUEST_TIMEOUT, connect)
            .await
            .map_err(|_| self.away(&"no answer"))?
            .map_err(|e| self.away(&e))?;
        Ok(slot.insert(client).clone())
    }

    /// `relative` with the prefix of this cluster.
    pub fn key(&self, relative: &str) -> String {
        format!("{}{relative}", self.prefix)
    }

    fn options(&self) -> Result<ConnectOptions> {
        let read = |file: &PathBuf| {
            std::fs::read(file).map_err(|e| Error::invalid(format!("store.etcd: {}: {e}", file.display())))
        };
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT)
            .with_keep_alive(Duration::from_secs(2), Duration::from_secs(2))
            .with_keep_alive_while_idle(true);
        if let Some(ca) = &self.config.ca_file {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
            if let (Some(cert), Some(key)) = (&self.config.cert_file, &self.config.key_file) {
                tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
            }
            options = options.with_tls(tls);
        }
        if let (Some(user), Some(password)) = (&self.config.username, &self.config.password) {
            options = options.with_user(user, password);
        }
        Ok(options)
    }

    fn away(&self, error: &dyn std::fmt::Display) -> Error {
        Error::unavailable(format!(
            "etcd at {} cannot be reached: {error}",
            self.config.endpoints.join(", ")
        ))
    }

    /// Runs one request under the time limit.
    async fn request<T>(&self, call: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T> {
        tokio::time::timeout(REQUEST_TIMEOUT, call)
            .await
            .map_err(|_| self.away(&"no answer"))?
            .map_err(|e| self.away(&e))
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>> {
        let mut client = self.client().await?;
        let mut from = self.key(prefix).into_bytes();
        let end = range_end(&from);
        let mut found = BTreeMap::new();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            let page = self.request(client.get(from.clone(), Some(options))).await?;
            for kv in page.kvs() {
                let key = String::from_utf8_lossy(kv.key());
                let relative = key.strip_prefix(&self.prefix).unwrap_or(&key).to_string();
                found.insert(
                    relative,
                    Versioned {
                        value: kv.value().to_vec(),
                        revision: kv.mod_revision(),
                    },
                );
            }
            match page.kvs().last().filter(|_| page.more()) {
                Some(last) => from = [last.key(), &[0]].concat(),
                None => return Ok(found),
            }
        }
    }

    async fn commit(&self, expect: Expect, changes: Vec<Change>) -> Result<Option<i64>> {
        let mut client = self.client().await?;
        let compare = match expect {
            Expect::Absent(key) => Compare::version(self.key(&key), CompareOp::Equal, 0),
            Expect::Revision(key, revision) => {
                Compare::mod_revision(self.key(&key), CompareOp::Equal, revision)
            }
        };
        let operations: Vec<TxnOp> = changes
            .into_iter()
            .map(|change| match change {
                Change::Put(key, value) => TxnOp::put(self.key(&key), value, None),
                Change::Delete(key) => TxnOp::delete(self.key(&key), None),
            })
            .collect();
        let answer = self
            .request(client.txn(Txn::new().when([compare]).and_then(operations)))
            .await?;
        let revision = answer.header().map_or(0, |h| h.revision());
        Ok(answer.succeeded().then_some(revision))
    }

    async fn probe(&self) -> Result<()> {
        let mut client = self.client().await?;
        let options = GetOptions::new().with_keys_only().with_limit(1);
        self.request(client.get(self.key("root"), Some(options)))
            .await
            .map(|_| ())
    }

    async fn destroy(&self) -> Result<()> {
        let mut client = self.client().await?;
        let options = DeleteOptions::new().with_prefix();
        self.request(client.delete(self.prefix.clone(), Some(options)))
            .await
            .map(|_| ())
    }

    fn name(&self) -> &'static str {
        "etcd"
    }
}

/// The first key that no longer starts with `prefix`.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_after_everything_with_the_prefix() {
        assert_eq!(range_end(b"ab"), b"ac");
        assert_eq!(range_end(&[1, 255]), [2]);
        assert_eq!(range_end(&[255]), [0]);
    }

    #[test]
    fn no_endpoint_is_an_error_that_names_the_setting() {
        assert!(
            EtcdStore::new(EtcdConfig::default())
                .err()
                .unwrap()
                .message
                .contains("store.etcd.endpoints")
        );
    }
}
