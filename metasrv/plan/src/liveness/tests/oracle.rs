//! Whatever happens, every verdict follows from what was seen, and so does every verdict that was not passed.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Beat(NodeId),
    Restart(NodeId),
    Break(NodeId),
    Redial(NodeId, u8),
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
    dead: bool,
}

struct Oracle {
    policy: Policy,
    known: BTreeMap<NodeId, Known>,
    last_look: u64,
    /// When metasrv was stopped, from and to.
    sleeps: Vec<(u64, u64)>,
    last_brake: Option<u64>,
}

fn whole_ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl Oracle {
    fn new(nodes: u64) -> Self {
        Self {
            policy: Policy::default(),
            known: (0..nodes).map(|n| (n, Known::default())).collect(),
            last_look: 0,
            sleeps: vec![],
            last_brake: None,
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
            if known.last_beat != beat {
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
        let doubtful: Vec<NodeId> = away.iter().filter(|n| !self.known[n].fact).copied().collect();
        let living = scene.seen.len() - away.len();
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
            let expected = if !away.contains(node) {
                "alive"
            } else if self.known[node].fact || self.dies(*node, scene, silence[node], &braked, is_late) {
                "dead"
            } else {
                "suspect"
            };
            prop_assert!(
                verdict.to_string().starts_with(expected),
                "at {now} datanode {node} should be {expected}: {verdict}"
            );
            prop_assert_eq!(verdict.is_gone(), away.contains(node) && self.known[node].fact);
            self.known.get_mut(node).expect("the oracle has it").dead = verdict.is_dead();
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
            (None, _) => whole_ms(policy.introduction),
            (Some(beat), Redial::Accepted { at }) if whole_ms(at) > beat => {
                let longer = whole_ms(at) - beat + whole_ms(policy.dead_after);
                longer.min(whole_ms(policy.answering_dead_after))
            }
            (Some(_), _) => whole_ms(policy.dead_after),
        };
        let silent_enough = known.dead || silence >= limit;
        let new_leader = self.awake(0, now) < whole_ms(policy.lease + policy.dead_after);
        let after_brake = self
            .last_brake
            .is_some_and(|at| self.heard(node) <= at && now < at + whole_ms(policy.introduction));
        let judged_now = braked.is_empty() && !after_brake && !is_late && !new_leader;
        silent_enough && !braked.contains(&node) && (known.dead || judged_now)
    }
}

fn event(nodes: u64) -> impl Strategy<Value = Event> {
    let node = 0..nodes;
    prop_oneof![
        6 => node.clone().prop_map(Event::Beat),
        1 => node.clone().prop_map(Event::Restart),
        1 => node.clone().prop_map(Event::Break),
        3 => (node, 0u8..6).prop_map(|(n, r)| Event::Redial(n, r)),
        9 => (1u64..12).prop_map(Event::Looks),
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
