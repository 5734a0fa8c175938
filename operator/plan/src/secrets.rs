//! Which secrets a spec needs, for what, and whether they are there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use greptime_operator_api::GreptimeClusterSpec;

use crate::Fact;
use crate::names::Role;

/// What the operator knows of a secret: never the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFact {
    pub keys: BTreeSet<String>,
    pub resource_version: String,
}

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    EtcdTls,
    EtcdAuth,
    S3Ca,
    S3Credentials,
    GcsCredentials,
    AzureCredentials,
    Users,
}

impl Purpose {
    const ALL: [Purpose; 7] = [
        Purpose::EtcdTls,
        Purpose::EtcdAuth,
        Purpose::S3Ca,
        Purpose::S3Credentials,
        Purpose::GcsCredentials,
        Purpose::AzureCredentials,
        Purpose::Users,
    ];

    /// Who is let into the bucket; without any of these, the pod's service account is.
    pub const BUCKET: [Purpose; 3] = [
        Purpose::S3Credentials,
        Purpose::GcsCredentials,
        Purpose::AzureCredentials,
    ];

    pub fn secret_name(self, spec: &GreptimeClusterSpec) -> Option<&str> {
        let etcd = &spec.metasrv.store.etcd;
        let store = &spec.object_storage;
        match self {
            Purpose::EtcdTls => etcd.tls_secret_name.as_deref(),
            Purpose::EtcdAuth => etcd.auth_secret_name.as_deref(),
            Purpose::S3Ca => store.s3.as_ref()?.ca_secret_name.as_deref(),
            Purpose::S3Credentials => store.s3.as_ref()?.credentials_secret_name.as_deref(),
            Purpose::GcsCredentials => store.gcs.as_ref()?.credentials_secret_name.as_deref(),
            Purpose::AzureCredentials => store.azure.as_ref()?.credentials_secret_name.as_deref(),
            Purpose::Users => spec.auth.as_ref().map(|auth| auth.secret_name.as_str()),
        }
    }

    pub fn field(self) -> &'static str {
        match self {
            Purpose::EtcdTls => "spec.metasrv.store.etcd.tlsSecretName",
            Purpose::EtcdAuth => "spec.metasrv.store.etcd.authSecretName",
            Purpose::S3Ca => "spec.objectStorage.s3.caSecretName",
            Purpose::S3Credentials => "spec.objectStorage.s3.credentialsSecretName",
            Purpose::GcsCredentials => "spec.objectStorage.gcs.credentialsSecretName",
            Purpose::AzureCredentials => "spec.objectStorage.azure.credentialsSecretName",
            Purpose::Users => "spec.auth.secretName",
        }
    }

    fn keys(self) -> &'static [&'static str] {
        match self {
            Purpose::EtcdTls | Purpose::S3Ca => &["ca.crt"],
            Purpose::EtcdAuth => &["username", "password"],
            Purpose::S3Credentials => &["access-key-id", "secret-access-key"],
            Purpose::GcsCredentials => &["service-account.json"],
            Purpose::AzureCredentials => &["account-key"],
            Purpose::Users => &["users"],
        }
    }

    pub fn needed_by(self, role: Role) -> bool {
        match self {
            Purpose::EtcdTls | Purpose::EtcdAuth => role == Role::Metasrv,
            Purpose::S3Ca | Purpose::S3Credentials | Purpose::GcsCredentials | Purpose::AzureCredentials => {
                role != Role::Frontend
            }
            Purpose::Users => role == Role::Frontend,
        }
    }

    /// Whether a change of the secret takes a restart. The users file is read again when it changes.
    pub fn restarts(self) -> bool {
        self != Purpose::Users
    }
}

/// What the spec of a role refers to, with the secret's name.
pub fn of_role(spec: &GreptimeClusterSpec, role: Role) -> impl Iterator<Item = (Purpose, &str)> {
    let needed = Purpose::ALL
        .into_iter()
        .filter(move |purpose| purpose.needed_by(role));
    needed.filter_map(|purpose| Some((purpose, purpose.secret_name(spec)?)))
}

/// Names of all secrets that the spec refers to, to be looked up before planning. Pull secrets are not among
/// them: the kubelet reads those, and says in the pod when it cannot.
pub fn referenced_secrets(spec: &GreptimeClusterSpec) -> BTreeSet<String> {
    Purpose::ALL
        .into_iter()
        .filter_map(|purpose| purpose.secret_name(spec))
        .map(str::to_owned)
        .collect()
}

/// Why a secret cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretProblem {
    Missing {
        secret: String,
        purpose: Purpose,
    },
    KeyMissing {
        secret: String,
        key: &'static str,
        purpose: Purpose,
    },
    Unreadable {
        secret: String,
        purpose: Purpose,
        why: String,
    },
}

impl SecretProblem {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "SecretMissing",
            Self::KeyMissing { .. } => "SecretKeyMissing",
            Self::Unreadable { .. } => "SecretUnreadable",
        }
    }

    fn purpose(&self) -> Purpose {
        match self {
            Self::Missing { purpose, .. }
            | Self::KeyMissing { purpose, .. }
            | Self::Unreadable { purpose, .. } => *purpose,
        }
    }
}

impl fmt::Display for SecretProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.purpose().field();
        match self {
            Self::Missing { secret, .. } => {
                write!(
                    f,
                    "secret {secret} ({field}) does not exist in this namespace; create it"
                )
            }
            Self::KeyMissing { secret, key, .. } => {
                write!(f, "secret {secret} ({field}) has no key {key}; add it")
            }
            Self::Unreadable { secret, why, .. } => {
                write!(f, "secret {secret} ({field}) cannot be read: {why}")
            }
        }
    }
}

/// The outcome of looking at every secret that the spec refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    pub problems: Vec<SecretProblem>,
    /// The etcd secret also has a client certificate.
    pub etcd_client_certificate: bool,
    versions: BTreeMap<String, String>,
}

impl Examined {
    pub fn of(spec: &GreptimeClusterSpec, facts: &BTreeMap<String, Fact<SecretFact>>) -> Self {
        let mut examined = Self::default();
        for purpose in Purpose::ALL {
            if let Some(secret) = purpose.secret_name(spec) {
                examined.look_at(purpose, secret, facts.get(secret));
            }
        }
        examined
    }

    fn look_at(&mut self, purpose: Purpose, secret: &str, fact: Option<&Fact<SecretFact>>) {
        let secret = secret.to_owned();
        let unreadable = |why: &str| SecretProblem::Unreadable {
            secret: secret.clone(),
            purpose,
            why: why.to_owned(),
        };
        let known = match fact {
            Some(Fact::Known(known)) => known,
            Some(Fact::Absent) => return self.problems.push(SecretProblem::Missing { secret, purpose }),
            Some(Fact::Unknown(why)) => return self.problems.push(unreadable(why)),
            None => return self.problems.push(unreadable("it was not looked up")),
        };
        let mut wanted = purpose.keys().to_vec();
        if purpose == Purpose::EtcdTls {
            // A client certificate is optional; half of one is a mistake.
            let pair = ["tls.crt", "tls.key"];
            self.etcd_client_certificate = pair.iter().any(|key| known.keys.contains(*key));
            wanted.extend(if self.etcd_client_certificate {
                &pair[..]
            } else {
                &[]
            });
        }
        for key in wanted.into_iter().filter(|key| !known.keys.contains(*key)) {
            self.problems.push(SecretProblem::KeyMissing {
                secret: secret.clone(),
                key,
                purpose,
            });
        }
        self.versions.insert(secret, known.resource_version.clone());
    }

    /// Whether everything that the role needs is there.
    pub fn complete_for(&self, role: Role) -> bool {
        !self
            .problems
            .iter()
            .any(|problem| problem.purpose().needed_by(role))
    }

    /// Versions of the secrets whose change restarts the role's pods.
    pub fn versions_of<'a>(
        &'a self,
        spec: &'a GreptimeClusterSpec,
        role: Role,
    ) -> impl Iterator<Item = &'a str> {
        let restarting = of_role(spec, role).filter(|(purpose, _)| purpose.restarts());
        restarting.filter_map(|(_, secret)| self.versions.get(secret).map(String::as_str))
    }
}
