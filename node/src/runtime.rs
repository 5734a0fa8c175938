//! The process around a role: threads, listeners, signals.

use std::future::Future;
use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub struct Runtime(tokio::runtime::Runtime);

impl Runtime {
    pub fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        Ok(Self(runtime.context("starting the threads")?))
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.block_on(future)
    }
}

/// Binds `address`, or all interfaces at `default_port` if it is empty.
pub async fn bind(what: &str, address: &str, default_port: u16) -> anyhow::Result<TcpListener> {
    let address = if address.is_empty() {
        format!("0.0.0.0:{default_port}")
    } else {
        address.to_string()
    };
    let listener = TcpListener::bind(&address).await;
    let listener = listener.with_context(|| format!("{what}: cannot listen on {address}"))?;
    tracing::info!(what, address = %listener.local_addr()?, "listening");
    Ok(listener)
}

/// What others dial: the setting, or the address that was bound, as seen on this machine.
pub fn advertised(setting: &str, listener: &TcpListener) -> anyhow::Result<String> {
    if !setting.is_empty() {
        return Ok(setting.to_string());
    }
    let bound = listener.local_addr()?;
    let ip = if bound.ip().is_unspecified() {
        [127, 0, 0, 1].into()
    } else {
        bound.ip()
    };
    Ok(SocketAddr::new(ip, bound.port()).to_string())
}

/// A token that is cancelled by SIGTERM or SIGINT.
pub fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        cancel.cancel();
    });
    Ok(token)
}
