//! What moves of regions put into the object store. A replica that moves takes its log along; its files stay where they
//! are, and whoever leads it reads them there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::metrics::Metrics;

/// Files of rows; all others are small, and say which of these there are.
const ROWS: &str = "parquet";
/// A file has its name before its datanode counts it, but hardly ever for so long.
const UNCOUNTED: Duration = Duration::from_millis(50);
/// Datanodes that put something each time have no stock.
const LOOKS: usize = 100;

/// What is in the object store, and what datanodes have done with it since they started.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    files: BTreeMap<PathBuf, u64>,
    /// Without what was refused: an edit that lost its version is no file.
    put: u64,
    copies: u64,
    /// Of files that flushes and compactions put, also of those that were thrown away since their edit was lost.
    made: u64,
}

/// What was added during moves, of all moves together. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The least that was there before a move, in files of rows: what could have been copied.
    pub rows_before: u64,
    /// In files of rows that are new in the bucket.
    pub rows_new: u64,
    /// By datanodes, of all files, also of those that are gone again.
    pub put: u64,
    /// Of files of rows that flushes and compactions put, of rows in memory or in other files; some were thrown away.
    pub made: u64,
    /// Copies inside of the object store, which no bytes are sent for. Not bytes.
    pub copies: u64,
    /// In files of rows that neither a flush nor a compaction made, by the bucket or by what datanodes have put.
    pub copied: u64,
}

impl Stock {
    /// In a moment in which nothing is put: what one half has and the other has not would look copied, or would not.
    pub async fn now(cluster: &Cluster) -> Result<Self> {
        let mut stock = Self::counted(cluster).await?;
        for _ in 0..LOOKS {
            list(cluster.bucket(), &mut stock.files)?;
            sleep(UNCOUNTED).await;
            let next = Self::counted(cluster).await?;
            if next.put == stock.put {
                return Ok(stock);
            }
            stock = next;
        }
        bail!("datanodes put something into the object store all the time");
    }

    /// What all datanodes count.
    async fn counted(cluster: &Cluster) -> Result<Self> {
        let mut stock = Self::default();
        for node in 0..cluster.datanodes() {
            stock.count(&cluster.datanode_metrics(node).await?);
        }
        Ok(stock)
    }

    fn count(&mut self, metrics: &Metrics) {
        let written = metrics.sum_where("greptime_object_store_bytes_total", "direction=\"write\"");
        self.put += written.saturating_sub(metrics.sum("greptime_object_store_refused_bytes_total"));
        self.copies += metrics.sum_where("greptime_object_store_requests_total", "operation=\"copy\"");
        self.made += metrics.sum("greptime_datanode_flush_bytes_written_total");
        self.made += metrics.sum("greptime_datanode_compaction_bytes_written_total");
    }

    /// What has been added since `before`.
    pub fn since(&self, before: &Self) -> Added {
        let new = self
            .files
            .iter()
            .filter(|(file, _)| !before.files.contains_key(*file));
        let (rows, others): (Vec<_>, Vec<_>) = new.partition(|(file, _)| holds_rows(file));
        let bytes = |files: &[(&PathBuf, &u64)]| files.iter().map(|(_, bytes)| **bytes).sum::<u64>();
        let (rows_new, others) = (bytes(&rows), bytes(&others));
        let put = self.put.saturating_sub(before.put);
        let made = self.made.saturating_sub(before.made);
        Added {
            rows_before: before.bytes_of_rows(),
            rows_new,
            put,
            made,
            copies: self.copies.saturating_sub(before.copies),
            copied: rows_new.max(put.saturating_sub(others)).saturating_sub(made),
        }
    }

    pub fn bytes_of_rows(&self) -> u64 {
        let rows = self.files.iter().filter(|(file, _)| holds_rows(file));
        rows.map(|(_, bytes)| bytes).sum()
    }
}

impl Added {
    /// This one and another, of two moves.
    pub fn and(self, other: Self) -> Self {
        Self {
            rows_before: self.rows_before.min(other.rows_before),
            rows_new: self.rows_new + other.rows_new,
            put: self.put + other.put,
            made: self.made + other.made,
            copies: self.copies + other.copies,
            copied: self.copied + other.copied,
        }
    }
}

fn holds_rows(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == ROWS)
}

/// All files below a directory, with their sizes.
fn list(dir: &Path, files: &mut BTreeMap<PathBuf, u64>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if let Ok(metadata) = path.metadata() {
            // One that is not there any more was thrown away or is being renamed.
            files.insert(path, metadata.len());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stock(files: &[(&str, u64)], put: u64, made: u64) -> Stock {
        let files = files.iter().map(|(file, bytes)| (PathBuf::from(file), *bytes));
        Stock {
            files: files.collect(),
            put,
            copies: 0,
            made,
        }
    }

    #[test]
    fn a_file_of_rows_that_no_flush_made_is_copied() {
        let before = stock(&[("r/sst/1.parquet", 500)], 600, 500);
        let files = [
            ("r/sst/1.parquet", 500),
            ("r/sst/2.parquet", 70),
            ("r/manifest/2", 10),
        ];
        let flushed = stock(&files, 680, 570).since(&before);
        assert_eq!(
            (flushed.rows_before, flushed.rows_new, flushed.copied),
            (500, 70, 0)
        );
        let copied = stock(&files, 680, 500).since(&before);
        assert_eq!(copied.copied, 70);
        // Not by a datanode, or by a link.
        assert_eq!(stock(&files, 600, 500).since(&before).copied, 70);
        // And gone again.
        assert_eq!(stock(&files[..1], 680, 500).since(&before).copied, 80);
    }

    /// What a datanode tells that has put so much: in all, of that refused, and by its flushes.
    fn told(written: u64, refused: u64, flushed: u64) -> Metrics {
        Metrics(format!(
            "greptime_object_store_bytes_total{{direction=\"read\"}} 9000\n\
             greptime_object_store_bytes_total{{direction=\"write\"}} {written}\n\
             greptime_object_store_refused_bytes_total {refused}\n\
             greptime_datanode_flush_bytes_written_total {flushed}\n\
             greptime_datanode_flush_bytes_total 0\n"
        ))
    }

    #[test]
    fn a_flush_that_lost_its_edit_is_not_copied_and_a_copy_beside_it_is() {
        let before = stock(&[("r/sst/1.parquet", 500)], 0, 0);
        let other_leaders = [
            ("r/sst/1.parquet", 500),
            ("r/sst/2.parquet", 70),
            ("r/manifest/2", 10),
        ];
        // One flush is kept, with its edit. Another uploaded 60 bytes, whose edit of 12 was refused.
        let mut after = stock(&other_leaders, 0, 0);
        after.count(&told(80, 0, 70));
        after.count(&told(72, 12, 60));
        assert_eq!(after.since(&before).copied, 0);
        // The old leader has also read a file and put it once more.
        let mut after = stock(&other_leaders, 0, 0);
        after.count(&told(80, 0, 70));
        after.count(&told(572, 12, 60));
        assert_eq!(after.since(&before).copied, 500);
    }

    #[test]
    fn moves_add_up() {
        let before = stock(&[("1.parquet", 500)], 0, 0);
        let one = stock(&[("1.parquet", 500), ("2.parquet", 70)], 70, 0).since(&before);
        let other = stock(&[("1.parquet", 300)], 5, 0).since(&stock(&[("1.parquet", 300)], 0, 0));
        let both = one.and(other);
        assert_eq!((both.rows_before, both.put, both.copied), (300, 75, 75));
    }

    #[test]
    fn files_are_listed_with_their_sizes_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/sst")).unwrap();
        fs::write(dir.path().join("a/sst/1.parquet"), "four").unwrap();
        fs::write(dir.path().join("cluster.json"), "{}").unwrap();
        let mut stock = Stock::default();
        list(dir.path(), &mut stock.files).unwrap();
        assert_eq!((stock.files.len(), stock.bytes_of_rows()), (2, 4));
    }
}
