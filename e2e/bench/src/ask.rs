//! Asks all databases the same queries in turn, compares every answer with the right one, and keeps the times.

use std::collections::{BTreeMap, BTreeSet};

use crate::answer::difference;
use crate::data::Data;
use crate::data::rng::Rng;
use crate::peers::Database;
use crate::queries::{Kind, Query, oracle};
use crate::report::{Better, OURS, Report, median};

/// Runs before those that count: plans, page cache, compiled code.
pub const WARM_UP: usize = 3;
/// Large answers are compared in the first runs only; turning them into rows takes longer than the query.
const COMPARED_LARGE: usize = WARM_UP + 1;

/// How often, and with which parameters.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Runs before those that count.
    pub before: usize,
    pub runs: usize,
    pub seed: u64,
}

/// Times of one kind of query, in milliseconds, and who is out of it.
#[derive(Default)]
struct Outcome {
    times: BTreeMap<&'static str, Vec<f64>>,
    out: BTreeSet<&'static str>,
    ours_wrong: bool,
}

/// Asks `kind` and adds its row to the report, under the name.
pub fn ask(
    databases: &mut [Box<dyn Database>],
    data: &Data,
    (kind, name_of_row): (Kind, &str),
    rounds: Rounds,
    report: &mut Report,
) {
    let mut rng = Rng::new(rounds.seed);
    let mut outcome = Outcome::default();
    for run in 0..rounds.before + rounds.runs {
        let query = Query::draw(kind, &data.shape, &mut rng);
        let expected = oracle::answer(data, &query);
        let compare = kind != Kind::HighCpu { one_host: false } || run < COMPARED_LARGE;
        let count = databases.len();
        // Each begins a run as often as the others.
        for turn in 0..count {
            let database = &mut databases[(run + turn) % count];
            let name = database.name();
            if outcome.out.contains(name) {
                continue;
            }
            let lacks = database.lacks(&query);
            let problem = match database.query(&query, compare) {
                Ok(None) => Some("its language cannot say it".to_string()),
                Err(error) => Some(format!("{error:#}")),
                Ok(Some(timed)) => {
                    if run >= rounds.before {
                        outcome
                            .times
                            .entry(name)
                            .or_default()
                            .push(timed.took.as_secs_f64() * 1000.0);
                    }
                    let got = timed.answer.as_ref();
                    got.and_then(|got| difference(&expected, got, lacks))
                        .map(|d| format!("wrong answer: {d}"))
                }
            };
            if let Some(problem) = problem {
                report.leave_out(name, name_of_row, &problem);
                outcome.out.insert(name);
                outcome.ours_wrong |= name == OURS;
            }
        }
    }
    tell(report, name_of_row, &outcome);
}

fn tell(report: &mut Report, name_of_row: &str, outcome: &Outcome) {
    let row = report.row(name_of_row, "ms", Better::Lower);
    for (name, times) in &outcome.times {
        // Our own time is shown beside the word WRONG; a peer's would be no mark.
        let counts = !outcome.out.contains(name) || *name == OURS;
        if let (true, Some(middle)) = (counts, median(times)) {
            row.set(name, middle);
        }
    }
    row.correct = !outcome.ours_wrong;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::answer::{Answer, Cell};
    use crate::data::Shape;
    use crate::peers::{Disk, Timed};

    /// Answers from the data, or wrongly from some run on.
    struct Known {
        name: &'static str,
        data: Data,
        wrong_from: usize,
        asked: usize,
    }

    impl Database for Known {
        fn name(&self) -> &'static str {
            self.name
        }
        fn version(&self) -> String {
            String::new()
        }
        fn setup(&self) -> String {
            String::new()
        }
        fn pid(&self) -> u32 {
            0
        }
        fn await_visible(&mut self, _rows: usize) -> anyhow::Result<()> {
            Ok(())
        }
        fn disk(&self) -> Disk {
            Disk::default()
        }
        fn query(&mut self, query: &Query, _want_answer: bool) -> anyhow::Result<Option<Timed>> {
            let mut answer: Answer = oracle::answer(&self.data, query);
            if self.asked >= self.wrong_from {
                *answer.rows[0].last_mut().unwrap() = Cell::Number(-1.0);
            }
            self.asked += 1;
            Ok(Some(Timed {
                took: Duration::from_millis(self.asked as u64),
                answer: Some(answer),
            }))
        }
        fn stop(&mut self) -> anyhow::Result<()> {
            Ok(())
        }
    }

    fn run(wrong: &[(&'static str, usize)]) -> Report {
        let shape = Shape {
            hosts: 9,
            points: 8640,
            start_ms: 1_700_006_400_000,
            seed: 1,
        };
        let mut databases: Vec<Box<dyn Database>> = Vec::new();
        for (name, wrong_from) in wrong {
            let (data, wrong_from) = (Data::generate(shape), *wrong_from);
            databases.push(Box::new(Known {
                name,
                data,
                wrong_from,
                asked: 0,
            }));
        }
        let mut report = Report::default();
        let kind = Kind::CpuMaxAll { hosts: 8 };
        ask(
            &mut databases,
            &Data::generate(shape),
            (kind, &kind.name()),
            Rounds {
                before: WARM_UP,
                runs: 3,
                seed: 1,
            },
            &mut report,
        );
        report
    }

    #[test]
    fn times_are_medians_of_the_runs_after_the_warm_up() {
        let report = run(&[(OURS, usize::MAX), ("peer", usize::MAX)]);
        assert_eq!(report.results[0].ours, Some(5.0));
        assert_eq!(report.results[0].peers["peer"], 5.0);
        assert!(report.results[0].correct && report.left_out.is_empty());
    }

    #[test]
    fn a_peer_that_once_answered_wrongly_has_no_time_and_is_named() {
        let report = run(&[(OURS, usize::MAX), ("peer", 5)]);
        assert!(report.results[0].peers.is_empty());
        assert!(
            report.left_out[0].starts_with("peer: cpu-max-all-8: wrong answer"),
            "{:?}",
            report.left_out
        );
        assert!(report.results[0].correct);
    }

    #[test]
    fn our_own_wrong_answer_is_told() {
        let report = run(&[(OURS, 0), ("peer", usize::MAX)]);
        assert!(!report.results[0].correct);
    }
}
