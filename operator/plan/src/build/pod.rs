//! The pod of a role.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, ObjectFieldSelector, PodSecurityContext, PodSpec, Probe, SeccompProfile, SecretKeySelector,
    SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{VOLUME_CLAIM, selector};
use crate::names::{HTTP_PORT, LABEL_POD_INDEX, MYSQL_PORT, POSTGRES_PORT, Role};
use crate::resolved::Resolved;
use crate::settings::{AUTH_DIR, CONFIG_DIR, CONFIG_FILE, DATA_DIR, ETCD_TLS_DIR, S3_CA_DIR};

/// The user of the image; it is nobody on the node.
const USER: i64 = 65532;
/// A datanode hands its leaders over and syncs its log within it.
const GRACE_SECONDS: i64 = 60;

/// Everything of the pod but its labels and annotations.
pub fn pod_spec(resolved: &Resolved<'_>, role: Role, args: Vec<String>) -> PodSpec {
    let spec = &resolved.cluster.spec;
    let scheduling = resolved.scheduling(role).cloned().unwrap_or_default();
    let (volumes, mounts) = volumes(resolved, role);
    PodSpec {
        service_account_name: Some(resolved.names.role(role)),
        automount_service_account_token: Some(false),
        // The variables of services would be read as settings: both begin with GREPTIME.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // Changing the owner of every file of a large volume takes minutes.
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..Default::default() }),
            ..Default::default()
        }),
        image_pull_secrets: Some(spec.image_pull_secrets.clone()).filter(|s| !s.is_empty()),
        containers: vec![container(resolved, role, args, mounts)],
        volumes: Some(volumes),
        node_selector: Some(scheduling.node_selector).filter(|s| !s.is_empty()),
        tolerations: Some(scheduling.tolerations).filter(|t| !t.is_empty()),
        affinity: scheduling.affinity,
        priority_class_name: scheduling.priority_class_name,
        topology_spread_constraints: Some(vec![spread(resolved, role)]),
        ..Default::default()
    }
}

/// One node's death should take as few pods of a role as can be; but a pod anywhere is better than none.
fn spread(resolved: &Resolved<'_>, role: Role) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(selector(resolved, role)),
        ..Default::default()
    }
}

fn container(resolved: &Resolved<'_>, role: Role, args: Vec<String>, mounts: Vec<VolumeMount>) -> Container {
    Container {
        name: role.as_str().into(),
        image: Some(resolved.image.clone()),
        args: Some(args),
        env: Some(environment(resolved, role)),
        ports: Some(ports(role)),
        resources: Some(resolved.resources(role)),
        volume_mounts: Some(mounts),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Default::default() }),
            ..Default::default()
        }),
        // What a program says when it refuses its settings is shown in the cluster's conditions.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        // Two minutes for a slow machine; the program listens long before it is ready.
        startup_probe: Some(probe("/livez", 1, 2, 120)),
        readiness_probe: Some(probe("/readyz", 1, 2, 3)),
        // Only a program whose own loop hangs is restarted, and not one that lacks CPU for some seconds.
        liveness_probe: Some(probe("/livez", 10, 5, 6)),
        ..Default::default()
    }
}

fn probe(path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("http".into()),
            ..Default::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Default::default()
    }
}

fn ports(role: Role) -> Vec<ContainerPort> {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..Default::default()
    };
    let mut ports = vec![port("http", HTTP_PORT), port("grpc", role.grpc_port())];
    if role == Role::Frontend {
        ports.extend([port("mysql", MYSQL_PORT), port("postgres", POSTGRES_PORT)]);
    }
    ports
}

fn environment(resolved: &Resolved<'_>, role: Role) -> Vec<EnvVar> {
    let spec = &resolved.cluster.spec;
    let mut env = vec![
        from_field("POD_IP", "status.podIP"),
        from_field("POD_NAME", "metadata.name"),
        // The ordinal outlives the pod, and so is the node's identity.
        from_field("GREPTIME__NODE__ID", &format!("metadata.labels['{LABEL_POD_INDEX}']")),
        EnvVar {
            name: "GREPTIME__NODE__ADVERTISE_ADDRESS".into(),
            value: Some(format!("$(POD_IP):{}", role.grpc_port())),
            ..Default::default()
        },
    ];
    if role == Role::Metasrv
        && let Some(secret) = &spec.metasrv.store.etcd.auth_secret_name
    {
        env.push(from_secret("GREPTIME__STORE__ETCD__USERNAME", secret, "username"));
        env.push(from_secret("GREPTIME__STORE__ETCD__PASSWORD", secret, "password"));
    }
    if role != Role::Frontend
        && let Some(secret) = &spec.object_storage.s3.credentials_secret_name
    {
        env.push(from_secret("GREPTIME__OBJECT_STORE__ACCESS_KEY_ID", secret, "access-key-id"));
        env.push(from_secret("GREPTIME__OBJECT_STORE__SECRET_ACCESS_KEY", secret, "secret-access-key"));
    }
    env
}

fn from_field(name: &str, path: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector { api_version: Some("v1".into()), field_path: path.into() };
    let source = EnvVarSource { field_ref: Some(field_ref), ..Default::default() };
    EnvVar { name: name.into(), value_from: Some(source), ..Default::default() }
}

fn from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let key_ref = SecretKeySelector { name: secret.into(), key: key.into(), ..Default::default() };
    let source = EnvVarSource { secret_key_ref: Some(key_ref), ..Default::default() };
    EnvVar { name: name.into(), value_from: Some(source), ..Default::default() }
}

fn volumes(resolved: &Resolved<'_>, role: Role) -> (Vec<Volume>, Vec<VolumeMount>) {
    let spec = &resolved.cluster.spec;
    let config = Volume {
        name: "config".into(),
        config_map: Some(ConfigMapVolumeSource { name: resolved.names.role(role), ..Default::default() }),
        ..Default::default()
    };
    let tmp =
        Volume { name: "tmp".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Default::default() };
    let mut volumes = vec![config, tmp];
    let mut mounts = vec![mount("config", CONFIG_DIR, true), mount("tmp", "/tmp", false)];
    let mut secret = |volume: &str, name: &str, dir: &str| {
        let source = SecretVolumeSource { secret_name: Some(name.into()), ..Default::default() };
        volumes.push(Volume { name: volume.into(), secret: Some(source), ..Default::default() });
        mounts.push(mount(volume, dir, true));
    };
    if let (Role::Metasrv, Some(name)) = (role, &spec.metasrv.store.etcd.tls_secret_name) {
        secret("etcd-tls", name, ETCD_TLS_DIR);
    }
    if let (Role::Metasrv | Role::Datanode, Some(name)) = (role, &spec.object_storage.s3.ca_secret_name) {
        secret("s3-ca", name, S3_CA_DIR);
    }
    // A whole directory, because a single file of a secret would not follow its changes.
    if let (Role::Frontend, Some(auth)) = (role, &spec.auth) {
        secret("auth", &auth.secret_name, AUTH_DIR);
    }
    if role == Role::Datanode {
        mounts.push(mount(VOLUME_CLAIM, DATA_DIR, false));
    }
    (volumes, mounts)
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..Default::default()
    }
}

/// Arguments of the database program.
pub fn args(command: &str) -> Vec<String> {
    vec![command.into(), "--config-file".into(), format!("{CONFIG_DIR}/{CONFIG_FILE}")]
}

/// So that a Prometheus with the usual discovery by annotations finds the pods.
pub fn scrape_annotations() -> BTreeMap<String, String> {
    [("prometheus.io/scrape", "true"), ("prometheus.io/port", "4000"), ("prometheus.io/path", "/metrics")]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
