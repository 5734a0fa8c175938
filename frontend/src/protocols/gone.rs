//! Clients of MySQL's and PostgreSQL's protocols that are gone while their query runs. Nobody reads their socket then, so
//! its end is looked for beside it.

use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use futures::stream::try_unfold;
use greptime_query::into_datafusion;
use greptime_types::{Error, Result};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::query::Session;
use crate::sql::Statement;
use crate::statement::{Executor, Output};

/// Where a client has sent more than the running query, its end shows only to those who look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A second handle of a connection's socket, which nobody reads from.
#[derive(Debug)]
pub struct Connected(TcpStream);

impl Connected {
    pub fn of(stream: &TcpStream) -> std::io::Result<Self> {
        let socket = stream.as_fd().try_clone_to_owned()?;
        Ok(Self(TcpStream::from_std(socket.into())?))
    }

    /// Returns when the client has closed its side, or the connection is broken.
    pub async fn is_gone(&self) {
        while let Ok(ready) = self.0.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Executes a statement. A query ends with an error that nobody sees when its client goes away, and gives back what it
/// holds; what changes something is brought to its end.
pub async fn execute(
    client: &Arc<Connected>,
    executor: &Executor,
    session: &Session,
    statement: &Statement,
) -> Result<Output> {
    let executed = executor.execute(session, statement);
    let output = match statement {
        Statement::Query(_) => tokio::select! {
            biased;
            () = client.is_gone() => return Err(gone()),
            output = executed => output?,
        },
        _ => executed.await?,
    };
    Ok(match output {
        Output::Rows(rows) => Output::Rows(until_gone(rows, Arc::clone(client))),
        other => other,
    })
}

fn gone() -> Error {
    Error::unavailable("the client has closed its connection")
}

fn until_gone(rows: SendableRecordBatchStream, client: Arc<Connected>) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let rows = try_unfold((rows, client), |(mut rows, client)| async move {
        let closed = pin!(client.is_gone());
        tokio::select! {
            biased;
            () = closed => Err(into_datafusion(gone())),
            batch = rows.next() => Ok(batch.transpose()?.map(|batch| (batch, (rows, Arc::clone(&client))))),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}
