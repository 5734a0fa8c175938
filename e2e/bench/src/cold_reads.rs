//! How often our server reads from its object store for a query while nothing of its files is cached.

use anyhow::Context;

use crate::answer::difference;
use crate::data::Data;
use crate::data::rng::Rng;
use crate::peers::Database;
use crate::peers::ours::READS;
use crate::queries::{Kind, Query, oracle};
use crate::report::{Better, OURS, Report};

/// Asks each of `kinds` once, each time after a start of its own. A wrong answer is an error: its reads say nothing.
pub fn ask(
    ours: &mut dyn Database,
    data: &Data,
    kinds: &[Kind],
    seed: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut reads = Vec::new();
    for &kind in kinds {
        let query = Query::draw(kind, &data.shape, &mut Rng::new(seed));
        let count = reads_of(ours, data, &query).with_context(|| kind.name())?;
        reads.push((kind.name(), count));
    }
    tell(report, &reads);
    Ok(())
}

fn reads_of(ours: &mut dyn Database, data: &Data, query: &Query) -> anyhow::Result<f64> {
    ours.restart_cold()?;
    let before = ours.metric(READS).unwrap_or(0.0);
    let timed = ours.query(query, true)?;
    let got = timed.and_then(|timed| timed.answer).context("no answer")?;
    if let Some(difference) = difference(&oracle::answer(data, query), &got, ours.lacks(query)) {
        anyhow::bail!("wrong answer: {difference}");
    }
    let after = ours.metric(READS).unwrap_or(0.0);
    anyhow::ensure!(after > before, "it read nothing, so it was not cold");
    Ok(after - before)
}

fn tell(report: &mut Report, reads: &[(String, f64)]) {
    let Some((name, most)) = reads.iter().max_by(|a, b| a.1.total_cmp(&b.1)) else {
        return;
    };
    let mean = reads.iter().map(|(_, count)| count).sum::<f64>() / reads.len() as f64;
    for (what, value) in [("mean", mean), ("most", *most)] {
        let name = format!("queries, cold: reads of the object store, {what}");
        report.row(&name, "requests", Better::Lower).set(OURS, value);
    }
    report
        .notes
        .push(format!("cold, {name} reads the object store most often"));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::data::Shape;
    use crate::peers::{Disk, Timed};

    /// Reads once for each host that a query asks for, unless a query came before.
    struct Cached {
        data: Data,
        is_cold: bool,
        reads: f64,
    }

    impl Database for Cached {
        fn name(&self) -> &'static str {
            OURS
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
            if std::mem::take(&mut self.is_cold) {
                self.reads += query.hosts.len() as f64;
            }
            Ok(Some(Timed {
                took: Duration::ZERO,
                answer: Some(oracle::answer(&self.data, query)),
            }))
        }
        fn metric(&mut self, _name: &str) -> Option<f64> {
            Some(self.reads)
        }
        fn restart_cold(&mut self) -> anyhow::Result<()> {
            self.is_cold = true;
            // What a start reads is of no query.
            self.reads += 100.0;
            Ok(())
        }
        fn stop(&mut self) -> anyhow::Result<()> {
            Ok(())
        }
    }

    fn asked(kinds: &[Kind]) -> anyhow::Result<Report> {
        let shape = Shape {
            hosts: 9,
            points: 8640,
            start_ms: 1_700_006_400_000,
            seed: 1,
        };
        let mut ours = Cached {
            data: Data::generate(shape),
            is_cold: false,
            reads: 0.0,
        };
        let mut report = Report::default();
        ask(&mut ours, &Data::generate(shape), kinds, 1, &mut report)?;
        Ok(report)
    }

    #[test]
    fn each_query_is_asked_of_empty_caches() {
        let report = asked(&[Kind::CpuMaxAll { hosts: 8 }, Kind::CpuMaxAll { hosts: 1 }]).unwrap();
        let reads: Vec<_> = report.results.iter().map(|row| row.ours).collect();
        assert_eq!(reads, [Some(4.5), Some(8.0)]);
        assert!(report.notes[0].contains("cpu-max-all-8"), "{:?}", report.notes);
    }

    #[test]
    fn a_query_that_reads_nothing_was_not_cold() {
        let error = asked(&[Kind::LastPoint]).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("lastpoint: it read nothing"), "{error}");
    }
}
