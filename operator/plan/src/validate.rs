//! What the schema cannot refuse: each problem is a sentence that names the field, for the condition.

use std::collections::BTreeMap;

use greptime_operator_api::{Amount, GreptimeCluster};
use k8s_openapi::api::core::v1::Affinity;

use crate::names::{self, Role};
use crate::secrets::{Examined, referenced_secrets};
use crate::settings::{self, Settings};
use crate::{children, quantity};

/// The longest label derived from the name is the controller revision of the datanodes or frontends:
/// `-datanode-` and a hash of at most ten characters, of 63; the rest is to spare.
const MAX_NAME: usize = 38;

/// All problems of a spec, in the order of its fields. Empty if it can work.
pub fn problems(cluster: &GreptimeCluster, default_image: &str) -> Vec<String> {
    let mut problems = Vec::new();
    name(cluster, &mut problems);
    image(cluster, default_image, &mut problems);
    etcd(cluster, &mut problems);
    object_store(cluster, &mut problems);
    ports(cluster, &mut problems);
    storage(cluster, &mut problems);
    for secret in referenced_secrets(&cluster.spec) {
        if !is_dns_name(&secret) {
            problems.push(format!("`{secret}` is no possible name of a secret"));
        }
    }
    for role in Role::ALL {
        replicas(cluster, role, &mut problems);
        resources(cluster, role, &mut problems);
        config(cluster, role, &mut problems);
        affinity(cluster, role, &mut problems);
    }
    problems
}

fn name(cluster: &GreptimeCluster, problems: &mut Vec<String>) {
    let name = names::name(cluster);
    let label = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !label || name.len() > MAX_NAME {
        problems.push(format!(
            "metadata.name `{name}` must begin with a letter, consist of a-z, 0-9 and -, and have at most {MAX_NAME} characters"
        ));
    }
}

fn image(cluster: &GreptimeCluster, default_image: &str, problems: &mut Vec<String>) {
    let image = names::image(cluster, default_image);
    if image.is_empty() || image.chars().any(char::is_whitespace) {
        problems.push(format!("spec.image `{image}` is no image reference"));
    }
}

fn etcd(cluster: &GreptimeCluster, problems: &mut Vec<String>) {
    let etcd = &cluster.spec.metasrv.store.etcd;
    if etcd.endpoints.is_empty() {
        problems.push("spec.metasrv.store.etcd.endpoints is empty; name at least one URL".to_owned());
    }
    for (i, endpoint) in etcd.endpoints.iter().enumerate() {
        url(
            &format!("spec.metasrv.store.etcd.endpoints[{i}]"),
            endpoint,
            problems,
        );
    }
    let prefix = settings::prefix(cluster);
    if !prefix.strip_prefix('/').is_some_and(is_path) {
        problems.push(format!(
            "spec.metasrv.store.etcd.prefix `{prefix}` must look like /a/b, of letters, digits, dots, - and _"
        ));
    }
}

fn object_store(cluster: &GreptimeCluster, problems: &mut Vec<String>) {
    let store = &cluster.spec.object_storage;
    let [place] = store.given()[..] else {
        problems.push("spec.objectStorage needs exactly one of s3, gcs and azure".to_owned());
        return;
    };
    let (kind, field, name) = (place.kind, place.field, place.name);
    if name.is_empty()
        || !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    {
        problems.push(format!(
            "spec.objectStorage.{kind}.{field} `{name}` must be a {field}'s name, of letters, digits, dots, - and _"
        ));
    }
    if let Some(azure) = &store.azure
        && !is_account(&azure.account_name)
    {
        problems.push(format!(
            "spec.objectStorage.azure.accountName `{}` must be a storage account's name, of 3 to 24 small letters and \
             digits",
            azure.account_name
        ));
    }
    if let Some(endpoint) = place.endpoint {
        url(&format!("spec.objectStorage.{kind}.endpoint"), endpoint, problems);
    }
    let root = settings::root(cluster);
    if !is_path(&root) {
        problems.push(format!(
            "spec.objectStorage.{kind}.root `{root}` must look like a/b, of letters, digits, dots, - and _"
        ));
    }
}

fn is_account(name: &str) -> bool {
    (3..=24).contains(&name.len()) && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
}

fn ports(cluster: &GreptimeCluster, problems: &mut Vec<String>) {
    let ports = &cluster.spec.ports;
    let named = [
        ("http", ports.http()),
        ("mysql", ports.mysql()),
        ("postgres", ports.postgres()),
    ];
    let mut taken = BTreeMap::new();
    for (name, port) in named {
        if !(1024..=65535).contains(&port) {
            problems.push(format!(
                "spec.ports.{name} is {port}; pods run as non-root and may use 1024 to 65535"
            ));
        }
        if let Some(other) = taken.insert(port, name) {
            problems.push(format!(
                "spec.ports.{name} and spec.ports.{other} are both {port}"
            ));
        }
    }
}

fn storage(cluster: &GreptimeCluster, problems: &mut Vec<String>) {
    let size = cluster.spec.datanode.storage.size.as_deref();
    if let Some(size) = size.filter(|size| quantity::parse(size).is_none_or(|bytes| bytes <= 0)) {
        problems.push(format!(
            "spec.datanode.storage.size `{size}` is no size; write for example 10Gi"
        ));
    }
}

fn replicas(cluster: &GreptimeCluster, role: Role, problems: &mut Vec<String>) {
    let replicas = role.spec(cluster).replicas;
    let least = if role == Role::Frontend { 0 } else { 1 };
    if replicas < least {
        problems.push(format!(
            "spec.{}.replicas is {replicas}; it must be at least {least}",
            role.as_str()
        ));
    }
}

fn resources(cluster: &GreptimeCluster, role: Role, problems: &mut Vec<String>) {
    let spec = role.spec(cluster).resources;
    let before = problems.len();
    let mut check = |kind: &str, amounts: &BTreeMap<String, Amount>| {
        for (resource, amount) in amounts {
            if quantity::parse(&amount.0).is_none_or(|value| value < 0) {
                problems.push(format!(
                    "spec.{}.resources.{kind}.{resource} `{amount}` is no quantity; write for example 500m or 1Gi",
                    role.as_str()
                ));
            }
        }
    };
    check("requests", &spec.requests);
    check("limits", &spec.limits);
    if problems.len() == before {
        requests_within_limits(cluster, role, problems);
    }
}

fn requests_within_limits(cluster: &GreptimeCluster, role: Role, problems: &mut Vec<String>) {
    let merged = children::resources(cluster, role);
    let limits = merged.limits.unwrap_or_default();
    for (resource, request) in merged.requests.unwrap_or_default() {
        if let Some(limit) = limits.get(&resource)
            && quantity::parse(&request.0) > quantity::parse(&limit.0)
        {
            let (role, request, limit) = (role.as_str(), &request.0, &limit.0);
            problems.push(format!(
                "spec.{role}.resources.requests.{resource} is {request}, more than the limit {limit}"
            ));
        }
    }
}

fn config(cluster: &GreptimeCluster, role: Role, problems: &mut Vec<String>) {
    let field = format!("spec.{}.config", role.as_str());
    let mut usable = true;
    for key in role.spec(cluster).config.keys() {
        let segments = key
            .split('.')
            .all(|s| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)));
        if !segments {
            problems.push(format!(
                "{field}: `{key}` is no name of a setting; write for example log.level"
            ));
        } else if let Some(instead) = settings::reserved(key) {
            problems.push(format!("{field}: `{key}` is not set here; {instead}"));
        }
        usable &= segments;
    }
    if usable && let Some((key, longer)) = Settings::of(cluster, role, &Examined::default()).conflict() {
        problems.push(format!(
            "{field}: `{key}` has a value, but is also the section of `{longer}`"
        ));
    }
}

fn affinity(cluster: &GreptimeCluster, role: Role, problems: &mut Vec<String>) {
    if let Some(value) = &role.spec(cluster).scheduling.affinity
        && let Err(error) = serde_json::from_value::<Affinity>(value.clone())
    {
        problems.push(format!("spec.{}.scheduling.affinity: {error}", role.as_str()));
    }
}

/// scheme://host[:port], as etcd and S3 clients take it.
fn url(field: &str, text: &str, problems: &mut Vec<String>) {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let good = rest
        .map(|rest| rest.strip_suffix('/').unwrap_or(rest))
        .is_some_and(is_authority);
    if !good {
        problems.push(format!(
            "{field} `{text}` must be http://HOST:PORT or https://HOST:PORT"
        ));
    }
}

fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((host, rest)) => (host, rest),
            None => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let host_characters = if text.starts_with('[') { ":.%-" } else { ".-_" };
    let good_host = !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || host_characters.contains(c));
    let good_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    good_host && good_port
}

/// Segments of safe characters with single slashes between them; `.` and `..` would lead elsewhere.
fn is_path(text: &str) -> bool {
    text.split('/').all(|segment| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    })
}

fn is_dns_name(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 253
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| alphanumeric(c) || c == '.' || c == '-')
}
