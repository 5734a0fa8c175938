//! Simulated time: a queue of what will happen, and tasks that wait for it. One thread, no clock of the machine.
//!
//! Processes are written as tasks, so that they read like the programs that they stand for. A task is polled when
//! something that it waits for has happened, or when its time is up; it looks itself which of them.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::dice::Dice;
use crate::message::{Answer, Envelope, Request};
use crate::net::Net;
use crate::oracle::Oracle;
use crate::process::{ADDRESSES, Address, Process};
use crate::trace::{Branch, Hits, Trace};

/// Simulated microseconds since the beginning.
pub type Micros = u64;
pub type TaskId = u64;

pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// Something that happens at some time.
pub enum Event {
    Deliver(Box<Envelope>),
    Wake(TaskId),
    /// A task of the world itself: faults, looks.
    Act(Box<dyn FnOnce()>),
}

struct Queued {
    at: Micros,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    /// The heap gives the greatest first; that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

struct Task {
    at: Address,
    life: u64,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

/// What everybody shares.
pub struct Shared {
    now: Cell<Micros>,
    order: Cell<u64>,
    queue: RefCell<BinaryHeap<Queued>>,
    tasks: RefCell<BTreeMap<TaskId, Task>>,
    ready: RefCell<VecDeque<TaskId>>,
    /// What came for processes that are paused.
    pub(crate) deferred: RefCell<Vec<(Address, Event)>>,
    next_task: Cell<TaskId>,
    current: Cell<(TaskId, Address)>,
    pub dice: RefCell<Dice>,
    pub processes: RefCell<Vec<Process>>,
    pub net: RefCell<Net>,
    pub trace: RefCell<Trace>,
    pub hits: RefCell<Hits>,
    pub oracle: RefCell<Oracle>,
    /// Processes that have ended by themselves.
    ended: RefCell<Vec<Address>>,
    calls: RefCell<BTreeMap<u64, (TaskId, Option<Answer>)>>,
    next_call: Cell<u64>,
    /// When regions that have one replica are to have more; 0: they have them from the beginning.
    pub grows_at: Cell<Micros>,
}

#[derive(Clone)]
pub struct Sim(Rc<Shared>);

impl std::ops::Deref for Sim {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Sim {
    pub fn new(seed: u64, traced: bool) -> Self {
        Self(Rc::new(Shared {
            now: Cell::new(0),
            order: Cell::new(0),
            queue: RefCell::default(),
            tasks: RefCell::default(),
            ready: RefCell::default(),
            deferred: RefCell::default(),
            next_task: Cell::new(1),
            current: Cell::new((0, Address(0))),
            dice: RefCell::new(Dice::new(seed)),
            processes: RefCell::new(vec![Process::default(); ADDRESSES]),
            net: RefCell::default(),
            trace: RefCell::new(Trace::new(traced)),
            hits: RefCell::default(),
            oracle: RefCell::default(),
            ended: RefCell::default(),
            calls: RefCell::default(),
            next_call: Cell::new(1),
            grows_at: Cell::new(0),
        }))
    }

    pub fn now(&self) -> Micros {
        self.now.get()
    }

    pub fn schedule(&self, at: Micros, event: Event) {
        let order = self.order.get() + 1;
        self.order.set(order);
        let at = at.max(self.now());
        self.queue.borrow_mut().push(Queued { at, order, event });
    }

    /// Lets the world do something at a time.
    pub fn act(&self, at: Micros, act: impl FnOnce() + 'static) {
        self.schedule(at, Event::Act(Box::new(act)));
    }

    /// The next event up to `end`, at whose time it now is.
    pub fn next(&self, end: Micros) -> Option<Event> {
        let mut queue = self.queue.borrow_mut();
        if queue.peek().is_none_or(|next| next.at > end) {
            return None;
        }
        let next = queue.pop()?;
        self.now.set(next.at);
        self.trace.borrow_mut().step(next.at, next.order);
        Some(next.event)
    }

    /// How many events there have been.
    pub fn events(&self) -> u64 {
        self.order.get()
    }

    /// Nothing more will happen; ends the circle of tasks that hold what holds them.
    pub fn end(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        self.queue.borrow_mut().clear();
        self.deferred.borrow_mut().clear();
    }

    // ---------------------------------------------------------------------------------------------- processes

    pub fn process<T>(&self, at: Address, read: impl FnOnce(&mut Process) -> T) -> T {
        read(&mut self.processes.borrow_mut()[at.index()])
    }

    pub fn is_alive(&self, at: Address, life: u64) -> bool {
        self.process(at, |p| p.is_up && p.life == life)
    }

    /// What the monotonic clock there says.
    pub fn clock(&self, at: Address) -> Duration {
        let now = self.now();
        self.process(at, |p| p.clock.monotonic(now))
    }

    pub fn wall_ms(&self, at: Address) -> i64 {
        let now = self.now();
        self.process(at, |p| p.clock.wall_ms(now))
    }

    /// When `wait` by the clock there is over.
    pub fn after(&self, at: Address, wait: Duration) -> Micros {
        self.now() + self.process(at, |p| p.clock.really(wait))
    }

    /// A process ends by itself, and is to be started again.
    pub fn wants_restart(&self, at: Address) {
        self.ended.borrow_mut().push(at);
    }

    pub fn take_restarts(&self) -> Vec<Address> {
        std::mem::take(&mut *self.ended.borrow_mut())
    }

    /// Ends all tasks of the process there, wherever they are.
    pub fn end_tasks(&self, at: Address) {
        let mut tasks = self.tasks.borrow_mut();
        let (gone, left) = std::mem::take(&mut *tasks)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, t)| t.at == at);
        *tasks = left;
        drop(tasks);
        drop(gone);
        self.deferred.borrow_mut().retain(|(to, _)| *to != at);
    }

    // -------------------------------------------------------------------------------------------------- tasks

    pub fn spawn(&self, at: Address, future: impl Future<Output = ()> + 'static) {
        let id = self.next_task.get();
        self.next_task.set(id + 1);
        let life = self.process(at, |p| p.life);
        let future = Box::pin(future);
        self.tasks.borrow_mut().insert(id, Task { at, life, future });
        self.wake(id);
    }

    pub fn wake(&self, task: TaskId) {
        self.ready.borrow_mut().push_back(task);
    }

    pub fn current(&self) -> TaskId {
        self.current.get().0
    }

    /// Polls tasks until none can go on.
    pub fn run_ready(&self) {
        loop {
            let Some(id) = self.ready.borrow_mut().pop_front() else {
                return;
            };
            let Some(at) = self.tasks.borrow().get(&id).map(|t| t.at) else {
                continue;
            };
            if self.process(at, |p| p.is_paused) {
                self.deferred.borrow_mut().push((at, Event::Wake(id)));
                continue;
            }
            self.poll(id);
        }
    }

    fn poll(&self, id: TaskId) {
        let Some(mut task) = self.tasks.borrow_mut().remove(&id) else {
            return;
        };
        let before = self.current.replace((id, task.at));
        let mut context = Context::from_waker(Waker::noop());
        let polled = task.future.as_mut().poll(&mut context);
        self.current.set(before);
        if polled == Poll::Pending && self.is_alive(task.at, task.life) {
            self.tasks.borrow_mut().insert(id, task);
        }
    }

    /// Waits until `look` finds something, or until a time; it looks again when one of the signals is given.
    pub async fn wait<T>(
        &self,
        signals: &[&Signal],
        until: Micros,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let mut is_armed = false;
        poll_fn(move |_| {
            if let Some(found) = look() {
                return Poll::Ready(Some(found));
            }
            if self.now() >= until {
                return Poll::Ready(None);
            }
            if !is_armed && until != Micros::MAX {
                self.schedule(until, Event::Wake(self.current()));
            }
            is_armed = true;
            signals.iter().for_each(|signal| signal.register(self.current()));
            Poll::Pending
        })
        .await
    }

    /// By the clock of the process whose task this is.
    pub async fn sleep(&self, time: Duration) {
        let until = self.after(self.current.get().1, time);
        self.wait(&[], until, || None::<()>).await;
    }

    // -------------------------------------------------------------------------------------------------- calls

    /// Asks somebody, and waits for the answer until a time. `None` says nothing about what was done. `unless` ends the
    /// waiting early.
    pub async fn call(
        &self,
        (from, to): (Address, Address),
        request: Request,
        until: Micros,
        unless: (&Signal, impl FnMut() -> bool),
    ) -> Option<Answer> {
        let number = self.next_call.get();
        self.next_call.set(number + 1);
        self.calls.borrow_mut().insert(number, (self.current(), None));
        let call = Call { sim: self, number };
        self.send(Envelope::request((from, to), number, request));
        let (signal, mut is_over) = unless;
        let answer = self
            .wait(&[signal], until, || match call.answer() {
                Some(answer) => Some(Some(answer)),
                None => is_over().then_some(None),
            })
            .await;
        answer.flatten()
    }

    /// An answer has come, if somebody still waits for it.
    pub fn answered(&self, number: u64, answer: Answer) {
        if let Some((task, slot)) = self.calls.borrow_mut().get_mut(&number) {
            *slot = Some(answer);
            self.ready.borrow_mut().push_back(*task);
        }
    }

    // -------------------------------------------------------------------------------------------------- notes

    /// A line of the trace, if there is one.
    pub fn note(&self, line: impl FnOnce() -> String) {
        let now = self.now();
        self.trace.borrow_mut().note(now, line);
    }

    /// The branch of a rule was taken.
    pub fn hit(&self, branch: Branch) {
        self.hits.borrow_mut().hit(branch);
    }

    /// Something that must never happen.
    pub fn violation(&self, name: &'static str, what: impl FnOnce() -> String) {
        let now = self.now();
        self.trace.borrow_mut().violation(now, name, what);
    }
}

/// A call under way; nobody waits for it any more when it is dropped.
struct Call<'a> {
    sim: &'a Sim,
    number: u64,
}

impl Call<'_> {
    fn answer(&self) -> Option<Answer> {
        self.sim.calls.borrow_mut().get_mut(&self.number)?.1.take()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.sim.calls.borrow_mut().remove(&self.number);
    }
}

/// Wakes those who wait for a change of something.
#[derive(Default)]
pub struct Signal {
    waiting: RefCell<Vec<TaskId>>,
}

impl Signal {
    fn register(&self, task: TaskId) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.last() != Some(&task) {
            waiting.push(task);
        }
    }

    pub fn give(&self, sim: &Sim) {
        for task in self.waiting.borrow_mut().drain(..) {
            sim.wake(task);
        }
    }
}

/// What waits for a task, in order.
pub struct Mailbox<T> {
    items: RefCell<VecDeque<T>>,
    signal: Signal,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self {
            items: RefCell::default(),
            signal: Signal::default(),
        }
    }
}

impl<T> Mailbox<T> {
    pub fn put(&self, sim: &Sim, item: T) {
        self.items.borrow_mut().push_back(item);
        self.signal.give(sim);
    }

    pub async fn take(&self, sim: &Sim, until: Micros) -> Option<T> {
        sim.wait(&[&self.signal], until, || self.items.borrow_mut().pop_front())
            .await
    }

    pub fn clear(&self) {
        self.items.borrow_mut().clear();
    }
}

/// One at a time.
#[derive(Default)]
pub struct Lock {
    is_held: Cell<bool>,
    signal: Signal,
}

pub struct Held<'a>(&'a Sim, &'a Lock);

impl Lock {
    pub fn is_free(&self) -> bool {
        !self.is_held.get()
    }

    pub async fn take<'a>(&'a self, sim: &'a Sim) -> Held<'a> {
        sim.wait(&[&self.signal], Micros::MAX, || {
            (!self.is_held.replace(true)).then_some(())
        })
        .await;
        Held(sim, self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.1.is_held.set(false);
        self.1.signal.give(self.0);
    }
}
