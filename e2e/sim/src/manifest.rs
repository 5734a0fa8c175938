//! The chain of edits in the bucket, read and written as `manifest::store` of the datanode does.

use std::rc::Rc;
use std::time::Duration;

use greptime_rules::{AfterPut, Edit, View, after_put, put_if_absent};
use greptime_types::{Error, RegionId, Result};

use crate::bucket::BucketClient;
use crate::message::{BucketError, Key, Object, Operation};
use crate::trace::Branch;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// What became of an edit.
pub enum Commit {
    Adopted(View),
    /// Another edit has its version.
    Lost(View),
}

pub struct Manifest<'a> {
    pub bucket: &'a BucketClient,
    pub region: RegionId,
}

impl Manifest<'_> {
    async fn read(&self, version: u64) -> Result<Option<Rc<Edit>>> {
        match self
            .bucket
            .ask(self.region, Operation::Get(Key::Manifest(version)))
            .await
        {
            Ok(Object::Edit(edit)) => Ok(Some(edit)),
            Err(BucketError::NotFound) => Ok(None),
            _ => Err(Error::unavailable("the bucket is away")),
        }
    }

    async fn exists(&self, version: u64) -> Result<bool> {
        match self
            .bucket
            .ask(self.region, Operation::Has(Key::Manifest(version)))
            .await
        {
            Ok(_) => Ok(true),
            Err(BucketError::NotFound) => Ok(false),
            Err(_) => Err(Error::unavailable("the bucket is away")),
        }
    }

    /// The newest view. `known` is a version that exists, or 0.
    pub async fn load(&self, known: u64) -> Result<View> {
        let newest = self.newest(known).await?;
        if newest == 0 {
            return Ok(View::default());
        }
        let missing = || Error::corruption("an edit is missing, though later ones exist");
        let base = Edit::base_of(newest);
        let edit = self.read(base).await?.ok_or_else(missing)?;
        let mut view = View::before(&edit)?.apply(&edit)?;
        for version in base + 1..=newest {
            let edit = self.read(version).await?.ok_or_else(missing)?;
            view = view.apply(&edit)?;
        }
        self.advance(view).await
    }

    async fn advance(&self, mut view: View) -> Result<View> {
        while let Some(edit) = self.read(view.version + 1).await? {
            view = view.apply(&edit)?;
        }
        Ok(view)
    }

    async fn newest(&self, known: u64) -> Result<u64> {
        let (mut there, mut stride) = (known, 1);
        let mut absent = loop {
            if !self.exists(there + stride).await? {
                break there + stride;
            }
            there += stride;
            stride *= 2;
        };
        while absent - there > 1 {
            let middle = there + (absent - there) / 2;
            match self.exists(middle).await? {
                true => there = middle,
                false => absent = middle,
            }
        }
        Ok(there)
    }

    /// Puts an edit that was made from `view`, and returns when its outcome is known.
    pub async fn commit(&self, view: &View, edit: &Rc<Edit>) -> Result<Commit> {
        let sim = &self.bucket.sim;
        let mut retry = FIRST_RETRY;
        loop {
            let put = Operation::Put {
                key: Key::Manifest(edit.version),
                object: Object::Edit(Rc::clone(edit)),
                replaces: !put_if_absent(),
            };
            let put = self.bucket.ask(self.region, put).await;
            match self.read(edit.version).await {
                Ok(found) => match after_put(view, edit, put.is_ok(), found.as_deref())? {
                    AfterPut::Adopt(next) => {
                        if put.is_err() {
                            sim.hit(Branch::OwnEditIsAdopted);
                        }
                        return Ok(Commit::Adopted(next));
                    }
                    AfterPut::Renew(next) => {
                        sim.hit(Branch::OthersEditIsNotOwn);
                        return Ok(Commit::Lost(self.newest_after(next).await));
                    }
                    AfterPut::Again => sim.hit(Branch::EditIsPutAgain),
                },
                Err(_) => sim.hit(Branch::OutcomeIsUnknown),
            }
            sim.sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// However long the bucket is away.
    async fn newest_after(&self, view: View) -> View {
        let mut retry = FIRST_RETRY;
        loop {
            if let Ok(newest) = self.advance(view.clone()).await {
                return newest;
            }
            self.bucket.sim.sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }
}
