//! The pod of a role. What the database program expects of it: settings in a file, what differs by pod and
//! what is secret in the environment, certificates and users as files.

use std::collections::BTreeMap;

use greptime_operator_api::{GreptimeCluster, SchedulingSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, HTTPGetAction, Lifecycle, LifecycleHandler, LocalObjectReference, ObjectFieldSelector,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecretVolumeSource, SecurityContext, SleepAction, Toleration,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::services;
use crate::names::{self, Role};
use crate::quantity;
use crate::secrets::{self, Purpose};
use crate::settings::{CONFIG_DIR, CONFIG_FILE, DATA_DIR, mount_dir};

pub const DATA_VOLUME: &str = "data";
/// User and group of the image's `nonroot`.
const NON_ROOT: i64 = 65532;
/// Each server of a program lets the requests that run end, for at most 25 s, and a metasrv gives its lease back. A
/// datanode flushes nothing: what it acknowledged is in the log on disk, so that a kill after this loses nothing.
const GRACE_SECONDS: i64 = 60;
/// Until every node has heard that a frontend goes away, connections still arrive there.
const FRONTEND_LINGER_SECONDS: i64 = 3;
/// metasrv and frontends answer `/livez` at once, also while they wait for others.
const STARTUP_SECONDS: i32 = 300;
/// A datanode answers only after it has read its whole log: about 1 GiB with the default settings, many times that on
/// a node that is given much memory. A start that is cut off begins again, and would never end.
const DATANODE_STARTUP_SECONDS: i32 = 1800;

pub fn pod_template(cluster: &GreptimeCluster, role: Role, image: String) -> PodTemplateSpec {
    let container = container(cluster, role, image);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(names::labels(cluster, role)),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(cluster, role, container)),
    }
}

/// A pod of the database around its one container.
fn pod_spec(cluster: &GreptimeCluster, role: Role, container: Container) -> PodSpec {
    let pull_secrets = &cluster.spec.image_pull_secrets;
    let pull_secrets: Vec<_> = pull_secrets
        .iter()
        .map(|secret| LocalObjectReference {
            name: secret.name.clone(),
        })
        .collect();
    let mut spec = PodSpec {
        automount_service_account_token: Some(uses_service_account(cluster, role)),
        containers: vec![container],
        // Variables for every service of the namespace would be read as settings if one were named like ours.
        enable_service_links: Some(false),
        image_pull_secrets: Some(pull_secrets).filter(|secrets| !secrets.is_empty()),
        security_context: Some(pod_security()),
        service_account_name: Some(role.child_name(cluster)),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        topology_spread_constraints: Some(vec![spread(cluster, role)]),
        volumes: Some(volumes(cluster, role)),
        ..PodSpec::default()
    };
    schedule(&mut spec, role.spec(cluster).scheduling);
    spec
}

/// Only who talks to the bucket in the name of its service account needs a token.
fn uses_service_account(cluster: &GreptimeCluster, role: Role) -> bool {
    let is_let_in = |purpose: Purpose| purpose.secret_name(&cluster.spec).is_some();
    Purpose::S3Credentials.needed_by(role) && !Purpose::BUCKET.into_iter().any(is_let_in)
}

fn schedule(pod: &mut PodSpec, wanted: &SchedulingSpec) {
    let tolerations = wanted.tolerations.iter().map(|toleration| Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.clone(),
        value: toleration.value.clone(),
        effect: toleration.effect.clone(),
        toleration_seconds: toleration.toleration_seconds,
    });
    pod.tolerations = Some(tolerations.collect::<Vec<_>>()).filter(|tolerations| !tolerations.is_empty());
    pod.node_selector = Some(wanted.node_selector.clone()).filter(|selector| !selector.is_empty());
    // What does not parse was refused with the spec.
    pod.affinity = wanted
        .affinity
        .clone()
        .and_then(|affinity| serde_json::from_value(affinity).ok());
    pod.priority_class_name = wanted.priority_class_name.clone();
}

/// Pods of a role on different machines where possible, so that a machine takes few of them with it.
fn spread(cluster: &GreptimeCluster, role: Role) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(super::pod_selector(cluster, role)),
        ..TopologySpreadConstraint::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(NON_ROOT),
        run_as_group: Some(NON_ROOT),
        fs_group: Some(NON_ROOT),
        // Changing the owner of every file of a large volume at every start would take minutes.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            ..Capabilities::default()
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

fn container(cluster: &GreptimeCluster, role: Role, image: String) -> Container {
    let ports = services::ports(cluster, role)
        .into_iter()
        .map(|(name, number)| ContainerPort {
            name: Some(name.to_owned()),
            container_port: number,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        });
    let linger = || Lifecycle {
        pre_stop: Some(LifecycleHandler {
            sleep: Some(SleepAction {
                seconds: FRONTEND_LINGER_SECONDS,
            }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    };
    let probe =
        |path, period, timeout, failures| probe(role.http_port(cluster), path, [period, timeout, failures]);
    let startup = match role {
        Role::Datanode => DATANODE_STARTUP_SECONDS,
        Role::Metasrv | Role::Frontend => STARTUP_SECONDS,
    };
    Container {
        name: role.as_str().to_owned(),
        image: Some(image),
        args: Some(
            [role.as_str(), "--config-file", CONFIG_FILE]
                .map(str::to_owned)
                .to_vec(),
        ),
        env: Some(environment(cluster, role)),
        ports: Some(ports.collect()),
        resources: Some(resources(cluster, role)),
        volume_mounts: Some(mounts(cluster, role)),
        startup_probe: Some(probe("/livez", 1, 2, startup)),
        readiness_probe: Some(probe("/readyz", 1, 2, 3)),
        // A minute of silence: a restart heals only a loop that hangs, and costs more than a slow answer.
        liveness_probe: Some(probe("/livez", 10, 5, 6)),
        lifecycle: (role == Role::Frontend).then(linger),
        // The last lines of a program that gave up, such as an unknown setting, belong into the condition.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(container_security()),
        ..Container::default()
    }
}

fn probe(port: i32, path: &str, [period, timeout, failures]: [i32; 3]) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn environment(cluster: &GreptimeCluster, role: Role) -> Vec<EnvVar> {
    // A frontend is dialed by nobody; what it says of itself is for people.
    let port = role.grpc_port().unwrap_or_else(|| role.http_port(cluster));
    let advertise = format!("$(POD_IP):{port}");
    let mut environment = vec![
        // Before the variable that refers to it.
        from_field("POD_IP", "status.podIP"),
        from_field(
            "GREPTIME__NODE__ID",
            "metadata.labels['apps.kubernetes.io/pod-index']",
        ),
        EnvVar {
            name: "GREPTIME__NODE__ADVERTISE_ADDRESS".to_owned(),
            value: Some(advertise),
            ..EnvVar::default()
        },
    ];
    if role == Role::Datanode {
        // Kubernetes copies the label of the node to the pod, from 1.35 on; where it does not, there is no zone.
        let label = "metadata.labels['topology.kubernetes.io/zone']";
        environment.push(from_field("GREPTIME__NODE__ZONE", label));
    }
    environment.extend(secret_environment(cluster, role));
    environment
}

/// User names, passwords and keys: never in the settings file, which is no secret.
pub fn secret_environment(cluster: &GreptimeCluster, role: Role) -> Vec<EnvVar> {
    let variables = |purpose| match purpose {
        Purpose::EtcdAuth => &[
            ("GREPTIME__STORE__ETCD__USERNAME", "username"),
            ("GREPTIME__STORE__ETCD__PASSWORD", "password"),
        ][..],
        Purpose::S3Credentials => &[
            ("GREPTIME__OBJECT_STORE__ACCESS_KEY_ID", "access-key-id"),
            ("GREPTIME__OBJECT_STORE__SECRET_ACCESS_KEY", "secret-access-key"),
        ],
        Purpose::AzureCredentials => &[("GREPTIME__OBJECT_STORE__ACCOUNT_KEY", "account-key")],
        Purpose::EtcdTls | Purpose::S3Ca | Purpose::GcsCredentials | Purpose::Users => &[],
    };
    secrets::of_role(&cluster.spec, role)
        .flat_map(|(purpose, secret)| {
            variables(purpose)
                .iter()
                .map(move |(name, key)| from_secret(name, secret, key))
        })
        .collect()
}

fn from_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector {
        api_version: Some("v1".to_owned()),
        field_path: path.to_owned(),
    };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(field),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let key = SecretKeySelector {
        name: secret.to_owned(),
        key: key.to_owned(),
        ..SecretKeySelector::default()
    };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(key),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn volume_name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::EtcdTls => "etcd-tls",
        Purpose::EtcdAuth => "etcd-auth",
        Purpose::S3Ca => "s3-ca",
        Purpose::S3Credentials => "s3-credentials",
        Purpose::GcsCredentials => "gcs-credentials",
        Purpose::AzureCredentials => "azure-credentials",
        Purpose::Users => "auth",
    }
}

/// Settings, room for temporary files, and the secrets that are files. The datanode's data comes by claim.
pub fn volumes(cluster: &GreptimeCluster, role: Role) -> Vec<Volume> {
    let config = ConfigMapVolumeSource {
        name: role.config_name(cluster),
        ..ConfigMapVolumeSource::default()
    };
    let mut volumes = vec![
        Volume {
            name: "config".to_owned(),
            config_map: Some(config),
            ..Volume::default()
        },
        Volume {
            name: "tmp".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        },
    ];
    for (purpose, secret) in secrets::of_role(&cluster.spec, role).filter(|(p, _)| mount_dir(*p).is_some()) {
        let source = SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            // Readable by the group that the pod runs in, and by nobody else.
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        };
        volumes.push(Volume {
            name: volume_name(purpose).to_owned(),
            secret: Some(source),
            ..Volume::default()
        });
    }
    volumes
}

pub fn mounts(cluster: &GreptimeCluster, role: Role) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("config", CONFIG_DIR, true), mount("tmp", "/tmp", false)];
    for (purpose, _) in secrets::of_role(&cluster.spec, role) {
        if let Some(dir) = mount_dir(purpose) {
            mounts.push(mount(volume_name(purpose), dir, true));
        }
    }
    if role == Role::Datanode {
        mounts.push(mount(DATA_VOLUME, DATA_DIR, false));
    }
    mounts
}

/// What the program may use with its default settings, and room for what no setting counts.
fn default_memory_limit(role: Role) -> &'static str {
    match role {
        Role::Metasrv => "512Mi",
        // 512 MiB of `datanode.memtable_hard_limit`, 512 MiB of `datanode.query_memory`, 384 MiB of caches and 256 MiB of
        // `datanode.compaction_memory`, and beside them flushes, requests on their way, and the index of the log.
        Role::Datanode => "2Gi",
        // Queries 256 MiB, writes 128 MiB, requests that wait 64 MiB, and answers of up to 128 MiB each.
        Role::Frontend => "1Gi",
    }
}

/// The spec's amounts over small defaults. A default gives way where it would contradict what was asked for.
pub fn resources(cluster: &GreptimeCluster, role: Role) -> ResourceRequirements {
    let wanted = role.spec(cluster).resources;
    let amounts = |amounts: &BTreeMap<String, greptime_operator_api::Amount>| -> BTreeMap<String, Quantity> {
        amounts
            .iter()
            .map(|(name, amount)| (name.clone(), Quantity(amount.0.clone())))
            .collect()
    };
    let (mut requests, mut limits) = (amounts(&wanted.requests), amounts(&wanted.limits));
    let lesser = |a: &Quantity, b: &Quantity| quantity::parse(&a.0) < quantity::parse(&b.0);
    for (name, default) in [("cpu", "50m"), ("memory", "128Mi")] {
        let default = Quantity(default.to_owned());
        let within = limits
            .get(name)
            .filter(|limit| lesser(limit, &default))
            .cloned()
            .unwrap_or(default);
        requests.entry(name.to_owned()).or_insert(within);
    }
    let default = Quantity(default_memory_limit(role).to_owned());
    let enough = requests
        .get("memory")
        .filter(|request| lesser(&default, request))
        .cloned()
        .unwrap_or(default);
    limits.entry("memory".to_owned()).or_insert(enough);
    ResourceRequirements {
        requests: Some(requests),
        limits: Some(limits),
        ..ResourceRequirements::default()
    }
}

/// The pod that runs once and removes what a cluster kept elsewhere, with metasrv's settings and secrets.
pub fn destroy_pod(cluster: &GreptimeCluster, image: String) -> PodSpec {
    let role = Role::Metasrv;
    let container = Container {
        name: "destroy".to_owned(),
        image: Some(image),
        args: Some(
            ["destroy", "--config-file", CONFIG_FILE]
                .map(str::to_owned)
                .to_vec(),
        ),
        env: Some(secret_environment(cluster, role)).filter(|environment| !environment.is_empty()),
        resources: Some(resources(cluster, role)),
        volume_mounts: Some(mounts(cluster, role)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(container_security()),
        ..Container::default()
    };
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        topology_spread_constraints: None,
        ..pod_spec(cluster, role, container)
    }
}
