//! Background tasks, so that a stop can wait for them.

use parking_lot::Mutex;
use tokio::task::JoinSet;

#[derive(Debug, Default)]
pub struct Tasks {
    running: Mutex<Option<JoinSet<()>>>,
}

impl Tasks {
    pub fn new() -> Self {
        Self { running: Mutex::new(Some(JoinSet::new())) }
    }

    /// Starts a task, unless the end has begun.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = self.running.lock().as_mut() {
            while running.try_join_next().is_some() {}
            running.spawn(task);
        }
    }

    /// Waits for all tasks; no more are started.
    pub async fn finish(&self) {
        let running = self.running.lock().take();
        if let Some(mut running) = running {
            while running.join_next().await.is_some() {}
        }
    }
}
