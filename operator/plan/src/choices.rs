//! What the operator decides against the letter of the spec, and why.

use greptime_operator_api::GreptimeCluster;
use k8s_openapi::api::apps::v1::StatefulSet;

use crate::names::Role;
use crate::{Fact, Observed, quantity};

/// As many as the schema allows. A metasrv that speaks of more is not believed, rather than obeyed.
const MAX_DATANODES: u64 = 1000;
pub const DEFAULT_STORAGE_SIZE: &str = "10Gi";

/// How many datanodes there shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datanodes {
    AsAsked(i32),
    /// Until datanodes can be drained, each may hold the only copy of a log.
    ScaleInBlocked {
        asked: i32,
        kept: i32,
    },
}

impl Datanodes {
    pub fn replicas(self) -> i32 {
        match self {
            Self::AsAsked(replicas) | Self::ScaleInBlocked { kept: replicas, .. } => replicas,
        }
    }

    fn decide(observed: &Observed) -> Self {
        let asked = observed.cluster.spec.datanode.replicas;
        let kept = Self::floor(observed);
        if asked < kept {
            Self::ScaleInBlocked { asked, kept }
        } else {
            Self::AsAsked(asked)
        }
    }

    /// Fewer than this would take away a pod that may hold rows. The live StatefulSet says so, also if somebody
    /// has raised it by hand; if somebody has deleted it, our own status; and if somebody has lowered it, the
    /// whereabouts of the regions.
    fn floor(observed: &Observed) -> i32 {
        let live = match observed.live(Role::Datanode) {
            Some(live) => live.spec.replicas.unwrap_or(1),
            None => observed
                .cluster
                .status
                .as_ref()
                .map_or(0, |status| status.datanode.replicas),
        };
        let in_use = match &observed.metasrv {
            Fact::Known(report) => Some(report.datanodes_in_use())
                .filter(|n| *n <= MAX_DATANODES)
                .map_or(0, |n| n as i32),
            Fact::Absent | Fact::Unknown(_) => 0,
        };
        live.max(in_use)
    }
}

/// The claim of each datanode's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub size: String,
    pub storage_class_name: Option<String>,
}

/// Volumes of a StatefulSet cannot be changed in place, be it to more or to less. What the spec asks for besides is
/// told and not written, so that the spec can be set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volumes {
    AsAsked(Volume),
    ChangeBlocked { asked: Volume, kept: Volume },
}

impl Volumes {
    pub fn volume(&self) -> &Volume {
        match self {
            Self::AsAsked(volume) | Self::ChangeBlocked { kept: volume, .. } => volume,
        }
    }

    fn decide(observed: &Observed) -> Self {
        let asked = asked_volume(&observed.cluster);
        match observed.live(Role::Datanode).and_then(live_volume) {
            Some(kept) if !same(&asked, &kept) => Self::ChangeBlocked { asked, kept },
            Some(kept) => Self::AsAsked(kept),
            None => Self::AsAsked(asked),
        }
    }
}

fn asked_volume(cluster: &GreptimeCluster) -> Volume {
    let storage = &cluster.spec.datanode.storage;
    Volume {
        size: storage
            .size
            .clone()
            .unwrap_or_else(|| DEFAULT_STORAGE_SIZE.to_owned()),
        storage_class_name: storage.storage_class_name.clone(),
    }
}

fn live_volume(live: &StatefulSet) -> Option<Volume> {
    let claim = live
        .spec
        .volume_claim_templates
        .as_ref()?
        .first()?
        .spec
        .as_ref()?;
    let size = claim.resources.as_ref()?.requests.as_ref()?.get("storage")?;
    Some(Volume {
        size: size.0.clone(),
        storage_class_name: claim.storage_class_name.clone(),
    })
}

/// The API server rewrites quantities in its own form, so that their text does not tell.
fn same(a: &Volume, b: &Volume) -> bool {
    quantity::parse(&a.size) == quantity::parse(&b.size) && a.storage_class_name == b.storage_class_name
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Choices {
    pub datanodes: Datanodes,
    pub volumes: Volumes,
}

impl Choices {
    pub fn of(observed: &Observed) -> Self {
        Self {
            datanodes: Datanodes::decide(observed),
            volumes: Volumes::decide(observed),
        }
    }

    pub fn replicas(&self, cluster: &GreptimeCluster, role: Role) -> i32 {
        match role {
            Role::Datanode => self.datanodes.replicas(),
            Role::Metasrv | Role::Frontend => role.spec(cluster).replicas,
        }
    }
}
