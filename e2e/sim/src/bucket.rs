//! The object store: put-if-absent that is true, answers that are lost, requests that come late, listings that lag.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use greptime_types::{Error, RegionId, Result};

use crate::message::{
    Answer, Body, BucketError, BucketRequest, Envelope, Key, Object, Operation, Request, Rows, answer_to,
};
use crate::process::{Address, BUCKET};
use crate::sim::{MS, Micros, SECOND, Signal, Sim};
use crate::trace::Branch;

/// How often requests go wrong, in a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    /// Nothing is done, and an error answers.
    pub refused: u64,
    /// It is done, and an error answers.
    pub answer_lost: u64,
    /// An error answers, and it is done later.
    pub late: u64,
}

impl Trouble {
    pub const LITTLE: Self = Self {
        refused: 4,
        answer_lost: 8,
        late: 4,
    };
    pub const MUCH: Self = Self {
        refused: 150,
        answer_lost: 150,
        late: 150,
    };
    pub const NONE: Self = Self {
        refused: 0,
        answer_lost: 0,
        late: 0,
    };
}

struct Stored {
    object: Object,
    at: Micros,
}

pub struct Bucket {
    objects: RefCell<BTreeMap<(RegionId, Key), Stored>>,
    /// Files that are gone, for listings that lag.
    deleted: RefCell<Vec<(Micros, RegionId, String, Micros)>>,
    trouble: Cell<Trouble>,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            objects: RefCell::default(),
            deleted: RefCell::default(),
            trouble: Cell::new(Trouble::LITTLE),
        }
    }
}

/// How old a listing may be.
const MOST_LAG: Micros = 2 * SECOND;

impl Bucket {
    pub fn set_trouble(&self, trouble: Trouble) {
        self.trouble.set(trouble);
    }

    /// Takes a request in, and answers it in its time.
    pub fn take(self: &Rc<Self>, sim: &Sim, envelope: Envelope) {
        let (from, to) = (envelope.from, envelope.to);
        let Body::Request {
            call,
            request: Request::Bucket(request),
        } = envelope.body
        else {
            return;
        };
        let trouble = self.trouble.get();
        let (fate, takes) = {
            let mut dice = sim.dice.borrow_mut();
            let slow = dice.per_mille(10);
            let takes = if slow {
                dice.between(100 * MS, 800 * MS)
            } else {
                dice.between(2 * MS, 14 * MS)
            };
            (dice.below(1000), takes)
        };
        let answer = move |answer| answer_to((to, from), call, Answer::Bucket(answer));
        let away = || answer(Err(BucketError::Away));
        let answered = if fate < trouble.refused {
            away()
        } else if fate < trouble.refused + trouble.answer_lost {
            sim.hit(Branch::PutHappenedAndFailed);
            // The outcome is nobody's to know.
            let _ = self.apply(sim, &request);
            away()
        } else if fate < trouble.refused + trouble.answer_lost + trouble.late {
            let later = sim.now() + sim.dice.borrow_mut().between(50 * MS, 6 * SECOND);
            let (bucket, world) = (Rc::clone(self), sim.clone());
            sim.act(later, move || drop(bucket.apply(&world, &request)));
            away()
        } else {
            answer(self.apply(sim, &request))
        };
        let later = sim.clone();
        sim.act(sim.now() + takes, move || later.send(answered));
    }

    fn apply(&self, sim: &Sim, request: &BucketRequest) -> Result<Object, BucketError> {
        let region = request.region;
        let mut objects = self.objects.borrow_mut();
        match &request.operation {
            Operation::Put {
                key,
                object,
                replaces,
            } => {
                let place = (region, key.clone());
                if objects.contains_key(&place) && !replaces {
                    return Err(BucketError::AlreadyThere);
                }
                let (object, at) = (object.clone(), sim.now());
                objects.insert(
                    place,
                    Stored {
                        object: object.clone(),
                        at,
                    },
                );
                let find = |name: &str| match &objects.get(&(region, Key::File(name.to_owned())))?.object {
                    Object::File(rows) => Some(Rc::clone(rows)),
                    _ => None,
                };
                sim.saw_put(region, key, &object, &find);
                Ok(Object::Done)
            }
            Operation::Get(key) => match objects.get(&(region, key.clone())) {
                Some(stored) => Ok(stored.object.clone()),
                None => Err(BucketError::NotFound),
            },
            Operation::Has(key) => match objects.contains_key(&(region, key.clone())) {
                true => Ok(Object::Done),
                false => Err(BucketError::NotFound),
            },
            Operation::Delete(key) => {
                let gone = objects.remove(&(region, key.clone()));
                if let (Some(gone), Key::File(name)) = (gone, key) {
                    sim.saw_delete(region, name);
                    let mut deleted = self.deleted.borrow_mut();
                    deleted.push((sim.now(), region, name.clone(), gone.at));
                }
                Ok(Object::Done)
            }
            Operation::List => {
                let lag = sim.dice.borrow_mut().below(MOST_LAG);
                Ok(Object::Listed(self.list(
                    &objects,
                    region,
                    sim.now().saturating_sub(lag),
                    sim,
                )))
            }
        }
    }

    /// The files as of a time.
    fn list(
        &self,
        objects: &BTreeMap<(RegionId, Key), Stored>,
        region: RegionId,
        as_of: Micros,
        sim: &Sim,
    ) -> Vec<(String, i64)> {
        let wall = |at: Micros| sim.wall_ms(BUCKET) - ((sim.now() - at) / 1000) as i64;
        let there = objects.iter().filter_map(|((of, key), stored)| match key {
            Key::File(name) if *of == region && stored.at <= as_of => Some((name.clone(), wall(stored.at))),
            _ => None,
        });
        let deleted = self.deleted.borrow();
        let gone = deleted
            .iter()
            .filter(|(at, of, _, put)| *at > as_of && *of == region && *put <= as_of);
        there
            .chain(gone.map(|(_, _, name, put)| (name.clone(), wall(*put))))
            .collect()
    }
}

/// The way to the bucket for one process.
#[derive(Clone)]
pub struct BucketClient {
    pub sim: Sim,
    pub me: Address,
}

const PATIENCE: Duration = Duration::from_secs(3);

impl BucketClient {
    pub async fn ask(&self, region: RegionId, operation: Operation) -> Result<Object, BucketError> {
        let request = Request::Bucket(BucketRequest { region, operation });
        let until = self.sim.after(self.me, PATIENCE);
        let never = (&Signal::default(), || false);
        match self.sim.call((self.me, BUCKET), request, until, never).await {
            Some(Answer::Bucket(answer)) => answer,
            _ => Err(BucketError::Away),
        }
    }

    /// The rows of a file; `NotFound` if it is not there.
    pub async fn file(&self, region: RegionId, name: &str) -> Result<Rows> {
        match self.ask(region, Operation::Get(Key::File(name.to_owned()))).await {
            Ok(Object::File(rows)) => Ok(rows),
            Err(BucketError::NotFound) => Err(Error::not_found(format!("file {name}"))),
            _ => Err(Error::unavailable("the bucket is away")),
        }
    }

    /// Whether it is gone now.
    pub async fn delete_file(&self, region: RegionId, name: &str) -> bool {
        let deleted = self
            .ask(region, Operation::Delete(Key::File(name.to_owned())))
            .await;
        deleted.is_ok()
    }
}
