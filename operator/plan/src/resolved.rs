//! From the spec as written to the spec as meant: defaults are applied and everything that the schema cannot check
//! is checked. Nothing of this is written back.

use std::collections::BTreeMap;

use greptime_operator_api::{DeletionPolicy, GreptimeCluster, RetentionPolicy, Scheduling};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::names::{Names, Role};
use crate::observed::Policy;
use crate::{quantity, settings, url};

const DEFAULT_VOLUME: &str = "10Gi";

/// A secret that the pods of some roles need, and which of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    pub name: String,
    /// What in the spec names it.
    pub field: &'static str,
    pub required: &'static [&'static str],
    pub roles: &'static [Role],
    /// Pods read it once at their start, so a change must roll them.
    pub rolls: bool,
}

/// A spec that can work.
#[derive(Clone, Debug)]
pub struct Resolved<'a> {
    pub cluster: &'a GreptimeCluster,
    pub names: Names,
    pub image: String,
    pub etcd_prefix: String,
    pub s3_root: String,
    pub volume_size: String,
    /// User settings per role, checked.
    pub settings: BTreeMap<Role, toml::Table>,
}

/// Every reason why the spec cannot work, so that one edit can mend them all.
pub type Refusals = Vec<String>;

impl<'a> Resolved<'a> {
    pub fn new(cluster: &'a GreptimeCluster, policy: &Policy) -> Result<Self, Refusals> {
        let names = names(cluster);
        let spec = &cluster.spec;
        let mut refusals = Refusals::new();
        check_name(&names, &mut refusals);
        check_urls(cluster, &mut refusals);
        check_ports(cluster, &mut refusals);
        check_resources(cluster, &mut refusals);
        let volume_size = check_volume(cluster, &mut refusals);
        if spec.version.is_some() && spec.image.is_some() {
            refusals.push("set version or image, not both".into());
        }
        if spec.deletion_policy() == DeletionPolicy::Delete && when_deleted(cluster) == Some(RetentionPolicy::Retain) {
            refusals.push("datanode.retention.whenDeleted: Retain contradicts deletionPolicy: Delete".into());
        }
        let image = image(cluster, policy);
        if image.is_empty() {
            refusals.push("no image: set image, or start the operator with --default-image".into());
        }
        let (namespace, name) = (&names.namespace, &names.cluster);
        let etcd_prefix = spec.metasrv.store.etcd.prefix.clone();
        let s3_root = spec.object_storage.s3.root.clone();
        let mut resolved = Self {
            cluster,
            image,
            etcd_prefix: etcd_prefix.unwrap_or_else(|| format!("/greptime/{namespace}/{name}")),
            s3_root: s3_root.unwrap_or_else(|| format!("{namespace}/{name}")),
            volume_size,
            settings: BTreeMap::new(),
            names,
        };
        for role in Role::ALL {
            match settings::parse(role, resolved.user_settings(role)) {
                Ok(table) => drop(resolved.settings.insert(role, table)),
                Err(errors) => refusals.extend(errors),
            }
        }
        if refusals.is_empty() { Ok(resolved) } else { Err(refusals) }
    }

    fn user_settings(&self, role: Role) -> &'a BTreeMap<String, String> {
        let spec = &self.cluster.spec;
        match role {
            Role::Metasrv => &spec.metasrv.config,
            Role::Datanode => &spec.datanode.config,
            Role::Frontend => &spec.frontend.config,
        }
    }

    pub fn replicas(&self, role: Role) -> i32 {
        let spec = &self.cluster.spec;
        match role {
            Role::Metasrv => spec.metasrv.replicas,
            Role::Datanode => spec.datanode.replicas,
            Role::Frontend => spec.frontend.replicas,
        }
    }

    pub fn scheduling(&self, role: Role) -> Option<&'a Scheduling> {
        let spec = &self.cluster.spec;
        match role {
            Role::Metasrv => spec.metasrv.scheduling.as_ref(),
            Role::Datanode => spec.datanode.scheduling.as_ref(),
            Role::Frontend => spec.frontend.scheduling.as_ref(),
        }
    }

    /// What the user says replaces the default as a whole: mixed, a request could exceed the default's limit.
    pub fn resources(&self, role: Role) -> ResourceRequirements {
        user_resources(self.cluster, role).cloned().unwrap_or_else(|| default_resources(role))
    }
}

pub fn names(cluster: &GreptimeCluster) -> Names {
    let meta = &cluster.metadata;
    Names::new(meta.name.clone().unwrap_or_default(), meta.namespace.clone().unwrap_or_default())
}

/// What a spec says about volumes after the cluster is gone; `None` if nothing.
fn when_deleted(cluster: &GreptimeCluster) -> Option<RetentionPolicy> {
    cluster.spec.datanode.retention.as_ref().and_then(|r| r.when_deleted)
}

/// Whether volumes go with the cluster.
pub fn deletes_volumes(cluster: &GreptimeCluster) -> bool {
    match cluster.spec.deletion_policy() {
        DeletionPolicy::Delete => true,
        DeletionPolicy::Retain => when_deleted(cluster) == Some(RetentionPolicy::Delete),
    }
}

/// Whether something outside of Kubernetes' own garbage collection must be deleted with the cluster.
pub fn needs_finalizer(cluster: &GreptimeCluster) -> bool {
    deletes_volumes(cluster)
}

/// The secrets that a spec names.
pub fn secrets(cluster: &GreptimeCluster) -> Vec<SecretUse> {
    const STORES: &[Role] = &[Role::Metasrv, Role::Datanode];
    let spec = &cluster.spec;
    let (etcd, s3) = (&spec.metasrv.store.etcd, &spec.object_storage.s3);
    let use_of = |name: &Option<String>, field, required, roles, rolls| {
        name.clone().map(|name| SecretUse { name, field, required, roles, rolls })
    };
    [
        use_of(&etcd.tls_secret_name, "metasrv.store.etcd.tlsSecretName", &["ca.crt"][..], &[Role::Metasrv][..], true),
        use_of(
            &etcd.auth_secret_name,
            "metasrv.store.etcd.authSecretName",
            &["username", "password"],
            &[Role::Metasrv],
            true,
        ),
        use_of(
            &s3.credentials_secret_name,
            "objectStorage.s3.credentialsSecretName",
            &["access-key-id", "secret-access-key"],
            STORES,
            true,
        ),
        use_of(&s3.ca_secret_name, "objectStorage.s3.caSecretName", &["ca.crt"], STORES, true),
        use_of(
            &spec.auth.as_ref().map(|a| a.secret_name.clone()),
            "auth.secretName",
            &["users"],
            &[Role::Frontend],
            // The frontend reads the file again when it changes.
            false,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn image(cluster: &GreptimeCluster, policy: &Policy) -> String {
    match (&cluster.spec.image, &cluster.spec.version) {
        (Some(image), _) => image.clone(),
        (None, Some(version)) if !policy.default_image.is_empty() => {
            format!("{}:{version}", repository(&policy.default_image))
        }
        (None, _) => policy.default_image.clone(),
    }
}

/// An image's name without tag and digest. A colon before the last slash is a registry's port.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let path = image.rfind('/').map_or(0, |slash| slash + 1);
    match image[path..].find(':') {
        Some(colon) => &image[..path + colon],
        None => image,
    }
}

fn check_name(names: &Names, refusals: &mut Refusals) {
    let name = &names.cluster;
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let ends = name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !(starts && ends && inside) || name.len() > 40 {
        refusals.push(format!(
            "metadata.name `{name}` must start with a letter, have lower-case letters, digits and '-', and at most 40 of them"
        ));
    }
}

fn check_urls(cluster: &GreptimeCluster, refusals: &mut Refusals) {
    let etcd = &cluster.spec.metasrv.store.etcd;
    if etcd.endpoints.is_empty() {
        refusals.push("metasrv.store.etcd.endpoints is empty; name at least one URL".into());
    }
    for (i, endpoint) in etcd.endpoints.iter().enumerate() {
        if let Err(why) = url::check(endpoint) {
            refusals.push(format!("metasrv.store.etcd.endpoints[{i}] `{endpoint}`: {why}"));
        } else if etcd.tls_secret_name.is_some() && !endpoint.starts_with("https://") {
            refusals.push(format!("metasrv.store.etcd.endpoints[{i}] `{endpoint}`: tlsSecretName needs https://"));
        }
    }
    let s3 = &cluster.spec.object_storage.s3;
    if let Some(Err(why)) = s3.endpoint.as_deref().map(url::check) {
        refusals.push(format!("objectStorage.s3.endpoint `{}`: {why}", s3.endpoint.as_deref().unwrap_or_default()));
    }
}

fn check_ports(cluster: &GreptimeCluster, refusals: &mut Refusals) {
    let ports = crate::build::service_ports(cluster);
    for (i, (name, port)) in ports.iter().enumerate() {
        if !(1..=65535).contains(port) {
            refusals.push(format!("ports.{name}: {port} is no port"));
        }
        if let Some((other, _)) = ports[..i].iter().find(|(_, p)| p == port) {
            refusals.push(format!("ports.{name} and ports.{other} are both {port}"));
        }
    }
}

fn check_volume(cluster: &GreptimeCluster, refusals: &mut Refusals) -> String {
    let size = cluster.spec.datanode.storage.as_ref().and_then(|s| s.size.clone());
    let size = size.unwrap_or_else(|| DEFAULT_VOLUME.to_owned());
    if !quantity::parse(&size).is_some_and(|milli| milli > 0) {
        refusals.push(format!("datanode.storage.size `{size}` is no quantity above zero, such as 20Gi"));
    }
    size
}

fn check_resources(cluster: &GreptimeCluster, refusals: &mut Refusals) {
    for role in Role::ALL {
        let Some(resources) = user_resources(cluster, role) else { continue };
        let limits = resources.limits.iter().flatten().map(|entry| ("limits", entry));
        let requests = resources.requests.iter().flatten().map(|entry| ("requests", entry));
        for (section, (name, value)) in limits.chain(requests) {
            if !quantity::parse(&value.0).is_some_and(|milli| milli >= 0) {
                let role = role.as_str();
                refusals.push(format!("{role}.resources.{section}.{name} `{}` is no quantity", value.0));
            }
        }
        for (name, request) in resources.requests.iter().flatten() {
            let limit = resources.limits.as_ref().and_then(|l| l.get(name));
            let both = (quantity::parse(&request.0), limit.and_then(|l| quantity::parse(&l.0)));
            if let (Some(request_milli), Some(limit_milli)) = both
                && request_milli > limit_milli
            {
                let (role, limit) = (role.as_str(), limit.map_or("", |l| l.0.as_str()));
                refusals.push(format!("{role}.resources: the request {name} {} exceeds the limit {limit}", request.0));
            }
        }
    }
}

fn user_resources(cluster: &GreptimeCluster, role: Role) -> Option<&ResourceRequirements> {
    match role {
        Role::Metasrv => cluster.spec.metasrv.resources.as_ref(),
        Role::Datanode => cluster.spec.datanode.resources.as_ref(),
        Role::Frontend => cluster.spec.frontend.resources.as_ref(),
    }
}

/// Small enough that one metasrv, three datanodes and a frontend are scheduled on a machine of two cores. There is no
/// limit of CPU: throttling would cost the heartbeats, and the requests share what is there.
fn default_resources(role: Role) -> ResourceRequirements {
    let (cpu, memory, limit) = match role {
        Role::Metasrv => ("50m", "128Mi", "1Gi"),
        Role::Datanode => ("100m", "256Mi", "2Gi"),
        Role::Frontend => ("100m", "256Mi", "2Gi"),
    };
    let quantities = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", cpu), ("memory", memory)]),
        limits: quantities(&[("memory", limit)]),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
