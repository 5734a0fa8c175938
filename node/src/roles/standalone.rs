//! `greptime-node standalone`: the same components in one process, joined by calls instead of gRPC.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use greptime_clock::{SystemClock, SystemIds};
use greptime_datanode::{Datanode, DatanodeParts};
use greptime_frontend::route::{Peer, RegionRows, Regions};
use greptime_frontend::{Frontend, FrontendParts};
use greptime_metasrv::store::FileStore;
use greptime_metasrv::{Alone, InProcess, Metasrv, MetasrvOptions, NoRedial, http_router};
use greptime_object_store::StoreKind;
use greptime_object_store::StoreMetrics;
use greptime_proto::v1::{
    CompactRequest, CompactResponse, FlushRequest, FlushResponse, QueryRequest, WriteRequest, WriteResponse,
};
use greptime_telemetry::{Metrics, Readiness, probe_router};
use greptime_types::Result;

use super::frontend::{Listeners, serve_clients};
use crate::runtime::on_signal;
use crate::settings::Settings;

/// The one datanode of this process; whatever peer is asked for, it is this.
struct LocalRegions(Arc<Datanode>);

#[async_trait]
impl Regions for LocalRegions {
    async fn write(&self, _: &Peer, request: WriteRequest) -> Result<WriteResponse> {
        self.0.write(request).await
    }

    async fn query(&self, _: &Peer, request: QueryRequest) -> Result<RegionRows> {
        self.0.query(request).await
    }

    async fn flush(&self, _: &Peer, request: FlushRequest) -> Result<FlushResponse> {
        self.0.flush(request).await
    }

    async fn compact(&self, _: &Peer, request: CompactRequest) -> Result<CompactResponse> {
        self.0.compact(request).await
    }
}

pub async fn run(mut settings: Settings) -> anyhow::Result<()> {
    let shutdown = on_signal()?;
    let data_dir = settings.node.data_dir.clone();
    std::fs::create_dir_all(&data_dir).with_context(|| format!("data directory {}", data_dir.display()))?;
    if settings.object_store.kind == StoreKind::Local && settings.object_store.dir.is_none() {
        settings.object_store.dir = Some(data_dir.join("objects"));
    }
    let (clock, ids, metrics) = (SystemClock::shared(), SystemIds::shared(), Metrics::default());
    let bucket = settings
        .object_store
        .open()?
        .counted(StoreMetrics::register(&metrics));
    let listeners = Listeners::bind(&settings).await?;
    let metasrv = Metasrv::start(MetasrvOptions {
        config: settings.metasrv.config(),
        name: settings.cluster.name.clone(),
        address: "in-process".into(),
        store: Arc::new(FileStore::open(&data_dir.join("catalog.json"))?),
        election: Arc::new(Alone),
        bucket: bucket.clone(),
        clock: clock.clone(),
        ids: ids.clone(),
        metrics: metrics.clone(),
        policy: settings.metasrv.policy()?,
        redial: Arc::new(NoRedial),
    });
    let link = Arc::new(InProcess(Arc::clone(&metasrv)));
    let datanode = Datanode::start(DatanodeParts {
        config: settings.datanode.clone(),
        node_id: settings.node.id,
        address: "in-process".into(),
        zone: String::new(),
        data_dir,
        bucket,
        clock: clock.clone(),
        ids: ids.clone(),
        metrics: metrics.clone(),
        meta: Some(link.clone()),
        peers: None,
    })
    .await?;
    let readiness = Readiness::default();
    let frontend = Frontend::start(FrontendParts {
        config: settings.frontend.clone(),
        users_file: settings.auth.users_file.clone(),
        node_id: settings.node.id,
        advertise_address: listeners.http.local_addr()?.to_string(),
        link,
        regions: Arc::new(LocalRegions(Arc::clone(&datanode))),
        clock,
        ids,
        metrics: metrics.clone(),
        readiness: readiness.clone(),
    })?;
    let probes = probe_router(metrics, readiness).merge(http_router(Arc::clone(&metasrv)));
    tokio::select! {
        ended = serve_clients(frontend, listeners, probes, &shutdown) => ended?,
        reason = datanode.failed() => anyhow::bail!("this node can no longer work and must start again: {reason}"),
    }
    metasrv.shutdown();
    datanode.shutdown().await;
    Ok(())
}
