//! Writes and queries, as `server::write` and `server::query` of the datanode do them.

use std::rc::Rc;
use std::time::Duration;

use greptime_log::{Full, Input};
use greptime_rules::Seen;
use greptime_types::{Error, Result};

use super::Datanode;
use crate::entry::{Entry, WriteEntry};
use crate::message::{Query, Rows, Write, Written};
use crate::region::State;
use crate::rules::holds;
use crate::trace::Branch;

/// How long a majority may take to confirm who leads.
const CONFIRM: Duration = Duration::from_secs(1);

impl Datanode {
    pub async fn write(self: &Rc<Self>, write: Write) -> Result<Written> {
        let until = self.sim.after(self.me, Duration::from_millis(write.deadline_ms));
        if self.is_full() {
            self.sim.hit(Branch::FullDiskRefuses);
            return Err(Full::Disk.error());
        }
        let region = self
            .region(write.region)
            .ok_or_else(|| Error::unavailable("it is not here"))?;
        let epoch = region.admit(write.epoch, write.made_for, &self.sim)?;
        match region.change(|s| s.begin(write.request, &self.sim))? {
            Seen::New => {}
            Seen::Applied => {
                self.sim.hit(Branch::DuplicateRequest);
                return Ok(Written {
                    epoch,
                    sequence: 0,
                    duplicate: true,
                });
            }
            Seen::Finished => {
                self.sim.hit(Branch::LateCopyIsRefused);
                return Err(Error::conflict("the request was finished before"));
            }
        }
        let entry = Entry::Write(WriteEntry {
            request: write.request,
            finished: write.finished,
            made_for: write.made_for,
            op: write.op,
        });
        let data = entry.encode();
        let queued = self.ask(write.region, Some(write.request), until, |token| Input::Propose {
            region: write.region,
            token,
            data,
        });
        queued.await
    }

    pub async fn query(self: &Rc<Self>, query: Query) -> Result<Rows> {
        let region = self
            .region(query.region)
            .ok_or_else(|| Error::unavailable("it is not here"))?;
        if region.read(State::is_replicated) && holds("ReadsAreConfirmed") {
            let epoch = region.admit(query.epoch, 0, &self.sim)?;
            if region.read(|s| s.lease.covers(epoch, self.sim.clock(self.me))) {
                self.sim.hit(Branch::ReadUnderLease);
                return self.scan(&region).await;
            }
            let left = Duration::from_millis(query.deadline_ms).min(CONFIRM);
            let until = self.sim.after(self.me, left);
            let confirmed = self.ask(query.region, None, until, |token| Input::Read {
                region: query.region,
                token,
            });
            if let Err(error) = confirmed.await {
                self.sim.hit(Branch::ReadIsNotConfirmed);
                return Err(Error::unavailable(error.message));
            }
            self.sim.hit(Branch::ReadIsConfirmed);
        }
        region.admit(query.epoch, 0, &self.sim)?;
        self.scan(&region).await
    }
}
