//! `greptime-node metasrv`.

use std::sync::Arc;

use anyhow::Context;
use greptime_clock::{SystemClock, SystemIds};
use greptime_metasrv::store::EtcdStore;
use greptime_metasrv::{EtcdElection, GrpcRedial, Metasrv, MetasrvOptions, http_router, meta_service};
use greptime_object_store::StoreMetrics;
use greptime_telemetry::{Metrics, probe_router, serve};
use tonic::transport::server::TcpIncoming;

use super::must_run;
use crate::runtime::{advertised, bind, on_signal};
use crate::settings::Settings;

pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let shutdown = on_signal()?;
    let grpc = bind("gRPC", &settings.grpc.address, 3002).await?;
    let http = bind("HTTP", &settings.http.address, 4000).await?;
    let address = advertised(&settings.node.advertise_address, &grpc)?;
    let clock = SystemClock::shared();
    let metrics = Metrics::default();
    let store = Arc::new(EtcdStore::new(settings.store.etcd.clone())?);
    let metasrv = Metasrv::start(MetasrvOptions {
        config: settings.metasrv.config(),
        name: settings.cluster.name.clone(),
        address: address.clone(),
        election: Arc::new(EtcdElection::new(store.clone(), address, clock.clone())),
        store,
        bucket: settings
            .object_store
            .open()?
            .counted(StoreMetrics::register(&metrics)),
        clock,
        ids: SystemIds::shared(),
        metrics: metrics.clone(),
        policy: settings.metasrv.policy()?,
        redial: GrpcRedial::shared(),
    });
    let router = probe_router(metrics, metasrv.readiness()).merge(http_router(metasrv.clone()));
    let stop = shutdown.clone();
    let http = tokio::spawn(async move { serve(http, router, stop.cancelled_owned()).await });
    let service = meta_service(metasrv.clone());
    let stop = shutdown.clone();
    let grpc = tokio::spawn(async move {
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(2)))
            .http2_keepalive_timeout(Some(std::time::Duration::from_secs(2)))
            .add_service(service);
        server
            .serve_with_incoming_shutdown(
                TcpIncoming::from(grpc).with_nodelay(Some(true)),
                stop.cancelled_owned(),
            )
            .await
    });
    // Sessions are streams without an end: they are closed first, or the servers would wait for them.
    let stop = shutdown.clone();
    let stopping = metasrv.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        stopping.shutdown();
    });
    must_run("HTTP", http, &shutdown).await.context("HTTP server")?;
    must_run("gRPC", grpc, &shutdown).await.context("gRPC server")?;
    Ok(())
}
