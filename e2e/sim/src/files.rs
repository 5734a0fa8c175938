//! Rows from memory to files, and files into fewer ones: as `region::flush` and `compaction::job` of the datanode.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use greptime_rules::{
    Edit, FileMeta, Flush, Meeting, Uploads, View, known_before_put, may_follow, meet, merge_fits,
};
use greptime_types::{Error, Result};

use crate::datanode::Datanode;
use crate::manifest::{Commit, Manifest};
use crate::message::{Key, Object, Operation, Row, Rows};
use crate::region::{Frozen, Region, State};
use crate::rules::holds;
use crate::trace::Branch;

/// Files that are merged at once.
const MERGED: usize = 3;
/// From so many on they are.
const MANY_FILES: usize = 4;
/// Of a file that is no longer there: how often a newer view is tried.
const ATTEMPTS: usize = 3;

/// Files that an edit changes, beside the rows that it flushes.
#[derive(Default)]
pub struct FileChange {
    pub remove: Vec<String>,
    pub add: Vec<FileMeta>,
}

impl Datanode {
    fn manifest(&self, region: &Region) -> Manifest<'_> {
        Manifest {
            bucket: &self.bucket,
            region: region.id,
        }
    }

    /// Puts everything that is in memory into files.
    pub async fn flush(self: &Rc<Self>, region: &Rc<Region>) -> Result<()> {
        let _one_at_a_time = region.files.take(&self.sim).await;
        loop {
            let (epoch, view) = leading_view(region)?;
            let Some(frozen) = region.change(State::freeze) else {
                self.trim(region);
                return Ok(());
            };
            let file = self.upload(region, &frozen, epoch, &view).await;
            let files = match file {
                Ok(file) => file,
                Err((name, error)) => {
                    // No edit was put.
                    self.discard(region, vec![name], Uploads::Void).await;
                    return Err(error);
                }
            };
            let names: Vec<String> = files.iter().map(|f| f.name.clone()).collect();
            let flush = Flush {
                through: frozen.sequence,
                truncated_seq: frozen.truncated_seq,
                built: frozen.built(),
                files,
            };
            let edit = flush.edit(&view, epoch, self.new_id(), || region.read(State::built));
            if let Some(view) = known_before_put(&view, &edit)? {
                region.change(|s| s.adopt(view));
                self.trim(region);
            }
            match self.manifest(region).commit(&view, &Rc::new(edit)).await? {
                Commit::Adopted(view) => {
                    self.sim.hit(Branch::FlushIsAdopted);
                    region.change(|s| s.adopt(view));
                    self.trim(region);
                    return Ok(());
                }
                Commit::Lost(view) => {
                    self.discard(region, names, Uploads::Void).await;
                    self.take_view(region, view)?;
                }
            }
        }
    }

    /// One file of the rows that the view does not have; none if there are none.
    async fn upload(
        &self,
        region: &Region,
        frozen: &Frozen,
        epoch: u64,
        view: &View,
    ) -> std::result::Result<Vec<FileMeta>, (String, Error)> {
        let rows = frozen.rows.range(view.flushed_seq + 1..);
        let rows: Vec<(u64, Row)> = rows.map(|(sequence, row)| (*sequence, *row)).collect();
        if rows.is_empty() {
            return Ok(vec![]);
        }
        let rows = newest(rows, is_append(region));
        self.put_file(region, epoch, rows, 0).await.map(|file| vec![file])
    }

    async fn put_file(
        &self,
        region: &Region,
        epoch: u64,
        rows: Vec<(u64, Row)>,
        level: u32,
    ) -> std::result::Result<FileMeta, (String, Error)> {
        let name = format!("{epoch}-{}", self.new_id());
        let sequences = rows.iter().map(|(sequence, _)| *sequence);
        let file = FileMeta {
            name: name.clone(),
            home: region.id,
            rows: rows.len() as u64,
            bytes: rows.len() as u64,
            min_sequence: sequences.clone().min().unwrap_or(0),
            max_sequence: sequences.max().unwrap_or(0),
            min_time: 0,
            max_time: 0,
            schema_version: region.read(|s| s.table().schema.version),
            deletes: 0,
            level,
        };
        let put = Operation::Put {
            key: Key::File(name.clone()),
            object: Object::File(Rc::new(rows)),
            replaces: true,
        };
        match self.bucket.ask(region.id, put).await {
            Ok(_) => Ok(file),
            Err(_) => Err((name, Error::unavailable("the bucket is away"))),
        }
    }

    pub async fn load_manifest(self: &Rc<Self>, region: &Rc<Region>) -> Result<()> {
        let _one_at_a_time = region.files.take(&self.sim).await;
        let known = region.read(State::known_version);
        let view = self.manifest(region).load(known).await?;
        self.take_view(region, view)?;
        self.trim(region);
        Ok(())
    }

    /// Adopts a view that others may have written, unless it shows that this node cannot go on.
    pub fn take_view(&self, region: &Region, view: View) -> Result<()> {
        if region.read(State::follows) {
            if !may_follow(&view, region.read(State::applied)) {
                self.sim.hit(Branch::FollowerTakesNoRowsAhead);
                return Err(Error::unavailable("the files are ahead of this replica"));
            }
            self.sim.hit(Branch::FollowerTakesView);
            region.change(|s| s.adopt(view));
            return Ok(());
        }
        let standing = region.read(|s| s.leading_epoch().map(|epoch| s.standing(epoch)))?;
        match meet(&view, &standing) {
            Meeting::Adopt => {
                region.change(|s| s.adopt(view));
                Ok(())
            }
            Meeting::Replaced => {
                self.sim.hit(Branch::HigherEpochStops);
                match region.read(State::is_replicated) {
                    true => region.change(State::depose),
                    false => region.change(|s| s.fail("its manifest has a later epoch".into())),
                }
                Err(Error::conflict("another leader has written files"))
            }
            Meeting::LogLostItsEnd => {
                let through = view.flushed_seq;
                self.sim.violation("no log loses its end", || {
                    format!(
                        "{}, region {}: its files have rows through {through}",
                        self.me, region.id
                    )
                });
                region.change(|s| s.fail(format!("its files have rows through {through}")));
                Err(Error::corruption("a part of the log is lost"))
            }
        }
    }

    /// Puts an edit of this epoch as long as `fits` holds for the newest view; `false` if it does not.
    pub async fn commit_files(
        self: &Rc<Self>,
        region: &Rc<Region>,
        epoch: u64,
        change: &FileChange,
        fits: impl Fn(&View) -> bool,
    ) -> Result<bool> {
        let _one_at_a_time = region.files.take(&self.sim).await;
        loop {
            let (current, view) = leading_view(region)?;
            if current != epoch || !fits(&view) {
                return Ok(false);
            }
            let Some(mut edit) = view.edit_files(epoch, self.new_id()) else {
                return Ok(false);
            };
            edit.remove.clone_from(&change.remove);
            edit.add.clone_from(&change.add);
            edit.deleted = region.cleaning.borrow().deleted(&view);
            let edit: Rc<Edit> = Rc::new(edit);
            match self.manifest(region).commit(&view, &edit).await? {
                Commit::Adopted(view) => {
                    region.cleaning.borrow_mut().adopted(&view);
                    region.change(|s| s.adopt(view));
                    return Ok(true);
                }
                Commit::Lost(view) => self.take_view(region, view)?,
            }
        }
    }

    /// Merges some neighbours, if there are many files.
    pub async fn compact(self: &Rc<Self>, region: &Rc<Region>) -> Result<()> {
        let (epoch, view) = leading_view(region)?;
        if view.files.len() < MANY_FILES {
            return Ok(());
        }
        let mut files: Vec<&FileMeta> = view.files.values().collect();
        files.sort_by_key(|f| (f.min_sequence, f.max_sequence));
        let from = self
            .sim
            .dice
            .borrow_mut()
            .below((files.len() - MERGED + 1) as u64) as usize;
        let inputs: Vec<FileMeta> = files[from..from + MERGED].iter().map(|f| (*f).clone()).collect();
        let mut rows = Vec::new();
        for input in &inputs {
            rows.extend(self.bucket.file(region.id, &input.name).await?.iter().copied());
        }
        rows.sort_unstable();
        let rows = newest(rows, is_append(region));
        let level = inputs.iter().map(|f| f.level).max().unwrap_or(0) + 1;
        let output = match self.put_file(region, epoch, rows, level).await {
            Ok(output) => output,
            Err((name, error)) => {
                self.discard(region, vec![name], Uploads::Void).await;
                return Err(error);
            }
        };
        let name = output.name.clone();
        let change = FileChange {
            remove: inputs.iter().map(|f| f.name.clone()).collect(),
            add: vec![output],
        };
        let fits = |view: &View| merge_fits(&change.remove, view, |_| true);
        let committed = self.commit_files(region, epoch, &change, fits).await;
        if committed.is_err() {
            // The outcome may be unknown.
            self.discard(region, vec![name.clone()], Uploads::Unknown).await;
        }
        match committed? {
            true => self.sim.hit(Branch::MergeIsAdopted),
            false => {
                self.sim.hit(Branch::MergeIsOvertaken);
                self.discard(region, vec![name], Uploads::Void).await;
            }
        }
        Ok(())
    }

    /// All rows of a region that this node leads, as of one moment.
    pub async fn scan(self: &Rc<Self>, region: &Rc<Region>) -> Result<Rows> {
        for _ in 0..ATTEMPTS {
            let snapshot = region.read(State::snapshot)?;
            if region.read(State::has_truncated_files) {
                self.sim.hit(Branch::TruncatedFilesAreHidden);
            }
            match self.rows_of_files(region, &snapshot.view).await {
                Ok(mut rows) => {
                    let flushed = snapshot.view.in_files();
                    let memory = snapshot.memory.iter().filter(|(sequence, _)| *sequence > flushed);
                    rows.extend(memory.copied());
                    rows.sort_unstable();
                    return Ok(Rc::new(newest(rows, is_append(region))));
                }
                Err(error) if error.kind == greptime_types::ErrorKind::NotFound => {
                    self.sim.hit(Branch::MissingFileIsLookedForAnew);
                    if !holds("MissingFileIsLookedForAnew") {
                        return Err(Error::corruption("a file is missing"));
                    }
                    self.load_manifest(region).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::corruption("files that the manifest names are not there"))
    }

    async fn rows_of_files(&self, region: &Region, view: &View) -> Result<Vec<(u64, Row)>> {
        let mut rows = Vec::new();
        for name in view.files.keys() {
            match self.bucket.file(region.id, name).await {
                Ok(file) => rows.extend(file.iter().copied()),
                Err(error) if holds("MissingFileIsAnError") => return Err(error),
                Err(_) => {}
            }
        }
        Ok(rows)
    }

    /// Trims the log through what the adopted view has in files.
    fn trim(&self, region: &Region) {
        let checkpoint = region.change(State::next_checkpoint);
        let Some(Ok(bytes)) = checkpoint.as_ref().map(greptime_rules::Checkpoint::encode) else {
            return;
        };
        let through = checkpoint.map_or(0, |c| c.flushed_seq);
        self.sim.hit(Branch::TrimFollowsTheEdit);
        self.tell(vec![greptime_log::Input::Trim {
            region: region.id,
            through,
            checkpoint: bytes,
        }]);
    }
}

/// The epoch in which this node leads the region, and the files that it knows.
pub fn leading_view(region: &Region) -> Result<(u64, Arc<View>)> {
    region.read(|state| {
        let epoch = state.leading_epoch()?;
        let view = state.view().cloned();
        Ok((
            epoch,
            view.ok_or_else(|| Error::unavailable("the files are not known yet"))?,
        ))
    })
}

fn is_append(region: &Region) -> bool {
    region.read(|s| s.table().options.append_mode)
}

/// Of rows with one key the one with the highest sequence; all of them in append mode. `rows` are in order of sequence.
fn newest(rows: Vec<(u64, Row)>, is_append: bool) -> Vec<(u64, Row)> {
    if is_append {
        return rows;
    }
    let by_key: BTreeMap<u32, (u64, Row)> = rows.into_iter().map(|row| (row.1.key, row)).collect();
    let mut rows: Vec<_> = by_key.into_values().collect();
    rows.sort_unstable();
    rows
}
