//! `greptime-node frontend`, and the part of it that a standalone process shares.

use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use greptime_clock::{SystemClock, SystemIds};
use greptime_frontend::route::GrpcRegions;
use greptime_frontend::{Frontend, FrontendParts};
use greptime_proto::GrpcMeta;
use greptime_telemetry::{Metrics, Readiness, probe_router, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::must_run;
use crate::runtime::{advertised, bind, on_signal};
use crate::settings::Settings;

/// The ports that clients connect to.
pub struct Listeners {
    pub http: TcpListener,
    mysql: TcpListener,
    postgres: TcpListener,
}

impl Listeners {
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {
            http: bind("HTTP", &settings.http.address, 4000).await?,
            mysql: bind("MySQL", &settings.mysql.address, 4002).await?,
            postgres: bind("PostgreSQL", &settings.postgres.address, 4003).await?,
        })
    }
}

pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let shutdown = on_signal()?;
    let listeners = Listeners::bind(&settings).await?;
    let (metrics, readiness) = (Metrics::default(), Readiness::default());
    let frontend = Frontend::start(FrontendParts {
        config: settings.frontend.clone(),
        users_file: settings.auth.users_file.clone(),
        node_id: settings.node.id,
        advertise_address: advertised(&settings.node.advertise_address, &listeners.http)?,
        link: GrpcMeta::new(settings.metasrv.addresses.clone())?,
        regions: Arc::new(GrpcRegions::new(settings.frontend.connect_timeout)),
        clock: SystemClock::shared(),
        ids: SystemIds::shared(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
    })?;
    let probes = probe_router(metrics, readiness);
    serve_clients(frontend, listeners, probes, &shutdown).await
}

/// Serves all protocols until the shutdown, then lets running requests end.
pub async fn serve_clients(
    frontend: Arc<Frontend>,
    listeners: Listeners,
    probes: Router,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let router = probes.merge(frontend.http_router());
    let stop = || shutdown.clone().cancelled_owned();
    let http = tokio::spawn(serve(listeners.http, router, stop()));
    let mysql = tokio::spawn(Arc::clone(&frontend).serve_mysql(listeners.mysql, stop()));
    let postgres = tokio::spawn(Arc::clone(&frontend).serve_postgres(listeners.postgres, stop()));
    must_run("HTTP", http, shutdown).await.context("HTTP server")?;
    must_run("MySQL", mysql, shutdown).await.context("MySQL server")?;
    must_run("PostgreSQL", postgres, shutdown)
        .await
        .context("PostgreSQL server")?;
    frontend.stop();
    Ok(())
}
