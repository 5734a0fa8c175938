//! Where the bucket is, and opening it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use greptime_types::{Error, Result};
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::client::{Certificate, ClientOptions};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig, StaticCredentialProvider};
use serde::{Deserialize, Serialize};

use crate::Bucket;
use crate::synced::SyncedLocal;

/// How long a store of the network is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until there is a connection.
    pub connect: Duration,
    /// From the first byte of a request to the last one of its answer.
    pub request: Duration,
    /// A request that failed is not repeated when it began so long ago. Short, since whoever asks decides about waiting
    /// for a store that is away.
    pub retry: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            request: Duration::from_secs(30),
            retry: Duration::from_secs(5),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Amazon S3, and servers that speak its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Synced files in a directory.
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
    /// Bucket of S3 or Google, container of Azure.
    pub bucket: String,
    /// Prefix of every key.
    pub root: String,
    pub region: Option<String>,
    /// URL of the server; the cloud's own when absent.
    pub endpoint: Option<String>,
    /// `http://host/bucket/key` instead of `http://bucket.host/key`.
    pub path_style: bool,
    /// PEM bundle that the server's certificate is checked with, beside the system's.
    pub ca_file: Option<PathBuf>,
    pub access_key_id: Option<String>,
    #[serde(skip_serializing)]
    pub secret_access_key: Option<String>,
    /// Google: a file with the key of a service account.
    pub service_account_file: Option<PathBuf>,
    /// Azure: the storage account.
    pub account_name: Option<String>,
    /// Azure: its key.
    #[serde(skip_serializing)]
    pub account_key: Option<String>,
    /// Azure: a shared access signature instead of the key, with or without its question mark.
    #[serde(skip_serializing)]
    pub sas_token: Option<String>,
    /// Directory of `kind = "local"`; the default is `objects` in the data directory.
    pub dir: Option<PathBuf>,
}

impl ObjectStoreConfig {
    /// Opens the store; no request is sent yet.
    ///
    /// Errors: `InvalidArgument` that names the setting that is missing, or that has no meaning for the kind.
    pub fn open(&self) -> Result<Bucket> {
        self.open_within(&Limits::default())
    }

    /// As [`Self::open`], with other limits.
    pub fn open_within(&self, limits: &Limits) -> Result<Bucket> {
        self.check()?;
        let store: Arc<dyn ObjectStore> = match self.kind {
            StoreKind::S3 => Arc::new(self.open_s3(limits)?),
            StoreKind::Gcs => Arc::new(self.open_gcs(limits)?),
            StoreKind::Azure => Arc::new(self.open_azure(limits)?),
            StoreKind::Local => Arc::new(self.open_local()?),
            StoreKind::Memory => Arc::new(InMemory::new()),
        };
        let root = Path::parse(self.root.trim_matches('/'))
            .map_err(|e| Error::invalid(format!("object_store.root `{}`: {e}", self.root)))?;
        Ok(Bucket { store, root })
    }

    /// Settings that belong to another kind are mistakes, and so is half of a pair.
    fn check(&self) -> Result<()> {
        use StoreKind::{Azure, Gcs, S3};
        let clouds: &[StoreKind] = &[S3, Gcs, Azure];
        let given: [(&str, bool, &[StoreKind]); 8] = [
            ("region", self.region.is_some(), &[S3]),
            ("path_style", self.path_style, &[S3]),
            ("access_key_id", self.access_key_id.is_some(), &[S3]),
            ("secret_access_key", self.secret_access_key.is_some(), &[S3]),
            (
                "service_account_file",
                self.service_account_file.is_some(),
                &[Gcs],
            ),
            ("account_name", self.account_name.is_some(), &[Azure]),
            ("account_key", self.account_key.is_some(), &[Azure]),
            ("sas_token", self.sas_token.is_some(), &[Azure]),
        ];
        let kind = self.kind.name();
        if let Some((setting, ..)) = given
            .iter()
            .find(|(_, given, kinds)| *given && !kinds.contains(&self.kind))
        {
            return Err(Error::invalid(format!(
                "object_store.{setting} has no meaning for object_store.kind = \"{kind}\"; remove it, or choose \
                 another kind"
            )));
        }
        if clouds.contains(&self.kind) && self.bucket.is_empty() {
            let what = if self.kind == Azure { "container" } else { "bucket" };
            return Err(Error::invalid(format!(
                "object_store.bucket is empty; name the {what}"
            )));
        }
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            return Err(Error::invalid(
                "object_store.access_key_id and object_store.secret_access_key are given together or not at all",
            ));
        }
        if self.account_key.is_some() && self.sas_token.is_some() {
            return Err(Error::invalid(
                "object_store.account_key and object_store.sas_token are two ways to sign; give one of them",
            ));
        }
        Ok(())
    }

    fn open_s3(&self, limits: &Limits) -> Result<object_store::aws::AmazonS3> {
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.bucket)
            .with_region(self.region.as_deref().unwrap_or("us-east-1"))
            .with_virtual_hosted_style_request(!self.path_style)
            .with_client_options(self.client(limits)?)
            .with_retry(retry(limits));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let (Some(id), Some(secret)) = (&self.access_key_id, &self.secret_access_key) {
            // As a whole: a token that the environment has belongs to other keys.
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(AwsCredential {
                key_id: id.clone(),
                secret_key: secret.clone(),
                token: None,
            })));
        }
        builder.build().map_err(|e| refused(&e))
    }

    fn open_gcs(&self, limits: &Limits) -> Result<object_store::gcp::GoogleCloudStorage> {
        let mut builder = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(&self.bucket)
            .with_client_options(self.client(limits)?)
            .with_retry(retry(limits));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        if let Some(file) = &self.service_account_file {
            if !file.is_file() {
                return Err(Error::invalid(format!(
                    "object_store.service_account_file {} is not a file",
                    file.display()
                )));
            }
            builder = builder.with_service_account_path(file.display().to_string());
        }
        builder.build().map_err(|e| refused(&e))
    }

    fn open_azure(&self, limits: &Limits) -> Result<object_store::azure::MicrosoftAzure> {
        let environment = MicrosoftAzureBuilder::from_env();
        let account = self
            .account_name
            .clone()
            .or_else(|| environment.get_config_value(&AzureConfigKey::AccountName))
            .ok_or_else(|| {
                Error::invalid(
                    "object_store.account_name is needed for kind = \"azure\": the name of the storage account",
                )
            })?;
        let builder = match &self.sas_token {
            // A key that the environment has would be taken instead.
            Some(token) => MicrosoftAzureBuilder::new().with_config(AzureConfigKey::SasKey, token),
            None => environment,
        };
        let mut builder = builder
            .with_account(account)
            .with_container_name(&self.bucket)
            .with_client_options(self.client(limits)?)
            .with_retry(retry(limits));
        if let Some(key) = &self.account_key {
            let key = AzureAccessKey::try_new(key)
                .map_err(|e| Error::invalid(format!("object_store.account_key: {e}")))?;
            let credential = StaticCredentialProvider::new(AzureCredential::AccessKey(key));
            builder = builder.with_credentials(Arc::new(credential));
        }
        if let Some(endpoint) = &self.endpoint {
            // The variable that asks for the emulator has a URL of its own.
            builder = builder.with_endpoint(endpoint.clone()).with_use_emulator(false);
        }
        builder.build().map_err(|e| refused(&e))
    }

    /// Limits of a single request.
    fn client(&self, limits: &Limits) -> Result<ClientOptions> {
        let client = ClientOptions::new()
            .with_timeout(limits.request)
            .with_connect_timeout(limits.connect)
            .with_allow_http(true);
        let Some(file) = &self.ca_file else {
            return Ok(client);
        };
        let invalid = |e: &dyn std::fmt::Display| {
            Error::invalid(format!("object_store.ca_file {}: {e}", file.display()))
        };
        let pem = std::fs::read(file).map_err(|e| invalid(&e))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|e| invalid(&e))?;
        Ok(certificates
            .into_iter()
            .fold(client, ClientOptions::with_root_certificate))
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

impl StoreKind {
    /// As the setting has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Azure => "azure",
            Self::Local => "local",
            Self::Memory => "memory",
        }
    }
}

fn retry(limits: &Limits) -> RetryConfig {
    RetryConfig {
        max_retries: 3,
        retry_timeout: limits.retry,
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
    }
}

fn refused(error: &object_store::Error) -> Error {
    Error::invalid(format!("object_store: {error}"))
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

    fn cloud(kind: StoreKind) -> ObjectStoreConfig {
        ObjectStoreConfig {
            kind,
            bucket: "data".into(),
            ..Default::default()
        }
    }

    fn refusal(config: &ObjectStoreConfig) -> String {
        config.open().unwrap_err().message
    }

    #[test]
    fn every_cloud_is_opened_by_its_settings() {
        cloud(StoreKind::S3).open().unwrap();
        let azure = ObjectStoreConfig {
            account_name: Some("account".into()),
            account_key: Some("c2VjcmV0".into()),
            ..cloud(StoreKind::Azure)
        };
        assert!(azure.open().unwrap().store.to_string().contains("account"));
        let gcs = ObjectStoreConfig {
            endpoint: Some("http://127.0.0.1:9".into()),
            ..cloud(StoreKind::Gcs)
        };
        assert!(gcs.open().unwrap().store.to_string().contains("data"));
    }

    #[test]
    fn a_setting_of_another_kind_and_half_of_a_pair_are_refused() {
        let mut config = cloud(StoreKind::Gcs);
        config.account_name = Some("a".into());
        let refused = refusal(&config);
        assert!(
            refused.contains("account_name") && refused.contains("\"gcs\""),
            "{refused}"
        );
        let mut config = cloud(StoreKind::S3);
        config.access_key_id = Some("id".into());
        assert!(refusal(&config).contains("secret_access_key"));
        let mut config = cloud(StoreKind::Azure);
        config.endpoint = Some("http://127.0.0.1:9/account".into());
        assert!(refusal(&config).contains("object_store.account_name"));
        config.account_key = Some("c2VjcmV0".into());
        config.sas_token = Some("sv=2021-10-04&sig=x".into());
        assert!(refusal(&config).contains("object_store.sas_token"));
        let mut config = cloud(StoreKind::Gcs);
        config.service_account_file = Some("/nowhere/key.json".into());
        assert!(refusal(&config).contains("/nowhere/key.json"));
        config.bucket = String::new();
        assert!(refusal(&config).contains("object_store.bucket"));
    }

    #[test]
    fn the_secret_is_not_printed_with_the_settings() {
        let config = ObjectStoreConfig {
            secret_access_key: Some("hush".into()),
            account_key: Some("hush".into()),
            sas_token: Some("hush".into()),
            ..Default::default()
        };
        assert!(!serde_json::to_string(&config).unwrap().contains("hush"));
    }
}
