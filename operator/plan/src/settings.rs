//! The configuration file of each role: what the operator says, and what the user adds by name.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::names::{HTTP_PORT, MYSQL_PORT, POSTGRES_PORT, Role};
use crate::resolved::Resolved;

pub const CONFIG_FILE: &str = "config.toml";
pub const CONFIG_DIR: &str = "/etc/greptime/config";
pub const ETCD_TLS_DIR: &str = "/etc/greptime/etcd-tls";
pub const S3_CA_DIR: &str = "/etc/greptime/s3-ca";
pub const AUTH_DIR: &str = "/etc/greptime/auth";
pub const DATA_DIR: &str = "/data";

/// Settings that a user may not set by name, and where they belong instead. A trailing dot stands for the section.
const RESERVED: [(&str, &str); 13] = [
    ("cluster.", "the name of the cluster is that of its resource"),
    ("node.", "the operator gives each pod its identity"),
    ("http.", "the pods' ports are fixed; spec.ports sets those of the service"),
    ("grpc.", "the pods' ports are fixed; spec.ports sets those of the service"),
    ("mysql.address", "the pods' ports are fixed; spec.ports sets those of the service"),
    ("postgres.address", "the pods' ports are fixed; spec.ports sets those of the service"),
    ("metasrv.addresses", "the operator tells every pod where metasrv is"),
    ("store.", "use spec.metasrv.store"),
    ("object_store.", "use spec.objectStorage"),
    ("auth.", "use spec.auth.secretName"),
    ("cluster", "the name of the cluster is that of its resource"),
    ("store", "use spec.metasrv.store"),
    ("object_store", "use spec.objectStorage"),
];

/// Reads the settings that a user gave by name.
pub fn parse(role: Role, settings: &BTreeMap<String, String>) -> Result<Table, Vec<String>> {
    let mut table = Table::new();
    let mut errors = Vec::new();
    for (key, text) in settings {
        let outcome = check_key(key)
            .and_then(|()| check_value(key, text))
            .and_then(|()| insert(&mut table, key, value(text)));
        if let Err(why) = outcome {
            errors.push(format!("{}.config `{key}`: {why}", role.as_str()));
        }
    }
    if errors.is_empty() { Ok(table) } else { Err(errors) }
}

fn check_key(key: &str) -> Result<(), String> {
    let part_ok = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    if !key.split('.').all(part_ok) {
        return Err("a setting is named like `log.level`: lower-case words with '_', joined by dots".into());
    }
    if !key.contains('.') {
        return Err("a setting is named with its section, like `log.level`".into());
    }
    let reserved = RESERVED.iter().find(|(name, _)| match name.strip_suffix('.') {
        Some(section) => key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.')),
        None => key == *name,
    });
    reserved.map_or(Ok(()), |(_, why)| Err(format!("it is the operator's: {why}")))
}

/// Durations and sizes are recognised by their names, so that a misspelt unit is refused here, with its name, instead
/// of by each pod at its start.
fn check_value(key: &str, text: &str) -> Result<(), String> {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|s| key.ends_with(s));
    if text.chars().any(|c| c.is_control()) {
        return Err("a value is one line".into());
    }
    if ends(&["_timeout", "_interval", "_ttl", ".ttl"]) && !is_duration(text) {
        return Err(format!("`{text}` is no duration, such as 30s or 5m"));
    }
    if ends(&["_size", "_bytes"]) && !is_size(text) {
        return Err(format!("`{text}` is no size, such as 64MiB"));
    }
    Ok(())
}

fn number_and_unit(text: &str) -> Option<(&str, &str)> {
    let text = text.trim().trim_matches('"');
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number = &text[..end];
    number.parse::<f64>().is_ok().then(|| (number, text[end..].trim_start()))
}

fn is_duration(text: &str) -> bool {
    // One or several numbers with units, as in `1h 30m`.
    let units = ["ns", "us", "ms", "s", "sec", "m", "min", "h", "hr", "d", "day", "days", "w", "week", "weeks"];
    let mut rest = text.trim().trim_matches('"');
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let Some((_, after)) = number_and_unit(rest) else { return false };
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        if !units.contains(&&after[..end]) {
            return false;
        }
        rest = after[end..].trim_start();
    }
    true
}

fn is_size(text: &str) -> bool {
    let units = ["", "B", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB", "K", "M", "G", "T"];
    number_and_unit(text).is_some_and(|(_, unit)| units.contains(&unit))
}

/// Numbers, booleans, lists and quoted strings are what TOML makes of them; everything else is a string as it stands.
fn value(text: &str) -> Value {
    let parsed: Option<Table> = toml::from_str(&format!("v = {text}")).ok();
    match parsed.and_then(|mut table| table.remove("v")) {
        Some(value @ (Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Array(_) | Value::String(_))) => {
            value
        }
        _ => Value::String(text.to_owned()),
    }
}

fn insert(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
    let (head, rest) = match key.split_once('.') {
        Some((head, rest)) => (head, Some(rest)),
        None => (key, None),
    };
    match (rest, table.get_mut(head)) {
        (None, None) => {
            table.insert(head.to_owned(), value);
            Ok(())
        }
        (None, Some(_)) => Err("it is set twice, or is a section of another setting".into()),
        (Some(rest), Some(Value::Table(inner))) => insert(inner, rest, value),
        (Some(_), Some(_)) => Err(format!("`{head}` is a setting, so it has no settings inside")),
        (Some(rest), None) => {
            let mut inner = Table::new();
            insert(&mut inner, rest, value)?;
            table.insert(head.to_owned(), Value::Table(inner));
            Ok(())
        }
    }
}

/// The text of a role's configuration file. `etcd_client_certificate` is whether the secret has one.
pub fn render(resolved: &Resolved<'_>, role: Role, etcd_client_certificate: bool) -> String {
    let mut table = resolved.settings.get(&role).cloned().unwrap_or_default();
    let listen = |port: i32| text(&format!("0.0.0.0:{port}"));
    put(&mut table, "cluster", "name", text(&resolved.names.cluster));
    put(&mut table, "http", "address", listen(HTTP_PORT));
    put(&mut table, "grpc", "address", listen(role.grpc_port()));
    let peers = resolved.names.host(&resolved.names.peers(Role::Metasrv));
    let metasrv = Value::Array(vec![text(&format!("{peers}:{}", Role::Metasrv.grpc_port()))]);
    put(&mut table, "metasrv", "addresses", metasrv);
    match role {
        Role::Metasrv => {
            etcd(&mut table, resolved, etcd_client_certificate);
            object_store(&mut table, resolved);
        }
        Role::Datanode => {
            put(&mut table, "node", "data_dir", text(DATA_DIR));
            object_store(&mut table, resolved);
        }
        Role::Frontend => {
            put(&mut table, "mysql", "address", listen(MYSQL_PORT));
            put(&mut table, "postgres", "address", listen(POSTGRES_PORT));
            if resolved.cluster.spec.auth.is_some() {
                put(&mut table, "auth", "users_file", text(&format!("{AUTH_DIR}/users")));
            }
        }
    }
    sorted(table).to_string()
}

/// Whether a table keeps the order of insertion depends on what else is built; the file must not.
fn sorted(table: Table) -> Table {
    let entries: BTreeMap<String, Value> = table.into_iter().collect();
    entries
        .into_iter()
        .map(|(key, value)| match value {
            Value::Table(inner) => (key, Value::Table(sorted(inner))),
            other => (key, other),
        })
        .collect()
}

fn etcd(table: &mut Table, resolved: &Resolved<'_>, client_certificate: bool) {
    let spec = &resolved.cluster.spec.metasrv.store.etcd;
    let mut section = Table::new();
    section.insert("endpoints".into(), Value::Array(spec.endpoints.iter().map(|e| text(e)).collect()));
    section.insert("prefix".into(), text(&resolved.etcd_prefix));
    if spec.tls_secret_name.is_some() {
        section.insert("ca_file".into(), text(&format!("{ETCD_TLS_DIR}/ca.crt")));
        if client_certificate {
            section.insert("cert_file".into(), text(&format!("{ETCD_TLS_DIR}/tls.crt")));
            section.insert("key_file".into(), text(&format!("{ETCD_TLS_DIR}/tls.key")));
        }
    }
    put(table, "store", "etcd", Value::Table(section));
}

fn object_store(table: &mut Table, resolved: &Resolved<'_>) {
    let s3 = &resolved.cluster.spec.object_storage.s3;
    let mut set = |key: &str, value: Value| put(table, "object_store", key, value);
    set("kind", text("s3"));
    set("bucket", text(&s3.bucket));
    set("root", text(&resolved.s3_root));
    set("region", text(s3.region.as_deref().unwrap_or("us-east-1")));
    set("path_style", Value::Boolean(s3.path_style.unwrap_or(false)));
    if let Some(endpoint) = &s3.endpoint {
        set("endpoint", text(endpoint));
    }
    if s3.ca_secret_name.is_some() {
        set("ca_file", text(&format!("{S3_CA_DIR}/ca.crt")));
    }
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// The user's settings cannot be in the way: [`parse`] refuses the names that are set here.
fn put(table: &mut Table, section: &str, key: &str, value: Value) {
    let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = entry {
        section.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests;
