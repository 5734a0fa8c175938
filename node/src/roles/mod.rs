//! One module for each role.

pub mod datanode;
pub mod destroy;
pub mod frontend;
pub mod metasrv;
pub mod standalone;

use std::fmt;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a server may take to let running requests end.
const DRAIN: Duration = Duration::from_secs(25);

/// Waits for a server: it must not end before the shutdown, nor take forever after it.
async fn must_run<E: fmt::Display>(
    what: &str,
    server: JoinHandle<Result<(), E>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let abort = server.abort_handle();
    let limit = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = server => match ended? {
            Ok(()) if shutdown.is_cancelled() => Ok(()),
            Ok(()) => anyhow::bail!("{what} ended by itself"),
            Err(error) => anyhow::bail!("{what}: {error}"),
        },
        () = limit => {
            tracing::warn!(what, "requests did not end in time and are cut off");
            abort.abort();
            Ok(())
        }
    }
}
