//! `greptime-node datanode`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use greptime_clock::{SystemClock, SystemIds};
use greptime_datanode::{Datanode, DatanodeParts};
use greptime_object_store::StoreMetrics;
use greptime_peers::GrpcPeerLink;
use greptime_proto::GrpcMeta;
use greptime_telemetry::{Metrics, probe_router, serve};
use tokio_util::sync::CancellationToken;

use super::must_run;
use crate::runtime::{advertised, bind, on_signal};
use crate::settings::Settings;

/// How long others may take to lead what this node leads when it is told to stop.
const HAND_OVER: Duration = Duration::from_secs(5);

pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let signal = on_signal()?;
    let shutdown = CancellationToken::new();
    let grpc = bind("gRPC", &settings.grpc.address, 3001).await?;
    let http = bind("HTTP", &settings.http.address, 4000).await?;
    let metrics = Metrics::default();
    let datanode = Datanode::start(DatanodeParts {
        config: settings.datanode.clone(),
        node_id: settings.node.id,
        address: advertised(&settings.node.advertise_address, &grpc)?,
        zone: settings.node.zone.clone(),
        data_dir: settings.node.data_dir.clone(),
        bucket: settings
            .object_store
            .open()?
            .counted(StoreMetrics::register(&metrics)),
        clock: SystemClock::shared(),
        ids: SystemIds::shared(),
        metrics: metrics.clone(),
        meta: Some(GrpcMeta::new(settings.metasrv.addresses.clone())?),
        peers: Some(Arc::new(GrpcPeerLink::default())),
    })
    .await?;
    let (leaving, stop) = (Arc::clone(&datanode), shutdown.clone());
    tokio::spawn(async move {
        signal.cancelled().await;
        leaving.hand_over(HAND_OVER).await;
        stop.cancel();
    });
    let router = probe_router(metrics, datanode.readiness());
    let stop = shutdown.clone();
    let http = tokio::spawn(async move { serve(http, router, stop.cancelled_owned()).await });
    let (serving, stop) = (Arc::clone(&datanode), shutdown.clone());
    let grpc = tokio::spawn(async move { serving.serve(grpc, stop.cancelled_owned()).await });
    let served = async {
        must_run("gRPC", grpc, &shutdown).await.context("gRPC server")?;
        must_run("HTTP", http, &shutdown).await.context("HTTP server")
    };
    tokio::select! {
        ended = served => ended?,
        // What is on disk is whole; what is in memory may not be. A new process starts from the disk.
        reason = datanode.failed() => anyhow::bail!("this node can no longer work and must start again: {reason}"),
    }
    datanode.shutdown().await;
    Ok(())
}
