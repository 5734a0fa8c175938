//! PostgreSQL: simple and extended queries, SCRAM passwords.

mod handlers;
mod startup;
mod values;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pgwire::api::ConnectionManager;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::gone::Connected;
use super::mysql::GRACE;
use crate::frontend::Frontend;

use handlers::Connection;

impl Frontend {
    /// Serves until `shutdown` resolves; connections may go on for a moment after it.
    pub async fn serve_postgres(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> std::io::Result<()> {
        let mut connections = JoinSet::new();
        let cancels = Arc::new(ConnectionManager::new());
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = &mut shutdown => break,
            };
            let Ok((stream, peer)) = accepted else {
                // Out of file descriptors: do not spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(client) = Connected::of(&stream) else {
                // Out of file descriptors, as above.
                continue;
            };
            let handlers = Connection::new(Arc::clone(&self), client, Arc::clone(&cancels));
            connections.spawn(async move {
                if let Err(error) = pgwire::tokio::process_socket(stream, None, handlers).await {
                    tracing::debug!(%peer, %error, "postgres connection ended");
                }
            });
        }
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, ended).await;
        Ok(())
    }
}
