//! The frontend's side of its session with metasrv.

use std::sync::Arc;

use greptime_proto::SessionHandler;
use greptime_proto::v1::{NodeIdentity, NodeRole, Register, Tick, push::Body};
use greptime_telemetry::Readiness;
use greptime_types::{NodeId, RegionId, format};
use parking_lot::Mutex;

use super::view::View;

/// Who this process is, as it tells metasrv.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node_id: NodeId,
    /// host:port under which others reach this frontend; shown in the list of nodes.
    pub address: String,
    /// Version of the program.
    pub version: String,
    /// Random, made at the start.
    pub incarnation: u64,
}

#[derive(Debug, Default)]
struct Told {
    catalog: bool,
    routes: bool,
}

pub struct FrontendSession {
    identity: Identity,
    view: Arc<View>,
    ready: Readiness,
    told: Mutex<Told>,
}

impl FrontendSession {
    pub fn new(identity: Identity, view: Arc<View>, ready: Readiness) -> Self {
        Self {
            identity,
            view,
            ready,
            told: Mutex::default(),
        }
    }

    /// Ready once the whole catalog and all routes have been said, or metasrv said that there is nothing more.
    fn note(&self, change: impl FnOnce(&mut Told)) {
        let mut told = self.told.lock();
        change(&mut told);
        if told.catalog && told.routes {
            self.ready.set();
        }
    }
}

impl SessionHandler for FrontendSession {
    fn register(&self) -> Register {
        Register {
            identity: Some(NodeIdentity {
                cluster_id: self.view.cluster_id(),
                role: NodeRole::Frontend.into(),
                node_id: self.identity.node_id,
                disk_id: String::new(),
                incarnation: self.identity.incarnation,
            }),
            address: self.identity.address.clone(),
            version: self.identity.version.clone(),
            min_format: format::OLDEST_CLUSTER_FORMAT,
            max_format: format::NEWEST_CLUSTER_FORMAT,
            regions: vec![],
            zone: String::new(),
        }
    }

    fn tick(&self, number: u64, _answered: u64) -> Tick {
        Tick {
            number,
            ..Tick::default()
        }
    }

    fn told(&self, push: Body) {
        match push {
            Body::Welcome(welcome) => {
                tracing::info!(cluster = %welcome.cluster_id, epoch = welcome.metasrv_epoch, "registered");
                self.view.set_cluster_id(&welcome.cluster_id);
                self.view.set_format(welcome.format_version);
            }
            Body::Catalog(update) => match self.view.update_catalog(&update) {
                Ok(()) => self.note(|told| told.catalog |= update.complete),
                Err(error) => tracing::error!(%error, "catalog update ignored"),
            },
            Body::Routes(update) => {
                self.view.update_routes(&update);
                for route in update.routes.iter().filter(|_| !update.complete) {
                    let region = RegionId::from_u64(route.region_id);
                    tracing::debug!(%region, epoch = route.epoch, node = route.leader_node, "a route has changed");
                }
                self.note(|told| told.routes |= update.complete);
            }
            Body::AssignmentsComplete(_) => self.note(|told| told.routes = true),
            // Ticks are answered for the sake of the session; the rest is for datanodes.
            _ => {}
        }
    }

    fn disconnected(&self, reason: &str) {
        tracing::info!(
            reason,
            "session with metasrv ended; the routes known so far stay in use"
        );
    }
}
