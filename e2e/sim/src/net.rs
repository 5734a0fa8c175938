//! The network: messages take their time, links are cut in one direction, connections break.
//!
//! A cut either swallows what is sent, or holds it until the link is whole again, as a kernel does that sends again. What
//! is said on a connection arrives in order or not at all: once something is lost, so is everything after it.

use std::collections::BTreeMap;

use crate::dice::Dice;
use crate::message::{Body, Envelope, Request, Said};
use crate::process::{ADDRESSES, Address};
use crate::sim::{Event, MS, Micros, SECOND, Sim};

#[derive(Default)]
pub struct Net {
    links: BTreeMap<(Address, Address), Link>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Of a thousand requests.
    pub stragglers: u64,
}

/// One direction between two addresses.
#[derive(Default)]
struct Link {
    swallows: u32,
    holds: u32,
    /// Added to every way.
    slow: Micros,
    held: Vec<Envelope>,
}

struct Connection {
    ends: (Address, Address),
    is_broken: bool,
    /// When the last message to either end arrives.
    last: (Micros, Micros),
}

/// What a cut does with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Swallows,
    Holds,
}

impl Net {
    fn link(&mut self, from: Address, to: Address) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    /// The end of a connection that is not `me`.
    pub fn other_end(&self, id: u64, me: Address) -> Option<Address> {
        let (a, b) = self.connections.get(&id)?.ends;
        Some(if a == me { b } else { a })
    }

    /// How much later than others a message comes: a few requests are stuck in some queue for seconds.
    fn straggle(&self, envelope: &Envelope, dice: &mut Dice) -> Micros {
        let may = matches!(
            envelope.body,
            Body::Request {
                request: Request::Write(_) | Request::Query(_),
                ..
            }
        );
        match may && self.stragglers > 0 && dice.per_mille(self.stragglers) {
            true => dice.between(200 * MS, 6 * SECOND),
            false => 0,
        }
    }

    fn of(&self, at: Address) -> Vec<u64> {
        let ends = |c: &Connection| c.ends.0 == at || c.ends.1 == at;
        let found = self.connections.iter().filter(|(_, c)| ends(c) && !c.is_broken);
        found.map(|(id, _)| *id).collect()
    }
}

impl Sim {
    /// A connection that has yet to be answered.
    pub fn connect(&self, from: Address, to: Address) -> u64 {
        let mut net = self.net.borrow_mut();
        net.next += 1;
        let id = net.next;
        let connection = Connection {
            ends: (from, to),
            is_broken: false,
            last: (0, 0),
        };
        net.connections.insert(id, connection);
        id
    }

    pub fn say(&self, connection: u64, from: Address, said: Said) {
        let Some(to) = self.net.borrow().other_end(connection, from) else {
            return;
        };
        let body = Body::Said { connection, said };
        self.send(Envelope { from, to, body });
    }

    /// One end lets a connection go; the other learns it if it can be reached.
    pub fn hang_up(&self, connection: u64, me: Address) {
        let other = self.net.borrow().other_end(connection, me);
        let was_broken = self.break_quietly(connection);
        if let (Some(other), false) = (other, was_broken) {
            self.tell_broken(connection, (me, other));
        }
    }

    /// Whether it was broken before, or is not known.
    fn break_quietly(&self, connection: u64) -> bool {
        match self.net.borrow_mut().connections.get_mut(&connection) {
            Some(known) => std::mem::replace(&mut known.is_broken, true),
            None => true,
        }
    }

    fn tell_broken(&self, connection: u64, (from, to): (Address, Address)) {
        let body = Body::Broken { connection };
        self.send(Envelope { from, to, body });
    }

    /// All connections of a process that is gone. `is_heard`: its machine says so to the other ends.
    pub fn break_all(&self, at: Address, is_heard: bool) {
        let all = self.net.borrow().of(at);
        for connection in all {
            match is_heard {
                true => self.hang_up(connection, at),
                false => {
                    self.break_quietly(connection);
                }
            }
        }
    }

    pub fn send(&self, envelope: Envelope) {
        let route = (envelope.from, envelope.to);
        let connection = envelope.connection();
        let is_dead = |id| self.net.borrow().connections.get(&id).is_none_or(|c| c.is_broken);
        if let Some(id) = connection.filter(|id| is_dead(*id)) {
            // The other machine does not know it any more, and says so if it can.
            let host = self.process(envelope.to, |p| p.is_up || p.host_refuses);
            if host {
                self.tell_broken(id, (route.1, route.0));
            }
            return;
        }
        let mut net = self.net.borrow_mut();
        let link = net.link(route.0, route.1);
        if link.swallows > 0 {
            drop(net);
            if let Some(id) = connection {
                self.break_quietly(id);
            }
            return;
        }
        if link.holds > 0 {
            link.held.push(envelope);
            return;
        }
        let slow = link.slow;
        let way = self.way() + slow + net.straggle(&envelope, &mut self.dice.borrow_mut());
        let mut at = self.now() + way;
        if let Some(known) = connection.and_then(|id| net.connections.get_mut(&id)) {
            let last = match known.ends.0 == route.1 {
                true => &mut known.last.0,
                false => &mut known.last.1,
            };
            at = at.max(*last + 1);
            *last = at;
        }
        drop(net);
        self.schedule(at, Event::Deliver(Box::new(envelope)));
    }

    /// Mostly a part of a millisecond, sometimes much more.
    fn way(&self) -> Micros {
        let mut dice = self.dice.borrow_mut();
        match dice.below(100) {
            0 => dice.between(2 * MS, 18 * MS),
            1..=4 => dice.between(MS, 3 * MS),
            _ => dice.between(60, 350),
        }
    }

    pub fn cut(&self, from: Address, to: Address, cut: Cut) {
        let mut net = self.net.borrow_mut();
        let link = net.link(from, to);
        match cut {
            Cut::Swallows => link.swallows += 1,
            Cut::Holds => link.holds += 1,
        }
    }

    pub fn mend(&self, from: Address, to: Address, cut: Cut) {
        let mut net = self.net.borrow_mut();
        let link = net.link(from, to);
        match cut {
            Cut::Swallows => link.swallows = link.swallows.saturating_sub(1),
            Cut::Holds => link.holds = link.holds.saturating_sub(1),
        }
        if link.holds == 0 {
            let held = std::mem::take(&mut link.held);
            drop(net);
            held.into_iter().for_each(|envelope| self.send(envelope));
        }
    }

    pub fn slow_down(&self, from: Address, to: Address, slow: Micros) {
        self.net.borrow_mut().link(from, to).slow = slow;
    }

    /// Nothing is cut or slow any more.
    pub fn mend_all(&self) {
        let all = || (0..ADDRESSES as u8).map(Address);
        for (from, to) in all().flat_map(|a| all().map(move |b| (a, b))) {
            let mut net = self.net.borrow_mut();
            let link = net.link(from, to);
            (link.swallows, link.holds, link.slow) = (0, 0, 0);
            let held = std::mem::take(&mut link.held);
            drop(net);
            held.into_iter().for_each(|envelope| self.send(envelope));
        }
    }
}
