//! The settings file of each role: what the operator knows, and the role's own `config` over it.

use std::collections::BTreeMap;

use greptime_operator_api::GreptimeCluster;
use toml::Value;

use crate::names::{self, Role};
use crate::secrets::{Examined, Purpose};

pub const CONFIG_DIR: &str = "/etc/greptime/config";
pub const CONFIG_FILE: &str = "/etc/greptime/config/config.toml";
pub const DATA_DIR: &str = "/data";

/// Settings that the operator or a secret decides, and where to say it instead. A section ends with a dot.
const RESERVED: [(&str, &str); 10] = [
    ("cluster.name", "it is the name of this object"),
    ("node.", "it is different for each pod"),
    ("http.address", "use spec.ports"),
    ("grpc.address", "the operator knows where nodes find each other"),
    ("mysql.address", "use spec.ports"),
    ("postgres.address", "use spec.ports"),
    ("metasrv.addresses", "the operator knows them"),
    ("store.etcd.", "use spec.metasrv.store.etcd"),
    ("object_store.", "use spec.objectStorage"),
    ("auth.", "use spec.auth"),
];

/// Why a setting cannot be made in `config`.
pub fn reserved(key: &str) -> Option<&'static str> {
    let hit = RESERVED.iter().find(|(name, _)| match name.strip_suffix('.') {
        Some(section) => key == section || key.starts_with(name),
        None => key == *name,
    });
    hit.map(|(_, instead)| *instead)
}

/// Settings by dotted name. Ordered by segments, which is the order of the file.
#[derive(Default)]
pub struct Settings(BTreeMap<Vec<String>, Value>);

impl Settings {
    /// Of one role, with its `config` merged over.
    pub fn of(cluster: &GreptimeCluster, role: Role, secrets: &Examined) -> Self {
        let mut settings = Self::default();
        settings.add_common(cluster, role);
        match role {
            Role::Metasrv => {
                settings.add_etcd(cluster, secrets.etcd_client_certificate);
                settings.add_object_store(cluster);
            }
            Role::Datanode => {
                settings.set("node.data_dir", DATA_DIR);
                settings.add_object_store(cluster);
            }
            Role::Frontend => settings.add_frontend(cluster),
        }
        for (key, text) in role.spec(cluster).config {
            settings.set(key, value(text));
        }
        settings
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0
            .insert(key.split('.').map(str::to_owned).collect(), value.into());
    }

    fn add_common(&mut self, cluster: &GreptimeCluster, role: Role) {
        self.set("cluster.name", names::name(cluster));
        self.set("http.address", listen(role.http_port(cluster)));
        if let Some(port) = role.grpc_port() {
            self.set("grpc.address", listen(port));
        }
        // Not for metasrv itself, which does not read them: one more would restart all the others.
        if role != Role::Metasrv {
            self.set("metasrv.addresses", names::metasrv_addresses(cluster));
        }
        self.set("log.format", "json");
    }

    fn add_frontend(&mut self, cluster: &GreptimeCluster) {
        let ports = &cluster.spec.ports;
        self.set("mysql.address", listen(ports.mysql()));
        self.set("postgres.address", listen(ports.postgres()));
        if cluster.spec.auth.is_some() {
            self.set("auth.users_file", mounted(Purpose::Users, "users"));
        }
    }

    fn add_etcd(&mut self, cluster: &GreptimeCluster, client_certificate: bool) {
        let etcd = &cluster.spec.metasrv.store.etcd;
        self.set("store.etcd.endpoints", etcd.endpoints.clone());
        self.set("store.etcd.prefix", prefix(cluster));
        if etcd.tls_secret_name.is_some() {
            self.set("store.etcd.ca_file", mounted(Purpose::EtcdTls, "ca.crt"));
        }
        if client_certificate {
            self.set("store.etcd.cert_file", mounted(Purpose::EtcdTls, "tls.crt"));
            self.set("store.etcd.key_file", mounted(Purpose::EtcdTls, "tls.key"));
        }
    }

    fn add_object_store(&mut self, cluster: &GreptimeCluster) {
        let store = &cluster.spec.object_storage;
        for place in store.given() {
            self.set("object_store.kind", place.kind);
            self.set("object_store.bucket", place.name);
            self.set("object_store.root", root(cluster));
            if let Some(endpoint) = place.endpoint {
                self.set("object_store.endpoint", endpoint);
            }
        }
        if let Some(s3) = &store.s3 {
            self.set("object_store.region", s3.region.as_deref().unwrap_or("us-east-1"));
            self.set("object_store.path_style", s3.path_style.unwrap_or(false));
            if s3.ca_secret_name.is_some() {
                self.set("object_store.ca_file", mounted(Purpose::S3Ca, "ca.crt"));
            }
        }
        if Purpose::GcsCredentials.secret_name(&cluster.spec).is_some() {
            let key = mounted(Purpose::GcsCredentials, "service-account.json");
            self.set("object_store.service_account_file", key);
        }
        if let Some(azure) = &store.azure {
            self.set("object_store.account_name", azure.account_name.as_str());
        }
    }

    /// A setting that is also a section of another: `(log, log.level)`.
    pub fn conflict(&self) -> Option<(String, String)> {
        let mut keys = self.0.keys().peekable();
        while let (Some(key), Some(next)) = (keys.next(), keys.peek()) {
            // Sorted by segments, a prefix stands right before what it is a prefix of.
            if next.starts_with(key) {
                return Some((key.join("."), next.join(".")));
            }
        }
        None
    }

    /// The file. Without conflicts.
    pub fn to_toml(&self) -> String {
        let mut root = toml::Table::new();
        for (path, value) in &self.0 {
            insert(&mut root, path, value);
        }
        let body = toml::to_string(&root).unwrap_or_default();
        format!("# Written by greptime-operator; changes are overwritten.\n\n{body}")
    }
}

fn insert(table: &mut toml::Table, path: &[String], value: &Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        table.insert(first.clone(), value.clone());
        return;
    }
    let section = table
        .entry(first.clone())
        .or_insert_with(|| Value::Table(toml::Table::new()));
    if let Value::Table(section) = section {
        insert(section, rest, value);
    }
}

/// `3`, `true` and `["a"]` mean what they look like; everything else is text, as it is in the environment.
/// Quotes make text of what looks like a number.
fn value(text: &str) -> Value {
    let parsed: Option<toml::Table> = toml::from_str(&format!("value = {text}")).ok();
    let only = parsed
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"));
    match only {
        Some(Value::Datetime(_) | Value::Table(_)) | None => Value::String(text.to_owned()),
        Some(value) => value,
    }
}

fn listen(port: i32) -> String {
    format!("0.0.0.0:{port}")
}

/// Of the catalog's keys in etcd.
pub fn prefix(cluster: &GreptimeCluster) -> String {
    let own = || format!("/greptime/{}/{}", names::namespace(cluster), names::name(cluster));
    cluster.spec.metasrv.store.etcd.prefix.clone().unwrap_or_else(own)
}

/// Of the cluster's objects in the bucket.
pub fn root(cluster: &GreptimeCluster) -> String {
    let own = || format!("{}/{}", names::namespace(cluster), names::name(cluster));
    let given = cluster.spec.object_storage.given();
    let root = given.first().and_then(|place| place.root);
    root.map_or_else(own, str::to_owned)
}

/// Where a secret's files lie; `None` for those that go into the environment.
pub fn mount_dir(purpose: Purpose) -> Option<&'static str> {
    match purpose {
        Purpose::EtcdTls => Some("/etc/greptime/etcd-tls"),
        Purpose::S3Ca => Some("/etc/greptime/s3-ca"),
        Purpose::GcsCredentials => Some("/etc/greptime/gcs"),
        Purpose::Users => Some("/etc/greptime/auth"),
        Purpose::EtcdAuth | Purpose::S3Credentials | Purpose::AzureCredentials => None,
    }
}

fn mounted(purpose: Purpose, key: &str) -> String {
    format!("{}/{key}", mount_dir(purpose).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use toml::Value;

    use super::{Settings, reserved, value};

    #[test]
    fn a_value_means_what_it_looks_like() {
        assert_eq!(value("3"), Value::Integer(3));
        assert_eq!(value("true"), Value::Boolean(true));
        assert_eq!(value("\"3\""), Value::String("3".into()));
        for text in [
            "30s",
            "64MiB",
            "debug",
            "2024-01-01",
            "1\nother = 2",
            "{ a = 1 }",
            "",
        ] {
            assert_eq!(value(text), Value::String(text.into()));
        }
    }

    #[test]
    fn what_the_operator_decides_is_reserved() {
        assert!(reserved("node.id").is_some());
        assert!(reserved("node").is_some());
        assert!(reserved("metasrv.addresses").is_some());
        assert!(reserved("metasrv.session_timeout").is_none());
        assert!(reserved("log.level").is_none());
    }

    #[test]
    fn a_setting_that_is_also_a_section_is_found() {
        let mut settings = Settings::default();
        settings.set("log.level", "info");
        settings.set("log", "debug");
        settings.set("log-x", "x");
        assert_eq!(settings.conflict(), Some(("log".into(), "log.level".into())));
    }
}
