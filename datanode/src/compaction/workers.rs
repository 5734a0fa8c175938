//! Threads for merging, of lower priority than those of requests.

use greptime_types::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};

/// How far below the other threads of the process, in steps of `nice`.
const NICER_BY: i32 = 10;

/// A runtime of its own; its end waits for nobody.
#[derive(Debug)]
pub struct Workers {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Workers {
    pub fn start(threads: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("compaction")
            .enable_time()
            .on_thread_start(|| {
                // Of the calling thread alone, on Linux. Without the right to it, merges compete as equals.
                if let Err(error) = rustix::process::setpriority_process(None, NICER_BY) {
                    tracing::debug!(%error, "the priority of a compaction thread stays as it is");
                }
            })
            .build()
            .map_err(|e| Error::internal(format!("starting threads for compactions: {e}")))?;
        let handle = runtime.handle().clone();
        Ok(Self {
            runtime: Some(runtime),
            handle,
        })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_merge_give_way_to_others() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let workers = Workers::start(1).unwrap();
        let theirs = workers
            .handle()
            .block_on(workers.handle().spawn(async move { priority() }))
            .unwrap();
        assert_eq!(theirs, (priority() + NICER_BY).min(19));
    }
}
