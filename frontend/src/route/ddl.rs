//! Changes of the catalog: asked of metasrv, done when this frontend sees them.

use std::sync::Arc;
use std::time::Duration;

use greptime_clock::SharedClock;
use greptime_proto::transport::MetaLink;
use greptime_proto::v1::{DdlRequest, ddl_request::Body};
use greptime_types::{Error, ErrorKind, Result};

use super::catalog::Catalog;
use super::router::Deadline;
use super::view::View;

/// Between two attempts while metasrv cannot be reached or elects a leader.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Ddl {
    pub link: Arc<dyn MetaLink>,
    pub view: Arc<View>,
    pub clock: SharedClock,
}

/// What came of a change.
#[derive(Debug)]
pub struct Done {
    /// False: it was so already.
    pub changed: bool,
    /// A catalog that has it.
    pub catalog: Arc<Catalog>,
    /// The procedure that goes on; empty if there is none.
    pub procedure_id: String,
}

impl Ddl {
    pub async fn run(&self, body: Body, deadline: Deadline) -> Result<Done> {
        let mut unknown_outcome = false;
        loop {
            let left = deadline.0.saturating_sub(self.clock.now());
            let request = DdlRequest {
                body: Some(body.clone()),
                deadline_ms: left.as_millis().max(1) as u64,
            };
            let error = match self.link.ddl(request).await {
                Ok(done) => {
                    let catalog = self.view.await_revision(done.revision, left).await?;
                    return Ok(Done {
                        changed: done.changed,
                        catalog,
                        procedure_id: done.procedure_id,
                    });
                }
                Err(error) => error,
            };
            match error.kind {
                ErrorKind::Unavailable | ErrorKind::Conflict if left > PAUSE => {
                    unknown_outcome = true;
                    tokio::time::sleep(PAUSE).await;
                }
                ErrorKind::AlreadyExists | ErrorKind::NotFound if unknown_outcome => {
                    let message = format!(
                        "{} (perhaps by this statement: its first answer was lost)",
                        error.message
                    );
                    return Err(Error::new(error.kind, message));
                }
                _ => return Err(error),
            }
        }
    }
}
