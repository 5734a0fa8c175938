//! Services: one headless per role, so that each pod has a name, and one for clients.

use greptime_operator_api::GreptimeCluster;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::names::{self, Role};

pub fn of_role(cluster: &GreptimeCluster, role: Role) -> Vec<Service> {
    let mut services = vec![peers(cluster, role)];
    match role {
        Role::Metasrv => services.push(metasrv(cluster)),
        Role::Frontend => services.push(frontend(cluster)),
        Role::Datanode => {}
    }
    services
}

/// Ports of a role's container, by name.
pub fn ports(cluster: &GreptimeCluster, role: Role) -> Vec<(&'static str, i32)> {
    let mut ports = vec![("http", role.http_port(cluster))];
    ports.extend(role.grpc_port().map(|port| ("grpc", port)));
    if role == Role::Frontend {
        ports.push(("mysql", cluster.spec.ports.mysql()));
        ports.push(("postgres", cluster.spec.ports.postgres()));
    }
    ports
}

fn service(cluster: &GreptimeCluster, role: Role, name: String) -> (Service, ServiceSpec) {
    let service = Service {
        metadata: names::metadata(cluster, role, name),
        ..Service::default()
    };
    let spec = ServiceSpec {
        selector: Some(names::labels(cluster, role)),
        ports: Some(ports(cluster, role).into_iter().map(port).collect()),
        ..ServiceSpec::default()
    };
    (service, spec)
}

fn port((name, number): (&'static str, i32)) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        // By number: merging by name needs the protocol spelled out, and both are part of the key.
        target_port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

fn peers(cluster: &GreptimeCluster, role: Role) -> Service {
    let (mut service, spec) = service(cluster, role, role.peers_name(cluster));
    service.spec = Some(ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        // Peers must find each other before they are ready, since that is how they become ready.
        publish_not_ready_addresses: Some(true),
        ..spec
    });
    service
}

fn metasrv(cluster: &GreptimeCluster) -> Service {
    let (mut service, spec) = service(cluster, Role::Metasrv, Role::Metasrv.child_name(cluster));
    service.spec = Some(ServiceSpec {
        type_: Some("ClusterIP".to_owned()),
        // A metasrv that waits for etcd is not ready, and is the one that can say what it waits for.
        publish_not_ready_addresses: Some(true),
        ..spec
    });
    service
}

fn frontend(cluster: &GreptimeCluster) -> Service {
    let wanted = &cluster.spec.frontend.service;
    let (mut service, spec) = service(cluster, Role::Frontend, Role::Frontend.child_name(cluster));
    service.metadata.annotations =
        Some(wanted.annotations.clone()).filter(|annotations| !annotations.is_empty());
    service.spec = Some(ServiceSpec {
        type_: Some(wanted.type_.unwrap_or_default().as_str().to_owned()),
        load_balancer_class: wanted.load_balancer_class.clone(),
        ..spec
    });
    service
}
