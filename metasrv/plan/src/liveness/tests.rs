mod oracle;
mod rules;

use super::*;
use crate::Policy;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Some datanodes, and a metasrv that looks at them every 25 ms.
struct Scene {
    detector: Detector,
    seen: BTreeMap<NodeId, Observed>,
    now: u64,
    found: Judgement,
}

impl Scene {
    /// `nodes` datanodes that metasrv knows, none of which it has heard. It leads from 0.
    fn unheard(nodes: u64) -> Self {
        let unheard = Observed::new(0, Connection::Never, None);
        Self {
            detector: Detector::new(Policy::default(), Duration::ZERO),
            seen: (0..nodes).map(|node| (node, unheard.clone())).collect(),
            now: 0,
            found: Judgement {
                verdicts: BTreeMap::new(),
                redial: BTreeSet::new(),
                late: None,
                brake: None,
                apart: BTreeSet::new(),
            },
        }
    }

    /// The same, and all have been beating for ten seconds.
    fn steady(nodes: u64) -> Self {
        let mut scene = Self::unheard(nodes);
        let all: Vec<NodeId> = (0..nodes).collect();
        scene.run(10_000, &all);
        scene
    }

    fn node(&mut self, node: NodeId) -> &mut Observed {
        self.seen.get_mut(&node).expect("the scene has it")
    }

    fn beat(&mut self, node: NodeId) {
        let now = ms(self.now);
        let seen = self.node(node);
        seen.last_beat = Some(now);
        if seen.connection != Connection::Up {
            seen.connection = Connection::Up;
            seen.redial = Redial::Untried;
        }
        if seen.incarnation == 0 {
            seen.incarnation = 1;
        }
    }

    fn breaks(&mut self, node: NodeId) {
        let since = ms(self.now);
        self.node(node).connection = Connection::Broken { since };
    }

    fn look(&mut self) {
        self.found = self.detector.look(ms(self.now), &self.seen);
    }

    /// `for_` milliseconds in which these beat.
    fn run(&mut self, for_: u64, beating: &[NodeId]) {
        for _ in 0..for_ / 25 {
            self.now += 25;
            for node in beating {
                self.beat(*node);
            }
            self.look();
        }
    }

    /// The same, and these do not hear what metasrv answers to their beats.
    fn run_deaf(&mut self, for_: u64, beating: &[NodeId], deaf: &[NodeId]) {
        for _ in 0..for_ / 25 {
            self.now += 25;
            for node in beating {
                self.beat(*node);
            }
            let now = ms(self.now);
            for node in deaf {
                let seen = self.node(*node);
                let before = seen.unheard;
                seen.unheard = Some(Unheard {
                    first: before.map_or(now, |unheard| unheard.first),
                    last: now,
                    beats: before.map_or(0, |unheard| unheard.beats) + 1,
                });
            }
            self.look();
        }
    }

    /// metasrv does nothing for so long, then looks.
    fn sleep(&mut self, for_: u64) {
        self.now += for_;
        self.look();
    }

    fn verdict(&self, node: NodeId) -> &Verdict {
        &self.found.verdicts[&node]
    }

    fn said(&self, node: NodeId) -> String {
        self.verdict(node).to_string()
    }
}
