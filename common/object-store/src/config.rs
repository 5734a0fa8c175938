//! Where the bucket is, and opening it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use greptime_types::{Error, Result};
use object_store::aws::AmazonS3Builder;
use object_store::client::{Certificate, ClientOptions};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use serde::{Deserialize, Serialize};

use crate::Bucket;
use crate::synced::SyncedLocal;

/// A request that takes longer is given up and retried.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The library's own retries are short: whoever asks decides about waiting for a store that is away.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    S3,
    #[default]
    Local,
    /// Lost with the process; for tests.
    Memory,
}

/// Section `[object_store]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectStoreConfig {
    pub kind: StoreKind,
    pub bucket: String,
    /// Prefix of every key.
    pub root: String,
    pub region: Option<String>,
    /// URL of an S3-compatible server; AWS when absent.
    pub endpoint: Option<String>,
    /// `http://host/bucket/key` instead of `http://bucket.host/key`.
    pub path_style: bool,
    /// PEM bundle that the server's certificate is checked with, beside the system's.
    pub ca_file: Option<PathBuf>,
    pub access_key_id: Option<String>,
    #[serde(skip_serializing)]
    pub secret_access_key: Option<String>,
    /// Directory of `kind = "local"`; the default is `objects` in the data directory.
    pub dir: Option<PathBuf>,
}

impl ObjectStoreConfig {
    /// Opens the store; no request is sent yet.
    pub fn open(&self) -> Result<Bucket> {
        let store: Arc<dyn ObjectStore> = match self.kind {
            StoreKind::S3 => Arc::new(self.open_s3()?),
            StoreKind::Local => Arc::new(self.open_local()?),
            StoreKind::Memory => Arc::new(InMemory::new()),
        };
        let root = Path::parse(self.root.trim_matches('/'))
            .map_err(|e| Error::invalid(format!("object_store.root `{}`: {e}", self.root)))?;
        Ok(Bucket { store, root })
    }

    fn open_s3(&self) -> Result<object_store::aws::AmazonS3> {
        if self.bucket.is_empty() {
            return Err(Error::invalid("object_store.bucket is empty; name the bucket"));
        }
        let mut client = ClientOptions::new()
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(true);
        if let Some(file) = &self.ca_file {
            let pem = std::fs::read(file)
                .map_err(|e| Error::invalid(format!("object_store.ca_file {}: {e}", file.display())))?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .map_err(|e| Error::invalid(format!("object_store.ca_file {}: {e}", file.display())))?;
            client = certificates
                .into_iter()
                .fold(client, ClientOptions::with_root_certificate);
        }
        let retry = RetryConfig {
            max_retries: 3,
            retry_timeout: RETRY_TIMEOUT,
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.bucket)
            .with_region(self.region.as_deref().unwrap_or("us-east-1"))
            .with_virtual_hosted_style_request(!self.path_style)
            .with_client_options(client)
            .with_retry(retry);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let (Some(id), Some(secret)) = (&self.access_key_id, &self.secret_access_key) {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        builder
            .build()
            .map_err(|e| Error::invalid(format!("object_store: {e}")))
    }

    fn open_local(&self) -> Result<SyncedLocal> {
        let dir = self
            .dir
            .as_ref()
            .ok_or_else(|| Error::invalid("object_store.dir is needed for kind = \"local\""))?;
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::invalid(format!("object_store.dir {}: {e}", dir.display())))?;
        SyncedLocal::new(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let s3 = ObjectStoreConfig {
            kind: StoreKind::S3,
            ..Default::default()
        };
        assert!(s3.open().unwrap_err().message.contains("object_store.bucket"));
        let local = ObjectStoreConfig::default();
        assert!(local.open().unwrap_err().message.contains("object_store.dir"));
    }

    #[test]
    fn the_secret_is_not_printed_with_the_settings() {
        let config = ObjectStoreConfig {
            secret_access_key: Some("hush".into()),
            ..Default::default()
        };
        assert!(!serde_json::to_string(&config).unwrap().contains("hush"));
    }
}
