//! MySQL: text queries, prepared statements, native passwords.

mod packets;
mod refusal;
mod shim;
mod values;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use opensrv_mysql::AsyncMysqlIntermediary;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::gone::Connected;
use crate::frontend::Frontend;

use packets::OneByOne;
use refusal::{Answers, Refusal};
use shim::Connection;

/// How long open connections may go on after the server was told to stop.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

impl Frontend {
    /// Serves until `shutdown` resolves; connections may go on for a moment after it.
    pub async fn serve_mysql(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> std::io::Result<()> {
        let mut connections = JoinSet::new();
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
            let _ = stream.set_nodelay(true);
            let refusal = Refusal::default();
            let Ok(client) = Connected::of(&stream) else {
                // Out of file descriptors, as above.
                continue;
            };
            let shim = Connection::new(Arc::clone(&self), client, Arc::clone(&refusal));
            connections.spawn(async move {
                let (reader, writer) = stream.into_split();
                let reader = OneByOne::new(reader);
                let writer = Answers::new(writer, refusal);
                if let Err(error) = AsyncMysqlIntermediary::run_on(shim, reader, writer).await {
                    tracing::debug!(%peer, %error, "mysql connection ended");
                }
            });
        }
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, ended).await;
        Ok(())
    }
}
