//! Brings near what queries of a region need, before this node leads it.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use greptime_types::{Error, RegionId, Result};

use super::Datanode;
use crate::region::Region;
use crate::schema::engine_schema;
use crate::sst::{ReadMetrics, ReadRequest};

/// Newest files whose rows are read, by their size. Of all others the footers are.
const BYTES: u64 = 32 << 20;
/// How long its files may stay unknown, and between two looks whether they are.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

impl Datanode {
    /// In the background; the reports say when it is done.
    pub(super) fn warm_up(self: &Arc<Self>, id: RegionId) {
        let Some(region) = self.regions.find(id) else {
            return;
        };
        if region.with_state(|s| s.is_warm()) || !region.begin_warming() {
            return;
        }
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let warmed = node.warm(&region).await;
            region.end_warming(warmed.is_ok());
            match warmed {
                Ok(()) => tracing::debug!(region = %id, "what queries need is near"),
                Err(error) => tracing::warn!(region = %id, %error, "what queries need is not near yet"),
            }
            node.regions.news().notify_one();
        });
    }

    async fn warm(&self, region: &Arc<Region>) -> Result<()> {
        let started = self.clock.now();
        let (view, table) = loop {
            let (is_known, view, table) = region.with_state(|s| {
                let is_known = s.status().is_hot && !s.wants_manifest();
                (is_known, s.view().cloned(), Arc::clone(s.table()))
            });
            if let Some(view) = view.filter(|_| is_known) {
                break (view, table);
            }
            if self.clock.now().saturating_sub(started) > PATIENCE {
                return Err(Error::unavailable("its files are not known yet"));
            }
            tokio::time::sleep(LOOK).await;
        };
        let mut files: Vec<_> = view.files.values().collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.max_time));
        let (mut left, schema) = (BYTES, engine_schema(&table.schema, |_| true, true));
        for file in files {
            let open = self.files.open(file, &ReadMetrics::default()).await?;
            left = left.saturating_sub(file.bytes);
            if left > 0 {
                let mut rows = open.read(ReadRequest::new(Arc::clone(&schema)));
                while let Some(batch) = rows
                    .try_next()
                    .await
                    .map_err(|e| greptime_query::from_datafusion(&e))?
                {
                    drop(batch);
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(())
    }
}
