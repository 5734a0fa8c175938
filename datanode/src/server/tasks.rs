//! Background tasks, so that a stop can wait for them.

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub struct Tasks {
    running: Mutex<Option<JoinSet<()>>>,
    shutdown: CancellationToken,
}

impl Tasks {
    pub fn new(shutdown: CancellationToken) -> Self {
        let running = Mutex::new(Some(JoinSet::new()));
        Self { running, shutdown }
    }

    /// Starts a task, unless the end has begun. At the end it is dropped at whatever it waits for: everything
    /// that runs here can be interrupted like a process.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = self.running.lock().as_mut() {
            while running.try_join_next().is_some() {}
            let shutdown = self.shutdown.clone();
            running.spawn(async move {
                tokio::select! {
                    () = task => {}
                    () = shutdown.cancelled() => {}
                }
            });
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
