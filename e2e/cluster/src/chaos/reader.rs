//! Somebody who reads while others write: what was acknowledged before a question must be in its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

use crate::sql::Http;
use crate::writer::Writer;

const EVERY: Duration = Duration::from_millis(250);

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reads {
    pub reads: u64,
    /// Without an answer.
    pub errors: u64,
    /// Answers that lack rows.
    pub stale: u64,
}

pub struct Reader {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Reads>,
}

impl Reader {
    pub fn start(http: Http, table: &str, writer: &Writer) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, statement) = (Arc::clone(&stop), format!("SELECT count(*) FROM {table}"));
        let acknowledged = writer.acknowledged();
        let task = tokio::spawn(async move {
            let mut reads = Reads::default();
            while !stopped.load(Ordering::Relaxed) {
                let at_least = acknowledged();
                let answer = http.rows(&statement).await;
                let found = answer.ok().and_then(|rows| rows.first()?.first()?.as_u64());
                reads.reads += 1;
                match found {
                    None => reads.errors += 1,
                    Some(found) => reads.stale += u64::from(found < at_least),
                }
                tokio::time::sleep(EVERY).await;
            }
            reads
        });
        Self { stop, task }
    }

    pub async fn finish(self) -> Result<Reads> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}
