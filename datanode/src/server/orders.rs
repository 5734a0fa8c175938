//! Orders of metasrv: one after the other, but for those that wait for a group. They have lanes of their own, by region, so
//! that a group that has lost its majority holds up nobody: not other regions, and not the order that ends this.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use greptime_proto::v1::push;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Datanode;
use crate::defences::Defence;

/// So many of a lane wait. Whoever ordered repeats it until a report shows that it was done.
const MOST_WAITING: usize = 4;

/// What takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// What the group of a region has to agree to.
    Agreed(u64),
    /// The end of a group that cannot.
    Recovery(u64),
}

impl Lane {
    /// `None` of what waits for nobody else.
    fn of(order: &push::Body) -> Option<Self> {
        match order {
            push::Body::Alter(order) => Some(Self::Agreed(order.region_id)),
            push::Body::ChangeMembers(order) => Some(Self::Agreed(order.region_id)),
            push::Body::Recover(order) => Some(Self::Recovery(order.region_id)),
            _ => None,
        }
    }
}

/// What waits in each lane; one that is here has a task.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<Lane, VecDeque<push::Body>>>);

impl Lanes {
    /// Whether the lane was free, and the order is to be carried out at once.
    fn enter(&self, lane: Lane, order: &push::Body) -> bool {
        match self.0.lock().entry(lane) {
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                true
            }
            Entry::Occupied(mut waiting) => {
                if waiting.get().len() < MOST_WAITING {
                    waiting.get_mut().push_back(order.clone());
                }
                false
            }
        }
    }

    /// The next of a lane; without one it is free again.
    fn next(&self, lane: Lane) -> Option<push::Body> {
        let mut lanes = self.0.lock();
        let next = lanes.get_mut(&lane)?.pop_front();
        if next.is_none() {
            lanes.remove(&lane);
        }
        next
    }
}

impl Datanode {
    pub(super) async fn obey_orders(self: Arc<Self>, mut arriving: mpsc::Receiver<push::Body>) {
        while let Some(order) = arriving.recv().await {
            match Lane::of(&order).filter(|_| Defence::StuckGroupsHoldUpNobody.holds()) {
                None => self.obey(order).await,
                Some(lane) if self.lanes.enter(lane, &order) => {
                    self.tasks.spawn(Arc::clone(&self).obey_lane(lane, order));
                }
                Some(_) => {}
            }
        }
    }

    async fn obey_lane(self: Arc<Self>, lane: Lane, first: push::Body) {
        let mut next = Some(first);
        while let Some(order) = next {
            self.obey(order).await;
            next = self.lanes.next(lane);
        }
    }
}
