//! The life of the process: probes first, then the lease, then the controllers, until it is told to stop or loses
//! the lease.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use greptime_clock::{SharedClock, SystemClock, SystemIds};
use greptime_operator_api::GreptimeCluster;
use greptime_telemetry::{Metrics, Readiness, init_logs, probe_router, serve};
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::command::Settings;
use crate::context::{Context, Parts};
use crate::controller;
use crate::lease::Elector;
use crate::metrics::OperatorMetrics;

const LEASE_NAME: &str = "greptime-operator";
/// Reconciles that run when the operator is told to stop get this long to end. Less than the lease has left.
const STOPPING: Duration = Duration::from_secs(8);

pub async fn run(settings: Settings) -> anyhow::Result<()> {
    init_logs(&settings.log()).map_err(|e| anyhow!(e))?;
    let stop = stop_signal()?;
    let metrics = Metrics::default();
    let operator_metrics = OperatorMetrics::new(&metrics);
    let readiness = Readiness::default();
    let listener = tokio::net::TcpListener::bind(&settings.metrics_address).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", settings.metrics_address))?;
    let stopped = until(stop.clone());
    tokio::spawn(serve(listener, probe_router(metrics, readiness.clone()), stopped));

    let client = Client::try_default()
        .await
        .context("no way to the Kubernetes API: no service account, no kubeconfig")?;
    let clock = SystemClock::shared();
    let context = Arc::new(Context::new(Parts {
        client: client.clone(),
        clock: clock.clone(),
        ids: SystemIds::shared(),
        metrics: operator_metrics,
        default_image: settings.default_image.clone(),
        identity: settings.identity.clone(),
        metasrv_url: settings.metasrv_url.clone(),
    }));
    tokio::select! {
        () = until(stop.clone()) => return Ok(()),
        () = wait_for_definition(&client, &settings) => {}
    }
    // Whoever waits for the lease is as ready as can be: else a rolling update of the operator would not end.
    readiness.set();
    act(context, settings, clock, stop).await
}

/// From having the lease to having given it back.
async fn act(
    context: Arc<Context>,
    settings: Settings,
    clock: SharedClock,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut elector = Elector::new(
        context.client.clone(),
        &settings.lease_namespace,
        LEASE_NAME,
        &settings.identity,
        clock,
    );
    if settings.leader_election {
        tracing::info!(identity = settings.identity, "waiting for the lease");
        tokio::select! {
            () = until(stop.clone()) => return Ok(()),
            () = elector.acquire() => {}
        }
    }
    context.metrics.set_leader(true);
    tracing::info!(
        identity = settings.identity,
        namespaces = settings.namespace,
        "leading"
    );
    let mut controllers = tokio::spawn(controller::run(
        context.clone(),
        settings.namespaces(),
        stop.clone(),
    ));
    let lost = async {
        match settings.leader_election {
            true => elector.hold().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        // Ending the process is the one way to be sure that nothing is written any more.
        why = lost => bail!("stopping at once: {why}"),
        ended = &mut controllers => { ended.context("the controllers ended unexpectedly")?; }
        () = until(stop) => {
            if tokio::time::timeout(STOPPING, &mut controllers).await.is_err() {
                tracing::warn!("a reconcile did not end in time");
                controllers.abort();
            }
        }
    }
    context.metrics.set_leader(false);
    if settings.leader_election {
        elector.release().await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// The chart makes definition and operator at the same time. Without the definition there is nothing to watch, and a
/// watch that fails at its start waits for longer than this.
async fn wait_for_definition(client: &Client, settings: &Settings) {
    loop {
        let mut missing = None;
        for namespace in settings.namespaces() {
            let api: Api<kube::core::DeserializeGuard<GreptimeCluster>> =
                controller::api(client, namespace.as_deref());
            if let Err(error) = api.list(&ListParams::default().limit(1)).await {
                missing = Some(error);
            }
        }
        let Some(error) = missing else { return };
        tracing::info!(%error, "cannot list GreptimeClusters yet; trying again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Becomes true at SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop");
        // Nobody may be listening any more, which is as well.
        let _ = sender.send(true);
    });
    Ok(receiver)
}

/// Resolves when it is time to stop.
pub async fn until(mut stop: watch::Receiver<bool>) {
    // A sender that is gone has nothing more to say, so that it counts as a stop.
    let _ = stop.wait_for(|stop| *stop).await;
}
