//! Whatever happens, every verdict follows from what was seen, and so does every verdict that was not passed.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Beat(NodeId),
    Restart(NodeId),
    Break(NodeId),
    Redial(NodeId, u8),
    /// It says that it cannot reach these; a bit for each.
    Complain(NodeId, u8),
    /// metasrv looks on time, so often.
    Looks(u64),
    /// metasrv sleeps, then looks.
    Sleep(u64),
}

/// What the oracle remembers of one datanode, on its own.
#[derive(Clone, Debug, Default)]
struct Known {
    first_seen: u64,
    last_beat: Option<u64>,
    /// A fact was there to be seen at a look, and no beat since.
    fact: bool,
    /// More than half of those that beat could not reach it at a look, and no beat since.
    confirmed: bool,
    /// At the last look most beat, and more than half of them could not reach it.
    missed: bool,
    dead: bool,
    /// It was judged dead though it was one of those for whom the brake was on, and no beat since.
    in_vain: bool,
}

struct Oracle {
    policy: Policy,
    known: BTreeMap<NodeId, Known>,
    incarnations: BTreeMap<NodeId, u64>,
    last_look: u64,
    /// When metasrv was stopped, from and to.
    sleeps: Vec<(u64, u64)>,
    last_brake: Option<u64>,
    last_return: Option<u64>,
}

fn whole_ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl Oracle {
    fn new(nodes: u64) -> Self {
        Self {
            policy: Policy::default(),
            known: (0..nodes).map(|n| (n, Known::default())).collect(),
            incarnations: BTreeMap::new(),
            last_look: 0,
            sleeps: vec![],
            last_brake: None,
            last_return: None,
        }
    }

    /// How much of the time from `from` to `now` metasrv was awake.
    fn awake(&self, from: u64, now: u64) -> u64 {
        let slept: u64 = self
            .sleeps
            .iter()
            .map(|(begin, end)| end.min(&now).saturating_sub(*begin.max(&from)))
            .sum();
        (now - from).saturating_sub(slept)
    }

    fn heard(&self, node: NodeId) -> u64 {
        let known = &self.known[&node];
        known.last_beat.unwrap_or(known.first_seen)
    }

    fn check(&mut self, scene: &Scene) -> Result<(), TestCaseError> {
        let now = scene.now;
        let (look, late) = (whole_ms(self.policy.look), whole_ms(self.policy.late));
        let is_late = now - self.last_look > look + late;
        if is_late {
            self.sleeps.push((self.last_look + look, now));
        }
        let first = self.last_look == 0;
        self.last_look = now;
        for (node, seen) in &scene.seen {
            let beat = seen.last_beat.map(whole_ms);
            let known = self.known.get_mut(node).expect("the oracle has it");
            if first {
                known.first_seen = now;
            }
            if self.incarnations.get(node) != Some(&seen.incarnation) {
                self.incarnations.insert(*node, seen.incarnation);
                known.in_vain = false;
            }
            if known.last_beat != beat {
                if known.in_vain {
                    self.last_return = Some(now);
                }
                *known = Known {
                    first_seen: known.first_seen,
                    last_beat: beat,
                    ..Known::default()
                };
            }
        }
        let silence: BTreeMap<NodeId, u64> = self
            .known
            .keys()
            .map(|n| (*n, self.awake(self.heard(*n), now)))
            .collect();
        let suspect_after = whole_ms(self.policy.suspect_after);
        let away: BTreeSet<NodeId> = scene
            .seen
            .iter()
            .filter(|(node, seen)| seen.connection != Connection::Up || silence[*node] >= suspect_after)
            .map(|(node, _)| *node)
            .collect();
        for node in &away {
            let seen = &scene.seen[node];
            let broken = matches!(seen.connection, Connection::Broken { .. });
            let other = seen.redial == Redial::OtherIncarnation && seen.connection != Connection::Never;
            let fact = other || (broken && seen.redial == Redial::Refused);
            self.known.get_mut(node).expect("the oracle has it").fact |= fact;
        }
        let living = scene.seen.len() - away.len();
        for node in &away {
            let beating = scene.seen.iter().filter(|(other, _)| !away.contains(other));
            let complaints = beating
                .filter(|(_, seen)| seen.unreachable.contains(node))
                .count();
            let known = self.known.get_mut(node).expect("the oracle has it");
            let others_say_so = living > 0 && complaints > living / 2;
            known.confirmed |= others_say_so;
            known.missed = others_say_so && living * 2 > scene.seen.len();
        }
        let is_doubtful = |n: &&NodeId| !self.known[n].fact && !self.known[n].confirmed;
        let doubtful: Vec<NodeId> = away.iter().filter(is_doubtful).copied().collect();
        let window = whole_ms(self.policy.brake_window);
        let with = |n: NodeId| {
            let near = |o: &&NodeId| self.heard(n).abs_diff(self.heard(**o)) <= window;
            doubtful.iter().filter(near).copied().collect::<Vec<_>>()
        };
        let braked: BTreeSet<NodeId> = doubtful
            .iter()
            .filter(|n| {
                let later = away.iter().filter(|o| self.heard(**o) > self.heard(**n) + window);
                with(**n).len() > living + later.count()
            })
            .flat_map(|n| with(*n))
            .collect();
        if !braked.is_empty() {
            self.last_brake = Some(now);
        }
        for (node, verdict) in &scene.found.verdicts {
            let dies = self.dies(*node, scene, silence[node], &braked, is_late);
            let expected: &[&str] = if !away.contains(node) {
                // Who is cut off from others is another test's.
                &["alive", "unwell"]
            } else if self.known[node].fact || dies {
                &["dead"]
            } else {
                &["suspect"]
            };
            prop_assert!(
                expected.iter().any(|kind| verdict.to_string().starts_with(kind)),
                "at {now} datanode {node} should be {expected:?}: {verdict}"
            );
            prop_assert_eq!(verdict.is_gone(), away.contains(node) && self.known[node].fact);
            let known = self.known.get_mut(node).expect("the oracle has it");
            known.dead = verdict.is_dead();
            known.in_vain |= known.dead && !known.fact && braked.contains(node);
        }
        prop_assert_eq!(scene.found.late.is_some(), is_late);
        Ok(())
    }

    /// Whether its silence kills it, each condition by its own words.
    fn dies(
        &self,
        node: NodeId,
        scene: &Scene,
        silence: u64,
        braked: &BTreeSet<NodeId>,
        is_late: bool,
    ) -> bool {
        let now = scene.now;
        let policy = &self.policy;
        let known = &self.known[&node];
        let limit = match (known.last_beat, scene.seen[&node].redial) {
            (None, _) if known.missed => whole_ms(policy.dead_after),
            (None, _) => whole_ms(policy.introduction),
            (Some(beat), Redial::Accepted { at }) if whole_ms(at) > beat => {
                let longer = whole_ms(at) - beat + whole_ms(policy.dead_after);
                longer.min(whole_ms(policy.answering_dead_after))
            }
            (Some(_), _) => whole_ms(policy.dead_after),
        };
        let silent_enough = known.dead || silence >= limit;
        let new_leader = self.awake(0, now) < whole_ms(policy.lease + policy.dead_after);
        let soon_after = |at: Option<u64>| {
            at.is_some_and(|at| self.heard(node) <= at && now < at + whole_ms(policy.introduction))
        };
        let believed = known.confirmed || silence >= whole_ms(policy.brake_for);
        let is_braked = match known.dead {
            true => braked.contains(&node),
            false => !braked.is_empty(),
        };
        if !silent_enough || (is_braked && !believed) || (known.in_vain && soon_after(self.last_return)) {
            return false;
        }
        let after_brake =
            braked.is_empty() && !known.confirmed && !known.in_vain && soon_after(self.last_brake);
        known.dead || (!after_brake && !is_late && !new_leader)
    }
}

fn event(nodes: u64) -> impl Strategy<Value = Event> {
    let node = 0..nodes;
    prop_oneof![
        6 => node.clone().prop_map(Event::Beat),
        1 => node.clone().prop_map(Event::Restart),
        1 => node.clone().prop_map(Event::Break),
        3 => (node, 0u8..6).prop_map(|(n, r)| Event::Redial(n, r)),
        2 => (0..nodes, any::<u8>()).prop_map(|(n, whom)| Event::Complain(n, whom)),
        9 => (1u64..12).prop_map(Event::Looks),
        // Longer than the brake lasts.
        1 => (200u64..500).prop_map(Event::Looks),
        1 => (20u64..800).prop_map(Event::Sleep),
    ]
}

fn play(scene: &mut Scene, oracle: &mut Oracle, event: &Event) -> Result<(), TestCaseError> {
    match *event {
        Event::Beat(node) => scene.beat(node),
        Event::Restart(node) => {
            scene.node(node).incarnation += 1;
            scene.beat(node);
        }
        Event::Break(node) if scene.node(node).connection == Connection::Up => scene.breaks(node),
        Event::Break(_) => {}
        Event::Redial(node, outcome) => {
            let at = ms(scene.now);
            scene.node(node).redial = [
                Redial::Untried,
                Redial::Pending,
                Redial::Refused,
                Redial::OtherIncarnation,
                Redial::Accepted { at },
                Redial::NoAnswer,
            ][outcome as usize];
        }
        Event::Complain(node, whom) => {
            let unreachable = (0..8).filter(|other| whom & (1 << other) != 0 && *other != node);
            scene.node(node).unreachable = unreachable.collect();
        }
        Event::Looks(times) => {
            for _ in 0..times {
                scene.run(25, &[]);
                oracle.check(scene)?;
            }
        }
        Event::Sleep(time) => {
            scene.sleep(time);
            oracle.check(scene)?;
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_verdict_has_its_cause_and_every_cause_its_verdict(
        (nodes, events) in (1u64..6).prop_flat_map(|n| (Just(n), prop::collection::vec(event(n), 0..120))),
        warm in any::<bool>(),
    ) {
        let mut scene = Scene::unheard(nodes);
        let mut oracle = Oracle::new(nodes);
        let all: Vec<NodeId> = (0..nodes).collect();
        for _ in 0..if warm { 40 } else { 0 } {
            scene.run(25, &all);
            oracle.check(&scene)?;
        }
        for event in &events {
            play(&mut scene, &mut oracle, event)?;
        }
    }
}
